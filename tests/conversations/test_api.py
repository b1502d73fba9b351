"""The HTTP mouth: conversations, turns, events, in the shapes of the wire contract."""

import asyncio
import json
from contextlib import aclosing
from typing import Any
from urllib.parse import urlencode
from uuid import UUID, uuid4

import pytest
from asgiref.sync import sync_to_async
from django.test import AsyncClient

from conversations import api
from conversations.models import Turn, TurnState
from conversations.prompts import MOST_CHARACTERS
from conversations.turns import Submitted
from tenants.context import tenant_context
from tenants.models import ApiKey
from tests.cast import House, Person
from tests.conversations.stage import Hands, say, turn_of

type Body = dict[str, Any]

NOBODYS = "00000000-0000-4000-8000-000000000000"


class Program:
    """What uses the API with one key."""

    def __init__(self, key: str) -> None:
        self.client = AsyncClient()
        self.headers = {"x-api-key": key}

    async def call(self, method: str, path: str, body: object = None, **headers: str) -> Any:
        """The answer, as Django's client gives it."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        named = self.headers | {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.generic(method, f"/v1{path}", data, "application/json", headers=named)

    async def get(self, path: str, status: int = 200) -> Any:
        return read(await self.call("GET", path), status)

    async def post(self, path: str, body: object, status: int = 200) -> Any:
        return read(await self.call("POST", path, body), status)

    async def refused(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        """Status and type of an error that has the shape of all errors."""
        answer = await self.call(method, path, body)
        assert answer.headers["content-type"] == "application/json", answer.content
        said = answer.json()
        assert said.keys() == {"type", "error", "request_id"}
        assert said["type"] == "error"
        assert said["error"].keys() == {"type", "message"}
        assert said["error"]["message"]
        assert said["request_id"] == answer.headers["request-id"]
        return answer.status_code, said["error"]["type"]


def read(answer: Any, status: int) -> Any:
    assert answer.status_code == status, answer.content
    assert answer.headers["request-id"].startswith("req_")
    return answer.json() if answer.content else None


@pytest.fixture
def member(house: House) -> Person:
    assert house.member.key
    return house.member


@pytest.fixture
def program(member: Person) -> Program:
    return Program(member.key)


@pytest.fixture
def outsider(stranger: Person) -> Program:
    return Program(stranger.key)


@pytest.fixture
def viewer(house: House) -> Program:
    return Program(house.viewer.key)


@pytest.fixture
def reader(house: House) -> Program:
    """Holds a key of a member's that may only read."""
    return Program(house.member.key_for(frozenset({"read"})))


# Server-sent events -------------------------------------------------------------------------------------------


async def events_in(answer: Any, most: int = 1000) -> list[Body]:
    """The events of a stream up to its end, or the first `most`; each is framed as the contract says."""
    assert answer.status_code == 200, answer.content
    assert answer.headers["content-type"] == "text/event-stream"
    found: list[Body] = []
    # Django closes only the outer of the two.
    async with asyncio.timeout(10), aclosing(answer._iterator), aclosing(answer.streaming_content) as chunks:
        async for chunk in chunks:
            assert chunk.endswith(b"\n\n")
            if chunk.startswith(b":"):
                continue  # a comment, so that the headers leave at once
            for block in chunk.decode().removesuffix("\n\n").split("\n\n"):
                lines = dict(line.split(": ", 1) for line in block.split("\n"))
                event = json.loads(lines["data"])
                assert (lines["id"], lines["event"]) == (str(event["seq"]), event["type"])
                found.append(event)
            if len(found) >= most:
                break
    return found


def _queued(person: Person, client_id: str) -> Submitted | None:
    with tenant_context(person.caller.tenant_id):
        turn = Turn.objects.filter(client_id=client_id).first()
    return Submitted(turn.conversation_id, turn.id, turn.state, 0, fresh=True) if turn else None


