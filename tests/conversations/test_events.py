"""Replay is exact: from any cursor, before and after packing, through any loss of wake-ups."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from time import monotonic, sleep
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conversations import events
from conversations.consumers import thread_at
from conversations.events import BATCH_BYTES, Wire, all_events, pack, read_events
from conversations.feeds import Feed
from conversations.history import earlier, latest
from conversations.models import Conversation, Event, EventPack, Turn
from conversations.people import People
from conversations.records import turn_record
from tenants.context import tenant_context
from tests.cast import House
from tests.conversations.stage import Hands, events_of, kinds, live_host, say

SHARED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=12)
writes = st.lists(st.lists(texts, min_size=1, max_size=4), min_size=1, max_size=8)


def written(house: House, batches: list[list[str]], repeat: int) -> tuple[Hands, list[Wire]]:
    """A turn whose events were written in these batches, one of them twice; what is stored now."""
    hands = Hands.claiming(say(house.member.caller))
    for number, batch in enumerate(batches):
        rows = [hands.row("text.delta", {"block": 0, "text": text}) for text in batch]
        seqs = hands.write(*rows)
        assert number != repeat or seqs == hands.write(*rows)
    hands.finish()
    return hands, events_of(house.member.caller, hands.claim.conversation)


@settings(max_examples=25, deadline=None, suppress_health_check=SHARED)
@given(batches=writes, repeat=st.integers(0, 7), packs=st.integers(0, 3))
def test_any_cursor_reads_the_same_before_and_after_packing(
    house: House, batches: list[list[str]], repeat: int, packs: int
) -> None:
    hands, before = written(house, batches, repeat)
    assert [event["seq"] for event in before] == list(range(1, len(before) + 1))
    said = [event["text"] for event in before if event["type"] == "text.delta"]
    assert said == [text for batch in batches for text in batch]
    for _ in range(packs):
        packed(house, hands)
    if packs:
        say(house.member.caller, "one more, loose", hands.claim.conversation)
    after = events_of(house.member.caller, hands.claim.conversation)
    assert after[: len(before)] == before
    for cursor in range(len(after) + 2):
        assert events_of(house.member.caller, hands.claim.conversation, cursor) == after[cursor:]


def packed(house: House, hands: Hands) -> int:
    with tenant_context(house.tenant.id):
        conversation = Conversation.objects.get(id=hands.claim.conversation)
        return pack(conversation, timezone.now() + timedelta(minutes=1))


def test_packing_leaves_the_events_of_an_unfinished_turn_loose(house: House) -> None:
    hands = Hands.claiming(say(house.member.caller))
    hands.text("still talking")
    assert packed(house, hands) == 0
    hands.finish()
    assert packed(house, hands) > 0
    with tenant_context(house.tenant.id):
        assert EventPack.objects.filter(conversation=hands.claim.conversation).count() == 1
    assert "turn.completed" in kinds(events_of(house.member.caller, hands.claim.conversation))


def test_a_batch_is_bounded_in_bytes_but_never_empty(house: House) -> None:
    hands = Hands.claiming(say(house.member.caller))
    large = "".join(chr(33 + (n * 7919) % 90) for n in range(BATCH_BYTES))
    hands.text(large, large, "small")
    with tenant_context(house.tenant.id):
        first = read_events(hands.claim.conversation, hands.claim.started["seq"])
    assert [len(event["text"]) for event in first] == [BATCH_BYTES]
    assert [e["text"] for e in events_of(house.member.caller, hands.claim.conversation) if "text" in e][
        -1
    ] == "small"


wake_ups = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 5), st.booleans()), max_size=12)


@settings(max_examples=25, deadline=None, suppress_health_check=SHARED)
@given(batches=writes, cursor=st.integers(0, 20), heard=wake_ups)
def test_a_feed_gives_each_event_once_whatever_it_hears(
    house: House, batches: list[list[str]], cursor: int, heard: list[tuple[int, int, bool]]
) -> None:
    hands, stored = written(house, batches, repeat=-1)
    cursor = min(cursor, len(stored))
    got = asyncio.run(follow(house, hands, stored, cursor, heard))
    assert got == stored[cursor:]


async def follow(
    house: House, hands: Hands, stored: list[Wire], cursor: int, heard: list[tuple[int, int, bool]]
) -> list[Wire]:
    """Follow until the last event, while wake-ups come in any order, repeated, with and without their events."""
    feed = Feed(house.tenant.id, hands.claim.conversation, cursor)
    got: list[Wire] = []

    async def listen() -> None:
        async for batch in feed:
            got.extend(batch)

    task = asyncio.create_task(listen())
    for start, length, with_events in heard:
        piece: list[Any] = stored[start : start + length]
        if piece:
            feed.hear(piece[-1]["seq"], piece if with_events else [])
            await asyncio.sleep(0)
    feed.hear(stored[-1]["seq"], [])
    async with asyncio.timeout(10):
        while len(got) < len(stored) - cursor:  # noqa: ASYNC110 (the feed has no end to wait for)
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return got


# Readers of long ago ------------------------------------------------------------------------------------------


def answered(house: House, *answers: list[str], unfinished: bool = False) -> UUID:
    """A conversation with these answers, each in its pieces, the last one still being given if so; its id."""
    runner, conversation = live_host(), None
    for pieces in answers:
        hands = Hands.claiming(say(house.member.caller, "hello", conversation), runner)
        conversation = hands.claim.conversation
        hands.text(*pieces)
        if not (unfinished and pieces is answers[-1]):
            hands.finish()
    assert conversation
    return conversation


def patches_from(house: House, conversation: UUID, seq: int) -> list[Any]:
    """All patches that a page gets which showed the events up to `seq` and comes back now."""
    with tenant_context(house.id):
        thread = thread_at(house.member.caller, conversation, seq)
        return [thread.apply(event) for event in all_events(conversation, seq)]


@settings(max_examples=15, deadline=None, suppress_health_check=SHARED)
@given(packs=st.lists(st.integers(1, 6), min_size=1, max_size=6), unfinished=st.booleans())
def test_a_page_of_any_age_is_brought_up_to_date_the_same_before_and_after_packing(
    house: House, packs: list[int], unfinished: bool
) -> None:
    """However the packs are cut, through the middle of turns too."""
    answers = [["One ", "two ", "three"], ["**Four**", "\n\nfive"], ["Six ", "seven"]]
    conversation = answered(house, *answers, unfinished=unfinished)
    stored = events_of(house.member.caller, conversation)
    before = [patches_from(house, conversation, seq) for seq in range(len(stored) + 1)]
    assert all(any(patches) for patches in before[:5])
    page, turns = page_of(house, conversation), turns_of(house, conversation)
    for size in packs:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(events, "PACK_ROWS", size)
            pack_now(house, conversation)
        assert events_of(house.member.caller, conversation) == stored
        assert [patches_from(house, conversation, seq) for seq in range(len(stored) + 1)] == before
        # A turn that lies half in a pack is whole for who reloads the page, and who asks for it.
        assert page_of(house, conversation) == page
        assert turns_of(house, conversation) == turns


def page_of(house: House, conversation: UUID) -> list[str]:
    with tenant_context(house.id):
        row = Conversation.objects.get(id=conversation)
        thread, _first = latest(row, People.of(house.member.caller, row))
        return [turn.html() for turn in thread.turns]


def turns_of(house: House, conversation: UUID) -> list[Any]:
    with tenant_context(house.id):
        return [turn_record(turn) for turn in Turn.objects.filter(conversation=conversation)]


def pack_now(house: House, conversation: UUID, before: datetime | None = None) -> int:
    with tenant_context(house.id):
        row = Conversation.objects.get(id=conversation)
        return pack(row, before or timezone.now() + timedelta(minutes=1))


def test_a_page_of_packed_turns_shows_each_once(house: House) -> None:
    conversation = answered(house, *([str(number)] for number in range(25)))
    whole = page_of(house, conversation)
    while pack_now(house, conversation):
        pass
    assert page_of(house, conversation) == whole
    assert len(whole) == 20
    with tenant_context(house.id):
        row = Conversation.objects.get(id=conversation)
        people = People.of(house.member.caller, row)
        _shown, first = latest(row, people)
        before, none = earlier(row, first, people)
    assert (first, none, len(before.turns)) == (6, 0, 5)


def test_what_clocks_wrote_out_of_order_is_packed_in_order_or_not_yet(house: House) -> None:
    conversation = answered(house, ["a", "b", "c"])
    stored = events_of(house.member.caller, conversation)
    with tenant_context(house.id):
        rows = Event.objects.filter(conversation=conversation)
        rows.update(at=timezone.now() - timedelta(days=2))
        rows.filter(seq=4).update(at=timezone.now())
    assert pack_now(house, conversation, timezone.now() - timedelta(days=1)) == 3
    assert pack_now(house, conversation, timezone.now() - timedelta(days=1)) == 0
    read = events_of(house.member.caller, conversation)
    assert [event["seq"] for event in read] == [event["seq"] for event in stored]


def test_who_reads_while_events_are_packed_misses_none(house: House) -> None:
    conversation = answered(house, ["a", "b", "c"])
    stored = events_of(house.member.caller, conversation)
    with ThreadPoolExecutor(1) as reader:
        with tenant_context(house.id):
            # The reader has begun, and waits for what is packed meanwhile.
            with connection.cursor() as cursor:
                cursor.execute("LOCK TABLE conversations_event IN ACCESS EXCLUSIVE MODE")
            reading = reader.submit(read_and_close, house, conversation)
            wait_until_somebody_waits()
            assert pack(Conversation.objects.get(id=conversation), timezone.now() + timedelta(minutes=1))
        assert reading.result(10) == stored


def read_and_close(house: House, conversation: UUID) -> list[Wire]:
    try:
        return events_of(house.member.caller, conversation)
    finally:
        connection.close()


def wait_until_somebody_waits() -> None:
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'conversations_event'::regclass"
    until = monotonic() + 5
    while True:
        with connection.cursor() as cursor:
            cursor.execute(waiting)
            if cursor.fetchone() != (0,):
                return
        assert monotonic() < until
        sleep(0.01)
