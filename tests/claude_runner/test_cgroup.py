"""Control groups: where they may be made, in either version, and what they hold."""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from claude_runner import Limits, RunnerSettings, Tier
from claude_runner.census import Census
from claude_runner.cgroup import Group, Groups
from claude_runner.folders import Folders
from claude_runner.limits import Watch
from claude_runner.sandbox import walled

LIMITS = Limits(memory=800, processes=80)
RUNNER = Path("/var/lib/parley/one")
TIERS = [Tier.NONE, Tier.BUBBLEWRAP_UID if os.geteuid() == 0 else Tier.BUBBLEWRAP]


def _mounts(kind: str, point: Path, settings: str = "rw", root: str = "/", options: str = "rw,nosuid") -> str:
    return f"30 20 0:30 {root} {point} {options} shared:9 - {kind} {kind} rw,{settings}\n"


def _folder(path: Path, **files: str) -> Path:
    path.mkdir(parents=True)
    for name, text in {"procs": "", **files}.items():
        (path / f"cgroup.{name}").write_text(text)
    return path


def test_version_1_has_a_folder_for_each_controller(tmp_path: Path) -> None:
    folders = [_folder(tmp_path / name) for name in ("memory", "pids", "cpu", "cpuacct")]
    mounts = "".join(_mounts("cgroup", folder, folder.name) for folder in folders)
    groups = Groups(RUNNER, mounts, "7:pids:/\n4:memory:/\n3:cpu,cpuacct:/\n1:name=systemd:/\n")
    assert set(groups.parents) == set(folders)


def test_version_2_has_one_and_the_runner_steps_aside(tmp_path: Path) -> None:
    own = _folder(tmp_path / "all", controllers="cpu io memory pids", subtree_control="")
    assert Groups(RUNNER, _mounts("cgroup2", own), "0::/\n").parents == (own,)
    assert (own / "parley-runner" / "cgroup.procs").read_text() == "0"
    assert (own / "cgroup.subtree_control").read_text() == "+memory +pids +cpu"
    again = Groups(RUNNER, _mounts("cgroup2", own), "0::/parley-runner\n")
    assert again.parents == (own,)


def test_a_runner_removes_what_its_former_process_left_and_no_neighbours_group(tmp_path: Path) -> None:
    """A neighbour's that was just made is empty, too, and its process is about to enter it."""
    own = _folder(tmp_path / "all", controllers="cpu io memory pids", subtree_control="")
    mounts = _mounts("cgroup2", own)
    left = Groups(RUNNER, mounts, "0::/\n").make("one", LIMITS, 9 / 8)
    neighbours = Groups(Path("/var/lib/parley/two"), mounts, "0::/\n").make("one", LIMITS, 9 / 8)
    Groups(RUNNER, mounts, "0::/\n")
    assert [folder.exists() for group in (left, neighbours) for folder in group.folders] == [False, True]


def test_version_2_shares_processors_out_where_they_were_handed_over(tmp_path: Path) -> None:
    own = _folder(tmp_path / "all", controllers="memory pids", subtree_control="")
    assert Groups(RUNNER, _mounts("cgroup2", own), "0::/\n").parents == (own,)
    assert (own / "cgroup.subtree_control").read_text() == "+memory +pids"
    less = _folder(tmp_path / "less", controllers="cpu pids", subtree_control="")
    assert Groups(RUNNER, _mounts("cgroup2", less), "0::/\n").parents == ()


def test_what_was_not_handed_over_is_left_alone(tmp_path: Path) -> None:
    """Somebody else's group below the root, whom this runner only lives in."""
    _folder(tmp_path / "pids")
    _folder(tmp_path / "pids" / "foreign")
    mounts = _mounts("cgroup", tmp_path / "pids", "pids")
    assert Groups(RUNNER, mounts, "7:pids:/foreign\n").parents == () or os.geteuid() != 0
    readable = _mounts("cgroup", tmp_path / "pids", "pids", options="ro")
    assert Groups(RUNNER, readable, "7:pids:/\n").parents == ()
    elsewhere = _mounts("cgroup", tmp_path / "pids", "pids", root="/other")
    assert Groups(RUNNER, elsewhere, "7:pids:/\n").parents == ()
    assert Groups(RUNNER, _mounts("tmpfs", tmp_path), "0::/\n").parents == ()


def test_a_group_without_folders_does_nothing() -> None:
    group = Group()
    assert group.memory() is None
    assert group.processes() is None
    assert not group.killed()
    group.remove()


