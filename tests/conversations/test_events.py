"""Replay is exact: from any cursor, before and after packing, through any loss of wake-ups."""

import asyncio
from datetime import timedelta
from typing import Any

from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conversations.events import BATCH_BYTES, Wire, pack, read_events
from conversations.feeds import Feed
from conversations.models import Conversation, EventPack
from tenants.context import tenant_context
from tests.cast import House
from tests.conversations.stage import Hands, events_of, kinds, say

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
