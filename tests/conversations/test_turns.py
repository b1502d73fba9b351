"""Submitting: one use case, safe to repeat, and clear about what can't be."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Thread
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection

from conversations.models import Conversation, Turn
from conversations.prompts import MOST_CHARACTERS, title_of
from conversations.turns import MOST_QUEUED, Submission, Submitted
from tenants.context import tenant_context
from tenants.errors import Conflict, InvalidRequest, NotFound, PermissionDenied, RateLimited, TooLarge
from tests.cast import House, Person
from tests.conversations.stage import Hands, events_of, kinds, say


def test_a_first_message_begins_a_conversation(house: House) -> None:
    submitted = say(house.member.caller, "Plan the summer party\nwith music")
    events = events_of(house.member.caller, submitted.conversation)
    assert kinds(events) == ["turn.queued", "conversation.updated"]
    assert events[0]["prompt"] == "Plan the summer party\nwith music"
    assert events[1]["title"] == "Plan the summer party"
    assert tuple(events) == submitted.events


def test_the_same_id_is_the_same_turn(house: House) -> None:
    name = str(uuid4())
    first = say(house.member.caller, "once", client_id=name)
    again = say(house.member.caller, "once", client_id=name)
    assert (again.turn, again.conversation, again.fresh) == (first.turn, first.conversation, False)
    assert len(events_of(house.member.caller, first.conversation)) == 2


def test_the_same_id_at_the_same_moment_is_one_turn(house: House) -> None:
    name, barrier, caller = str(uuid4()), Barrier(6), house.member.caller
    submitted: list[Submitted] = []

    def run() -> None:
        barrier.wait()
        submitted.append(say(caller, "at once", client_id=name))
        connection.close()

    threads = [Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(submitted) == 6
    assert len({one.turn for one in submitted}) == 1
    assert sum(one.fresh for one in submitted) == 1
    with tenant_context(house.tenant.id):
        assert Turn.objects.filter(client_id=name).count() == 1
        assert Conversation.objects.filter(author_id=caller.member_id).count() == 1


def test_the_same_id_with_another_body_is_a_conflict(house: House) -> None:
    name = str(uuid4())
    say(house.member.caller, "this", client_id=name)
    with pytest.raises(Conflict):
        say(house.member.caller, "that", client_id=name)


def test_ids_of_two_people_do_not_meet(house: House) -> None:
    name = str(uuid4())
    ours = say(house.member.caller, "mine", client_id=name)
    theirs = say(house.admin.caller, "also mine", client_id=name)
    assert ours.turn != theirs.turn


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("", InvalidRequest),
        (" \n\t", InvalidRequest),
        ([], InvalidRequest),
        ({}, InvalidRequest),
        (7, InvalidRequest),
        (None, InvalidRequest),
        (["text"], InvalidRequest),
        ([{"type": "tool_result"}], InvalidRequest),
        ([{"type": "text"}], InvalidRequest),
        ([{"type": "text", "text": "  "}], InvalidRequest),
        ([{"type": "image"}], InvalidRequest),
        ("nul \x00", InvalidRequest),
        ("half a pair \ud83d", InvalidRequest),
        ("x" * (MOST_CHARACTERS + 1), TooLarge),
    ],
)
def test_what_is_no_message_is_refused_with_a_sentence(content: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"\w"):
        Submission.parsed(content)


@pytest.mark.parametrize(
    "parts",
    [
        {"client_id": "no uuid"},
        {"conversation": 5},
        {"options": "fast"},
        {"options": {"speed": 2}},
        {"options": {"model": ""}},
        {"options": {"permission_mode": "anything"}},
    ],
)
def test_parts_of_the_wrong_kind_are_refused(parts: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"\w"):
        Submission.parsed("hello", **parts)


def test_a_viewer_writes_nothing(house: House) -> None:
    with pytest.raises(PermissionDenied):
        say(house.viewer.caller)


def test_a_strangers_conversation_is_not_there(house: House, stranger: Person) -> None:
    submitted = say(house.member.caller)
    with pytest.raises(NotFound):
        say(stranger.caller, "hello", submitted.conversation)
    with pytest.raises(NotFound):
        say(house.admin.caller, "hello", submitted.conversation)
    with pytest.raises(NotFound):
        say(house.member.caller, "hello", UUID(int=0))


def test_continue_takes_the_latest_conversation(house: House) -> None:
    say(house.member.caller, "older")
    newer = say(house.member.caller, "newer")
    assert say(house.member.caller, "go on", continue_latest=True).conversation == newer.conversation


def test_an_option_changes_the_conversation_and_says_so(house: House) -> None:
    submitted = say(house.member.caller, "hello", options={"model": "some-model"})
    assert events_of(house.member.caller, submitted.conversation)[-1]["model"] == "some-model"


def test_a_long_title_is_cut() -> None:
    assert title_of("\n\n  " + "word " * 40) == ("word " * 12).strip()[:59] + "…"
    assert title_of([{"type": "image", "source": {}}]) == ""


@pytest.fixture
def _few(settings: Any) -> None:
    """Three messages of a member may wait."""
    settings.MEMBER_QUEUED_TURNS = 3


@pytest.mark.usefixtures("_few")
def test_a_member_has_so_many_messages_waiting_over_all_conversations(house: House, stranger: Person) -> None:
    caller = house.member.caller
    conversation = say(caller).conversation
    say(caller)
    say(caller)
    for there in (conversation, None):
        with pytest.raises(RateLimited) as refused:
            say(caller, "more", there)
        assert refused.value.retry_after
    assert say(house.owner.caller).fresh
    assert say(stranger.caller).fresh


@pytest.mark.usefixtures("_few")
def test_no_message_slips_past_the_count_beside_another(house: House) -> None:
    caller = house.member.caller
    say(caller)
    say(caller)
    with ThreadPoolExecutor(1) as elsewhere:
        with tenant_context(house.tenant.id):
            say(caller)  # the last that may wait, not committed yet
            beside = elsewhere.submit(say, caller)
            with pytest.raises(TimeoutError):
                beside.result(0.5)
        with pytest.raises(RateLimited):
            beside.result()
        elsewhere.submit(connection.close)


@pytest.mark.usefixtures("_few")
def test_a_known_id_finds_its_turn_however_many_wait(house: House) -> None:
    caller, name = house.member.caller, str(uuid4())
    first = say(caller, "once", client_id=name)
    for _ in range(2):
        say(caller)
    with pytest.raises(RateLimited):
        say(caller)
    again = say(caller, "once", client_id=name)
    assert (again.turn, again.fresh) == (first.turn, False)
    with pytest.raises(Conflict):
        say(caller, "otherwise", client_id=name)


@pytest.mark.usefixtures("_few")
def test_an_answered_message_makes_room_for_another(house: House) -> None:
    caller = house.member.caller
    first = say(caller)
    say(caller)
    say(caller)
    Hands.claiming(first)
    assert say(caller).fresh
    with pytest.raises(RateLimited):
        say(caller)


def test_one_conversation_has_fifty_messages_waiting(house: House) -> None:
    caller = house.member.caller
    conversation = say(caller).conversation
    for _ in range(MOST_QUEUED - 1):
        say(caller, "more", conversation)
    with pytest.raises(RateLimited):
        say(caller, "one too many", conversation)
    assert say(caller).fresh


async def test_one_message_too_many_is_told_when_to_come_again(house: House, settings: Any) -> None:
    settings.MEMBER_QUEUED_TURNS = 0
    client = await asyncio.to_thread(lambda: house.member.async_client)
    answer = await client.post("/v1/chat/stream", {"message": "hello"}, content_type="application/json")
    assert (answer.status_code, answer.json()["error"]["type"]) == (429, "rate_limit_error")
    assert int(answer.headers["retry-after"]) > 0