async def hands_on(person: Person, client_id: str) -> Hands:
    """Claim the turn of this id as soon as it is queued."""
    async with asyncio.timeout(10):
        while (submitted := await sync_to_async(_queued)(person, client_id)) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return await sync_to_async(Hands.claiming)(submitted)


def _play(hands: Hands) -> None:
    hands.text("Hello", " there")
    hands.finish()


def _fail(hands: Hands, kind: str) -> None:
    hands.text("Hel")
    says = {"stop_reason": "error", "usage": {}, "cost_usd": 0.0, "timing": {}}
    hands.write(hands.row("turn.failed", says | {"error": {"type": kind, "message": "It refused the key."}}))


async def test_one_turn_as_server_sent_events(program: Program, member: Person) -> None:
    name = str(uuid4())
    asked = asyncio.create_task(program.call("POST", "/chat/stream", {"message": "hi", "id": name}))
    hands = await hands_on(member, name)
    reading = asyncio.create_task(events_in(answer := await asked))
    await sync_to_async(_play)(hands)
    events = await reading
    assert answer.headers["x-conversation-id"] == str(hands.claim.conversation)
    assert answer.headers["request-id"]
    assert [event["type"] for event in events] == [
        "turn.queued",
        "conversation.updated",
        "turn.started",
        "text.delta",
        "text.delta",
        "turn.completed",
    ]
    assert [event["seq"] for event in events] == [1, 2, 3, 4, 5, 6]
    again = await program.call("POST", "/chat/stream", {"message": "hi", "id": name})
    assert await events_in(again) == events
    later = await sync_to_async(say)(member.caller, "more", hands.claim.conversation)
    again = await program.call("POST", "/chat/stream", {"message": "hi", "id": name})
    assert await events_in(again) == events
    assert not (await sync_to_async(turn_of)(member.caller, later.turn)).ended_at


async def test_one_turn_as_json_and_as_text(program: Program, member: Person) -> None:
    for output in ("json", "text"):
        name = str(uuid4())
        body = {"message": "hi", "id": name, "options": {"output_format": output}}
        asked = asyncio.create_task(program.call("POST", "/chat/stream", body))
        await sync_to_async(_play)(await hands_on(member, name))
        answer = await asked
        assert answer.headers["x-conversation-id"]
        if output == "text":
            assert answer.headers["content-type"] == "text/plain; charset=utf-8"
            assert answer.content == b"Hello there"
        else:
            turn = read(answer, 200)
            assert (turn["state"], turn["client_id"]) == ("completed", name)
            assert turn["blocks"] == [{"type": "text", "text": "Hello there"}]
            assert {"id", "prompt", "usage", "cost_usd", "timing"} <= turn.keys()


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("authentication_error", 401),
        ("rate_limit_error", 429),
        ("overloaded_error", 529),
        ("invalid_request_error", 400),
        ("api_error", 500),
        ("never_heard_of", 500),
    ],
)
async def test_a_failing_turn_in_each_format(
    program: Program, member: Person, kind: str, status: int
) -> None:
    name = str(uuid4())
    body = {"message": "hi", "id": name, "options": {"output_format": "text"}}
    asked = asyncio.create_task(program.call("POST", "/chat/stream", body))
    hands = await hands_on(member, name)
    await sync_to_async(_fail)(hands, kind)
    answer = await asked
    assert answer.status_code == status
    assert answer.json()["error"] == {"type": kind, "message": "It refused the key."}
    assert ("retry-after" in answer.headers) == (status in (429, 529))
    turns = (await program.get(f"/conversations/{hands.claim.conversation}"))["turns"]
    assert turns[0]["state"] == "failed"
    assert turns[0]["blocks"] == [{"type": "text", "text": "Hel"}]
    assert turns[0]["error"]["type"] == kind


