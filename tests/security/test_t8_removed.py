"""T8: a member is removed, a session ended, a key revoked while a socket or a stream is open."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from time import monotonic
from typing import Any, Self
from uuid import UUID

import httpx
import pytest
from asgiref.sync import sync_to_async
from django.test import AsyncClient

from conversations.models import Control, Turn
from tenants.context import tenant_context
from tenants.members import change_role, remove
from tenants.models import ApiKey, Credential
from tenants.roles import Role
from tests.cast import House, Person, found_house
from tests.client import Client
from tests.conversations.stage import Hands, events_of, kinds, say, turn_of
from tests.conversations.test_consumers import Socket, enter, sockets
from tests.stack import Installation, eventually

__all__ = ["sockets"]  # a fixture

SOON = 5.0


def _removed(house: House, person: Person) -> None:
    with tenant_context(house.id):
        remove(house.owner.caller, person.membership.id)


def _left(house: House, person: Person) -> None:
    with tenant_context(house.id):
        remove(person.caller, person.membership.id)


def _revoked(house: House, person: Person) -> None:
    with tenant_context(house.id):
        ApiKey.objects.filter(member=person.membership).delete()


def _signed_out(house: House, person: Person) -> None:
    assert person.client.post("/accounts/logout/").status_code == 302


def _new_password(house: House, person: Person) -> None:
    person.user.set_password("another good password")
    person.user.save()


def _locked_out(house: House, person: Person) -> None:
    person.user.is_active = False
    person.user.save()


type End = Callable[[House, Person], None]
ENDS: list[tuple[End, str]] = [
    (_removed, "key"),
    (_removed, "cookie"),
    (_left, "key"),
    (_revoked, "key"),
    (_signed_out, "cookie"),
    (_new_password, "cookie"),
    (_locked_out, "key"),
    (_locked_out, "cookie"),
]
type Case = Callable[[House, Person, End, str], Awaitable[None]]


async def each_end(case: Case) -> None:
    """The case for each end at once, since each waits: for a member of a house of their own."""

    def moved_in() -> tuple[House, Person]:
        house = found_house("house")
        return house, _with_all(house.member)

    houses = [await sync_to_async(moved_in)() for _ in ENDS]
    cases = [case(*home, end, by) for home, (end, by) in zip(houses, ENDS, strict=True)]
    became = await asyncio.gather(*cases, return_exceptions=True)
    told = {f"{end.__name__} {by}": error for (end, by), error in zip(ENDS, became, strict=True) if error}
    assert told == {}


def _with_all(person: Person) -> Person:
    assert person.key and person.cookie
    return person


@pytest.fixture
def member(house: House) -> Person:
    return _with_all(house.member)


def _talking(person: Person) -> Hands:
    hands = Hands.claiming(say(person.caller, "canary-81aa"))
    hands.text("seen")
    return hands


def _socket(person: Person, by: str, path: str = "/v1/chat/ws") -> Socket:
    return Socket.of(person, path) if by == "key" else Socket.with_cookie(person, path=path)


async def test_t8_an_open_socket_is_closed_within_five_seconds(
    database: None, sockets: AsyncExitStack
) -> None:
    async def closes(house: House, member: Person, end: End, by: str) -> None:
        hands = await sync_to_async(_talking)(member)
        socket = await enter(sockets, _socket(member, by))
        await socket.tell("subscribe", conversation=str(hands.claim.conversation), after=0)
        await socket.until("text.delta")
        await sync_to_async(end)(house, member)
        since = monotonic()
        assert await socket.close_code(SOON) == 4401
        assert monotonic() - since < SOON
        await sync_to_async(hands.text)("not for them")
        await socket.tell("subscribe", conversation=str(hands.claim.conversation), after=0)
        assert await socket.receive_nothing(1.5)

    await each_end(closes)


async def test_t8_a_pages_socket_is_closed_too(house: House, member: Person, sockets: AsyncExitStack) -> None:
    hands = await sync_to_async(_talking)(member)
    socket = await enter(sockets, _socket(member, "cookie", f"/t/{house.slug}/live"))
    await socket.tell("subscribe", conversation=str(hands.claim.conversation), after=0)
    await socket.until("patches")
    await sync_to_async(_removed)(house, member)
    assert await socket.close_code(SOON) == 4401
    await sync_to_async(hands.text)("not for them")
    assert await socket.receive_nothing(1.5)


class Listening:
    """A member's stream of a conversation, read as it comes."""

    def __init__(self, answer: Any) -> None:
        self.heard = b""
        self.reading = asyncio.create_task(self._read(answer))

    @classmethod
    async def to(cls, person: Person, by: str, conversation: UUID) -> Self:
        client = AsyncClient() if by == "key" else person.async_client
        headers = {"x-api-key": person.key} if by == "key" else {}
        return cls(await client.get(f"/v1/conversations/{conversation}/events", headers=headers))

    async def _read(self, answer: Any) -> None:
        async with aclosing(answer._iterator), aclosing(answer.streaming_content) as chunks:
            async for chunk in chunks:
                self.heard += chunk

    async def until(self, words: bytes) -> None:
        async with asyncio.timeout(SOON):
            while words not in self.heard:  # noqa: ASYNC110 (a list of bytes tells nobody)
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("talks", [False, True], ids=["silent", "talking"])
async def test_t8_an_open_stream_ends_within_five_seconds(database: None, talks: bool) -> None:
    """Also one on which nothing happens."""

    async def is_cut(house: House, member: Person, end: End, by: str) -> None:
        hands = await sync_to_async(_talking)(member)
        stream = await Listening.to(member, by, hands.claim.conversation)
        await stream.until(b"text.delta")
        await sync_to_async(end)(house, member)
        since = monotonic()
        while not stream.reading.done():
            assert monotonic() - since < SOON, "the stream is open still"
            if talks:
                await sync_to_async(hands.text)(f"at {monotonic() - since:.2f}")
            await asyncio.sleep(0.1)
        await stream.reading
        assert b"canary-81aa" in stream.heard

    await each_end(is_cut)


