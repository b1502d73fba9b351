"""What a conversation may use, what it uses, and the sentence for the person when that is more."""

import contextlib
import os
import resource
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic

from claude_runner import descriptors
from claude_runner.census import Census, Running, Spent
from claude_runner.cgroup import Group
from claude_runner.spec import Limits
from claude_runner.stored import Stored, stored

# The kernel's wall stands a little behind ours: who runs into it is seen, and ended with a reason.
BEHIND = 9 / 8
# Of the limit, what the processes of a CLI that died of that wall are: its own threads are gone by then.
CROWD = 3 / 4
# File systems inside that lie in memory.
IN_MEMORY = ("tmp", "dev/shm")
# Where no control group shares the processors out, the runner, `web` and the database come first.
NICE = 5
# Of its time, what the counting of files may take.
COUNTING = 0.1


@dataclass(frozen=True, slots=True)
class Used:
    """At one moment: bytes, processes with their threads, temporary files, seconds of processor time in all."""

    memory: int = 0
    processes: int = 0
    cpu: float = 0.0
    temporary: int = 0


# Who is over the limit still needs some to work with: the CLI writes files of its own.
ROOM = Stored(64 << 20, 500)


class Watch:
    """One process of a conversation against its limits. The two that look block: call them in a thread."""

    def __init__(self, limits: Limits, folder: Path) -> None:
        self.limits, self._folder = limits, folder
        # What lies there too many already may be deleted in peace, but not become more.
        self._allowed: Limits | None = None
        self._spent = Spent()
        self._family: list[Running] = []
        self._cpu_before: float | None = None
        self._next_count = 0.0
        self.group = Group()

    def begin_turn(self) -> None:
        self._cpu_before = None

    def family(self, pid: int, everybody: Callable[[], Census], *, walled: bool) -> list[Running]:
        """Its processes: those in its group, which walls let nobody out of; else `pid` and all below."""
        grouped = self.group.processes() if walled else None
        return everybody().family(pid) if grouped is None else Census(grouped).everybody()

    def excess(self, family: Iterable[Running], *, walled: bool) -> str:
        """Why the conversation has to stop for what its processes use, or "". Takes well below a millisecond."""
        family = self._family = list(family)
        self._spent.look(family)
        counted = self.group.cpu()
        cpu = self._spent.seconds if counted is None else counted
        used = _used(family, walled, self.group.memory(), cpu)
        if self._cpu_before is None:
            # The first look of a turn: what the start took is not the turn's.
            self._cpu_before = used.cpu
        return excess(self.limits, used, self._cpu_before)

    @property
    def due(self) -> bool:
        """Whether its files should be counted again."""
        return monotonic() >= self._next_count

    def overfull(self) -> str:
        """Why the conversation has to stop for what it stores, or "". A million files take two seconds."""
        began = monotonic()
        self._next_count = float("inf")
        pids = [one.pid for one in self._family]
        if self._allowed is None:
            there = stored(
                self._folder, replace(self.limits, disk=1 << 62, files=self.limits.files * 2), pids
            )
            disk = max(self.limits.disk, there.bytes + ROOM.bytes)
            files = max(self.limits.files, there.files + ROOM.files)
            self._allowed = replace(self.limits, disk=disk, files=files)
        else:
            there = stored(self._folder, self._allowed, pids)
        self._next_count = monotonic() + max(1.0, (monotonic() - began) / COUNTING)
        return overfull(self.limits, there) if overfull(self._allowed, there) else ""


def _used(family: list[Running], walled: bool, counted: int | None, cpu: float) -> Used:
    in_memory = temporary = 0
    for folder in IN_MEMORY if walled else ():
        if system := _inner_system(family, folder):
            in_memory += (system.f_blocks - system.f_bfree) * system.f_frsize
            temporary += system.f_files - system.f_ffree
    return Used(
        in_memory + sum(one.memory() for one in family) if counted is None else counted,
        sum(one.threads for one in family),
        cpu,
        temporary,
    )


def _inner_system(family: list[Running], folder: str) -> os.statvfs_result | None:
    """The file system at that folder inside, as the youngest shows it whose root can be looked at."""
    for one in reversed(family):
        with contextlib.suppress(OSError):
            inner = f"/proc/{one.pid}/root/{folder}"
            # Before bubblewrap has changed its root, this is the host's.
            if os.stat(inner).st_dev != os.stat(f"/{folder}").st_dev:
                return os.statvfs(inner)
    return None


def excess(limits: Limits, used: Used, cpu_before: float) -> str:
    """Why the conversation has to stop, or "". `cpu_before`: what was used when the turn began."""
    if used.memory > limits.memory:
        return too_much_memory(limits)
    if used.processes > limits.processes:
        return too_many_processes(limits)
    if used.temporary > limits.files:
        return f"Stopped: the conversation made more than {limits.files:,} temporary files."
    if used.cpu - cpu_before > limits.cpu:
        return f"Stopped: the turn used more than {_time(limits.cpu)} of processor time."
    return ""


def overfull(allowed: Limits, stored: Stored) -> str:
    if stored.bytes > allowed.disk:
        return f"Stopped: the conversation's files took more than {_size(allowed.disk)}. Have some deleted."
    if stored.files > allowed.files:
        return f"Stopped: the conversation made more than {allowed.files:,} files. Have some deleted."
    return ""


def too_much_memory(limits: Limits) -> str:
    return f"Stopped: the conversation used more than {_size(limits.memory)} of memory."


def too_many_processes(limits: Limits) -> str:
    return f"Stopped: the conversation ran more than {limits.processes:,} processes."


def too_long(limits: Limits) -> str:
    return f"Stopped: the turn ran for more than {_time(limits.turn)}."


def too_much_output(limits: Limits) -> str:
    return f"Stopped: the turn wrote more than {_size(limits.output)}."


def kernel_walls(limits: Limits, *, beside: int) -> list[str]:
    """The command before a command that gives it these limits. `beside`: what the kernel counts with its own."""
    file = _allowed(resource.RLIMIT_FSIZE, limits.file)
    processes = _allowed(resource.RLIMIT_NPROC, beside + int(limits.processes * BEHIND))
    walls = [
        f"--fsize={file}",
        "--core=0",
        "--nice=0",
        f"--nproc={processes}",
        f"--nofile={descriptors.inside()}",
    ]
    return ["/usr/bin/nice", "-n", str(NICE), "/usr/bin/prlimit", *walls, "--"]


def crowd(limits: Limits) -> int:
    """A CLI that fails beside more threads than that had no room left for one of its own."""
    return int(limits.processes * CROWD)


def _allowed(kind: int, wanted: int) -> int:
    """What the runner itself may have is the most that it can give."""
    _, most = resource.getrlimit(kind)
    return wanted if most == resource.RLIM_INFINITY else min(wanted, most)


def _size(number: int) -> str:
    for unit, name in ((1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "kB")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number} bytes"


def _time(seconds: float) -> str:
    return f"{seconds / 60:.3g} minutes" if seconds >= 120 else f"{seconds:.3g} seconds"