async def test_continue_takes_the_latest_conversation(program: Program, member: Person) -> None:
    say_ = sync_to_async(say)
    await say_(member.caller, "older")
    latest = await say_(member.caller, "newer")
    name = str(uuid4())
    body = {"message": "go on", "continue": True, "id": name}
    asked = asyncio.create_task(program.call("POST", "/chat/stream", body))
    answer = await asked
    assert answer.headers["x-conversation-id"] == str(latest.conversation)
    (first,) = await events_in(answer, most=1)
    assert (first["type"], first["prompt"]) == ("turn.queued", "go on")


async def test_continue_without_a_conversation_begins_one(program: Program) -> None:
    answer = await program.call("POST", "/chat/stream", {"message": "go on", "continue": True})
    assert (await events_in(answer, most=1))[0]["seq"] == 1


async def test_another_body_under_the_same_id_is_a_conflict(program: Program) -> None:
    name = str(uuid4())
    await events_in(await program.call("POST", "/chat/stream", {"message": "this", "id": name}), most=1)
    for body in ({"message": "that"}, {"message": "this", "options": {"model": "m"}}):
        assert await program.refused("POST", "/chat/stream", body | {"id": name}) == (
            409,
            "invalid_request_error",
        )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b"[]",
        b"null",
        b"\xff",
        b'{"message": "x", "n": ' + b"[" * 50_000 + b"}",
        {},
        {"message": None},
        {"message": 7},
        {"message": ""},
        {"message": []},
        {"message": [7]},
        {"message": [{"type": "image"}]},
        {"message": "nul \x00"},
        b'{"message": "half \\ud83d"}',
        b'{"message": [{"type": "text", "text": "x", "n": NaN}]}',
        {"message": "x", "id": "no uuid"},
        {"message": "x", "id": 7},
        {"message": "x", "conversation": 7},
        {"message": "x", "options": []},
        {"message": "x", "options": {"unknown": 1}},
        {"message": "x", "options": {"output_format": "xml"}},
        {"message": "x", "options": {"output_format": ["json"]}},
        {"message": "x", "options": {"permission_mode": "none"}},
        {"message": "x", "continue": "perhaps"},
    ],
)
async def test_bad_bodies_are_refused(program: Program, body: object) -> None:
    assert await program.refused("POST", "/chat/stream", body) == (400, "invalid_request_error")


async def test_too_long_a_message_is_too_large(program: Program) -> None:
    body = {"message": "x" * (MOST_CHARACTERS + 1)}
    assert await program.refused("POST", "/chat/stream", body) == (413, "request_too_large")


async def test_what_is_not_there_is_not_found(program: Program) -> None:
    missing = (404, "not_found_error")
    assert await program.refused("POST", "/chat/stream", {"message": "x", "conversation": NOBODYS}) == missing
    assert await program.refused("POST", "/chat/stream", {"message": "x", "assistant": NOBODYS}) == missing
    for where in (NOBODYS, "7", "%00", "a" * 300):
        for method, path, body in calls_on(where, where):
            assert await program.refused(method, path, body) == missing, (method, path)


# Everybody else -----------------------------------------------------------------------------------------------


def calls_on(conversation: str, question: str) -> list[tuple[str, str, object]]:
    """Each call that names an object, with a body that is right."""
    return [
        ("GET", f"/conversations/{conversation}", None),
        ("PATCH", f"/conversations/{conversation}", {"title": "mine now"}),
        ("DELETE", f"/conversations/{conversation}", None),
        ("GET", f"/conversations/{conversation}/events", None),
        ("POST", f"/conversations/{conversation}/turns", {"message": "hello"}),
        ("POST", f"/conversations/{conversation}/interrupt", None),
        ("POST", f"/permissions/{question}", {"decision": "allow"}),
    ]


def _with_question(person: Person) -> tuple[str, str, Hands]:
    submitted, request = say(person.caller, "canary"), str(uuid4())
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
    return str(submitted.conversation), request, hands


