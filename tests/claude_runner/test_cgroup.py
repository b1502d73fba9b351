"""Control groups: where they may be made, in either version, and what they hold."""

import os
import subprocess
from collections.abc import Callable
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


def _mounts(kind: str, point: Path, settings: str = "rw", root: str = "/", options: str = "rw,nosuid") -> str:
    return f"30 20 0:30 {root} {point} {options} shared:9 - {kind} {kind} rw,{settings}\n"


def _folder(path: Path, **files: str) -> Path:
    path.mkdir(parents=True)
    for name, text in {"procs": "", **files}.items():
        (path / f"cgroup.{name}").write_text(text)
    return path


def test_version_1_has_a_folder_for_each_controller(tmp_path: Path) -> None:
    folders = [_folder(tmp_path / name) for name in ("memory", "pids", "cpuacct")]
    mounts = "".join(_mounts("cgroup", folder, folder.name) for folder in folders)
    groups = Groups(mounts, "7:pids:/\n4:memory:/\n3:cpu,cpuacct:/\n1:name=systemd:/\n")
    assert set(groups.parents) == set(folders)


def test_version_2_has_one_and_the_runner_steps_aside(tmp_path: Path) -> None:
    own = _folder(tmp_path / "all", controllers="cpu memory pids", subtree_control="")
    assert Groups(_mounts("cgroup2", own), "0::/\n").parents == (own,)
    assert (own / "parley-runner" / "cgroup.procs").read_text() == "0"
    assert (own / "cgroup.subtree_control").read_text() == "+memory +pids"
    again = Groups(_mounts("cgroup2", own), "0::/parley-runner\n")
    assert again.parents == (own,)


def test_what_was_not_handed_over_is_left_alone(tmp_path: Path) -> None:
    """Somebody else's group below the root, whom this runner only lives in."""
    _folder(tmp_path / "pids")
    _folder(tmp_path / "pids" / "foreign")
    mounts = _mounts("cgroup", tmp_path / "pids", "pids")
    assert Groups(mounts, "7:pids:/foreign\n").parents == () or os.geteuid() != 0
    readable = _mounts("cgroup", tmp_path / "pids", "pids", options="ro")
    assert Groups(readable, "7:pids:/\n").parents == ()
    elsewhere = _mounts("cgroup", tmp_path / "pids", "pids", root="/other")
    assert Groups(elsewhere, "7:pids:/\n").parents == ()
    assert Groups(_mounts("tmpfs", tmp_path), "0::/\n").parents == ()


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
    groups = Groups(_mounts("tmpfs", tmp_path), "0::/\n")
    groups.parents = (tmp_path / "gone",)
    assert groups.make(str(uuid4()), LIMITS, 1.0) == Group()
    assert "no control group" in caplog.text


@pytest.mark.needs_bubblewrap
@pytest.mark.parametrize("tier", [Tier.NONE, Tier.BUBBLEWRAP_UID if os.geteuid() == 0 else Tier.BUBBLEWRAP])
def test_all_of_a_launch_is_in_its_group(new_sandbox_dir: Callable[[], Path], tier: Tier) -> None:
    """In the groups that this machine gives us, if it gives any: none is a case too."""
    groups = Groups()
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
