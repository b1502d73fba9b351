"""Memory comes from the store alone, on any host, whatever happened to the process before."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from claude_agent_sdk import InMemorySessionStore, SessionKey, SessionStoreEntry

from claude_runner import Tier

from .conftest import Engine, NewEngine, eventually

pytestmark = pytest.mark.needs_bubblewrap


@pytest.mark.parametrize("tier", [None, Tier.NONE], ids=["walled", "none"])
async def test_another_host_goes_on(new_engine: NewEngine, tier: Tier | None) -> None:
    here = await new_engine()
    await here.say("echo the first thing")
    await here.pool.stop(here.spec.conversation)
    there = await new_engine(tier, store=here.store)
    there.spec = here.spec
    assert "the first thing" in (await there.say("recall")).text
    await there.pool.stop(there.spec.conversation)
    assert "recall" in (await here.say("what did I say")).text


async def test_a_killed_process_is_replaced_and_remembers(engine: Engine) -> None:
    await engine.say("echo before the crash")
    words = asyncio.Event()
    turn = asyncio.create_task(engine.say("slow 100 20", on_text=words.set))
    await asyncio.wait_for(words.wait(), 10)
    os.kill(engine.process_ids()[-1], signal.SIGKILL)
    said = await turn
    assert said.end.outcome == "failed"
    assert said.end.error is not None
    assert "ended unexpectedly" in said.end.error["message"]
    assert said.text
    remembered = (await engine.say("recall")).text
    assert "before the crash" in remembered
    assert "slow 100 20" in remembered


async def test_a_process_killed_between_turns_is_replaced(
    engine: Engine, all_gone: Callable[[list[int]], bool]
) -> None:
    await engine.say("echo hello")
    before = engine.process_ids()
    os.kill(before[0], signal.SIGKILL)
    await eventually(lambda: not engine.pool.live())
    await engine.pool.stop(engine.spec.conversation)
    assert all_gone(before)
    assert "echo hello" in (await engine.say("recall")).text


async def test_what_the_agent_wrote_into_its_transcript_is_not_remembered(engine: Engine) -> None:
    forged = "sed -i s/honest/forged/ $CLAUDE_CONFIG_DIR/projects/-workspace/*.jsonl"
    await engine.say("echo honest words")
    await engine.say(f"run {forged} && grep -c forged $CLAUDE_CONFIG_DIR/projects/-workspace/*.jsonl")
    await engine.pool.stop(engine.spec.conversation)
    assert "honest words" in (await engine.say("recall")).text


async def test_the_question_is_stored_while_the_answer_comes(engine: Engine) -> None:
    words = asyncio.Event()
    turn = asyncio.create_task(engine.say("slow 20 4", on_text=words.set))
    await asyncio.wait_for(words.wait(), 10)
    await asyncio.sleep(0.5)
    key: SessionKey = {"project_key": "-workspace", "session_id": engine.spec.conversation}
    assert "slow 20 4" in str(await engine.store.load(key))
    await turn


class FullStore(InMemorySessionStore):
    """Takes nothing more once it is full."""

    full = False

    async def append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        if self.full:
            raise OSError("No space left on device")
        await super().append(key, entries)


async def test_a_turn_that_cannot_be_remembered_says_so(new_engine: NewEngine) -> None:
    store = FullStore()
    engine = await new_engine(store=store)
    await engine.say("echo kept")
    store.full = True
    said = await engine.say("slow 30 3")
    assert said.end.outcome == "failed"
    assert said.end.error is not None
    assert "could not be stored" in said.end.error["message"]
    store.full = False
    remembered = (await engine.say("recall")).text
    assert "kept" in remembered
    assert "slow" not in remembered


async def test_a_store_that_cannot_be_read_starts_nothing(
    new_engine: NewEngine, caplog: pytest.LogCaptureFixture
) -> None:
    class Unreadable(InMemorySessionStore):
        async def load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
            raise OSError("connection refused")

    engine = await new_engine(store=Unreadable())
    said = await engine.say("echo never")
    assert said.end.outcome == "failed"
    assert said.text == ""
    assert engine.pool.live() == set()


async def test_no_trace_of_the_old_config_is_left(engine: Engine) -> None:
    await engine.say("run touch $CLAUDE_CONFIG_DIR/settings.json $HOME/kept")
    await engine.pool.stop(engine.spec.conversation)
    said = await engine.say("run ls $CLAUDE_CONFIG_DIR/settings.json $HOME/kept")
    assert "/home/agent/kept" in said.text
    assert "No such file" in said.text


async def test_a_conversation_is_forgotten_with_its_files(engine: Engine) -> None:
    await engine.say("write note.txt: hello")
    assert engine.pool.has_files(engine.spec.conversation)
    await engine.pool.stop(engine.spec.conversation)
    folder = engine.pool._folders.folder_of(engine.spec.conversation)
    assert _exists(folder)
    engine.pool.forget(engine.spec.conversation)
    engine.pool.forget(engine.spec.conversation)
    assert not _exists(folder)
    assert not engine.pool.has_files(engine.spec.conversation)


def _exists(path: Path) -> bool:
    return path.exists()
