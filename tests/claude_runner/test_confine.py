"""The tiers without bubblewrap: what Landlock closes, what is stated to stay open, and that all ends."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from claude_runner import Limits, RunnerSettings, Tier, ToolFinished
from claude_runner.confine import CROWDED, landlock_version
from claude_runner.folders import Folders
from claude_runner.probe import findings_of
from claude_runner.sandbox import Launch, walled
from tests.interpreter import openly
from tests.uids import AS_ROOT, ORDINARY

from .conftest import Engine, NewEngine, eventually

PROJECT = Path(__file__).parents[2]
UNWALLED = [pytest.param(tier, id=tier) for tier in (Tier.LANDLOCK, Tier.NONE)]
WALLED_TOO = [*UNWALLED, pytest.param(Tier.BUBBLEWRAP, id="bubblewrap", marks=pytest.mark.needs_bubblewrap)]
# Refuses Landlock to the program that it starts, as a kernel without it does.
REFUSE_LANDLOCK = """
import ctypes, errno, os, struct, sys
from claude_runner import confine, seccomp
code = [(0x20, 0, 0, 0), (0x15, 0, 1, 444), (6, 0, 0, 0x50000 | errno.ENOSYS), (6, 0, 0, 0x7FFF0000)]
held = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in code))
confine._prctl(confine.PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1))
program = confine.Filter(len(code), ctypes.addressof(held))
confine._prctl(confine.PR_SET_SECCOMP, ctypes.c_ulong(2), ctypes.byref(program))
"""
PROVE = """
from pathlib import Path
from claude_runner import RunnerSettings, prove_tier
proof = prove_tier(RunnerSettings(Path(sys.argv[1])))
print(proof.tier, proof.reason)
"""


async def _output(engine: Engine, command: str) -> str:
    said = await engine.say(f"run {command}")
    assert said.end.outcome == "completed", said.end.error
    return "\n".join(finished.output for finished in said.of(ToolFinished))


def _sleepers(seconds: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and Path(f"/proc/{name}/cmdline").read_bytes() == b"sleep\0%d\0" % seconds:
                found.append(int(name))
        except OSError:
            continue
    return found


def test_this_kernel_has_landlock() -> None:
    assert landlock_version() >= 1, "the tests of its tier need Linux 5.13 with Landlock among its LSMs"


def test_a_kernel_without_landlock_is_told(new_sandbox_dir: Callable[[], Path], tmp_path: Path) -> None:
    (tmp_path / "sh").symlink_to("/bin/sh")
    done = subprocess.run(
        [sys.executable, "-c", REFUSE_LANDLOCK + PROVE, str(new_sandbox_dir())],
        env={"PATH": str(tmp_path), "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("none ")
    assert "landlock: it does not start (this kernel has no Landlock)" in done.stdout


def test_landlock_lacks_only_what_is_stated(new_sandbox_dir: Callable[[], Path]) -> None:
    findings = findings_of(Tier.LANDLOCK, RunnerSettings(new_sandbox_dir()))
    holes = {finding.name for finding in findings if not finding.holds}
    own = {"own uid", "gateway sockets", "host sockets", "the CLI's memory"}
    assert holes == {"namespaces"} | (set() if AS_ROOT else own)


async def test_a_whole_turn_runs_under_landlock(new_engine: NewEngine) -> None:
    engine = await new_engine(Tier.LANDLOCK)
    await engine.say("write mine.txt: hello")
    neighbour = engine.about()
    await neighbour.say("write secret.txt: neighbour-canary")
    folder = engine.pool._folders.folder_of(neighbour.spec.conversation)
    output = await _output(
        engine,
        "git init -q . && git add mine.txt && git -c user.name=a -c user.email=a@b.c commit -qm one; "
        "git log --oneline; "
        f"cat mine.txt; cat {folder}/workspace/secret.txt; ls {folder} {folder.parent} /tmp /proc /root /etc; "
        "cat /etc/shadow /proc/net/unix /proc/1/cmdline; (exec 3<>/dev/tcp/127.0.0.1/22); "
        "touch /usr/x /tmp/x; true",
    )
    assert " one\n" in output
    assert "hello" in output
    assert "neighbour-canary" not in output
    assert output.count("Permission denied") >= 11
    assert "Address family not supported" in output


@pytest.mark.parametrize("tier", UNWALLED)
async def test_daemons_end_with_the_turn(new_engine: NewEngine, tier: Tier) -> None:
    engine = await new_engine(tier)
    assert "started" in await _output(engine, "(env -i setsid sleep 4711 >/dev/null 2>&1 &) ; echo started")
    assert _sleepers(4711) == []
    assert (await engine.say("echo again")).text == "again"


@pytest.mark.parametrize("tier", UNWALLED)
async def test_daemons_end_when_the_cli_is_killed(new_engine: NewEngine, tier: Tier) -> None:
    engine = await new_engine(tier)
    turn = asyncio.create_task(
        engine.say("run (env -i setsid sleep 4712 >/dev/null 2>&1 &) ; sleep 0.5; kill -9 $PPID; sleep 60")
    )
    await eventually(lambda: bool(_sleepers(4712)))
    said = await turn
    assert said.end.outcome == "failed"
    await eventually(lambda: not _sleepers(4712), within=1.0)
    assert (await engine.say("echo again")).text == "again"


def _launch(folders: Folders, tier: Tier, script: str, limits: Limits | None = None) -> Launch:
    place = folders.place(str(uuid4()))
    place.make(place.config)
    return walled(tier, place, Path("/bin/sh"), ["/bin/sh", "-c", script], {}, limits)


@pytest.mark.parametrize("tier", UNWALLED)
def test_daemons_end_when_the_runner_is_killed(new_sandbox_dir: Callable[[], Path], tier: Tier) -> None:
    launch = _launch(Folders(RunnerSettings(new_sandbox_dir())), tier, "setsid sleep 4713 & sleep 4713 & cat")
    spawn = (
        f"import subprocess, time; subprocess.Popen({launch.argv!r}, stdin=subprocess.PIPE); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", spawn], env=launch.env) as runner:
        deadline = time.monotonic() + 10
        while len(_sleepers(4713)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        runner.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 1
    while _sleepers(4713):
        assert time.monotonic() < deadline, "a second later"
        time.sleep(0.02)


def test_the_commands_end_is_ones_own_end(new_sandbox_dir: Callable[[], Path]) -> None:
    launch = _launch(Folders(RunnerSettings(new_sandbox_dir())), Tier.NONE, "setsid sleep 4714 & exit 3")
    began = time.monotonic()
    assert subprocess.run(launch.argv, env=launch.env, check=False, timeout=10).returncode == 3
    assert time.monotonic() - began < 2
    assert _sleepers(4714) == []


CROWD = "n=0; while [ $n -lt {many} ]; do sleep 4716 & n=$((n + 1)); done; exit 3"


@pytest.mark.parametrize(("many", "told"), [(10, 3), (90, CROWDED)])
@pytest.mark.parametrize("tier", WALLED_TOO)
def test_a_command_that_fails_in_a_crowd_of_its_own_is_told_from_others(
    new_sandbox_dir: Callable[[], Path], tier: Tier, many: int, told: int
) -> None:
    folders = Folders(RunnerSettings(new_sandbox_dir()))
    launch = _launch(folders, tier, CROWD.format(many=many), Limits(processes=100))
    assert subprocess.run(launch.argv, env=launch.env, check=False, timeout=20).returncode == told
    assert _sleepers(4716) == []


@pytest.mark.parametrize("tier", WALLED_TOO)
async def test_a_cli_that_died_of_too_many_processes_unseen_has_that_reason(
    new_engine: NewEngine, tier: Tier
) -> None:
    """A fork bomb is at the kernel's wall in moments, and there the CLI may die before anybody has looked."""
    engine = await new_engine(tier, limits=Limits(processes=100))
    engine.pool._watcher.cancel()
    said = await engine.say(f"run ({CROWD.format(many=90)}); kill -9 $PPID; sleep 4716")
    assert said.end.error == {
        "type": "api_error",
        "message": "Stopped: the conversation ran more than 100 processes.",
    }
    assert _sleepers(4716) == []


