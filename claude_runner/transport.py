"""The SDK's transport over a child of ours: each frame is parsed once and goes to the one who needs it.

The SDK does the control protocol, the permission callback and the transcript mirror, flushed before it hands
out a result. Everything else is the answer itself and goes straight to us, past the SDK's message queue.
"""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from claude_agent_sdk import CLIConnectionError, Transport

from claude_runner import faults
from claude_runner.asked import MOST_PARTS, parts
from claude_runner.child import Child
from claude_runner.limits import too_much_output
from claude_runner.spec import Limits

logger = logging.getLogger(__name__)

FOR_THE_SDK = frozenset(
    {"control_request", "control_response", "control_cancel_request", "transcript_mirror", "result"}
)
GARBAGE_OF_A_TURN = 1 << 20

type Frame = dict[str, Any]
type Start = Callable[
    [Callable[[list[bytes]], None], Callable[[], None], Callable[[], None], Callable[[int], None]],
    Awaitable[Child],
]


# In JSON an escape counts only behind an even number of backslashes.
UNSTORABLE = re.compile(rb"(?<!\\)((?:\\\\)*)\\u(?:0000|[dD][89a-fA-F][0-9a-fA-F]{2})")


def _storable(line: bytes) -> bytes:
    """NUL and halves of surrogate pairs, which no database takes as text, become U+FFFD.

    The CLI escapes both, and of the surrogates only the single ones: whole pairs it writes as UTF-8.
    """
    if b"\\u0000" in line or b"\\ud" in line:
        return UNSTORABLE.sub(rb"\1\\ufffd", line)
    return line


class CliTransport(Transport):
    """`start` gets the four callbacks of `Child.start`. `on_frames` gets the frames of one read at a time.

    `mirrored` turns a transcript's path into the store's, or refuses it with None.
    """

    def __init__(
        self,
        start: Start,
        on_frames: Callable[[list[Frame]], None],
        on_flood: Callable[[str], None],
        mirrored: Callable[[str], str | None],
        limits: Limits,
    ) -> None:
        self._limits = limits
        self._start, self._on_frames, self._on_flood = start, on_frames, on_flood
        self._mirrored = mirrored
        self._for_sdk: asyncio.Queue[Frame | None] = asyncio.Queue()
        self._received = self._garbage = 0
        self.results: list[Frame] = []
        self.child: Child | None = None

    async def connect(self) -> None:
        self.child = await self._start(self._lines, self._end, self._endless_line, self._complained)

    def pause(self, paused: bool) -> None:
        """Stop reading for a while: the CLI then waits in its own write."""
        if self.child is not None:
            self.child.read(on=not paused)

    def begin_turn(self) -> None:
        self._received = self._garbage = 0

    def _lines(self, lines: list[bytes]) -> None:
        frames: list[Frame] = []
        for line in lines:
            self._received += len(line)
            if self._exceeds(line):
                break
            try:
                self._sort(line, frames)
            except (ValueError, TypeError, RecursionError):
                self._no_frame(line)
        if frames:
            self._on_frames(frames)
        self._check()

    def _sort(self, line: bytes, frames: list[Frame]) -> None:
        """One line, into `frames` or to the SDK; raises for what is no frame."""
        if not line.strip():
            return
        frame = json.loads(_storable(line))
        if not isinstance(frame, dict) or not isinstance(frame.get("type"), str):
            raise TypeError("a frame is an object with a type")
        if frame["type"] in FOR_THE_SDK:
            self._hand_over(frame)
        else:
            frames.append(frame)

    def _complained(self, size: int) -> None:
        self._received += size
        self._check()

    def _exceeds(self, line: bytes) -> bool:
        """Whether it is not even worth reading: nothing after it is read either."""
        if parts(line) > MOST_PARTS:
            self._on_flood(faults.ENDLESS_LINE)
            return True
        return self._garbage > GARBAGE_OF_A_TURN or self._received > self._limits.output

    def _check(self) -> None:
        if self._received > self._limits.output:
            self._on_flood(too_much_output(self._limits))
        elif self._garbage > GARBAGE_OF_A_TURN:
            self._on_flood(faults.GARBAGE)

    def _hand_over(self, frame: Frame) -> None:
        if frame["type"] == "result":
            self.results.append(frame)
        elif frame["type"] == "transcript_mirror":
            said = str(frame.get("filePath"))
            path = self._mirrored(said)
            if path is None:
                logger.warning("dropped a transcript that is not this session's: %.200s", said)
                return
            frame["filePath"] = path
        self._for_sdk.put_nowait(frame)

    def _no_frame(self, line: bytes) -> None:
        if not self._garbage:
            logger.warning("the CLI wrote a line that is no frame: %r", line[:200])
        self._garbage += len(line)

    def _end(self) -> None:
        self._for_sdk.put_nowait(None)

    def _endless_line(self) -> None:
        self._on_flood(faults.ENDLESS_LINE)

    # The SDK's side

    async def write(self, data: str) -> None:
        assert self.child is not None
        self.child.write(data.encode())

    async def read_messages(self) -> AsyncIterator[Frame]:
        while (frame := await self._for_sdk.get()) is not None:
            yield frame
        if self.child is not None and not self.child.stopping:
            # Only an exception makes the SDK fail the control requests that wait for an answer.
            raise CLIConnectionError("the process ended by itself")

    async def close(self) -> None:
        """Called by the SDK: a start that failed has nothing to flush, any other child has ended before."""
        if self.child is not None:
            await self.child.stop(gently=False)

    def is_ready(self) -> bool:
        return self.child is not None and not self.child.exited.is_set()

    async def end_input(self) -> None:
        if self.child is not None:
            self.child.end_input()
