"""Child processes that can't outlive us, and that end in order.

Each child leads a session of its own, so that a Ctrl-C or a SIGTERM to our process group reaches us alone
and we end the children one after the other. When we are killed instead, the kernel signals them
(PR_SET_PDEATHSIG). That signal follows the *thread* that started the child: start them from the main one.
"""

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

logger = logging.getLogger("parley.children")

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class Account:
    """The operating system's user and group that a child runs as."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Step:
    """One rung of the stop ladder: the signal, and the seconds that it gets before the next one."""

    signal: signal.Signals
    seconds: float


@dataclass(slots=True)
class Child:
    """A process to be started, ended and started again.

    `env` is the whole environment: nothing is copied from ours. `stdin` is written and closed at the start.
    `output` is a file descriptor, or subprocess.PIPE to read `process.stdout`.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    account: Account | None = None
    stdin: bytes = b""
    output: int = subprocess.DEVNULL
    ladder: Sequence[Step] = (Step(signal.SIGTERM, 10),)
    orphaned: signal.Signals = signal.SIGKILL
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def exit_code(self) -> int | None:
        return self.process.poll() if self.process else None

    def start(self) -> None:
        """Start it, once; OSError where the program can't be started."""
        process = subprocess.Popen(
            self.argv,
            env=self.env,
            cwd=self.cwd,
            stdin=subprocess.PIPE if self.stdin else subprocess.DEVNULL,
            stdout=self.output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=self.account.uid if self.account else None,
            group=self.account.gid if self.account else None,
            extra_groups=[] if self.account else None,
            preexec_fn=_follow(os.getpid(), self.orphaned),
        )
        self.process = process
        if process.stdin:
            with suppress(BrokenPipeError), process.stdin:
                process.stdin.write(self.stdin)

    def stop(self, hurry: threading.Event | None = None) -> None:
        """End it and all that it started; return when they are gone. `hurry` cuts each wait short."""
        process = self.process
        if process is None or process.poll() is not None:
            return  # its number may be somebody else's by now
        family = _descendants(process.pid)
        for step in self.ladder:
            process.send_signal(step.signal)
            if self._ends_within(step.seconds, hurry):
                break
            logger.warning("%s did not end within %.0f s of %s", self.name, step.seconds, step.signal.name)
        else:
            process.kill()
            process.wait()
        end_now(family)

    def _ends_within(self, seconds: float, hurry: threading.Event | None) -> bool:
        until = time.monotonic() + seconds
        while self.alive and time.monotonic() < until and not (hurry and hurry.is_set()):
            time.sleep(0.02)
        return not self.alive


def _descendants(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def _is_dead(process: psutil.Process) -> bool:
    """Gone, or waiting for init to take note of it."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def end_now(processes: Sequence[psutil.Process], seconds: float = 5) -> None:
    """Kill what is left of `processes` after a second's grace; a reused pid is never hit."""
    _, left = psutil.wait_procs(processes, timeout=1)
    left = [process for process in left if not _is_dead(process)]
    for process in left:
        logger.warning("killing %s, which was left over", process)
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=seconds)


def _follow(parent: int, orphaned: signal.Signals) -> Callable[[], None]:
    """What a new child does first: ask for a signal at its parent's death, which may have come already."""

    def follow() -> None:
        if sys.platform == "linux":
            _libc.prctl(PR_SET_PDEATHSIG, int(orphaned))
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGKILL)

    return follow


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
        return True


def free_port(preferred: int = 0) -> int:
    """A port of 127.0.0.1 that nobody listens on: the preferred one if it is free."""
    if preferred and is_free("127.0.0.1", preferred):
        return preferred
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
