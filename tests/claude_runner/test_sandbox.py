"""What an agent finds when it looks around, through the CLI's own tools."""

import asyncio
import filecmp
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from claude_runner import (
    LaunchSpec,
    Limits,
    RunnerSettings,
    SandboxUnavailable,
    Tier,
    ToolFinished,
    prove_again,
    prove_tier,
)
from claude_runner.cli import find_cli, stage_cli
from claude_runner.confine import landlock_version
from claude_runner.folders import Folders
from claude_runner.probe import NAMES, findings_of
from claude_runner.sandbox import Launch, walled
from tests.uids import AS_ROOT, ORDINARY

from .conftest import SECRET, Engine, NewEngine

pytestmark = pytest.mark.needs_bubblewrap

NEEDS_ROOT = "a uid of its own for each conversation needs a runner started as root"
STRONGEST = Tier.BUBBLEWRAP_UID if AS_ROOT else Tier.BUBBLEWRAP


async def _output(engine: Engine, command: str) -> str:
    said = await engine.say(f"run {command}")
    return "\n".join(finished.output for finished in said.of(ToolFinished))


async def test_no_secret_is_inside(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_KEY", SECRET)
    monkeypatch.setenv("DATABASE_URL", f"postgres://u:{SECRET}@db/x")
    look = (
        "env; for p in /proc/[0-9]*; do cat $p/environ $p/cmdline 2>/dev/null | tr '\\0' '\\n'; done; "
        "grep -rsIl canary-credential /home /config /workspace /tmp /run /etc /dev; echo looked"
    )
    output = await _output(engine, look)
    assert output.rstrip().endswith("looked")
    assert "ANTHROPIC_API_KEY=ssh-placeholder" in output
    assert SECRET not in output
    assert "MASTER_KEY" not in output
    for link in ("/proc/self/environ", "/proc/1/environ"):
        await _output(engine, f"ln -sf {link} look")
        said = await engine.say("read look")
        assert SECRET not in str(said.events)


async def test_only_its_own_files_are_inside(engine: Engine) -> None:
    neighbour = engine.about()
    await neighbour.say("write mine.txt: neighbour-canary")
    await engine.say("write mine.txt: hello")
    output = await _output(
        engine,
        "ls -A / /etc /home /run /root /var 2>&1; cat /etc/shadow; ls /workspace; "
        "grep -rsl neighbour-canary /home /config /workspace /tmp /run /etc /dev; id -u",
    )
    assert "neighbour" not in output
    assert "mine.txt" in output
    assert "/etc/shadow: No such file" in output
    assert output.rstrip().endswith("1000")


async def test_no_network_and_no_other_process(engine: Engine) -> None:
    output = await _output(
        engine,
        "tail -n +3 /proc/net/dev | cut -d: -f1; cat /proc/1/comm; ls /proc | grep -c '^[0-9]'; "
        "(exec 3<>/dev/tcp/127.0.0.1/22); (exec 4<>/dev/tcp/169.254.169.254/80); "
        "unshare -U true; touch /usr/x /etc/x /x; true",
    )
    lines = output.split()
    assert lines[:2] == ["lo", "sandbox-init"]
    assert int(lines[2]) < 12
    assert "Connection refused" in output
    assert "Network is unreachable" in output
    assert output.count("Read-only file system") == 3
    assert "unshare: unshare failed" in output


async def test_each_conversation_has_a_uid_of_its_own_or_the_runners(engine: Engine) -> None:
    """One of its own where the runner is root; an ordinary user has none to give."""
    other = engine.about()
    await engine.say("write a.txt: 1")
    await other.say("write a.txt: 1")
    folders = [engine.pool._folders.folder_of(one.spec.conversation) for one in (engine, other)]
    owners = [folder.stat().st_uid for folder in folders]
    assert len({0, *owners}) == 3 if AS_ROOT else set(owners) == {os.geteuid()}
    for folder, owner, one in zip(folders, owners, (engine, other), strict=True):
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / "workspace" / "a.txt").stat().st_uid == owner
        assert {os.stat(f"/proc/{pid}").st_uid for pid in one.process_ids()} == {owner}


def test_a_uid_stays_with_its_conversation(new_sandbox_dir: Callable[[], Path]) -> None:
    settings = RunnerSettings(new_sandbox_dir(), uids=4)
    ids = [str(uuid4()) for _ in range(4)]
    uids = [Folders(settings).place(conversation).uid for conversation in ids]
    assert len(set(uids)) == 4 if AS_ROOT else uids == [None] * 4
    assert [Folders(settings).place(conversation).uid for conversation in ids] == uids


