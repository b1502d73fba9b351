"""The recorder, on the real database: what it takes is stored once, and nobody pays for somebody else's events."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversations.leases import Lease
from conversations.recorder import BATCH_BYTES, DEEPEST, MOST_WAITING, Recorder, storable
from tests.cast import House, Person
from tests.conversations.stage import Hands, events_of, kinds, say
from tests.servers import TestServers

ENDED = {"stop_reason": "end_turn", "usage": {}, "cost_usd": 0.0, "timing": {}}


@asynccontextmanager
async def recording() -> AsyncIterator[tuple[Recorder, list[Lease]]]:
    """A recorder at work, and the leases that it found lost."""
    lost: list[Lease] = []
    recorder = Recorder(on_fenced=lost.append)
    running = [asyncio.create_task(loop()) for loop in (recorder.run, recorder.catch_up)]
    try:
        yield recorder, lost
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


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


@contextmanager
def failing(servers: TestServers, conversation: UUID, table: str = "conversations_event") -> Iterator[None]:
    """The database fails, as if it might work the next time, at whatever this conversation says."""
    with servers.as_admin() as admin:
        admin.execute(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '40001'; END $$"
        )
        admin.execute(
            f"CREATE TRIGGER fail BEFORE INSERT ON {table} FOR EACH ROW "
            f"WHEN (NEW.conversation_id = '{conversation}') EXECUTE FUNCTION fail()".encode()
        )
        try:
            yield
        finally:
            admin.execute("DROP FUNCTION fail CASCADE")


async def test_what_fails_again_and_again_holds_up_nobody_else(
    house: House, stranger: Person, servers: TestServers
) -> None:
    ours = await asyncio.to_thread(lambda: Hands.claiming(say(house.member.caller)))
    theirs = await asyncio.to_thread(lambda: Hands.claiming(say(stranger.caller)))
    with failing(servers, theirs.claim.conversation):
        async with recording() as (recorder, lost), asyncio.timeout(10):
            refused = asyncio.create_task(
                recorder.record_last(theirs.lease, theirs.claim.turn, "turn.completed", ENDED)
            )
            assert await recorder.record_last(ours.lease, ours.claim.turn, "turn.completed", ENDED)
            assert not refused.done()
            assert not await refused
    assert lost == [theirs.lease]


@contextmanager
def holding(servers: TestServers, table: str, row: UUID) -> Iterator[None]:
    """Somebody has locked this row, for as long as the context is open."""
    with servers.as_admin() as admin, admin.transaction():
        admin.execute(f"SELECT FROM {table} WHERE id = '{row}' FOR UPDATE".encode())
        yield


@pytest.mark.parametrize("table", ["conversations_conversation", "conversations_turn"])
async def test_a_row_that_somebody_holds_delays_the_events_of_its_conversation_alone(
    house: House, stranger: Person, servers: TestServers, table: str
) -> None:
    ours = await asyncio.to_thread(lambda: Hands.claiming(say(house.member.caller)))
    theirs = await asyncio.to_thread(lambda: Hands.claiming(say(stranger.caller)))
    row = theirs.claim.conversation if table == "conversations_conversation" else theirs.claim.turn
    async with recording() as (recorder, lost), asyncio.timeout(20):
        with holding(servers, table, row):
            recorder.record(theirs.lease, theirs.claim.turn, "text.delta", {"block": 0, "text": "a"})
            ended = asyncio.create_task(
                recorder.record_last(theirs.lease, theirs.claim.turn, "turn.completed", ENDED)
            )
            for number in range(5):
                recorder.record(ours.lease, ours.claim.turn, "text.delta", {"block": number, "text": "x"})
                await asyncio.sleep(0.1)
            assert await recorder.record_last(ours.lease, ours.claim.turn, "turn.completed", ENDED)
            assert await asyncio.to_thread(texts, house.member, ours) == ["x"] * 5
            await asyncio.sleep(2)  # longer than what fails again and again is tried
            assert not ended.done()
        assert await ended
    said = await asyncio.to_thread(events_of, stranger.caller, theirs.claim.conversation)
    assert kinds(said)[-2:] == ["text.delta", "turn.completed"]
    assert not lost


async def test_what_was_set_aside_is_stored_in_order_and_once(house: House, servers: TestServers) -> None:
    hands = await asyncio.to_thread(lambda: Hands.claiming(say(house.member.caller)))
    words = [f"{number} ".ljust(500, ".") for number in range(400)]
    async with recording() as (recorder, lost), asyncio.timeout(20):
        for half in (words[:200], words[200:]):
            with holding(servers, "conversations_conversation", hands.claim.conversation):
                for text in half:
                    recorder.record(hands.lease, hands.claim.turn, "text.delta", {"block": 0, "text": text})
                    await asyncio.sleep(0.002)
            await asyncio.sleep(0.02)
        assert await recorder.record_last(hands.lease, hands.claim.turn, "turn.completed", ENDED)
    assert "".join(await asyncio.to_thread(texts, house.member, hands)) == "".join(words)
    assert not lost


async def test_a_conversation_waits_while_too_much_of_it_is_not_stored(house: House) -> None:
    hands = await asyncio.to_thread(lambda: Hands.claiming(say(house.member.caller)))
    recorder = Recorder(on_fenced=lambda _lease: None)
    for block in range(4):
        await asyncio.wait_for(recorder.room(hands.claim.conversation), 1)
        said = {"block": block, "text": "x" * (MOST_WAITING // 4)}
        recorder.record(hands.lease, hands.claim.turn, "text.delta", said)
    waits = asyncio.create_task(recorder.room(hands.claim.conversation))
    await asyncio.wait_for(recorder.room(uuid4()), 1)
    await asyncio.sleep(0.1)
    assert not waits.done()
    running = asyncio.create_task(recorder.run())
    await asyncio.wait_for(waits, 10)
    running.cancel()


async def test_a_write_takes_no_more_than_the_database_likes(house: House) -> None:
    hands = await asyncio.to_thread(lambda: Hands.claiming(say(house.member.caller)))
    recorder = Recorder(on_fenced=lambda _lease: None)
    for block in range(5):
        said = {"block": block, "text": "x" * (3 << 20)}
        recorder.record(hands.lease, hands.claim.turn, "text.delta", said)
    assert [len(recorder._next_batch()) for _ in range(4)] == [2, 2, 1, 0]
    recorder.record(hands.lease, hands.claim.turn, "text.delta", {"block": 9, "text": "x" * BATCH_BYTES})
    assert len(recorder._next_batch()) == 1


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
