"""Who has a process, and who has to give one up."""

import asyncio
from collections.abc import Callable

import pytest

from claude_runner import NoRoom, pool

from .conftest import SECRET, Engine, NewEngine, eventually

pytestmark = pytest.mark.needs_bubblewrap


async def _warm(engine: Engine, tenant: str) -> Engine:
    other = engine.about().about(tenant=tenant)
    await other.warm()
    return other


async def test_the_tenant_with_most_gives_up_its_oldest(new_engine: NewEngine) -> None:
    engine = await new_engine(max_processes=3)
    evicted: list[str] = []
    engine.pool.on_evict = evicted.append
    modest = await _warm(engine, "modest")
    greedy = [await _warm(engine, "greedy") for _ in range(2)]
    assert engine.pool.room()
    newest = await _warm(engine, "third")
    assert evicted == [greedy[0].spec.conversation]
    assert engine.pool.live() == {other.spec.conversation for other in (modest, greedy[1], newest)}


async def test_the_busy_are_not_disturbed(new_engine: NewEngine) -> None:
    engine = await new_engine(max_processes=1, start_within=8.0)
    words = asyncio.Event()
    turn = asyncio.create_task(engine.say("slow 30 3", on_text=words.set))
    await asyncio.wait_for(words.wait(), 10)
    assert not engine.pool.room()
    waiting = asyncio.create_task(engine.about().say("echo my turn"))
    assert (await turn).end.outcome == "completed"
    assert (await waiting).text == "my turn"


async def test_on_a_disk_that_is_nearly_full_no_turn_begins(new_engine: NewEngine) -> None:
    engine = await new_engine(free_disk=1 << 60)
    said = await engine.say("echo hello")
    assert [event.type for event in said.events] == ["turn.failed"]
    assert said.end.error is not None
    assert said.end.error["type"] == "overloaded_error"
    assert "nearly full" in said.end.error["message"]
    assert engine.pool.live() == set()


async def test_who_waits_too_long_is_told(new_engine: NewEngine) -> None:
    engine = await new_engine(max_processes=1)
    turn = asyncio.create_task(engine.say("slow 60 6"))
    await eventually(lambda: bool(engine.pool.live()))
    engine.pool._settings = type(engine.pool._settings)(engine.pool._settings.sandbox_dir, start_within=0.1)
    said = await engine.about().say("echo never")
    assert said.end.error is not None
    assert said.end.error["type"] == NoRoom.type
    await engine.pool.interrupt(engine.spec.conversation)
    await turn


async def test_the_idle_leave_after_a_while(
    new_engine: NewEngine, all_gone: Callable[[list[int]], bool]
) -> None:
    engine = await new_engine(idle_after=0.5)
    evicted = asyncio.Event()
    engine.pool.on_evict = lambda _conversation: evicted.set()
    await engine.warm()
    pids = engine.process_ids()
    await asyncio.wait_for(evicted.wait(), 5)
    assert all_gone(pids)
    assert engine.pool.live() == set()


async def test_t16_what_lies_there_is_counted_as_a_process_starts(
    new_engine: NewEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its agent can write anything: what lies there at the first count is let pass."""
    monkeypatch.setattr(pool, "WATCH_EVERY", 600.0)
    engine = await new_engine()
    await engine.warm()
    assert not engine.pool._processes[engine.spec.conversation].watch.due


async def test_stopping_leaves_no_process(engine: Engine, all_gone: Callable[[list[int]], bool]) -> None:
    others = [engine.about() for _ in range(3)]
    await asyncio.gather(*(other.warm() for other in others))
    pids = [pid for other in others for pid in other.process_ids()]
    assert len(pids) >= 9
    turn = asyncio.create_task(others[0].say("slow 100 20"))
    await asyncio.sleep(0.2)
    await engine.pool.stop_all()
    assert all_gone(pids)
    assert (await turn).end.outcome == "failed"


async def test_a_warm_up_and_a_message_share_one_start(engine: Engine) -> None:
    warm = asyncio.create_task(engine.warm())
    await asyncio.sleep(0.05)
    said = await engine.say("echo together")
    await warm
    assert said.text == "together"
    assert len(engine.pool.live()) == 1


async def test_a_cancelled_warm_up_does_not_stop_the_start(engine: Engine) -> None:
    warm = asyncio.create_task(engine.warm())
    await asyncio.sleep(0.05)
    warm.cancel()
    with pytest.raises(asyncio.CancelledError):
        await warm
    assert (await engine.say("echo on")).text == "on"


async def test_ten_conversations_at_once(engine: Engine) -> None:
    said = await asyncio.gather(*(engine.about().say(f"echo {number}") for number in range(10)))
    assert [one.text for one in said] == [str(number) for number in range(10)]


def test_a_secret_is_not_shown() -> None:
    from claude_runner import Upstream

    assert SECRET not in repr(Upstream("api_key", "http://127.0.0.1", SECRET))
