"""Limits by themselves: what counts, when it is too much, and what the person reads."""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from claude_runner import Limits
from claude_runner.census import Census, Running, Spent, threads_of
from claude_runner.cgroup import Group
from claude_runner.limits import (
    ROOM,
    Used,
    Watch,
    excess,
    kernel_walls,
    overfull,
    too_long,
    too_much_output,
)
from claude_runner.stored import FOLDER, HELD, Stored, _Count, stored
from tests.uids import AS_ROOT

LIMITS = Limits(memory=2 << 30, processes=1500, cpu=90.0, disk=3 << 20, files=10, output=5 << 10, turn=600.0)


@pytest.mark.parametrize(
    ("used", "sentence"),
    [
        (Used(memory=2 << 30, processes=1500, cpu=100.0, temporary=10), ""),
        (Used(memory=(2 << 30) + 1), "Stopped: the conversation used more than 2 GB of memory."),
        (Used(processes=1501), "Stopped: the conversation ran more than 1,500 processes."),
        (Used(cpu=100.1), "Stopped: the turn used more than 90 seconds of processor time."),
        (Used(temporary=11), "Stopped: the conversation made more than 10 temporary files."),
    ],
)
def test_a_limit_may_be_reached_and_not_exceeded(used: Used, sentence: str) -> None:
    assert excess(LIMITS, used, cpu_before=10.0) == sentence


@pytest.mark.parametrize(
    ("there", "sentence"),
    [
        (Stored(3 << 20, 10), ""),
        (
            Stored((3 << 20) + 1, 1),
            "Stopped: the conversation's files took more than 3 MB. Have some deleted.",
        ),
        (Stored(1, 11), "Stopped: the conversation made more than 10 files. Have some deleted."),
    ],
)
def test_so_with_files(there: Stored, sentence: str) -> None:
    assert overfull(LIMITS, there) == sentence


def test_sentences_name_their_limit() -> None:
    assert too_long(LIMITS) == "Stopped: the turn ran for more than 10 minutes."
    assert too_much_output(LIMITS) == "Stopped: the turn wrote more than 5 kB."


def test_files_are_counted_with_all_below_and_never_through_links(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "deep" / "deeper").mkdir(parents=True)
    (folder / "deep" / "deeper" / "file").write_bytes(b"x" * 10_000)
    (tmp_path / "foreign").write_bytes(b"x" * 1_000_000)
    (folder / "link").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder)
    found = stored(folder, LIMITS)
    assert found.files == 5
    assert 10_000 <= found.bytes < 200_000


def _deep(folder: Path, levels: int) -> list[int]:
    """Descriptors of so many folders in each other, below any path that could be opened."""
    way = [os.open(folder, FOLDER)]
    for _ in range(levels):
        os.mkdir("d" * 100, dir_fd=way[-1])
        way.append(os.open("d" * 100, FOLDER, dir_fd=way[-1]))
    return way


def test_t16_files_below_any_path_are_counted(tmp_path: Path) -> None:
    way = _deep(tmp_path, 2 * HELD)
    for folder in (way[-1], way[3]):
        file = os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=folder)
        os.write(file, b"x" * 1_000_000)
        os.close(file)
    for descriptor in way:
        os.close(descriptor)
    found = stored(tmp_path, replace(LIMITS, files=1000))
    assert found.files == 2 * HELD + 2
    assert found.bytes >= 2_000_000


def test_t16_who_moves_deep_folders_away_from_the_count_has_too_many(tmp_path: Path) -> None:
    descriptors = _deep(tmp_path, HELD + 3)
    count = _Count(LIMITS)
    way = [count._level(os.dup(descriptors[0]))]
    for _ in range(HELD + 2):
        count._down(way)
    os.rename("d" * 100, "moved", src_dir_fd=descriptors[HELD + 1], dst_dir_fd=descriptors[0])
    count.files = 0
    count._up(way)
    assert count.files > LIMITS.files
    for descriptor in (*descriptors, *(level.descriptor for level in way if level.descriptor >= 0)):
        os.close(descriptor)


def test_t16_deleted_files_count_once_while_somebody_holds_them(tmp_path: Path) -> None:
    pids = [os.getpid(), os.getpid(), 1 << 30]
    before = stored(tmp_path, LIMITS, pids)  # pytest holds some itself
    with open(tmp_path / "held", "wb") as file:
        file.write(b"x" * 1_000_000)
        file.flush()
        (tmp_path / "held").unlink()
        again = os.dup(file.fileno())
        found = stored(tmp_path, LIMITS, pids)
        os.close(again)
    assert found.files == before.files + 1
    assert 1_000_000 <= found.bytes - before.bytes < 1_100_000
    assert stored(tmp_path, LIMITS, pids) == before


def test_a_count_ends_where_it_is_too_much_already(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / str(number)).touch()
    assert stored(tmp_path, LIMITS).files == 11


def test_what_lay_there_may_be_deleted_and_not_become_more(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / str(number)).touch()
    watch = Watch(LIMITS, tmp_path)
    assert watch.overfull() == ""
    (tmp_path / "0").unlink()
    assert watch.overfull() == ""
    for number in range(ROOM.files):
        (tmp_path / f"the CLI's own {number}").touch()
    assert watch.overfull() == ""
    (tmp_path / "20").touch()
    (tmp_path / "21").touch()
    assert "more than 10 files" in watch.overfull()


def test_files_are_not_counted_all_the_time(tmp_path: Path) -> None:
    watch = Watch(LIMITS, tmp_path)
    assert watch.due
    watch.overfull()
    assert not watch.due


