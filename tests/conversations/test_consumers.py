"""The socket's mouth, through the whole ASGI stack: who may come in, what each frame does, what is refused."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.contrib.sessions.models import Session

from config.asgi import application
from conversations import consumers
from conversations.models import Conversation
from conversations.prompts import MOST_CHARACTERS
from conversations.rendering import Thread
from tenants.context import tenant_context
from tenants.models import ApiKey, Membership
from tenants.roles import Role
from tests.cast import House, Person, found_house
from tests.conversations.stage import Hands, say, turn_of

type Frame = dict[str, Any]

HOST = "testserver"
HERE = f"http://{HOST}"


class Socket(WebsocketCommunicator):
    """One socket; its frames are objects."""

    def __init__(self, path: str = "/v1/chat/ws", **headers: str) -> None:
        named = {"host": HOST} | {name.replace("_", "-"): value for name, value in headers.items()}
        super().__init__(
            application, path, [(name.encode(), value.encode("latin-1")) for name, value in named.items()]
        )

    @classmethod
    def of(cls, person: Person, path: str = "/v1/chat/ws") -> "Socket":
        return cls(path, x_api_key=person.key)

    @classmethod
    def with_cookie(cls, person: Person, origin: str | None = HERE, path: str = "/v1/chat/ws") -> "Socket":
        headers = {} if origin is None else {"origin": origin}
        return cls(path, cookie=person.cookie, **headers)

    async def opened(self) -> bool:
        is_open, _ = await self.connect(timeout=5)
        return bool(is_open)

    async def tell(self, kind: str, **fields: Any) -> None:
        await self.send_json_to({"type": kind, **fields})

    async def hear(self, seconds: float = 5) -> Frame:
        text = str(await self.receive_from(seconds))
        frame: Frame = json.loads(text.encode())  # as it leaves: half a surrogate pair can't
        return frame

    async def hear_error(self) -> str:
        """The type of the error that comes next, which has a sentence and no seq."""
        frame = await self.hear()
        assert frame["type"] == "error", frame
        assert frame["error"]["message"]
        assert "seq" not in frame
        return str(frame["error"]["type"])

    async def until(self, kind: str) -> list[Frame]:
        heard = [await self.hear()]
        while heard[-1]["type"] != kind:
            heard.append(await self.hear())
        return heard

    async def close_code(self, seconds: float = 5) -> int:
        """How the server closes it; whatever it says before is skipped."""
        while (message := await self.receive_output(seconds))["type"] != "websocket.close":
            pass
        return int(message["code"])

    async def lives(self) -> None:
        await self.tell("ping")
        assert await self.hear() == {"type": "pong"}


@pytest.fixture
async def sockets() -> AsyncIterator[AsyncExitStack]:
    """Closes what was opened through `enter`."""
    async with AsyncExitStack() as stack:
        yield stack


async def enter(sockets: AsyncExitStack, socket: Socket) -> Socket:
    assert await socket.opened()
    sockets.push_async_callback(socket.disconnect)
    return socket


def made_key(*people: Person) -> None:
    assert all(person.key and person.cookie for person in people)


@pytest.fixture
def member(house: House) -> Person:
    made_key(house.member)
    return house.member


@pytest.fixture
def viewer(house: House) -> Person:
    made_key(house.viewer)
    return house.viewer


@pytest.fixture
def colleague(house: House) -> Person:
    made_key(house.admin)
    return house.admin


@pytest.fixture
def outsider(stranger: Person) -> Person:
    made_key(stranger)
    return stranger


# Coming in ----------------------------------------------------------------------------------------------------


async def test_a_key_opens_a_socket_by_either_header(member: Person, sockets: AsyncExitStack) -> None:
    for headers in ({"x_api_key": member.key}, {"authorization": f"Bearer {member.key}"}):
        await (await enter(sockets, Socket(**headers))).lives()


async def test_a_key_needs_no_origin_of_ours(member: Person, sockets: AsyncExitStack) -> None:
    socket = await enter(sockets, Socket(x_api_key=member.key, origin="https://elsewhere.example"))
    await socket.lives()


async def test_a_cookie_opens_a_socket_from_a_page_of_ours(member: Person, sockets: AsyncExitStack) -> None:
    await (await enter(sockets, Socket.with_cookie(member))).lives()


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "",
        "null",
        "https://elsewhere.example",
        f"http://{HOST}.elsewhere.example",
        f"http://{HOST}:8001",
        f"http://elsewhere.example@{HOST}.example",
        f"file://{HOST}",
        "http://[",
        "http://\xfc",
    ],
)
async def test_a_cookie_from_elsewhere_is_closed_before_it_is_accepted(
    member: Person, origin: str | None
) -> None:
    socket = Socket.with_cookie(member, origin)
    assert not await socket.opened()


@pytest.mark.parametrize("headers", [{"origin": HERE}, {"origin": HERE, "cookie": "sessionid=gone"}])
@pytest.mark.usefixtures("database")
async def test_who_is_not_signed_in_is_told_so(headers: dict[str, str]) -> None:
    socket = Socket(**headers)
    assert await socket.opened()
    assert await socket.hear_error() == "authentication_error"
    assert await socket.close_code() == 4401


@pytest.mark.parametrize("key", ["", "wrong", "parley_00000000_" + "a" * 43, "x" * 5000, "\xff"])
@pytest.mark.usefixtures("database")
async def test_a_wrong_key_is_not_signed_in(key: str) -> None:
    socket = Socket(x_api_key=key)
    assert await socket.opened()
    assert await socket.close_code() == 4401


@pytest.mark.parametrize("cookie", ['sessionid="\\000"', "sessionid=\xff", "sessionid", "=;;=", "a" * 4000])
@pytest.mark.usefixtures("database")
async def test_a_broken_cookie_is_not_signed_in(cookie: str) -> None:
    socket = Socket(origin=HERE, cookie=cookie)
    assert await socket.opened()
    assert await socket.close_code() == 4401


async def test_a_session_names_its_tenant(member: Person, house: House, sockets: AsyncExitStack) -> None:
    path = f"/v1/chat/ws?tenant={house.slug}"
    await (await enter(sockets, Socket.with_cookie(member, path=path))).lives()
    socket = Socket.with_cookie(member, path="/v1/chat/ws?tenant=nowhere")
    assert await socket.opened()
    assert await socket.hear_error() == "not_found_error"
    assert await socket.close_code() == 4404


def _of_two_houses(house: House) -> tuple[Person, House]:
    other = found_house("second")
    made_key(house.member)
    other.join(Role.MEMBER, house.member.user)
    return house.member, other


async def test_a_session_in_two_tenants_has_to_say_which(house: House, sockets: AsyncExitStack) -> None:
    person, other = await sync_to_async(_of_two_houses)(house)
    socket = Socket.with_cookie(person)
    assert await socket.opened()
    assert await socket.hear_error() == "invalid_request_error"
    assert await socket.close_code() == 4400
    named = await enter(sockets, Socket.with_cookie(person, path=f"/v1/chat/ws?tenant={other.slug}"))
    await named.lives()


async def test_a_keys_tenant_always_wins(member: Person, house: House, outsider: Person) -> None:
    socket = Socket.of(outsider, f"/v1/chat/ws?tenant={house.slug}")
    assert await socket.opened()
    assert await socket.hear_error() == "not_found_error"
    assert await socket.close_code() == 4404


@pytest.mark.parametrize("path", ["/", "/v1/chat/ws/", "/v1/nothing", "/t/house/"])
async def test_a_socket_elsewhere_is_refused(member: Person, path: str) -> None:
    assert not await Socket.of(member, path).opened()


# Bad frames ---------------------------------------------------------------------------------------------------

NOBODYS = "00000000-0000-4000-8000-000000000000"
INVALID, MISSING = "invalid_request_error", "not_found_error"
DEEP = "[" * 5000 + "]" * 5000
ID = f'"id": "{uuid4()}"'

BAD_FRAMES = [
    ("", INVALID),
    ("{", INVALID),
    ("nonsense", INVALID),
    ("[]", INVALID),
    ("null", INVALID),
    ('"ping"', INVALID),
    ("9" * 5000, INVALID),
    (DEEP, INVALID),
    ("{}", INVALID),
    ('{"type": null}', INVALID),
    ('{"type": ["ping"]}', INVALID),
    ('{"type": "unknown"}', INVALID),
    ('{"type": "dispatch"}', INVALID),
    ('{"type": "\\ud800"}', INVALID),
    ('{"type": "subscribe"}', MISSING),
    ('{"type": "subscribe", "conversation": 7}', MISSING),
    ('{"type": "subscribe", "conversation": {"id": 1}}', MISSING),
    ('{"type": "subscribe", "conversation": "\\u0000"}', MISSING),
    (f'{{"type": "subscribe", "conversation": "{NOBODYS}"}}', MISSING),
    (f'{{"type": "interrupt", "conversation": "{NOBODYS}"}}', MISSING),
    ('{"type": "interrupt"}', MISSING),
    (f'{{"type": "set", "conversation": "{NOBODYS}", "model": "other"}}', MISSING),
    (f'{{"type": "set", "conversation": "{NOBODYS}", "permission_mode": ["default"]}}', INVALID),
    (f'{{"type": "set", "conversation": "{NOBODYS}", "model": "a\\u0000b"}}', INVALID),
    (f'{{"type": "set", "conversation": "{NOBODYS}", "model": 7}}', INVALID),
    (f'{{"type": "warm", "conversation": "{NOBODYS}"}}', MISSING),
    (f'{{"type": "permission", "request": "{NOBODYS}", "decision": "allow"}}', MISSING),
    (f'{{"type": "permission", "request": "{NOBODYS}", "decision": "maybe"}}', INVALID),
    (f'{{"type": "permission", "request": "{NOBODYS}", "decision": ["allow"]}}', INVALID),
    (f'{{"type": "permission", "request": "{NOBODYS}", "decision": "deny", "message": 7}}', INVALID),
    (f'{{"type": "permission", "request": "{NOBODYS}", "decision": "deny", "message": "\\u0000"}}', INVALID),
    ('{"type": "message", "content": "no id"}', INVALID),
    ('{"type": "message", "id": "\\ud800", "content": "x"}', INVALID),
    ('{"type": "permission", "request": "\\ud800", "decision": "allow"}', MISSING),
    ('{"type": "interrupt", "conversation": "\\ud800"}', MISSING),
    ('{"type": "message", "content": "no uuid", "id": "7"}', INVALID),
    ('{"type": "message", "content": "no uuid", "id": ["7"]}', INVALID),
    (f'{{"type": "message", {ID}}}', INVALID),
    (f'{{"type": "message", {ID}, "content": ""}}', INVALID),
    (f'{{"type": "message", {ID}, "content": "  \\n"}}', INVALID),
    (f'{{"type": "message", {ID}, "content": 7}}', INVALID),
    (f'{{"type": "message", {ID}, "content": {{}}}}', INVALID),
    (f'{{"type": "message", {ID}, "content": []}}', INVALID),
    (f'{{"type": "message", {ID}, "content": [7]}}', INVALID),
    (f'{{"type": "message", {ID}, "content": [{{"type": []}}]}}', INVALID),
    (f'{{"type": "message", {ID}, "content": [{{"type": "text", "text": "x", "n": NaN}}]}}', INVALID),
    (f'{{"type": "message", {ID}, "content": [{{"type": "text", "text": "x", "n": 1e999}}]}}', INVALID),
    (f'{{"type": "message", {ID}, "content": [{{"type": "text", "text": "x", "n": {DEEP}}}]}}', INVALID),
    (
        f'{{"type": "message", {ID}, "content": [{{"type": "image", "source": {{"data": "\\u0000"}}}}]}}',
        INVALID,
    ),
    (f'{{"type": "message", {ID}, "content": "half \\ud83d"}}', INVALID),
    (f'{{"type": "message", {ID}, "content": "nul \\u0000"}}', INVALID),
    (f'{{"type": "message", {ID}, "content": "x", "conversation": "{NOBODYS}"}}', MISSING),
    (f'{{"type": "message", {ID}, "content": "x", "conversation": ""}}', MISSING),
    (f'{{"type": "message", {ID}, "content": "x", "conversation": 7}}', INVALID),
    (f'{{"type": "message", {ID}, "content": "x", "assistant": "{NOBODYS}"}}', MISSING),
    (f'{{"type": "message", {ID}, "content": "x", "assistant": 7}}', INVALID),
    (f'{{"type": "message", {ID}, "content": "x", "options": []}}', INVALID),
    (f'{{"type": "message", {ID}, "content": "x", "options": {{"\\ud800": 1}}}}', INVALID),
    (f'{{"type": "message", {ID}, "content": "x", "options": {{"model": "a\\u0000"}}}}', INVALID),
    (f'{{"type": "message", {ID}, "content": "{"x" * (MOST_CHARACTERS + 1)}"}}', "request_too_large"),
]


async def test_each_bad_frame_gets_an_error_and_the_socket_lives_on(
    member: Person, sockets: AsyncExitStack
) -> None:
    socket = await enter(sockets, Socket.of(member))
    wrong = []
    for text, kind in BAD_FRAMES:
        await socket.send_input({"type": "websocket.receive", "text": text})
        if (said := await socket.hear_error()) != kind:
            wrong.append((text[:120], said))
    assert not wrong
    await socket.send_to(bytes_data=b'{"type": "ping"}')
    assert await socket.hear_error() == INVALID
    await socket.lives()


@pytest.mark.parametrize("after", [-1, "1", 1.5, True, [], {}])
async def test_after_is_a_whole_number_from_zero(
    house: House, member: Person, sockets: AsyncExitStack, after: Any
) -> None:
    submitted = await sync_to_async(say)(member.caller)
    socket = await enter(sockets, Socket.of(member))
    await socket.tell("subscribe", conversation=str(submitted.conversation), after=after)
    assert await socket.hear_error() == INVALID
    await socket.lives()


# What is not yours --------------------------------------------------------------------------------------------


def _conversation_with_question(person: Person) -> tuple[str, str]:
    """A conversation of theirs, and a question about a tool call in it."""
    submitted, request = say(person.caller), str(uuid4())
    hands = Hands.claiming(submitted)
    asked = {
        "request": request,
        "tool_use": "t",
        "name": "Bash",
        "input": {},
        "title": "",
        "choices": ["deny"],
    }
    hands.write(hands.row("permission.requested", asked))
    return str(submitted.conversation), request


async def test_nobody_elses_objects_are_there(
    member: Person, colleague: Person, outsider: Person, sockets: AsyncExitStack
) -> None:
    conversation, request = await sync_to_async(_conversation_with_question)(member)
    commands: list[Frame] = [
        {"type": "subscribe", "conversation": conversation, "after": 0},
        {"type": "message", "conversation": conversation, "id": str(uuid4()), "content": "hello"},
        {"type": "interrupt", "conversation": conversation},
        {"type": "permission", "request": request, "decision": "allow"},
        {"type": "set", "conversation": conversation, "model": "other"},
        {"type": "warm", "conversation": conversation},
    ]
    assert {command["type"] for command in commands} | {"ping"} == set(consumers.ChatConsumer.commands)
    for other in (outsider, colleague):
        socket = await enter(sockets, Socket.of(other))
        for command in commands:
            await socket.send_json_to(command)
            assert await socket.hear_error() == "not_found_error", command
        await socket.lives()
        assert await socket.receive_nothing(0.05)


async def test_a_viewer_may_not_write(viewer: Person, sockets: AsyncExitStack) -> None:
    socket = await enter(sockets, Socket.of(viewer))
    await socket.tell("message", id=str(uuid4()), content="hello")
    assert await socket.hear_error() == "permission_error"
    await socket.tell("warm")
    assert await socket.hear_error() == "permission_error"
    await socket.lives()


def _reading_key(person: Person) -> str:
    return person.key_for(frozenset({"read"}))


async def test_a_key_that_may_read_only_reads(house: House, sockets: AsyncExitStack) -> None:
    key = await sync_to_async(_reading_key)(house.owner)
    submitted = await sync_to_async(say)(house.owner.caller)
    socket = await enter(sockets, Socket(x_api_key=key))
    where = str(submitted.conversation)
    for frame in (
        {"type": "message", "conversation": where, "id": str(uuid4()), "content": "hello"},
        {"type": "interrupt", "conversation": where},
        {"type": "set", "conversation": where, "model": "other"},
    ):
        await socket.send_json_to(frame)
        assert await socket.hear_error() == "permission_error"
    await socket.tell("subscribe", conversation=where, after=0)
    assert (await socket.hear())["type"] == "turn.queued"


# Messages -----------------------------------------------------------------------------------------------------


async def test_a_message_begins_a_conversation_and_subscribes_to_it_from_its_first_event(
    member: Person, sockets: AsyncExitStack
) -> None:
    socket = await enter(sockets, Socket.of(member))
    name = str(uuid4())
    await socket.tell("message", id=name, content="Plan a party")
    queued, updated = await socket.hear(), await socket.hear()
    assert (queued["type"], queued["seq"], queued["client_id"]) == ("turn.queued", 1, name)
    assert (queued["prompt"], queued["author"]) == ("Plan a party", str(member.caller.member_id))
    assert {"conversation", "turn", "at"} <= queued.keys()
    assert (updated["type"], updated["seq"], updated["title"]) == ("conversation.updated", 2, "Plan a party")
    assert "turn" not in updated


async def test_content_blocks_are_a_message_too(member: Person, sockets: AsyncExitStack) -> None:
    socket = await enter(sockets, Socket.of(member))
    blocks = [{"type": "text", "text": "Grüße \U0001f600"}]
    await socket.tell("message", id=str(uuid4()), content=blocks)
    assert (await socket.hear())["prompt"] == blocks


async def test_a_repeated_message_finds_the_same_turn(member: Person, sockets: AsyncExitStack) -> None:
    first, second = [await enter(sockets, Socket.of(member)) for _ in range(2)]
    name = str(uuid4())
    await first.tell("message", id=name, content="once")
    heard = await first.until("conversation.updated")
    await first.tell("message", id=name, content="once")
    await first.lives()
    await second.tell("message", id=name, content="once")
    assert await second.until("conversation.updated") == heard


async def test_a_repeated_message_with_another_body_is_a_conflict(
    member: Person, sockets: AsyncExitStack
) -> None:
    socket = await enter(sockets, Socket.of(member))
    name = str(uuid4())
    await socket.tell("message", id=name, content="this")
    await socket.until("conversation.updated")
    await socket.tell("message", id=name, content="that")
    assert await socket.hear_error() == "invalid_request_error"
    await socket.lives()


async def test_one_message_at_the_same_moment_from_many_sockets_is_one_turn(
    member: Person, sockets: AsyncExitStack
) -> None:
    all_of_them = [await enter(sockets, Socket.of(member)) for _ in range(5)]
    name = str(uuid4())
    await asyncio.gather(*(socket.tell("message", id=name, content="at once") for socket in all_of_them))
    heard = await asyncio.gather(*(socket.until("conversation.updated") for socket in all_of_them))
    assert all(frames == heard[0] for frames in heard)
    assert len(heard[0]) == 2


async def test_two_messages_on_one_socket_queue_in_order(member: Person, sockets: AsyncExitStack) -> None:
    socket = await enter(sockets, Socket.of(member))
    await socket.tell("message", id=str(uuid4()), content="first")
    where = (await socket.until("conversation.updated"))[0]["conversation"]
    await socket.tell("message", id=str(uuid4()), content="second", conversation=where)
    queued = await socket.hear()
    assert (queued["type"], queued["seq"], queued["prompt"]) == ("turn.queued", 3, "second")


async def test_warm_makes_the_draft_that_the_first_message_uses(
    house: House, member: Person, sockets: AsyncExitStack
) -> None:
    socket = await enter(sockets, Socket.of(member))
    await socket.tell("warm")
    await socket.tell("warm")
    await socket.lives()
    (drafted,) = await sync_to_async(_conversations)(member)
    await socket.tell("message", id=str(uuid4()), content="first")
    first = await socket.until("conversation.updated")
    assert first[0]["conversation"] == drafted
    await socket.tell("message", id=str(uuid4()), content="another conversation")
    assert (await socket.hear())["conversation"] != drafted


async def test_what_was_set_on_a_draft_is_seen_from_its_first_event(
    member: Person, sockets: AsyncExitStack
) -> None:
    socket = await enter(sockets, Socket.of(member))
    await socket.tell("warm")
    await socket.lives()
    (drafted,) = await sync_to_async(_conversations)(member)
    await socket.tell("set", conversation=drafted, model="small")
    await socket.tell("message", id=str(uuid4()), content="first")
    heard = [await socket.hear() for _ in range(3)]
    assert [event["seq"] for event in heard] == [1, 2, 3]
    assert heard[0]["model"] == "small"


async def test_a_message_sent_again_after_a_reconnect_ignores_the_new_draft(
    member: Person, sockets: AsyncExitStack
) -> None:
    before, after = [await enter(sockets, Socket.of(member)) for _ in range(2)]
    name = str(uuid4())
    await before.tell("message", id=name, content="once")
    heard = await before.until("conversation.updated")
    await after.tell("warm")
    await after.tell("message", id=name, content="once")
    assert await after.until("conversation.updated") == heard


def _delete_all(person: Person) -> None:
    with tenant_context(person.caller.tenant_id):
        Conversation.objects.filter(author_id=person.caller.member_id).delete()


async def test_a_draft_that_was_tidied_away_is_no_hindrance(member: Person, sockets: AsyncExitStack) -> None:
    socket = await enter(sockets, Socket.of(member))
    await socket.tell("warm")
    await socket.lives()
    await sync_to_async(_delete_all)(member)
    await socket.tell("message", id=str(uuid4()), content="hello")
    assert (await socket.hear())["type"] == "turn.queued"


async def test_a_draft_goes_with_the_socket_that_did_not_use_it(
    member: Person, sockets: AsyncExitStack
) -> None:
    leaving, staying = [await enter(sockets, Socket.of(member)) for _ in range(2)]
    for socket in (leaving, staying):
        await socket.tell("warm")
        await socket.lives()
    assert len(await sync_to_async(_conversations)(member)) == 2
    await leaving.disconnect()
    (kept,) = await sync_to_async(_conversations)(member)
    await staying.tell("message", id=str(uuid4()), content="hello")
    assert (await staying.until("conversation.updated"))[0]["conversation"] == kept
    await staying.disconnect()
    assert await sync_to_async(_conversations)(member) == [kept]


async def test_a_draft_that_something_was_set_on_is_none_any_more(
    member: Person, sockets: AsyncExitStack
) -> None:
    socket = await enter(sockets, Socket.of(member))
    await socket.tell("warm")
    await socket.lives()
    (drafted,) = await sync_to_async(_conversations)(member)
    await socket.tell("set", conversation=drafted, model="small")
    await socket.lives()
    await socket.disconnect()
    assert await sync_to_async(_conversations)(member) == [drafted]


def _conversations(person: Person) -> list[str]:
    with tenant_context(person.caller.tenant_id):
        rows = Conversation.objects.filter(author_id=person.caller.member_id)
        return [str(row.id) for row in rows]


# Following ----------------------------------------------------------------------------------------------------


def _played(person: Person) -> tuple[str, Hands]:
    submitted = say(person.caller)
    hands = Hands.claiming(submitted)
    hands.text("Hello", " there")
    return str(submitted.conversation), hands


def seqs(frames: Iterable[Frame]) -> list[int]:
    return [frame["seq"] for frame in frames]


async def test_subscribing_replays_after_any_seq_and_goes_on_live(
    house: House, member: Person, sockets: AsyncExitStack
) -> None:
    conversation, hands = await sync_to_async(_played)(member)
    for after in (0, 3):
        socket = await enter(sockets, Socket.of(member))
        await socket.tell("subscribe", conversation=conversation, after=after)
        assert seqs([await socket.hear() for _ in range(5 - after)]) == list(range(after + 1, 6))
    live = await enter(sockets, Socket.of(member))
    await live.tell("subscribe", conversation=conversation)
    future = await enter(sockets, Socket.of(member))
    await future.tell("subscribe", conversation=conversation, after=10**30)
    for waiting in (live, future):
        await waiting.lives()
    await sync_to_async(hands.text)(" again")
    for waiting in (live, future):
        assert (await waiting.hear())["text"] == " again"


async def test_a_second_subscription_replaces_the_first(
    house: House, member: Person, sockets: AsyncExitStack
) -> None:
    conversation, hands = await sync_to_async(_played)(member)
    socket = await enter(sockets, Socket.of(member))
    await socket.tell("subscribe", conversation=conversation, after=4)
    assert seqs([await socket.hear()]) == [5]
    await socket.tell("subscribe", conversation=conversation, after=3)
    assert seqs([await socket.hear() for _ in range(2)]) == [4, 5]
    await sync_to_async(hands.text)(" again")
    assert seqs([await socket.hear()]) == [6]
    assert await socket.receive_nothing(0.1)


async def test_interrupting_what_is_queued_ends_it(member: Person, sockets: AsyncExitStack) -> None:
    socket = await enter(sockets, Socket.of(member))
    await socket.tell("message", id=str(uuid4()), content="never mind")
    where = (await socket.until("conversation.updated"))[0]["conversation"]
    await socket.tell("interrupt", conversation=where)
    ended = await socket.hear()
    assert (ended["type"], ended["stop_reason"]) == ("turn.interrupted", "interrupted")
    await socket.tell("interrupt", conversation=where)
    await socket.lives()


async def test_a_question_is_answered_once(house: House, member: Person, sockets: AsyncExitStack) -> None:
    conversation, request = await sync_to_async(_conversation_with_question)(member)
    socket = await enter(sockets, Socket.of(member))
    await socket.tell("subscribe", conversation=conversation, after=0)
    asked = (await socket.until("permission.requested"))[-1]
    assert asked["request"] == request
    await socket.tell("permission", request=request, decision="allow")
    await socket.lives()
    await socket.tell("permission", request=request, decision="deny")
    assert await socket.hear_error() == "invalid_request_error"


async def test_changing_the_model_is_told_to_all_who_follow(
    house: House, member: Person, sockets: AsyncExitStack
) -> None:
    submitted = await sync_to_async(say)(member.caller)
    where = str(submitted.conversation)
    one, other = [await enter(sockets, Socket.of(member)) for _ in range(2)]
    await other.tell("subscribe", conversation=where)
    await other.lives()
    await one.tell("set", conversation=where, model="small")
    updated = await other.hear()
    assert (updated["type"], updated["model"]) == ("conversation.updated", "small")


async def test_a_socket_follows_many_but_not_any_number(
    house: House, member: Person, sockets: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "MOST_SUBSCRIPTIONS", 1)
    first, second = [await sync_to_async(say)(member.caller) for _ in range(2)]
    socket = await enter(sockets, Socket.of(member))
    for _ in range(2):
        await socket.tell("subscribe", conversation=str(first.conversation))
    await socket.lives()
    await socket.tell("subscribe", conversation=str(second.conversation))
    assert await socket.hear_error() == "invalid_request_error"
    await socket.lives()


# The socket of a page -----------------------------------------------------------------------------------------


async def test_a_page_gets_patches_in_place_of_events(
    house: House, member: Person, sockets: AsyncExitStack
) -> None:
    conversation, hands = await sync_to_async(_played)(member)
    page = await enter(sockets, Socket.with_cookie(member, path=f"/t/{house.slug}/live"))
    await page.tell("subscribe", conversation=conversation, after=4)
    seen = await page.hear()
    assert (seen["type"], seen["conversation"], seen["seq"]) == ("patches", conversation, 5)
    await sync_to_async(hands.text)(" again")
    live = await page.hear()
    assert live["seq"] == 6
    assert " again" in json.dumps(live["patches"])
    await page.tell("subscribe", conversation=NOBODYS)
    assert await page.hear_error() == "not_found_error"
    await page.lives()


async def test_a_pages_socket_remembers_nothing_of_what_it_follows_no_more(
    house: House, member: Person, sockets: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "MOST_SUBSCRIPTIONS", 1)
    refused = await sync_to_async(say)(member.caller)
    conversation, _hands = await sync_to_async(_played)(member)
    page = await enter(sockets, Socket.with_cookie(member, path=f"/t/{house.slug}/live"))
    for _ in range(2):
        await page.tell("subscribe", conversation=conversation, after=4)
        await page.hear()
    await page.tell("subscribe", conversation=str(refused.conversation))
    assert await page.hear_error() == "invalid_request_error"
    assert _threads_in_memory(conversation, str(refused.conversation)) == [conversation]
    await sync_to_async(_delete_all)(member)
    assert await page.hear_error() == "not_found_error"
    assert _threads_in_memory(conversation) == []
    await page.lives()


def _threads_in_memory(*conversations: str) -> list[str]:
    """Of which of these some page's state is held, by anybody in this process."""
    gc.collect()
    held = [thing.conversation for thing in gc.get_objects() if isinstance(thing, Thread)]
    return [conversation for conversation in held if conversation in conversations]


