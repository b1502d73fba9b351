"""One child process: its lines in, its end watched, and a stop that returns only when all of it is gone."""

import asyncio
import contextlib
import logging
import os
import select
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from claude_runner import census
from claude_runner.confine import CROWDED
from claude_runner.errors import StartFailed
from claude_runner.sandbox import Launch

logger = logging.getLogger(__name__)

# No honest frame is longer: the Messages API takes no request above 32 MB.
LONGEST_LINE = 32 << 20
STDERR_KEPT = 8 << 10
# Seconds after each step: closing stdin (the CLI then flushes its transcript), SIGTERM, SIGKILL.
FLUSH, TERMINATE, KILL = 4.0, 2.0, 5.0
# How long `confine.py` may take to end all below it.
KEEP = 2.0
# How long what keeps a command that ended by itself may take to tell how.
TELL = 1.0


async def uncancelled[T](work: Coroutine[Any, Any, T] | asyncio.Task[T]) -> T:
    """Finish `work` whatever happens to the caller; a cancellation meanwhile is delivered afterwards."""
    task = work if isinstance(work, asyncio.Task) else asyncio.ensure_future(work)
    cancelled = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
        except Exception:  # noqa: BLE001 (the task's own failure: raised by result() below)
            break
    if cancelled is not None:
        raise cancelled
    return task.result()