def test_a_turn_is_not_charged_for_the_one_before(tmp_path: Path) -> None:
    watch = Watch(LIMITS, tmp_path)
    first, second = (Running(1, 0, 1, 7, cpu, 0.0) for cpu in (500.0, 591.0))
    assert watch.excess([first], walled=False) == ""
    assert "processor time" in watch.excess([second], walled=False)
    watch.begin_turn()
    assert watch.excess([second], walled=False) == ""


def test_t16_where_a_group_counts_the_time_its_count_is_believed(tmp_path: Path) -> None:
    watch, family = Watch(LIMITS, tmp_path), [Running(1, 0, 1, 7, 0.0, 0.0)]
    (tmp_path / "cpuacct.usage").write_text("7000000000")
    watch.group = Group((tmp_path,))
    assert watch.excess(family, walled=False) == ""
    (tmp_path / "cpuacct.usage").write_text("98000000000")
    assert "processor time" in watch.excess(family, walled=False)


def _spent(*looks: list[Running]) -> float:
    spent = Spent()
    for family in looks:
        spent.look(family)
    return spent.seconds


def test_t16_time_is_spent_once_whoever_waits_for_whom() -> None:
    """A family at rest, a child that has worked, and what is left when it has ended."""
    rest, worked = Running(1, 0, 1, 7, 5.0, 0.0), Running(2, 1, 1, 8, 2.0, 1.0)
    waited, ignored = Running(1, 0, 1, 7, 5.0, 4.0), rest
    assert _spent([rest], [rest]) == 0
    assert _spent([rest], [rest, worked], [waited], [waited]) == 4
    assert _spent([rest], [rest, worked], [ignored], [ignored]) == 3
    assert _spent([rest], [rest, worked], [rest, Running(2, 1, 1, 9, 2.0, 0.0)]) == 5


BURNS = """
import os, signal, sys, time
signal.signal(signal.SIGCHLD, getattr(signal, sys.argv[1]))
sys.stdin.readline()
for _ in range(3):
    if not os.fork():
        while time.process_time() < 0.4:
            pass
        os._exit(0)
    try:
        os.wait()
    except ChildProcessError:
        pass
print("done", flush=True)
time.sleep(30)
"""


@pytest.mark.parametrize("handler", ["SIG_DFL", "SIG_IGN"])
def test_t16_children_that_nobody_waits_for_are_counted_while_they_live(handler: str) -> None:
    command = [sys.executable, "-c", BURNS, handler]
    spent = Spent()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as burner:
        assert burner.stdin is not None
        assert burner.stdout is not None
        os.set_blocking(burner.stdout.fileno(), False)
        try:
            spent.look(Census().family(burner.pid))
            burner.stdin.write(b"go\n")
            burner.stdin.flush()
            while not burner.stdout.read():
                spent.look(Census().family(burner.pid))
                time.sleep(0.02)
            spent.look(Census().family(burner.pid))
        finally:
            burner.kill()
    assert 0.9 < spent.seconds < 1.6


def test_the_hosts_temporary_files_are_nobodys(tmp_path: Path) -> None:
    """Bubblewrap, while it builds the walls, still has the host's root."""
    watch = Watch(replace(LIMITS, memory=1 << 30, cpu=1e9, files=0), tmp_path)
    Path(tempfile.gettempdir(), f"somebodys-{os.getpid()}").touch()
    try:
        assert watch.excess(Census().family(os.getpid()), walled=True) == ""
    finally:
        Path(tempfile.gettempdir(), f"somebodys-{os.getpid()}").unlink()


def test_a_census_finds_children_and_what_they_use() -> None:
    with subprocess.Popen(["/bin/sh", "-c", "sleep 30 & read -r line"], stdin=subprocess.PIPE) as child:
        try:
            family = Census().family(child.pid)
            while len(family) < 2:
                family = Census().family(child.pid)
            assert family[0].pid == child.pid
            assert all(one.memory() > 0 and one.threads == 1 for one in family)
        finally:
            for one in reversed(Census().family(child.pid)):
                os.kill(one.pid, 9)
    assert Census().family(child.pid) == []


LEADERLESS = """
import ctypes, os, subprocess, threading, time

def go_on():
    held = b"x" * (64 << 20)
    child = subprocess.Popen(["sleep", "30"], stdout=subprocess.DEVNULL)
    while time.process_time() < 0.5:
        pass
    print(child.pid, flush=True)
    time.sleep(30)

threading.Thread(target=go_on).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)
"""


def test_t16_whose_main_thread_has_ended_is_counted_with_all_below() -> None:
    with subprocess.Popen([sys.executable, "-c", LEADERLESS], stdout=subprocess.PIPE) as leader:
        assert leader.stdout is not None
        try:
            child = int(leader.stdout.readline())
            assert ") Z " in Path(f"/proc/{leader.pid}/stat").read_text()
            family = Census().family(leader.pid)
            assert [one.pid for one in family] == [leader.pid, child]
            assert family[0].memory() > 64 << 20
            assert family[0].own >= 0.4
        finally:
            for one in reversed(Census().family(leader.pid)):
                os.kill(one.pid, 9)


def test_where_others_are_counted_too_the_wall_stands_beyond_them() -> None:
    assert "--nproc=1687" in kernel_walls(LIMITS, beside=0)
    assert "--nproc=1787" in kernel_walls(LIMITS, beside=100)


def test_all_threads_of_a_uid_are_counted() -> None:
    own = sum(one.threads for one in Census().family(os.getpid()))
    assert threads_of(os.getuid()) >= own
    with subprocess.Popen(["sleep", "30"], user=54399 if AS_ROOT else None) as child:
        try:
            assert threads_of(54399) == AS_ROOT
            assert threads_of(os.getuid()) >= own + (not AS_ROOT)
        finally:
            child.kill()