def test_a_command_that_is_none_is_told(new_sandbox_dir: Callable[[], Path]) -> None:
    place = Folders(RunnerSettings(new_sandbox_dir())).place(str(uuid4()))
    launch = walled(Tier.LANDLOCK, place, Path("/no/such"), ["/bin/true"], {})
    wanted = json.loads(launch.argv[4])
    assert "/no/such" in wanted["read"], "what is not there is left out"
    done = subprocess.run([*launch.argv[:5], "/no/such"], env=launch.env, capture_output=True, check=False)
    assert done.returncode == 126
    assert b"No such file" in done.stderr


@pytest.mark.parametrize("lands", [Tier.LANDLOCK, Tier.NONE])
def test_an_ordinary_user_gets_it_too(
    new_sandbox_dir: Callable[[], Path], tmp_path: Path, lands: Tier
) -> None:
    """A runner that is no root where there is no bubblewrap, and no Landlock either."""
    folder = new_sandbox_dir()
    (folder / "sh").symlink_to("/bin/sh")
    os.chown(folder, ORDINARY, -1)
    program = [sys.executable, "-m", "tests.claude_runner.ordinary", str(folder)]
    if lands is Tier.NONE:
        program = [sys.executable, "-c", f"{REFUSE_LANDLOCK}os.execv(sys.executable, {program!r})"]
    done = subprocess.run(
        openly(["/usr/bin/env", f"PATH={folder}", *program], tmp_path),
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=PROJECT,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["tier"] == lands
    assert seen["outcome"] == "completed"
    assert seen["output"].split("\n")[0] == str(seen["uid"]) != "0"
    assert "/etc/shadow: Permission denied" in seen["output"]
    assert ("/proc/net/dev: Permission denied" in seen["output"]) is (lands is Tier.LANDLOCK)
    assert not seen["parts_tenants"], "one uid is everybody's: unix sockets, signals"
    assert ("limited" in seen["output"], "slowed" in seen["output"]) == (lands is Tier.NONE,) * 2
    assert seen["left"] == []
    assert _sleepers(4715) == []
