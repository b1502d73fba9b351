"""T22, T23: floods, and secrets in what is said."""

import asyncio
import json
import time
from contextlib import AsyncExitStack
from itertools import cycle
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import sync_to_async
from channels.testing import HttpCommunicator
from django.test import AsyncClient

from config.asgi import application
from conversations.consumers import MOST_SUBSCRIPTIONS, open_sockets
from conversations.models import Turn
from tenants import rates as rates_module
from tenants.context import tenant_context
from tenants.errors import RateLimited
from tenants.rates import PATIENCE, Rates, rates
from tests.cast import House, Person
from tests.conversations.stage import say
from tests.conversations.test_consumers import Socket, enter, sockets

__all__ = ["sockets"]  # a fixture

CANARY = "canary-5f0c"

# Secrets stay where they were sent ------------------------------------------------------------------------------


async def test_t23_a_secret_can_not_be_sent_elsewhere_by_who_may_not_read_it(
    owner: Person, settings: Any
) -> None:
    settings.MODEL_UPSTREAM_ALLOWLIST = frozenset({"10.0.0.1:80", "10.0.0.2:80"})
    client = AsyncClient()

    async def call(method: str, path: str, body: Any) -> tuple[int, Any]:
        answer = await client.generic(
            method,
            f"/v1/credentials{path}",
            json.dumps(body),
            "application/json",
            headers={"x-api-key": owner.key},
        )
        return answer.status_code, answer.json()

    first, second = "http://10.0.0.1", "http://10.0.0.2"
    _status, made = await call(
        "POST", "", {"name": "x", "kind": "endpoint", "secret": "s3cret-abcd", "base_url": first}
    )
    path = f"/{made['id']}"
    assert (await call("PATCH", path, {"base_url": second}))[0] == 400
    assert (await call("PATCH", path, {"base_url": first, "name": "y"}))[1]["base_url"] == first
    moved = (await call("PATCH", path, {"base_url": second, "secret": "s3cret-wxyz", "default": True}))[1]
    assert (moved["base_url"], moved["last4"], moved["default"]) == (second, "wxyz", True)
    assert (await call("PATCH", path, {"default": False}))[1]["default"] is False
    assert (await call("PATCH", path, {"base_url": "http://10.0.0.3", "secret": "s"}))[0] == 400
    _status, key = await call("POST", "", {"name": "x", "kind": "api_key", "secret": "sk"})
    assert (await call("PATCH", f"/{key['id']}", {"base_url": second, "secret": "sk"}))[0] == 400


# Floods ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def tight(settings: Any) -> None:
    """Limits that are soon reached: five of each within five seconds."""
    settings.KEY_SOCKETS_PER_SECOND = 1
    settings.KEY_MESSAGES_PER_SECOND = 1


@pytest.fixture
def few_frames(settings: Any) -> None:
    """Five within five seconds."""
    settings.KEY_FRAMES_PER_SECOND = 1


def test_t22_the_limits_are_what_the_contract_allows(settings: Any) -> None:
    assert settings.KEY_SOCKETS == 100
    assert settings.KEY_SOCKETS_PER_SECOND == 20
    assert settings.KEY_MESSAGES_PER_SECOND == 20
    assert (settings.KEY_CALLS_PER_SECOND, settings.KEY_FRAMES_PER_SECOND) == (300, 100)
    assert settings.PAGES_PER_SECOND == 100


async def test_t22_twenty_messages_in_one_second_pass(owner: Person, sockets: AsyncExitStack) -> None:
    socket = await enter(sockets, Socket.of(owner))
    for n in range(20):
        await socket.tell("message", id=str(uuid4()), content=f"number {n}")
    queued = [await socket.until("conversation.updated") for _ in range(20)]
    assert len({frames[0]["conversation"] for frames in queued}) == 20