def test_walls_and_counts_of_both_versions(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, names in ((old, ("memory.limit_in_bytes",)), (new, ("memory.max", "pids.max"))):
        folder.mkdir()
        for name in names:
            (folder / name).touch()
        Group((folder,)).set(LIMITS, 9 / 8)
        assert {(folder / name).read_text() for name in names} <= {"900", "90"}
    (old / "memory.stat").write_text("cache 1\ntotal_rss 5\ntotal_shmem 7\ntotal_cache 100\n")
    (old / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n")
    (new / "memory.stat").write_text("anon 50\nfile 1000\nshmem 2\n")
    (new / "memory.events").write_text("low 0\nmax 8\noom 1\noom_kill 1\n")
    assert (Group((old,)).memory(), Group((old,)).killed()) == (12, False)
    assert (Group((new,)).memory(), Group((new,)).killed()) == (52, True)


def test_the_processors_time_of_both_versions(tmp_path: Path) -> None:
    old, new, none = (_folder(tmp_path / name) for name in ("old", "new", "none"))
    (old / "cpuacct.usage").write_text("1500000000\n")
    (new / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 2000000\n")
    (none / "cpu.stat").write_text("nr_periods 0\nnr_throttled 0\n")
    assert [Group((none, folder)).cpu() for folder in (old, new)] == [1.5, 2.5]
    assert Group((none,)).cpu() is None


def test_a_group_that_cannot_be_made_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    groups = Groups(RUNNER, _mounts("tmpfs", tmp_path), "0::/\n")
    groups.parents = (tmp_path / "gone",)
    assert groups.make(str(uuid4()), LIMITS, 1.0) == Group()
    assert "no control group" in caplog.text


@contextlib.contextmanager
def _sandbox(folder: Path, tier: Tier, script: str, group: Group) -> Iterator[subprocess.Popen[bytes]]:
    """Has said that it is up."""
    place = Folders(RunnerSettings(folder)).place(str(uuid4()))
    place.make(place.config)
    launch = walled(tier, place, Path("/bin/sh"), ["/bin/bash", "-c", script], {}, Limits(), group)
    with subprocess.Popen(launch.argv, env=launch.env, cwd=launch.cwd, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"up\n"
            yield child
        finally:
            child.terminate()
            child.wait(5)
            group.remove()


@pytest.mark.needs_bubblewrap
@pytest.mark.parametrize("tier", TIERS)
def test_t16_a_conversation_comes_behind_the_runner_and_can_not_rise(
    new_sandbox_dir: Callable[[], Path], tier: Tier
) -> None:
    script = (
        "echo up; renice -n 0 -p $$ >/dev/null 2>&1; nice -n -1 true 2>/dev/null; nice; ulimit -e; sleep 30"
    )
    with _sandbox(new_sandbox_dir(), tier, script, Group()) as child:
        assert child.stdout is not None
        assert [int(child.stdout.readline()) for _ in range(2)] == [os.nice(0) + 5, 0]


def _spent(group: Group, pid: int) -> float:
    counted = group.cpu()
    return sum(one.own for one in Census().family(pid)) if counted is None else counted


@pytest.mark.needs_bubblewrap
def test_t16_a_busy_conversation_leaves_another_its_share(new_sandbox_dir: Callable[[], Path]) -> None:
    """Eight sessions of loops against one loop, on one processor."""
    groups, loop = Groups(RUNNER), "setsid sh -c 'while :; do :; done' &"
    made = [groups.make(str(uuid4()), Limits(), 1.0) for _ in range(2)]
    if not any(
        (folder / "cpu.shares").exists() or (folder / "cpu.weight").exists() for folder in made[0].folders
    ):
        for group in made:
            group.remove()
        pytest.skip("this machine lets nobody share its processors out")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        many = _sandbox(new_sandbox_dir(), TIERS[1], f"echo up; {loop * 8} wait", made[0])
        one = _sandbox(new_sandbox_dir(), TIERS[1], f"echo up; {loop} wait", made[1])
        with many as busy, one as other:
            os.sched_setaffinity(0, before)
            began = [_spent(group, child.pid) for group, child in zip(made, (busy, other), strict=True)]
            time.sleep(2)
            ended = [_spent(group, child.pid) for group, child in zip(made, (busy, other), strict=True)]
            much, little = (end - begin for begin, end in zip(began, ended, strict=True))
            assert little > much / 3
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.needs_bubblewrap
@pytest.mark.parametrize("tier", TIERS)
def test_all_of_a_launch_is_in_its_group(new_sandbox_dir: Callable[[], Path], tier: Tier) -> None:
    """In the groups that this machine gives us, if it gives any: none is a case too."""
    groups = Groups(RUNNER)
    place = Folders(RunnerSettings(new_sandbox_dir())).place(str(uuid4()))
    place.make(place.config)
    group = groups.make(str(uuid4()), LIMITS, 1.0)
    script = ["/bin/sh", "-c", "sleep 30 & sleep 30 & echo up; wait"]
    launch = walled(tier, place, Path("/bin/sh"), script, {}, LIMITS, group)
    child = subprocess.Popen(launch.argv, env=launch.env, cwd=launch.cwd, stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == b"up\n"
        for folder in group.folders:
            assert len((folder / "cgroup.procs").read_text().split()) >= 4
            counts = (folder / "cpuacct.usage").exists() or (folder / "cpu.stat").exists()
            assert group.cpu() or not counts
        # Its processes are those below its first, whoever tells them.
        watch = Watch(Limits(), place.folder)
        below = {one.pid for one in watch.family(child.pid, Census, walled=True)}
        assert len(below) >= 4
        watch.group = group
        assert {one.pid for one in watch.family(child.pid, Census, walled=True)} == below
    finally:
        child.terminate()
        child.wait(5)
        child.stdout.close()
    group.remove()
    assert [folder for folder in group.folders if folder.exists()] == []