async def test_nobody_elses_objects_are_there(
    house: House, member: Person, program: Program, outsider: Program
) -> None:
    conversation, question, _hands = await sync_to_async(_with_question)(member)
    colleague = Program(await sync_to_async(lambda: house.admin.key)())
    before = await program.get(f"/conversations/{conversation}")
    for other in (outsider, colleague):
        for method, path, body in calls_on(conversation, question):
            assert await other.refused(method, path, body) == (404, "not_found_error"), (method, path)
        body = {"message": "hello", "conversation": conversation}
        assert await other.refused("POST", "/chat/stream", body) == (404, "not_found_error")
        assert (await other.get("/conversations?q=canary"))["data"] == []
        assert await other.refused("GET", f"/conversations?after_id={conversation}") == (
            404,
            "not_found_error",
        )
    assert await program.get(f"/conversations/{conversation}") == before


async def test_who_may_only_read_reads(house: House, reader: Program, member: Person) -> None:
    conversation, question, _hands = await sync_to_async(_with_question)(member)
    for method, path, body in calls_on(conversation, question):
        if method == "GET":
            assert (await reader.call(method, path, body)).status_code == 200
        else:
            assert await reader.refused(method, path, body) == (403, "permission_error"), (method, path)
    assert await reader.refused("POST", "/conversations", {}) == (403, "permission_error")
    assert await reader.refused("POST", "/chat/stream", {"message": "x"}) == (403, "permission_error")


async def test_a_viewer_begins_nothing(viewer: Program) -> None:
    assert (await viewer.get("/conversations"))["data"] == []
    assert await viewer.refused("POST", "/conversations", {}) == (403, "permission_error")
    assert await viewer.refused("POST", "/chat/stream", {"message": "x"}) == (403, "permission_error")


# Conversations ------------------------------------------------------------------------------------------------


async def test_the_list_is_paged_newest_first(program: Program, member: Person) -> None:
    ids = [str((await sync_to_async(say)(member.caller, f"number {n}")).conversation) for n in range(5)]
    listed = await program.get("/conversations")
    assert [row["id"] for row in listed["data"]] == ids[::-1]
    assert (listed["has_more"], listed["first_id"], listed["last_id"]) == (False, ids[4], ids[0])
    assert all("turns" not in row and row["state"] == "queued" for row in listed["data"])
    first = await program.get("/conversations?limit=2")
    assert ([row["id"] for row in first["data"]], first["has_more"]) == ([ids[4], ids[3]], True)
    rest = await program.get(f"/conversations?limit=3&after_id={first['last_id']}")
    assert ([row["id"] for row in rest["data"]], rest["has_more"]) == (ids[2::-1], False)
    # An older one that goes on becomes the newest.
    await sync_to_async(say)(member.caller, "again", UUID(ids[0]))
    assert (await program.get("/conversations?limit=1"))["first_id"] == ids[0]


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=many", "q=%00"])
async def test_a_bad_query_is_refused(program: Program, query: str) -> None:
    assert await program.refused("GET", f"/conversations?{query}") == (400, "invalid_request_error")


async def test_search_finds_titles_and_texts(program: Program, member: Person) -> None:
    first = 'A title line\nÜber "quoted" und back\\slash 100% _under_'
    found = str((await sync_to_async(say)(member.caller, first)).conversation)
    await sync_to_async(say)(member.caller, "nothing of the kind")
    for query in ("title", "TITLE", "über", '"quoted"', "back\\slash", "100%", "_under_"):
        data = (await program.get(f"/conversations?{urlencode({'q': query})}"))["data"]
        assert [row["id"] for row in data] == [found], query
    assert (await program.get("/conversations?q=absent"))["data"] == []