@pytest.mark.usefixtures("tight")
async def test_t22_a_flood_of_messages_gets_errors_and_the_socket_lives_on(
    owner: Person, member: Person, sockets: AsyncExitStack
) -> None:
    socket = await enter(sockets, Socket.of(owner))
    for n in range(5):
        await socket.tell("message", id=str(uuid4()), content=f"number {n}")
        await socket.until("conversation.updated")
    await socket.tell("message", id=str(uuid4()), content="too many")
    assert await socket.hear_error() == "rate_limit_error"
    await socket.lives()
    # It is one count over socket and HTTP, and each key has its own.
    answer = await _submit(owner.key)
    assert answer.status_code == 429
    assert answer.json()["error"]["type"] == "rate_limit_error"
    assert 1 <= int(answer.headers["retry-after"]) <= 5
    assert (await _submit(member.key)).status_code == 404


async def _submit(key: str) -> Any:
    path = f"/v1/conversations/{uuid4()}/turns"
    return await AsyncClient().generic(
        "POST", path, b'{"message": "x"}', "application/json", headers={"x-api-key": key}
    )


@pytest.mark.usefixtures("tight")
async def test_t22_too_many_new_sockets_are_closed_with_a_code(
    owner: Person, sockets: AsyncExitStack
) -> None:
    for _ in range(5):
        await (await enter(sockets, Socket.of(owner))).lives()
    socket = Socket.of(owner)
    assert await socket.opened()
    assert await socket.hear_error() == "rate_limit_error"
    assert await socket.close_code() == 4429


async def test_t22_too_many_sockets_at_a_time_are_closed_with_a_code(
    owner: Person, member: Person, sockets: AsyncExitStack, settings: Any
) -> None:
    settings.KEY_SOCKETS = 2
    first, second = Socket.of(owner), await enter(sockets, Socket.of(owner))
    assert await first.opened()
    for counted in (first, second):
        await counted.lives()
    third = Socket.of(owner)
    assert await third.opened()
    assert await third.hear_error() == "rate_limit_error"
    assert await third.close_code() == 4429
    await (await enter(sockets, Socket.of(member))).lives()
    await second.lives()
    await first.disconnect()
    await (await enter(sockets, Socket.of(owner))).lives()