def test_the_strongest_tier_is_proved(new_sandbox_dir: Callable[[], Path]) -> None:
    proof = prove_tier(RunnerSettings(new_sandbox_dir()))
    assert proof.tier is STRONGEST
    assert proof.reason == ("" if AS_ROOT else f"{Tier.BUBBLEWRAP_UID}: {NEEDS_ROOT}")
    holes = {finding.name for finding in proof.findings if not finding.holds}
    assert holes == set()
    assert {finding.name for finding in proof.findings} == set(NAMES) - (set() if AS_ROOT else {"own uid"})


def test_each_probe_answers_in_words_where_there_are_no_walls(new_sandbox_dir: Callable[[], Path]) -> None:
    """The same probes in a sandbox without walls find the holes: none of them holds by not looking."""
    proof = prove_tier(RunnerSettings(new_sandbox_dir()))
    unwalled = findings_of(Tier.NONE, RunnerSettings(new_sandbox_dir()))
    findings = {finding.name: finding for finding in unwalled}
    assert list(findings) == list(NAMES)
    assert {finding.name for finding in proof.findings} <= set(findings)
    for name in ("network", "loopback services", "foreign processes", "namespaces"):
        assert not findings[name].holds
        assert findings[name].detail
    assert findings["own folders"].holds
    # Root's agents have uids of their own; whose agent shares the uid reads what all processes of it were given.
    assert findings["environment"].holds is AS_ROOT


def test_what_could_not_be_looked_into_is_no_hole(new_sandbox_dir: Callable[[], Path]) -> None:
    settings = RunnerSettings(new_sandbox_dir())
    tier = prove_tier(settings).tier
    assert prove_again(settings, tier)[0] == ""
    folders = settings.sandbox_dir / "c"
    folders.rmdir()
    folders.touch()
    with pytest.raises(SandboxUnavailable, match="could not be looked into"):
        prove_again(settings, tier)


async def test_a_tier_is_proved_again_beside_live_sandboxes(engine: Engine) -> None:
    """What they show of /etc is these very files, so that nothing may empty them for a moment."""
    await engine.say("write mine.txt: hello")
    proof = await asyncio.to_thread(prove_tier, engine.pool._settings)
    assert proof.tier is engine.pool._host.tier
    assert "agent" in await _output(engine, "id -un; cat mine.txt")
    assert len(list((engine.pool._settings.sandbox_dir / "c").iterdir())) == 1


@pytest.fixture
def no_bubblewrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("setpriv", "sh"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("no_bubblewrap")
def test_a_weaker_tier_says_why(new_sandbox_dir: Callable[[], Path]) -> None:
    proof = prove_tier(RunnerSettings(new_sandbox_dir()))
    assert proof.tier is (Tier.LANDLOCK if landlock_version() else Tier.NONE)
    assert "bwrap is missing" in proof.reason
    assert "apt-get install bubblewrap" in proof.reason


@pytest.mark.usefixtures("no_bubblewrap")
def test_nothing_weaker_than_named_is_taken(new_sandbox_dir: Callable[[], Path]) -> None:
    with pytest.raises(SandboxUnavailable, match="bwrap is missing"):
        prove_tier(RunnerSettings(new_sandbox_dir(), tier=STRONGEST))


def test_a_sandbox_dir_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailable, match="at most 6"):
        Folders(RunnerSettings(tmp_path / ("x" * 80)))


def test_the_cli_is_staged_once(new_sandbox_dir: Callable[[], Path]) -> None:
    settings = RunnerSettings(new_sandbox_dir())
    staged = stage_cli(settings)
    assert staged.stat().st_mode & 0o7777 == 0o111
    before = staged.stat().st_ino
    assert stage_cli(settings).stat().st_ino == before
    staged.chmod(0o555)  # root alone reads what nobody may
    assert filecmp.cmp(staged, find_cli(settings), shallow=False)
    assert [path.name for path in staged.parent.iterdir()] == ["claude"]


def _make_readable(staged: Path) -> None:
    staged.chmod(0o755)


def _link_elsewhere(staged: Path) -> None:
    os.link(staged, staged.parent.parent / "another")


def _make_an_older_one(staged: Path) -> None:
    os.utime(staged, (1, 1))


