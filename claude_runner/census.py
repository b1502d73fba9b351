"""Which processes a conversation has and what they use, as /proc has it at this moment."""

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

TICKS, PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class Running:
    """`began`: ticks since the machine's start. `own`: seconds of processor time; `awaited`: those of its children
    that have ended, where it waited for them.
    """

    pid: int
    parent: int
    threads: int
    began: int
    own: float
    awaited: float

    def memory(self) -> int:
        """Bytes that are its own: neither of a file nor shared."""
        return _memory(f"/proc/{self.pid}") or next(filter(None, map(_memory, _threads(self.pid))), 0)


class Spent:
    """Seconds of processor time that a family has used since it was first looked at, look by look.

    Of children whose parent does not wait for them the kernel forgets the time: it counts as far as looks saw it.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._before: dict[tuple[int, int], Running] | None = None

    def look(self, family: Iterable[Running]) -> None:
        now = {(one.pid, one.began): one for one in family}
        if self._before is not None:
            before = sum(one.own + one.awaited for one in self._before.values())
            grown = sum(one.own - self._own_before(one) for one in now.values())
            # What ended and was waited for shows in the first alone, what ended and was not in the second.
            self.seconds += max(sum(one.own + one.awaited for one in now.values()) - before, grown)
        self._before = now

    def _own_before(self, one: Running) -> float:
        seen = (self._before or {}).get((one.pid, one.began))
        return seen.own if seen is not None else 0.0


class Census:
    """Of these processes, or of all there are, those that are not dead already. All of them take milliseconds."""

    def __init__(self, pids: Iterable[int] | None = None) -> None:
        if pids is None:
            pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        self._by_pid = {one.pid: one for one in map(_running, pids) if one is not None}
        self._children: dict[int, list[Running]] = defaultdict(list)
        for one in self._by_pid.values():
            self._children[one.parent].append(one)

    def everybody(self) -> list[Running]:
        return [*self._by_pid.values()]

    def family(self, pid: int) -> list[Running]:
        """The process and all below it."""
        found = [self._by_pid[pid]] if pid in self._by_pid else []
        for one in found:
            found += self._children[one.pid]
        return found


def _threads(pid: int) -> Iterator[str]:
    """Whose main thread has ended shows its memory in the others."""
    with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/task") as entries:
        yield from (entry.path for entry in entries)


def _memory(folder: str) -> int:
    with contextlib.suppress(OSError):
        _, resident, shared, *_ = contents(f"{folder}/statm").split()
        return (int(resident) - int(shared)) * PAGE
    return 0


def contents(path: str) -> bytes:
    """All of a file that the kernel makes up: Python's own files take longer than its answer. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # The kernel gives it in pieces as it likes.
        return b"".join(iter(lambda: os.read(descriptor, PIECE), b""))
    finally:
        os.close(descriptor)


def _running(pid: int) -> Running | None:
    # A process may end at any moment between two of these.
    with contextlib.suppress(OSError):
        # Its name stands in brackets and may hold anything, brackets too.
        fields = contents(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        threads = int(fields[17])
        # One whose main thread alone has ended is shown as a zombie, too.
        if fields[0] in b"ZX" and threads <= 1:
            return None
        own, awaited = (sum(map(int, fields[at : at + 2])) / TICKS for at in (11, 13))
        return Running(pid, int(fields[1]), threads, int(fields[19]), own, awaited)
    return None


def threads_of(uid: int) -> int:
    """How many all processes of this uid have, which is what the kernel counts against its limit of processes."""
    threads = 0
    with os.scandir("/proc") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and entry.stat().st_uid == uid and (one := _running(int(entry.name))):
                    threads += one.threads
    return threads


def children(pid: int) -> list[int]:
    """Those of all its threads: each thread has children of its own."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found += map(int, contents(f"/proc/{pid}/task/{thread}/children").split())
    return found


def below(pids: Iterable[int]) -> list[int]:
    """All that descend from these, themselves left out."""
    found = [child for pid in pids for child in children(pid)]
    for pid in found:
        found += children(pid)
    return found