@pytest.mark.parametrize("kind", ["message", "interrupt", "set", "subscribe", "warm"])
async def test_t8_nothing_is_taken_from_who_was_removed_in_the_seconds_before_they_are_cut_off(
    house: House, member: Person, sockets: AsyncExitStack, kind: str
) -> None:
    hands = await sync_to_async(_talking)(member)
    conversation = str(hands.claim.conversation)
    socket = await enter(sockets, _socket(member, "key"))
    await sync_to_async(_removed)(house, member)
    before = await sync_to_async(_written)(member)
    frames: dict[str, dict[str, Any]] = {
        "message": {
            "id": "6f2b0c1e-38d8-4a50-9f53-6a2ad2ab7a54",
            "content": "one more",
            "conversation": conversation,
        },
        "set": {"conversation": conversation, "model": "claude-opus-4-5"},
    }
    await socket.tell(kind, **frames.get(kind, {"conversation": conversation}))
    assert await socket.hear_error() == "authentication_error"
    assert await socket.close_code(1) == 4401
    assert await sync_to_async(_written)(member) == before


def _written(person: Person) -> tuple[int, int]:
    with tenant_context(person.caller.tenant_id):
        return Turn.objects.count(), Control.objects.count()


def test_t8_a_removed_members_turns_are_stopped_and_nothing_new_is_theirs(house: House) -> None:
    hands = Hands.claiming(say(house.member.caller, "first"))
    waiting = say(house.member.caller, "second", hands.claim.conversation)
    key = house.member.key
    with tenant_context(house.id):
        credential = Credential(
            tenant=house.tenant, member=house.member.membership, name="own", kind="api_key"
        )
        credential.secret = "sk-own"
        credential.save(force_insert=True)
        remove(house.owner.caller, house.member.membership.id)
        asked = Control.objects.get(conversation=hands.claim.conversation)
        assert (asked.kind, asked.turn_id) == ("interrupt", hands.claim.turn)
        assert not Credential.objects.filter(id=credential.id).exists()
        assert not ApiKey.objects.filter(member=house.member.membership).exists()
    assert turn_of(house.owner.caller, waiting.turn).state == "interrupted"
    assert "turn.interrupted" in kinds(events_of(house.owner.caller, hands.claim.conversation))
    assert house.member.client.get(f"/t/{house.slug}/").status_code == 404
    answer = house.member.client.get("/v1/conversations", headers={"x-api-key": key})
    assert (answer.status_code, json.loads(answer.content)["error"]["type"]) == (401, "authentication_error")


def test_t8_who_may_only_read_from_now_on_writes_nothing_more(house: House) -> None:
    """Even through a mouth that still takes them for a member."""
    former = house.member.caller
    begun = say(former, "first")
    with tenant_context(house.id):
        change_role(house.owner.caller, house.member.membership.id, Role.VIEWER)
    with pytest.raises(Exception, match="Sign in"):
        say(former, "second", begun.conversation)


def _joined(client: httpx.Client, owner: Client) -> str:
    """Come in by an invitation of the owner, as a browser does; the member's id."""
    link = owner.post("/v1/invitations", {"role": "member"})["link"]
    page = client.get(link)
    token = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)[0]
    email = f"guest-{token[:8].lower()}@example.org"
    form = {
        "csrfmiddlewaretoken": token,
        "email": email,
        "name": "Guest",
        "password": "correct horse battery",
    }
    assert client.post(link, data=form, headers={"origin": owner.url}).status_code == 302
    return next(str(row["id"]) for row in owner.get("/v1/members")["data"] if row["email"] == email)


def test_t8_the_running_answer_of_a_removed_member_stops_as_real_processes(whole: Installation) -> None:
    owner = whole.client(whole.webs[0])
    with httpx.Client(
        base_url=owner.url, trust_env=False, timeout=20, headers={"origin": owner.url}
    ) as guest:
        member = _joined(guest, owner)
        conversation = guest.post("/v1/conversations", json={}).json()["id"]
        path = f"/v1/conversations/{conversation}/turns"
        turns = [guest.post(path, json={"message": f"slow 600 {60 + n}"}).json()["id"] for n in range(2)]

        def state(turn: str) -> str:
            return str(whole.query("SELECT state FROM conversations_turn WHERE id = %s", turn))

        with guest.stream("GET", f"/v1/conversations/{conversation}/events") as stream:
            lines = stream.iter_lines()
            assert next(line for line in lines if line.startswith("event: text.delta"))
            owner.call("DELETE", f"/v1/members/{member}")
            since = monotonic()
            eventually(lambda: [state(turn) for turn in turns] == ["interrupted"] * 2, SOON)
            list(lines)  # to its end
            assert monotonic() - since < SOON + 1
        assert guest.get("/v1/conversations").status_code in (400, 401)