@pytest.mark.parametrize("spoil", [_make_readable, _link_elsewhere, _make_an_older_one])
def test_a_staged_cli_that_is_not_closed_is_replaced(
    new_sandbox_dir: Callable[[], Path], tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    cli = tmp_path / "claude"
    cli.write_bytes(b"\x7fELF program")
    cli.chmod(0o755)
    settings = RunnerSettings(new_sandbox_dir(), cli_path=cli)
    spoil(spoiled := stage_cli(settings))
    before = spoiled.stat().st_ino
    staged = stage_cli(settings)
    assert staged.stat().st_ino != before
    assert (staged.stat().st_mode & 0o7777, staged.stat().st_nlink) == (0o111, 1)
    assert cli.stat().st_mode & 0o7777 == 0o755


async def test_without_walls_the_environment_is_still_made_from_nothing(
    new_engine: NewEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_KEY", SECRET)
    engine = await new_engine(Tier.NONE)
    output = await _output(engine, "env; id -u; pwd")
    assert "MASTER_KEY" not in output
    assert SECRET not in output
    workspace = engine.pool._folders.folder_of(engine.spec.conversation) / "workspace"
    assert output.rstrip().endswith(str(workspace))


def test_arguments_cannot_become_flags(new_sandbox_dir: Callable[[], Path]) -> None:
    from claude_runner.command import arguments
    from claude_runner.sandbox import BEHIND_BUBBLEWRAP

    spec = LaunchSpec(str(uuid4()), "t", model="--dangerously-skip-permissions", system_prompt="--bare")
    argv = arguments(spec, BEHIND_BUBBLEWRAP, resume=False)
    assert "--dangerously-skip-permissions" not in argv
    assert "--bare" not in argv


def test_an_ordinary_user_gets_walls_too(new_sandbox_dir: Callable[[], Path]) -> None:
    """The same turn and the same look around, in a runner that is not root from before its first sandbox."""
    folder = new_sandbox_dir()
    os.chown(folder, ORDINARY, -1)
    program = [sys.executable, "-m", "tests.claude_runner.ordinary", str(folder)]
    done = subprocess.run(
        program, capture_output=True, text=True, timeout=60, check=False, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["uid"] != 0
    assert seen["tier"] == Tier.BUBBLEWRAP
    assert seen["reason"] == f"{Tier.BUBBLEWRAP_UID}: {NEEDS_ROOT}"
    assert seen["parts_tenants"]
    assert "1000" in seen["output"].split()
    assert "/etc/shadow: No such file" in seen["output"]
    assert seen["outcome"] == "completed"
    assert seen["left"] == []


# At most 200, whatever the wall does.
FORK = (
    "my $n = 0; for (1..200) { my $p = fork; last if !defined $p; "
    "if (!$p) { sleep 1; exit } $n++ } syswrite STDOUT, $n"
)


def _forked(launch: Launch, uid: int | None) -> int:
    user = {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}
    done = subprocess.run(launch.argv, env=launch.env, capture_output=True, check=False, timeout=20, **user)  # type: ignore[call-overload]
    return int(done.stdout)


@pytest.mark.parametrize("ordinary", [False, True] if AS_ROOT else [True], ids=str)
def test_the_kernel_itself_starts_no_more_processes_than_a_conversation_may_have(
    new_sandbox_dir: Callable[[], Path], ordinary: bool
) -> None:
    place = Folders(RunnerSettings(new_sandbox_dir())).place(str(uuid4()))
    place.make(place.config)
    uid = place.uid if ordinary else None
    if ordinary:
        place = replace(place, uid=None)
    fork = ["/usr/bin/perl", "-e", FORK]
    launch = walled(Tier.BUBBLEWRAP, place, Path("/bin/sh"), fork, {}, Limits(processes=64))
    assert 60 <= _forked(launch, uid) <= 72


async def test_the_walls_need_no_shell(engine: Engine) -> None:
    """What a launch passes on is data: a prompt full of shell is only a prompt."""
    hostile = engine.about(system_prompt="'; touch owned; $(touch owned) `touch owned`\n--")
    assert (await hostile.say("echo fine")).text == "fine"
    assert not hostile.pool.has_files(hostile.spec.conversation)


def test_the_environment_of_a_walled_launch_is_empty(new_sandbox_dir: Callable[[], Path]) -> None:
    folders = Folders(RunnerSettings(new_sandbox_dir()))
    place = folders.place(str(uuid4()))
    place.make(place.config)
    launch = walled(Tier.BUBBLEWRAP, place, Path("/bin/sh"), ["/bin/sh", "-c", "env"], {"GIVEN": "1"})
    assert launch.env == {}
    done = subprocess.run(launch.argv, env=launch.env, capture_output=True, text=True, check=True)
    names = {line.split("=")[0] for line in done.stdout.splitlines()}
    assert names == {*("GIVEN", "HOME", "LANG", "LOGNAME", "PATH", "PWD", "SHELL", "TERM", "TMPDIR", "USER")}
