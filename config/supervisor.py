"""Keeps the processes of one machine running, and ends them in order.

Single-threaded but for one reader per child: children follow the thread that started them, so the main
thread starts, watches and ends them all.
"""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from config.children import Child
from config.embedded import EmbeddedServers

WATCH_SECONDS = 0.25
LONGEST_PAUSE = 30.0
STEADY_SECONDS = 60.0  # who lived this long starts with a clean slate
MOST_DEATHS = 6


class GaveUp(Exception):
    """A child died again and again."""


@dataclass(slots=True)
class Stop:
    """The wish to end: the first signal sets `wanted`, one a second or more later sets `hurry`.

    `make` and a terminal both pass signals on, so two that come together are one wish.
    """

    wanted: threading.Event = field(default_factory=threading.Event)
    hurry: threading.Event = field(default_factory=threading.Event)
    since: float = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.wanted.is_set():
            self.since = time.monotonic()
            self.wanted.set()
        elif time.monotonic() - self.since > 1:
            self.hurry.set()

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Listen to SIGINT, SIGTERM and SIGHUP meanwhile."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, self) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass(slots=True)
class Kept:
    """A child that is started again when it dies, each time a little later."""

    child: Child
    deaths: int = 0
    born: float = 0.0
    due: float | None = None
    reader: threading.Thread | None = None

    def start(self) -> None:
        self.born, self.due = time.monotonic(), None
        self.child.output = subprocess.PIPE
        self.child.start()
        self.reader = threading.Thread(target=relay, args=(self.child,), daemon=True)
        self.reader.start()

    def end(self, hurry: threading.Event) -> None:
        """End it, and pass on its last words."""
        self.child.stop(hurry)
        if self.reader:
            self.reader.join(timeout=2)

    def look(self) -> None:
        """Start it again if it is dead and its pause is over; GaveUp if that happened too often."""
        now = time.monotonic()
        if self.child.alive:
            return
        if self.due is None:
            self.deaths = 1 if now - self.born > STEADY_SECONDS else self.deaths + 1
            if self.deaths >= MOST_DEATHS:
                raise GaveUp(
                    f"{self.child.name} ended {self.deaths} times in a row, last with {self._code()}"
                )
            pause = min(2.0 ** (self.deaths - 1), LONGEST_PAUSE)
            say(self.child.name, f"ended with {self._code()}; starting again in {pause:.0f} s")
            self.due = now + pause
        elif now >= self.due:
            self.start()

    def _code(self) -> str:
        code = self.child.exit_code or 0
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


@dataclass(slots=True)
class Supervisor:
    servers: EmbeddedServers
    stop: Stop
    kept: list[Kept] = field(default_factory=list)

    def start(self, child: Child) -> None:
        self.kept.append(Kept(child))
        self.kept[-1].start()

    def run(self, child: Child) -> int | None:
        """Run it to its end and give its exit code; None if we were asked to end first."""
        kept = Kept(child)
        kept.start()
        while child.alive and not self.stop.wanted.wait(0.02):
            pass
        kept.end(self.stop.hurry)
        return None if self.stop.wanted.is_set() else child.exit_code

    def watch(self) -> None:
        """Return when we are asked to end; GaveUp or ServerError if something can't be kept running."""
        while not self.stop.wanted.wait(WATCH_SECONDS):
            self.look()

    def look(self) -> None:
        for name in self.servers.revive():
            say(name, "died; starting it again")
        for kept in self.kept:
            kept.look()

    def end(self) -> None:
        """End the children, the last started one first, then Valkey and PostgreSQL."""
        while self.kept:
            self.kept.pop().end(self.stop.hurry)
        self.servers.stop()


def relay(child: Child) -> None:
    """Pass on what a child prints, with its name, until it closes its output."""
    process = child.process
    if process is None or process.stdout is None:
        return
    for line in process.stdout:
        say(child.name, line.decode(errors="replace").rstrip())
    process.stdout.close()


def say(name: str, text: str) -> None:
    """One line for the person at the terminal. A terminal that went away is no reason to stop."""
    try:
        sys.stdout.write(f"{name:>8} | {text}\n")
        sys.stdout.flush()
    except (OSError, ValueError):
        return
