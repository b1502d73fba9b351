"""A conversation is its author's alone, until they share it: then the tenant reads it, and admins moderate it."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import pytest
from asgiref.sync import sync_to_async
from django.db import connection

from conversations.access import permission_for
from conversations.controls import Change, change_now
from conversations.models import Conversation, PermissionRequest
from tenants.context import tenant_context
from tenants.roles import Role
from tests.cast import House, Person
from tests.conversations.stage import Hands, say
from tests.conversations.test_api import Program, events_in
from tests.conversations.test_consumers import Socket, enter, sockets
from tests.conversations.test_pages import page, talk, text_of

__all__ = ["sockets"]  # a fixture

ROLES = ["owner", "admin", "member", "viewer"]


class Cast:
    """Everybody with a key made beforehand; `author` is a member beside the others."""

    def __init__(self, house: House, stranger: Person) -> None:
        self.house = house
        self.author = house.join(Role.MEMBER)
        self.people = {role: getattr(house, role) for role in ROLES} | {
            "author": self.author,
            "stranger": stranger,
        }
        self.programs = {name: Program(person.key) for name, person in self.people.items()}
        assert all(person.cookie for person in self.people.values())

    def __getitem__(self, name: str) -> Program:
        return self.programs[name]


@pytest.fixture
def cast(house: House, stranger: Person) -> Cast:
    return Cast(house, stranger)


def share(person: Person, conversation: UUID, shared: bool = True) -> None:
    with tenant_context(person.caller.tenant_id):
        change_now(person.caller, conversation, Change(shared=shared))


def _shared(cast: Cast) -> tuple[str, str, Hands]:
    """A shared conversation with a turn that asks something: its id, the question's, and a runner's hands."""
    hands = Hands.claiming(say(cast.author.caller, "canary-share"))
    request = str(uuid4())
    asked = {"request": request, "tool_use": "t", "name": "Bash", "input": {}, "title": "", "choices": []}
    hands.write(hands.row("permission.requested", asked))
    share(cast.author, hands.claim.conversation)
    return str(hands.claim.conversation), request, hands


async def test_who_else_may_read_it_only_once_it_is_shared(cast: Cast) -> None:
    conversation = str(await sync_to_async(talk)(cast.author))
    path = f"/conversations/{conversation}"
    for name in [*ROLES, "stranger"]:
        assert await cast[name].refused("GET", path) == (404, "not_found_error"), name
    told = (await cast["author"].call("PATCH", path, {"shared": True})).json()
    assert (told["shared"], told["author"]) == (True, str(cast.author.membership.id))
    for name in ROLES:
        assert (await cast[name].get(path))["shared"] is True, name
        assert [row["id"] for row in (await cast[name].get("/conversations?shared=true"))["data"]] == [
            conversation
        ]
        assert (await cast[name].get("/conversations"))["data"] == []
    assert await cast["stranger"].refused("GET", path) == (404, "not_found_error")
    assert (await cast["stranger"].get("/conversations?shared=true"))["data"] == []
    assert (await cast["author"].get("/conversations?shared=false"))["data"] == []
    assert (await cast["author"].call("PATCH", path, {"shared": False})).status_code == 200
    for name in ROLES:
        assert await cast[name].refused("GET", path) == (404, "not_found_error"), name


# What each may do in a conversation that another shares: the status.
MODERATING: list[tuple[str, str, Any]] = [
    ("PATCH", "/conversations/{id}", {"title": "Better"}),
    ("POST", "/conversations/{id}/interrupt", {}),
    ("POST", "/permissions/{request}", {"decision": "deny"}),
    ("PATCH", "/conversations/{id}", {"archived": True}),
    ("PATCH", "/conversations/{id}", {"archived": False}),
    ("PATCH", "/conversations/{id}", {"shared": False}),
]
WRITING: list[tuple[str, str, Any]] = [
    ("POST", "/conversations/{id}/turns", {"message": "mine too"}),
    ("POST", "/chat/stream", {"message": "mine too", "conversation": "{id}"}),
    ("PATCH", "/conversations/{id}", {"shared": True}),
]


def _filled(call: tuple[str, str, Any], conversation: str, request: str) -> tuple[str, str, Any]:
    method, path, body = call
    body = {name: conversation if value == "{id}" else value for name, value in body.items()}
    return method, path.format(id=conversation, request=request), body


async def test_only_its_author_writes(cast: Cast) -> None:
    conversation, request, _hands = await sync_to_async(_shared)(cast)
    for name in ROLES:
        for call in WRITING:
            assert await cast[name].refused(*_filled(call, conversation, request)) == (
                403,
                "permission_error",
            ), (
                name,
                call,
            )
    for call in WRITING:
        assert await cast["stranger"].refused(*_filled(call, conversation, request)) == (
            404,
            "not_found_error",
        )


async def test_others_moderate_it_as_admins_only(cast: Cast) -> None:
    conversation, request, _hands = await sync_to_async(_shared)(cast)
    delete: tuple[str, str, Any] = ("DELETE", "/conversations/{id}", {})
    for call in [*MODERATING, delete]:
        filled = _filled(call, conversation, request)
        for name in ("member", "viewer"):
            assert await cast[name].refused(*filled) == (403, "permission_error"), (name, call)
        assert await cast["stranger"].refused(*filled) == (404, "not_found_error"), call
    for call in MODERATING[:-1]:
        answer = await cast["admin"].call(*_filled(call, conversation, request))
        assert answer.status_code in (200, 202), (call, answer.content)
    # After its end it is none of the admin's, so that the answer to it is that it is not there.
    method, path, body = _filled(MODERATING[-1], conversation, request)
    await cast["admin"].call(method, path, body)
    assert await cast["admin"].refused("GET", path) == (404, "not_found_error")
    assert (await cast["author"].get(path))["shared"] is False


async def test_an_admin_deletes_a_shared_conversation_and_no_private_one(cast: Cast) -> None:
    private = str(await sync_to_async(talk)(cast.author))
    assert await cast["owner"].refused("DELETE", f"/conversations/{private}") == (404, "not_found_error")
    shared, _request, _hands = await sync_to_async(_shared)(cast)
    assert (await cast["owner"].call("DELETE", f"/conversations/{shared}")).status_code == 204
    assert await cast["author"].refused("GET", f"/conversations/{shared}") == (404, "not_found_error")


async def test_a_question_is_answered_by_its_author_or_an_admin_and_once(cast: Cast) -> None:
    _conversation, request, _hands = await sync_to_async(_shared)(cast)
    path, body = f"/permissions/{request}", {"decision": "allow"}
    for name, refusal in {
        "member": (403, "permission_error"),
        "viewer": (403, "permission_error"),
        "stranger": (404, "not_found_error"),
    }.items():
        assert await cast[name].refused("POST", path, body) == refusal
    assert (await cast["admin"].call("POST", path, body)).status_code == 200
    assert await cast["author"].refused("POST", path, body) == (409, "invalid_request_error")


def test_an_answer_waits_for_the_end_of_its_turn_and_holds_nothing_that_it_needs(cast: Cast) -> None:
    conversation, request, _hands = _shared(cast)

    def look_up() -> None:
        try:
            with tenant_context(cast.house.id):
                permission_for(cast.author.caller, request)
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as elsewhere:
        with tenant_context(cast.house.id):
            Conversation.objects.select_for_update().get(id=conversation)
            answering = elsewhere.submit(look_up)
            with pytest.raises(TimeoutError):
                answering.result(timeout=0.5)
            PermissionRequest.objects.select_for_update(nowait=True).get(id=request)
        answering.result(timeout=5)


async def test_others_follow_it_live_until_it_is_shared_no_more(cast: Cast, sockets: AsyncExitStack) -> None:
    conversation, _request, hands = await sync_to_async(_shared)(cast)
    reader = await enter(sockets, Socket.of(cast.people["viewer"]))
    on_page = await enter(
        sockets, Socket.with_cookie(cast.people["viewer"], path=f"/t/{cast.house.slug}/live")
    )
    author = await enter(sockets, Socket.of(cast.author))
    for socket in (reader, on_page, author):
        await socket.tell("subscribe", conversation=conversation, after=0)
    stream = asyncio.create_task(
        events_in(await cast["member"].call("GET", f"/conversations/{conversation}/events"))
    )
    await sync_to_async(hands.text)("for all")
    await reader.until("text.delta")
    await author.until("text.delta")
    await sync_to_async(share)(cast.author, UUID(conversation), shared=False)
    heard = [await reader.hear(5)]
    while heard[-1]["type"] != "error":
        heard.append(await reader.hear(5))
    assert heard[-1]["error"]["type"] == "not_found_error"
    assert heard[-1]["conversation"] == conversation
    async with asyncio.timeout(5):
        while (await on_page.hear())["type"] != "error":
            pass
        await stream
    await sync_to_async(hands.text)("for the author")
    await author.until("text.delta")
    assert await reader.receive_nothing(0.5)
    await reader.lives()


async def test_a_reader_is_told_whom_a_question_waits_for_on_the_page_and_as_it_comes(
    cast: Cast, sockets: AsyncExitStack
) -> None:
    conversation, _request, hands = await sync_to_async(_shared)(cast)
    name = cast.author.user.get_full_name()
    waits = {
        "viewer": f"Waits for {name} or an admin to decide.",
        "admin": "The answer waits until you decide.",
        "author": "The answer waits until you decide.",
    }
    live = {}
    for who in waits:
        person = cast.people[who]
        shown = await sync_to_async(page)(person.client, f"/t/{cast.house.slug}/c/{conversation}/")
        [question] = shown.xpath("//section[@class='question']")
        assert waits[who] in text_of(question), who
        assert bool(question.xpath(".//button")) is (who != "viewer"), who
        live[who] = await enter(sockets, Socket.with_cookie(person, path=f"/t/{cast.house.slug}/live"))
        await live[who].tell("subscribe", conversation=conversation)
        await live[who].lives()
    another = {
        "request": str(uuid4()),
        "tool_use": "u",
        "name": "Write",
        "input": {},
        "title": "",
        "choices": [],
    }
    await sync_to_async(hands.write)(hands.row("permission.requested", another))
    for who, socket in live.items():
        [asked] = [patch for patch in (await socket.hear())["patches"] if patch["op"] == "append"]
        assert waits[who] in asked["html"], who
        assert ("<button" in asked["html"]) is (who != "viewer"), who


async def test_who_only_reads_warms_up_and_sets_nothing(cast: Cast, sockets: AsyncExitStack) -> None:
    conversation, request, _hands = await sync_to_async(_shared)(cast)
    reader = await enter(sockets, Socket.of(cast.people["member"]))
    for kind, more in {
        "warm": {"conversation": conversation},
        "set": {"conversation": conversation, "model": "claude-opus-4-5"},
        "message": {"conversation": conversation, "id": str(uuid4()), "content": "mine too"},
        "interrupt": {"conversation": conversation},
        "permission": {"request": request, "decision": "allow"},
    }.items():
        await reader.tell(kind, **more)
        assert await reader.hear_error() == "permission_error", kind


# Pages --------------------------------------------------------------------------------------------------------


def test_its_author_shares_it_with_a_button(house: House) -> None:
    conversation = talk(house.member)
    path = f"/t/{house.slug}/c/{conversation}/"
    [form] = page(house.member.client, path).xpath("//form[@id='sharing']")
    assert form.get("data-state") == "private"
    assert house.member.client.post(form.get("action"), {"shared": "yes"}).status_code == 302
    [form] = page(house.member.client, path).xpath("//form[@id='sharing']")
    assert form.get("data-state") == "shared"
    assert house.member.client.post(form.get("action"), {"shared": "no"}).status_code == 302
    page(house.viewer.client, path, status=404)


def test_others_read_who_shares_it_and_find_no_field_to_write_in(house: House) -> None:
    conversation = talk(house.member, "what I asked")
    share(house.member, conversation)
    name = house.member.user.get_full_name()
    for reader in (house.viewer, house.admin):
        found = page(reader.client, f"/t/{house.slug}/c/{conversation}/")
        assert f"Shared by {name}" in text_of(found.xpath("//form[@id='sharing']")[0])
        assert found.xpath("//form[@id='composer']") == []
        assert "what I asked" in text_of(found)
        assert f"Message of {name}" in text_of(found)
    assert found.xpath("//form[@id='sharing']//button[@value='no']")
    listed = page(house.viewer.client, f"/t/{house.slug}/conversations?shared=yes")
    assert [name] == [text_of(small) for small in listed.xpath("//small")]
    answer = house.admin.client.post(f"/t/{house.slug}/c/{conversation}/share", {"shared": "no"})
    assert answer["location"] == f"/t/{house.slug}/"


def test_a_reader_can_not_share_or_unshare(house: House) -> None:
    conversation = talk(house.owner)
    share(house.owner, conversation)
    for wanted in ("yes", "no"):
        answer = house.member.client.post(f"/t/{house.slug}/c/{conversation}/share", {"shared": wanted})
        assert answer.status_code == 403