async def test_the_life_of_a_conversation(program: Program, member: Person) -> None:
    made = await program.post("/conversations", {"title": " A plan "}, 201)
    assert (made["title"], made["state"], made["turns"]) == ("A plan", "idle", [])
    assert {"id", "assistant", "created_at"} <= made.keys()
    where = f"/conversations/{made['id']}"
    assert await program.get(where) == made
    name = str(uuid4())
    turn = await program.post(f"{where}/turns", {"message": "hello", "id": name}, 202)
    assert (turn["state"], turn["client_id"], turn["prompt"]) == ("queued", name, "hello")
    assert await program.post(f"{where}/turns", {"message": "hello", "id": name}, 202) == turn
    renamed = read(await program.call("PATCH", where, {"title": "Another"}), 200)
    assert (renamed["title"], renamed["archived"]) == ("Another", False)
    assert [event["type"] for event in await events_in(await program.call("GET", f"{where}/events"), 2)] == [
        "turn.queued",
        "conversation.updated",
    ]
    read(await program.call("POST", f"{where}/interrupt"), 202)
    now = await program.get(where)
    assert ([turn["state"] for turn in now["turns"]], now["state"]) == (["interrupted"], "idle")
    read(await program.call("PATCH", where, {"archived": True}), 200)
    assert (await program.get("/conversations"))["data"] == []
    assert read(await program.call("DELETE", where), 204) is None
    assert await program.refused("GET", where) == (404, "not_found_error")


@pytest.mark.parametrize("title", ["", "  ", "x" * 121, "nul \x00", 7])
async def test_titles_have_a_length(program: Program, member: Person, title: object) -> None:
    submitted = await sync_to_async(say)(member.caller)
    assert await program.refused("PATCH", f"/conversations/{submitted.conversation}", {"title": title}) == (
        400,
        "invalid_request_error",
    )


async def test_a_conversation_tells_what_was_said(program: Program, member: Person) -> None:
    conversation, question, hands = await sync_to_async(_with_question)(member)
    assert (await program.get(f"/conversations/{conversation}"))["state"] == "waiting"
    await program.post(f"/permissions/{question}", {"decision": "allow"})
    assert await program.refused("POST", f"/permissions/{question}", {"decision": "deny"}) == (
        409,
        "invalid_request_error",
    )

    def rest() -> None:
        used = {"tool_use": "t", "name": "Bash", "input": {"command": "ls"}}
        hands.write(
            hands.row("thinking.delta", {"block": 0, "text": "Hm."}),
            hands.row("tool.started", used),
            hands.row("tool.finished", {"tool_use": "t", "is_error": False, "output": "a\nb"}),
            hands.row("text.delta", {"block": 1, "text": "Two"}),
            hands.row("text.delta", {"block": 1, "text": " files."}),
        )
        hands.finish()

    await sync_to_async(rest)()
    (turn,) = (await program.get(f"/conversations/{conversation}"))["turns"]
    assert turn["state"] == TurnState.COMPLETED
    assert turn["blocks"] == [
        {"type": "thinking", "thinking": "Hm."},
        {"type": "tool_use", "id": "t", "name": "Bash", "input": {"command": "ls"}},
        {"type": "tool_result", "tool_use_id": "t", "content": "a\nb", "is_error": False},
        {"type": "text", "text": "Two files."},
    ]
    assert (turn["usage"], turn["cost_usd"], turn["timing"]) == ({"output_tokens": 1}, 0.5, {"model_ms": 3})


@pytest.mark.parametrize("body", [{}, {"decision": "maybe"}, {"decision": "deny", "message": "\x00"}])
async def test_a_decision_is_one_of_three(program: Program, member: Person, body: Body) -> None:
    _conversation, question, _hands = await sync_to_async(_with_question)(member)
    assert await program.refused("POST", f"/permissions/{question}", body) == (400, "invalid_request_error")


async def test_deleting_a_running_conversation_takes_it_all_along(program: Program, member: Person) -> None:
    conversation, _question, hands = await sync_to_async(_with_question)(member)
    read(await program.call("DELETE", f"/conversations/{conversation}"), 204)
    assert await sync_to_async(hands.text)("too late") == [None]