async def test_t22_sockets_of_a_lost_web_process_are_forgotten(
    owner: Person, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.KEY_SOCKETS = 1
    monkeypatch.setattr(rates_module, "SOCKET_LIVES", 1)
    kept = uuid4()
    await rates().open_socket(owner.caller, kept)
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        await rates().keep_socket(owner.caller, kept)
        await asyncio.sleep(0.3)
    with pytest.raises(RateLimited):
        await rates().open_socket(owner.caller, uuid4())
    await asyncio.sleep(1.2)
    await rates().open_socket(owner.caller, uuid4())


async def test_t22_a_flood_of_calls_is_refused_and_told_when_to_come_back(
    owner: Person, member: Person, settings: Any
) -> None:
    settings.KEY_CALLS_PER_SECOND = 1

    async def call(path: str, person: Person = owner) -> Any:
        return await AsyncClient().get(f"/v1/{path}", headers={"x-api-key": person.key})

    places = ("conversations", "members", "credentials", "api-keys", f"conversations/{uuid4()}/events")
    assert [(await call(place)).status_code for place in places] == [200, 200, 200, 200, 404]
    refused = await call("members")
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
    assert 1 <= int(refused.headers["retry-after"]) <= 5
    assert (await call("members", member)).status_code == 200
    # Whoever has no calls left may still send messages, which count as such alone.
    assert [(await _submit(owner.key)).status_code for _ in range(6)] == [404] * 6
    assert await _chat(owner.key) == 200
    settings.KEY_MESSAGES_PER_SECOND = 1
    assert [(await _submit(member.key)).status_code for _ in range(6)] == [404] * 5 + [429]
    assert await _chat(member.key) == 429
    assert (await call("members", member)).status_code == 200


async def _chat(key: str) -> int:
    answer = await AsyncClient().generic(
        "POST", "/v1/chat/stream", b'{"message": "x"}', "application/json", headers={"x-api-key": key}
    )
    return answer.status_code


def _fifty(person: Person) -> list[str]:
    return [str(say(person.caller).conversation) for _ in range(MOST_SUBSCRIPTIONS)]


async def test_t22_a_page_that_opens_fifty_conversations_is_no_flood(
    owner: Person, sockets: AsyncExitStack
) -> None:
    opened = await sync_to_async(_fifty)(owner)
    socket = await enter(sockets, Socket.of(owner))
    for conversation in opened:
        await socket.tell("subscribe", conversation=conversation)
        await socket.tell("warm", conversation=conversation)
        await socket.tell("set", conversation=conversation, model="other")
    changed: set[tuple[str, str]] = set()
    while len(changed) < len(opened):
        frame = await socket.hear()
        if frame["type"] == "conversation.updated":
            changed.add((frame["conversation"], frame["model"]))
        else:  # what waits for a runner says so after a while
            assert frame["type"] == "status"
    assert changed == {(conversation, "other") for conversation in opened}
    await socket.lives()


FLOODS = {
    "ping": '{"type": "ping"}',
    "message": '{"type": "message", "id": "7", "content": []}',
    "garbage": "no JSON",
    "subscribe": '{"type": "subscribe", "conversation": "x"}',
}


async def test_t22_whatever_ends_a_socket_nothing_of_it_stays(owner: Person) -> None:
    submitted = await sync_to_async(say)(owner.caller)
    before = open_sockets()
    socket = Socket.of(owner)
    assert await socket.opened() and open_sockets() == before + 1
    await socket.tell("subscribe", conversation=str(submitted.conversation))
    await socket.hear()
    await socket.send_input({"type": "websocket.unheard.of"})
    with pytest.raises(AttributeError):
        await socket.wait(5)
    assert open_sockets() == before
    assert [task for task in asyncio.all_tasks() if "ChatConsumer" in repr(task)] == []


@pytest.mark.usefixtures("few_frames")
@pytest.mark.parametrize("frame", FLOODS.values(), ids=FLOODS)
async def test_t22_a_flood_of_frames_gets_errors_and_its_socket_lives_on(
    owner: Person, member: Person, sockets: AsyncExitStack, frame: str
) -> None:
    socket, another = [await enter(sockets, Socket.of(owner)) for _ in range(2)]
    for _ in range(5):
        await socket.send_to(text_data=frame)
        assert (await socket.hear()).get("error", {}).get("type") != "rate_limit_error"
    # It is one count over all sockets of a key, and each key has its own.
    for one in (socket, another):
        await one.send_to(text_data=frame)
        assert await one.hear_error() == "rate_limit_error"
    await (await enter(sockets, Socket.of(member))).lives()
    await asyncio.sleep(5)
    await socket.lives()


@pytest.mark.usefixtures("few_frames")
async def test_t22_a_refused_message_or_answer_to_a_question_is_told_by_its_name(
    owner: Person, sockets: AsyncExitStack
) -> None:
    socket, name = await enter(sockets, Socket.of(owner)), str(uuid4())
    for _ in range(5):
        await socket.lives()
    await socket.tell("permission", request=name, decision="allow")
    refused = await socket.hear()
    assert (refused["error"]["type"], refused["request"]) == ("rate_limit_error", name)
    await socket.tell("message", id=name, content="hello")
    refused = await socket.hear()
    assert (refused["error"]["type"], refused["id"]) == ("rate_limit_error", name)


@pytest.mark.usefixtures("few_frames")
async def test_t22_who_floods_on_regardless_is_closed_with_a_code(
    owner: Person, sockets: AsyncExitStack
) -> None:
    socket, another = Socket.of(owner), await enter(sockets, Socket.of(owner))
    assert await socket.opened()
    for _ in range(5 + 5 + 1):
        await socket.send_to(text_data="no JSON")
    assert [await socket.hear_error() for _ in range(5)] == ["invalid_request_error"] * 5
    assert [await socket.hear_error() for _ in range(5 + 1)] == ["rate_limit_error"] * 6
    assert await socket.close_code() == 4429
    await socket.disconnect()
    # To come back is no new beginning, and to be refused no offence of one's other sockets.
    for one in (another, await enter(sockets, Socket.of(owner))):
        await one.tell("ping")
        assert await one.hear_error() == "rate_limit_error"


@pytest.mark.usefixtures("few_frames")
async def test_t22_frames_are_counted_without_redis_and_forgotten_once_nobody_is_there(
    owner: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates_module, "WINDOW", 1)
    away, socket = Rates("redis://127.0.0.1:1"), uuid4()
    away.count_frame(owner.caller)
    with pytest.raises(RateLimited) as refused:
        away.count_frame(owner.caller)
    assert refused.value.retry_after == 1
    await away.close_socket(owner.caller, socket)
    assert len(away._frames) == 1
    await asyncio.sleep(1.1)
    assert len(away._frames) == 0


@pytest.mark.usefixtures("tight")
async def test_t22_without_redis_nobody_is_refused(
    owner: Person, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.KEY_CALLS_PER_SECOND = 1
    away = Rates("redis://127.0.0.1:1")
    for _ in range(7):
        await away.count_message(owner.caller)
        await away.count_call(owner.caller)
        await away.open_socket(owner.caller, uuid4())
    assert "Redis is away" in caplog.text


async def test_t22_a_flood_that_takes_all_connections_to_redis_is_counted_all_the_same(
    owner: Person, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.KEY_CALLS_PER_SECOND = 1
    asked = [rates().count_call(owner.caller) for _ in range(400)]
    said = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(one is None for one in said) == 5
    assert {type(one) for one in said} == {type(None), RateLimited}
    assert "Redis is away" not in caplog.text


async def test_t22_a_flood_that_holds_up_its_web_process_is_counted_all_the_same(
    owner: Person, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """An answer of Redis that lies there while nobody gets to read it is not late."""
    settings.KEY_CALLS_PER_SECOND = 1
    asked = asyncio.gather(*(rates().count_call(owner.caller) for _ in range(40)), return_exceptions=True)
    await asyncio.sleep(0.001)
    time.sleep(PATIENCE * 1.2)  # noqa: ASYNC251 (that is the point)
    assert sum(one is None for one in await asked) == 5
    assert "Redis is away" not in caplog.text


async def _page(path: str, address: str = "192.0.2.1", **headers: str) -> tuple[int, dict[bytes, bytes], str]:
    """A page, asked for from an address: its status, headers and text."""
    named = {"host": "testserver"} | {name.replace("_", "-"): value for name, value in headers.items()}
    asked = HttpCommunicator(
        application, "GET", path, headers=[(name.encode(), value.encode()) for name, value in named.items()]
    )
    asked.scope["client"] = (address, 0)
    answer = await asked.get_response(timeout=10)
    return answer["status"], dict(answer["headers"]), answer["body"].decode()


async def test_t22_a_flood_of_pages_is_refused_with_a_page_that_says_so(house: House, settings: Any) -> None:
    settings.PAGES_PER_SECOND = 1
    cookie, another = await sync_to_async(lambda: (house.member.cookie, house.viewer.cookie))()
    paths = [f"/t/{house.slug}/", f"/t/{house.slug}/conversations", "/", "/nothing", "/t/nowhere/"]
    assert [(await _page(path, cookie=cookie))[0] for path in paths] == [200, 200, 302, 404, 404]
    for address in ("192.0.2.1", "192.0.2.2"):
        status, headers, text = await _page(f"/t/{house.slug}/", address, cookie=cookie)
        assert (status, headers[b"Content-Type"]) == (429, b"text/html; charset=utf-8")
        assert "Slower, please" in text and "Too many at once" in text
        assert headers[b"request-id"].decode() in text
        assert 1 <= int(headers[b"retry-after"]) <= 5
    # Another person at the same address has a count of their own, and so have calls.
    assert (await _page(f"/t/{house.slug}/", cookie=another))[0] == 200
    assert (await _page("/v1/conversations", cookie=cookie))[0] == 200
    assert (await _page("/health", cookie=cookie))[0] == 200


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("addresses", "elsewhere"),
    [
        (["192.0.2.77"], "192.0.2.78"),
        (["2001:db8:7:7::1", "2001:db8:7:7:ffff::2"], "2001:db8:7:8::1"),
    ],
    ids=["IPv4", "a network of IPv6"],
)
async def test_t22_strangers_are_counted_by_their_address(
    settings: Any, addresses: list[str], elsewhere: str
) -> None:
    settings.PAGES_PER_SECOND = 1
    given = cycle(addresses)

    async def ask() -> int:
        made_up = {"cookie": f"sessionid={uuid4().hex}", "x_forwarded_for": "198.51.100.9"}
        return (await _page("/accounts/login/", next(given), **made_up))[0]

    assert [await ask() for _ in range(7)] == [200] * 5 + [429] * 2
    assert (await _page("/accounts/login/", elsewhere))[0] == 200


async def test_t22_streams_count_as_sockets_until_they_end(
    owner: Person, member: Person, settings: Any
) -> None:
    settings.KEY_SOCKETS = 2
    conversation = str((await sync_to_async(say)(owner.caller)).conversation)

    async def stream(path: str = f"conversations/{conversation}/events") -> Any:
        return await AsyncClient().get(f"/v1/{path}", headers={"x-api-key": owner.key})

    readers = [asyncio.create_task(_read(await stream())) for _ in range(2)]
    await asyncio.sleep(0.5)
    refused = await stream()
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
    assert await _chat(owner.key) == 429
    before = await sync_to_async(lambda: len(_texts(owner, conversation)))()
    assert before == 1  # what was refused was not submitted
    await _cancel(readers.pop())
    readers.append(asyncio.create_task(_read(await stream())))
    await asyncio.sleep(0.5)
    for reader in readers:
        await _cancel(reader)


async def _read(answer: Any) -> None:
    assert answer.status_code == 200
    async for _line in answer:
        pass


async def _cancel(task: asyncio.Task[None]) -> None:
    """As the server does when the reader is gone."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def _texts(person: Person, conversation: str) -> list[Any]:
    with tenant_context(person.caller.tenant_id):
        return list(Turn.objects.filter(conversation__author=person.caller.member_id))


# Secrets in what is said ----------------------------------------------------------------------------------------


async def test_t23_what_was_sent_as_a_secret_is_never_said_back(
    owner: Person, caplog: pytest.LogCaptureFixture
) -> None:
    client = AsyncClient()
    key = f"parley_{CANARY}"
    bodies = [
        {"name": "x", "kind": CANARY * 2, "secret": CANARY},
        {"name": "x", "kind": "api_key", "secret": f"{CANARY} with space"},
        {"name": "x", "kind": "api_key", "secret": [CANARY]},
        {"name": 7, "kind": "api_key", "secret": CANARY},
        {"name": "x", "kind": "endpoint", "secret": CANARY, "base_url": f"http://user:{CANARY}@10.0.0.1"},
    ]
    for headers, body in [({"x-api-key": key}, {})] + [({"x-api-key": owner.key}, body) for body in bodies]:
        answer = await client.generic(
            "POST", "/v1/credentials", json.dumps(body), "application/json", headers=headers
        )
        assert 400 <= answer.status_code < 500
        assert CANARY.encode() not in answer.content
    socket = Socket(x_api_key=key)
    assert await socket.opened()
    assert CANARY not in json.dumps(await socket.hear())
    assert await socket.close_code() == 4401
    assert CANARY not in caplog.text
