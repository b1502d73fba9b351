"""Children that misbehave. Each ends only its own turn, with a reason, and leaves nothing behind."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from claude_runner import Answer, Limits, Question
from claude_runner.child import Child, uncancelled
from claude_runner.sandbox import Launch
from claude_runner.turn import MOST_QUESTIONS

from .conftest import NewEngine, command_of, eventually

pytestmark = pytest.mark.needs_bubblewrap

type ChildThat = Callable[..., Path]
type AllGone = Callable[[list[int]], bool]

RESULT = (
    '{"type":"result","subtype":"success","is_error":false,"duration_ms":1,"duration_api_ms":1,'
    '"num_turns":1,"session_id":"s","result":"ok","stop_reason":"end_turn"}'
)


async def _fails(new_engine: NewEngine, cli: Path, all_gone: AllGone, **settings: object) -> str:
    """The error of one turn on this child."""
    engine = await new_engine(cli_path=cli, **settings)
    await engine.warm()
    pids = engine.process_ids()
    async with asyncio.timeout(40):
        said = await engine.say("hello")
    assert said.end.outcome == "failed"
    assert said.end.error is not None
    await engine.pool.stop(engine.spec.conversation)
    assert all_gone(pids)
    assert engine.pool.live() == set()
    return said.end.error["message"]


async def test_it_dies_in_the_middle_of_a_line(
    new_engine: NewEngine, child_that: ChildThat, all_gone: AllGone
) -> None:
    cli = child_that("""read -r message; printf '{"type":"assistant","mess'; exit 1""")
    assert "ended unexpectedly" in await _fails(new_engine, cli, all_gone)


async def test_it_is_silent(new_engine: NewEngine, child_that: ChildThat, all_gone: AllGone) -> None:
    cli = child_that("cat >/dev/null")
    assert "stopped responding" in await _fails(new_engine, cli, all_gone, hung_after=1.0)


async def test_it_writes_a_line_without_an_end(
    new_engine: NewEngine, child_that: ChildThat, all_gone: AllGone
) -> None:
    cli = child_that("read -r message; cat /dev/zero | tr '\\0' x")
    assert "a line without an end" in await _fails(new_engine, cli, all_gone)


async def test_it_floods(new_engine: NewEngine, child_that: ChildThat, all_gone: AllGone) -> None:
    cli = child_that("read -r message; yes 'this is no frame'")
    assert "far more than an answer" in await _fails(new_engine, cli, all_gone)


async def test_it_is_deaf_to_sigterm_and_to_the_end_of_its_input(
    new_engine: NewEngine, child_that: ChildThat, all_gone: AllGone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("claude_runner.child.FLUSH", 0.3)
    monkeypatch.setattr("claude_runner.child.TERMINATE", 0.3)
    engine = await new_engine(cli_path=child_that("trap '' TERM INT HUP; while :; do sleep 0.1; done"))
    await engine.warm()
    pids = engine.process_ids()
    began = time.monotonic()
    await engine.pool.stop(engine.spec.conversation)
    assert 0.6 < time.monotonic() - began < 2
    assert all_gone(pids)


async def test_it_does_not_obey_an_interrupt(new_engine: NewEngine, child_that: ChildThat) -> None:
    engine = await new_engine(cli_path=child_that("cat >/dev/null"))
    await engine.warm()
    turn = asyncio.create_task(engine.say("hello"))
    await asyncio.sleep(0.1)
    await engine.pool.interrupt(engine.spec.conversation)
    assert (await turn).end.outcome == "interrupted"


async def test_it_never_comes_up(new_engine: NewEngine, child_that: ChildThat) -> None:
    engine = await new_engine(cli_path=child_that("cat >/dev/null", initializes=False), start_within=1.0)
    said = await engine.say("hello")
    assert said.end.error is not None
    assert "did not start in time" in said.end.error["message"]


async def test_it_dies_at_once_and_says_why(new_engine: NewEngine, child_that: ChildThat) -> None:
    cli = child_that("echo 'no such model' >&2; exit 3", initializes=False)
    began = time.monotonic()
    said = await (await new_engine(cli_path=cli)).say("hello")
    assert time.monotonic() - began < 3
    assert said.end.error is not None
    assert said.end.error["message"] == "Claude Code could not be started. no such model"


async def test_it_is_no_program(new_engine: NewEngine, tmp_path: Path) -> None:
    cli = tmp_path / "claude"
    cli.write_bytes(b"\x7fELF nonsense")
    said = await (await new_engine(cli_path=cli)).say("hello")
    assert said.end.error is not None
    assert "could not be started" in said.end.error["message"]


async def test_lines_that_are_no_frames_are_skipped(
    new_engine: NewEngine, child_that: ChildThat, caplog: pytest.LogCaptureFixture
) -> None:
    cli = child_that(f"read -r message; echo '[debug] hi'; echo '[1]'; echo; echo '{RESULT}'; cat >/dev/null")
    engine = await new_engine(cli_path=cli)
    await engine.warm()
    assert (await engine.say("hello")).end.outcome == "completed"
    assert "no frame" in caplog.text


async def test_it_writes_a_line_that_is_too_dear_to_read(
    new_engine: NewEngine, child_that: ChildThat, all_gone: AllGone
) -> None:
    """Each part of it would take time and memory that belong to all conversations."""
    cli = child_that(
        """read -r message; printf '{"type":"assistant","a":['; yes '{},' | head -c 4000000 | tr -d '\\n'; """
        "echo '0]}'; cat >/dev/null"
    )
    assert "a line without an end" in await _fails(new_engine, cli, all_gone)


async def test_it_floods_with_frames_of_no_type(
    new_engine: NewEngine, child_that: ChildThat, all_gone: AllGone, caplog: pytest.LogCaptureFixture
) -> None:
    cli = child_that("""read -r message; yes '{"type":[]}'""")
    assert "far more than an answer" in await _fails(new_engine, cli, all_gone)
    assert caplog.text.count("no frame") == 1
    assert "Traceback" not in caplog.text


async def test_it_complains_without_an_end(
    new_engine: NewEngine, child_that: ChildThat, all_gone: AllGone
) -> None:
    cli = child_that("read -r message; yes complaint >&2")
    said = await _fails(new_engine, cli, all_gone, limits=Limits(output=5 << 20))
    assert said == "Stopped: the turn wrote more than 5 MB."


async def test_it_asks_too_much_at_once(new_engine: NewEngine, child_that: ChildThat) -> None:
    request = '{"type":"control_request","request_id":"r%s","request":{"subtype":"can_use_tool"'
    request += ',"tool_name":"Bash","input":{}}}\\n'
    cli = child_that(
        f"read -r message; for i in $(seq 30); do printf '{request}' $i; done; "
        f"for i in $(seq 14); do read -r answer; done; echo '{RESULT}'; cat >/dev/null"
    )
    engine, asked = await new_engine(cli_path=cli), []

    async def never(question: Question) -> Answer:
        asked.append(question)
        await asyncio.Event().wait()
        raise AssertionError

    await engine.warm()
    async with asyncio.timeout(40):
        assert (await engine.say("hello", never)).end.outcome == "completed"
    assert len(asked) == MOST_QUESTIONS == 16


async def test_its_complaints_fill_no_pipe(new_engine: NewEngine, child_that: ChildThat) -> None:
    cli = child_that(f"read -r message; yes complaint | head -c 3000000 >&2; echo '{RESULT}'; cat >/dev/null")
    engine = await new_engine(cli_path=cli)
    await engine.warm()
    assert (await engine.say("hello")).end.outcome == "completed"


async def test_its_daemons_die_with_it(
    new_engine: NewEngine, child_that: ChildThat, all_gone: AllGone
) -> None:
    cli = child_that("(trap '' TERM HUP; setsid sleep 300 &) ; cat >/dev/null")
    engine = await new_engine(cli_path=cli)
    await engine.warm()
    await eventually(lambda: any("sleep 300" in command_of(pid) for pid in engine.process_ids()))
    pids = engine.process_ids()
    await engine.pool.stop(engine.spec.conversation)
    assert all_gone(pids)


async def _sleeper(walled: bool = False) -> Child:
    launch = Launch(["/bin/sh", "-c", "trap '' TERM; sleep 300"], {}, Path("/"), walled)
    return await Child.start(launch, lambda _lines: None, lambda: None, lambda: None)


async def test_a_cancelled_stop_still_stops(all_gone: AllGone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("claude_runner.child.FLUSH", 0.2)
    monkeypatch.setattr("claude_runner.child.TERMINATE", 0.2)
    child = await _sleeper()
    stop = asyncio.create_task(child.stop())
    for _ in range(3):
        await asyncio.sleep(0.05)
        stop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stop
    assert all_gone([child.pid])


async def test_a_second_stop_may_lose_patience(all_gone: AllGone) -> None:
    child = await _sleeper()
    gentle = asyncio.create_task(child.stop())
    await asyncio.sleep(0.05)
    began = time.monotonic()
    await child.stop(gently=False)
    assert time.monotonic() - began < 1
    await gentle
    assert all_gone([child.pid])


async def test_uncancelled_hands_on_a_failure() -> None:
    async def fail() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await uncancelled(fail())
