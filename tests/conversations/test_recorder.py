"""The recorder, on the real database: what it takes is stored once, and nobody pays for somebody else's events."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from conversations.leases import Lease
from conversations.recorder import DEEPEST, Recorder, storable
from tests.cast import House, Person
from tests.conversations.stage import Hands, events_of, kinds, say

ENDED = {"stop_reason": "end_turn", "usage": {}, "cost_usd": 0.0, "timing": {}}


@asynccontextmanager
async def recording() -> AsyncIterator[tuple[Recorder, list[Lease]]]:
    """A recorder at work, and the leases that it found lost."""
    lost: list[Lease] = []
    recorder = Recorder(on_fenced=lost.append)
    running = asyncio.create_task(recorder.run())
    try:
        yield recorder, lost
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def texts(person: Person, hands: Hands) -> list[str]:
    return [
        e["text"] for e in events_of(person.caller, hands.claim.conversation) if e["type"] == "text.delta"
    ]


async def test_adjacent_deltas_of_one_block_become_one_event(house: House) -> None:
    hands = await asyncio.to_thread(lambda: Hands.claiming(say(house.member.caller)))
    async with recording() as (recorder, lost):
        for block, text in ((0, "a"), (0, "b"), (1, "c"), (0, "d"), (0, "e")):
            recorder.record(hands.lease, hands.claim.turn, "text.delta", {"block": block, "text": text})
        assert await recorder.record_last(hands.lease, hands.claim.turn, "turn.completed", ENDED)
    assert await asyncio.to_thread(texts, house.member, hands) == ["ab", "c", "de"]
    assert not lost


async def test_a_lease_taken_up_again_under_its_epoch_uses_no_number_twice(house: House) -> None:
    hands = await asyncio.to_thread(lambda: Hands.claiming(say(house.member.caller)))
    again = Lease(hands.lease.tenant, hands.lease.conversation, hands.lease.epoch)
    async with recording() as (recorder, lost):
        for lease in (hands.lease, again):
            for number in range(3):
                recorder.record(lease, hands.claim.turn, "text.delta", {"block": number, "text": "x"})
        assert await recorder.record_last(again, hands.claim.turn, "turn.completed", ENDED)
    assert await asyncio.to_thread(texts, house.member, hands) == ["x"] * 6
    assert not lost


async def test_a_refused_write_names_the_lease_it_was_made_under(house: House) -> None:
    hands = await asyncio.to_thread(lambda: Hands.claiming(say(house.member.caller)))
    former = replace(hands.lease, epoch=hands.lease.epoch - 1)
    async with recording() as (recorder, lost):
        assert not await recorder.record_last(former, hands.claim.turn, "turn.completed", ENDED)
        assert await recorder.record_last(hands.lease, hands.claim.turn, "turn.completed", ENDED)
    assert [lease is former for lease in lost] == [True]


async def test_what_can_never_be_stored_costs_its_own_turn_only(house: House, stranger: Person) -> None:
    ours = await asyncio.to_thread(lambda: Hands.claiming(say(house.member.caller)))
    theirs = await asyncio.to_thread(lambda: Hands.claiming(say(stranger.caller)))
    async with recording() as (recorder, lost):
        recorder.record(ours.lease, ours.claim.turn, "text.delta", {"block": 0, "text": "fine"})
        stored = await asyncio.gather(
            recorder.record_last(theirs.lease, theirs.claim.turn, "much.too.long." * 10, {}),
            recorder.record_last(ours.lease, ours.claim.turn, "turn.completed", ENDED),
        )
    assert list(stored) == [False, True]
    assert lost == [theirs.lease]
    said = await asyncio.to_thread(events_of, house.member.caller, ours.claim.conversation)
    assert kinds(said)[-2:] == ["text.delta", "turn.completed"]


async def test_what_models_and_tools_write_is_stored_as_well_as_it_can_be(house: House) -> None:
    hands = await asyncio.to_thread(lambda: Hands.claiming(say(house.member.caller)))
    deep: Any = "bottom"
    for _ in range(100_000):
        deep = [deep]
    odd = {"name": "x", "input": {"nul": "\0", "half": "\ud83d", "inf": float("inf"), "deep": deep}}
    async with recording() as (recorder, lost):
        recorder.record(hands.lease, hands.claim.turn, "tool.started", odd)
        assert await recorder.record_last(hands.lease, hands.claim.turn, "turn.completed", ENDED)
    events = await asyncio.to_thread(events_of, house.member.caller, hands.claim.conversation)
    stored = next(event for event in events if event["type"] == "tool.started")["input"]
    assert (stored["nul"], stored["half"], stored["inf"]) == ("�", "�", "inf")
    assert str(stored["deep"]).count("[") <= DEEPEST
    assert not lost


texts_of_any_kind = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts_of_any_kind,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts_of_any_kind, inner, max_size=3),
    max_leaves=10,
)


@given(plain)
def test_what_can_be_stored_stays_as_it_is(value: Any) -> None:
    assert storable(value) == value