async def test_readers_of_a_deleted_conversation_are_let_go(program: Program, member: Person) -> None:
    name = str(uuid4())
    body = {"message": "hi", "id": name, "options": {"output_format": "json"}}
    asked = asyncio.create_task(program.call("POST", "/chat/stream", body))
    where = f"/conversations/{(await hands_on(member, name)).claim.conversation}"
    reading = asyncio.create_task(events_in(await program.call("GET", f"{where}/events")))
    await asyncio.sleep(0.1)
    read(await program.call("DELETE", where), 204)
    assert [event["type"] for event in await reading][-1] == "turn.started"
    assert (await asked).json()["error"]["type"] == "not_found_error"


# Events -------------------------------------------------------------------------------------------------------


async def test_events_replay_after_any_seq_and_go_on_live(program: Program, member: Person) -> None:
    conversation, _question, hands = await sync_to_async(_with_question)(member)
    path = f"/conversations/{conversation}/events"
    everything = await events_in(await program.call("GET", path), 4)
    assert [event["seq"] for event in everything] == [1, 2, 3, 4]
    for after in range(4):
        replay = await events_in(await program.call("GET", f"{path}?after={after}"), 4 - after)
        assert replay == everything[after:]
    for seen in ("2", "3"):
        replay = await events_in(await program.call("GET", path, last_event_id=seen), 4 - int(seen))
        assert replay == everything[int(seen) :]
    for future, header in (("4", {}), ("9" * 24, {}), ("0", {"last_event_id": "9" * 24})):
        answer = await program.call("GET", f"{path}?after={future}", **header)
        live = asyncio.create_task(events_in(answer, 1))
        await asyncio.sleep(0.1)
        await sync_to_async(hands.text)("live")
        assert (await live)[0]["text"] == "live"


@pytest.mark.parametrize("query", ["after=-1", "after=one", "after=1.5"])
async def test_a_bad_cursor_is_refused(program: Program, member: Person, query: str) -> None:
    submitted = await sync_to_async(say)(member.caller)
    path = f"/conversations/{submitted.conversation}/events"
    assert await program.refused("GET", f"{path}?{query}") == (400, "invalid_request_error")
    for wrong in ("one", "-1", "1.5", "9" * 5000):
        assert (await program.call("GET", path, last_event_id=wrong)).status_code == 400


async def test_a_revoked_key_hears_nothing_more(
    program: Program, member: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "ASK_AGAIN_SECONDS", 0.1)
    conversation, _question, hands = await sync_to_async(_with_question)(member)
    answer = await program.call("GET", f"/conversations/{conversation}/events")
    reading = asyncio.create_task(events_in(answer))
    await asyncio.sleep(0.3)

    def revoke() -> None:
        with tenant_context(member.caller.tenant_id):
            ApiKey.objects.filter(member=member.membership).delete()

    await sync_to_async(revoke)()
    await asyncio.sleep(0.5)
    await sync_to_async(hands.text)("a secret")
    assert [event["seq"] for event in await reading] == [1, 2, 3, 4]


async def test_a_silent_stream_says_that_it_lives(
    program: Program, member: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "ASK_AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(api, "KEEP_ALIVE_SECONDS", 0.3)
    conversation, _question, _hands = await sync_to_async(_with_question)(member)
    answer = await program.call("GET", f"/conversations/{conversation}/events")
    chunks: list[bytes] = []
    async with asyncio.timeout(10), aclosing(answer._iterator), aclosing(answer.streaming_content) as stream:
        async for chunk in stream:
            chunks.append(chunk)
            if chunks.count(b": still here\n\n") == 2:
                break
    assert chunks[0] == b": events follow\n\n"
    assert len([chunk for chunk in chunks if not chunk.startswith(b":")]) == 4