async def test_a_page_of_another_tenant_has_no_socket(house: House, outsider: Person) -> None:
    page = Socket.with_cookie(outsider, path=f"/t/{house.slug}/live")
    assert await page.opened()
    assert await page.hear_error() == "not_found_error"
    assert await page.close_code() == 4404
    assert not await Socket.with_cookie(outsider, "null", path=f"/t/{house.slug}/live").opened()


# Leaving ------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumers, "ASK_AGAIN_SECONDS", 0.1)


def test_a_socket_is_asked_again_well_within_five_seconds() -> None:
    assert consumers.ASK_AGAIN_SECONDS <= 3


def _revoke(person: Person) -> None:
    with tenant_context(person.caller.tenant_id):
        ApiKey.objects.filter(member=person.membership).delete()


def _sign_out(person: Person) -> None:
    Session.objects.filter(session_key=person.client.cookies["sessionid"].value).delete()


def _remove(person: Person) -> None:
    with tenant_context(person.caller.tenant_id):
        Membership.objects.filter(id=person.caller.member_id).delete()


def _lock_out(person: Person) -> None:
    person.user.is_active = False
    person.user.save()


@pytest.mark.usefixtures("asked_often")
@pytest.mark.parametrize(
    ("how", "end"),
    [("key", _revoke), ("cookie", _sign_out), ("cookie", _remove), ("key", _remove), ("cookie", _lock_out)],
)
async def test_who_is_no_longer_signed_in_hears_nothing_more(
    house: House, member: Person, how: str, end: Any
) -> None:
    conversation, hands = await sync_to_async(_played)(member)
    socket = Socket.of(member) if how == "key" else Socket.with_cookie(member)
    assert await socket.opened()
    await socket.tell("subscribe", conversation=conversation)
    await socket.lives()
    await asyncio.sleep(0.25)
    await socket.lives()
    await sync_to_async(end)(member)
    assert await socket.close_code() == 4401
    if end is not _remove:
        await sync_to_async(hands.text)("a secret")
    await socket.tell("ping")
    assert await socket.receive_nothing(0.3)


async def test_a_deleted_conversation_is_said_to_be_gone(
    house: House, member: Person, sockets: AsyncExitStack
) -> None:
    conversation, _hands = await sync_to_async(_played)(member)
    socket = await enter(sockets, Socket.of(member))
    await socket.tell("subscribe", conversation=conversation)
    await sync_to_async(_delete_all)(member)
    assert await socket.hear_error() == "not_found_error"
    await socket.lives()


async def test_a_reader_that_leaves_in_the_middle_costs_nobody_anything(house: House, member: Person) -> None:
    conversation, hands = await sync_to_async(_played)(member)
    socket = Socket.of(member)
    assert await socket.opened()
    await socket.tell("subscribe", conversation=conversation, after=0)
    await socket.hear()
    await socket.disconnect()
    await sync_to_async(hands.finish)()
    turn = await sync_to_async(turn_of)(member.caller, hands.claim.turn)
    assert turn.state == "completed"