class Child(asyncio.SubprocessProtocol):
    """Start with `await Child.start(...)`, in the event loop's thread: bubblewrap dies with that thread.

    `on_lines` gets the complete lines of each read. `on_end` is called once, after the last line.
    `on_flood` is called once, when a line has no end; nothing is read after that. `on_complaint` gets the bytes
    of each read from stderr.
    """

    def __init__(
        self,
        on_lines: Callable[[list[bytes]], None],
        on_end: Callable[[], None],
        on_flood: Callable[[], None],
        on_complaint: Callable[[int], None],
    ) -> None:
        self._on_lines, self._on_end, self._on_flood = on_lines, on_end, on_flood
        self._on_complaint = on_complaint
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._stderr = bytearray()
        # Pidfds of the namespace's init: it outlives a killed bubblewrap by some milliseconds.
        self._inits: list[int] = []
        self._flooded = self._ended = self._walled = self._impatient = False
        self._kept = False
        # The command itself, behind bubblewrap and its init, or below `confine.py`.
        self._command: int | None = None
        self.exited = asyncio.Event()
        self._stop: asyncio.Task[None] | None = None
        self._transport: asyncio.SubprocessTransport

    @classmethod
    async def start(
        cls,
        launch: Launch,
        on_lines: Callable[[list[bytes]], None],
        on_end: Callable[[], None],
        on_flood: Callable[[], None],
        on_complaint: Callable[[int], None] = lambda _size: None,
    ) -> "Child":
        """Raises StartFailed when the command itself cannot be started."""
        child = cls(on_lines, on_end, on_flood, on_complaint)
        child._walled, child._kept = launch.walled, launch.kept
        try:
            await asyncio.get_running_loop().subprocess_exec(
                lambda: child, *launch.argv, env=launch.env, cwd=launch.cwd, start_new_session=True
            )
        except OSError as error:
            raise StartFailed(f"The process could not be started: {error}.") from error
        return child

    # What the loop tells us

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._transport = transport
        self.pid = transport.get_pid()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self._stderr += data
            del self._stderr[:-STDERR_KEPT]
            self._on_complaint(len(data))
        elif not self._flooded:
            if self._command is None:
                self._meet()
            self._received(data)

    def _meet(self) -> None:
        """Who is who, asked when the command has said something and so has certainly started."""
        first = census.children(self.pid)
        if self._walled:
            self._inits = _open(first)
        self._command = next(iter(census.below(first) if self._walled else first), self.pid)

    def _received(self, data: bytes) -> None:
        head, newline, tail = data.rpartition(b"\n")
        if not newline:
            self._keep(tail)
            return
        lines = head.split(b"\n")
        if self._pending:
            lines[0] = b"".join((*self._pending, lines[0]))
            self._pending.clear()
            self._pending_bytes = 0
        if tail:
            self._keep(tail)
        self._on_lines(lines)

    def _keep(self, part: bytes) -> None:
        self._pending.append(part)
        self._pending_bytes += len(part)
        if self._pending_bytes > LONGEST_LINE:
            self._flooded = True
            self._pending.clear()
            self._on_flood()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1:
            self._end()

    def process_exited(self) -> None:
        self.exited.set()
        # A stray grandchild may hold the pipe open: what the child wrote has arrived by then.
        asyncio.get_running_loop().call_later(0.5, self._end)

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._on_end()

    # What we tell it

    @property
    def returncode(self) -> int | None:
        return self._transport.get_returncode()

    @property
    def crowded(self) -> bool:
        """Whether it failed beside so many processes of its own that there was no room for one more."""
        return self.returncode == CROWDED

    @property
    def stopping(self) -> bool:
        return self._stop is not None

    @property
    def complaint(self) -> str:
        """The end of what it wrote to stderr."""
        return self._stderr.decode(errors="replace").strip()

    def write(self, data: bytes) -> None:
        stdin = self._transport.get_pipe_transport(0)
        assert isinstance(stdin, asyncio.WriteTransport)
        stdin.write(data)

    def end_input(self) -> None:
        stdin = self._transport.get_pipe_transport(0)
        if stdin is not None:
            stdin.close()

    def read(self, on: bool) -> None:
        """Pause or resume reading its output; a full pipe then makes it wait."""
        stdout = self._transport.get_pipe_transport(1)
        if isinstance(stdout, asyncio.ReadTransport) and not stdout.is_closing():
            (stdout.resume_reading if on else stdout.pause_reading)()

    # The ladder

    async def stop(self, *, gently: bool = True) -> None:
        """Close stdin, wait, SIGTERM, wait, SIGKILL; returns when every process inside is gone.

        Not to be cancelled: a cancellation is delivered when it is done. `gently=False` kills at once.
        """
        if self._stop is None:
            self._stop = asyncio.create_task(self._descend(gently))
        elif not gently:
            self.kill()
        await uncancelled(self._stop)

    async def _descend(self, gently: bool) -> None:
        family = self._inits or _open(self._family())
        try:
            self.read(on=True)
            if self._ended:
                await self._gone(TELL)
            if gently and not self.exited.is_set():
                self.end_input()
                if not await self._gone(FLUSH):
                    self._terminate()
                    await self._gone(TERMINATE)
            family += _open(self._family())
            self.kill()
            for pidfd in family:
                _signal(pidfd)
            if self._kept and not await self._gone(KEEP):
                self._impatient = True
                self.kill()
            if not await self._gone(KILL) or not await _all_dead(family, KILL):
                logger.error("process %s survived SIGKILL", self.pid)
        finally:
            for pidfd in family:
                os.close(pidfd)
            self._transport.close()

    async def _gone(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.exited.wait(), seconds)
        return self.exited.is_set()

    def _family(self) -> list[int]:
        """Whom to kill beside the child itself.

        Behind walls that is the init of its namespace, with which all others die before it does itself.
        """
        if self.exited.is_set():
            return []
        return census.children(self.pid) if self._walled else census.below([self.pid])

    def _terminate(self) -> None:
        """SIGTERM to the command itself; bubblewrap would answer it by killing everything at once."""
        first = census.children(self.pid) if self._walled or self._kept else []
        commands = [child for init in first for child in census.children(init)] if self._walled else first
        for pid in commands or [self.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _strays(self) -> list[int]:
        """All that the command started and that still runs."""
        spared = {self._command, *(census.children(self.pid) if self._walled else [])}
        return [pid for pid in census.below([self.pid]) if pid not in spared]

    async def end_strays(self, within: float = 0.5) -> bool:
        """Kill what a turn left behind, daemons too, and leave the command alone. False: there is always more."""
        deadline = asyncio.get_running_loop().time() + within
        while strays := [] if self.exited.is_set() else self._strays():
            if asyncio.get_running_loop().time() > deadline:
                return False
            for pid in strays:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.005)
        return True

    def kill(self) -> None:
        """SIGKILL, now; `stop()` waits for what it does."""
        if not self.exited.is_set():
            with contextlib.suppress(ProcessLookupError):
                if self._kept and not self._impatient:
                    # It takes along what left the group, and takes no signal from inside.
                    os.kill(self.pid, signal.SIGTERM)
                else:
                    os.killpg(self.pid, signal.SIGKILL)


def _open(pids: list[int]) -> list[int]:
    pidfds = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            pidfds.append(os.pidfd_open(pid))
    return pidfds


def _signal(pidfd: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


async def _all_dead(pidfds: list[int], seconds: float) -> bool:
    """A pidfd becomes readable when its process has ended."""
    poll = select.poll()
    for pidfd in pidfds:
        poll.register(pidfd, select.POLLIN)
    deadline = asyncio.get_running_loop().time() + seconds
    while len(poll.poll(0)) < len(pidfds):
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(0.005)
    return True
