"""One turn's state: what has come in, who answers questions, and how it ended."""

import asyncio
import dataclasses
from collections.abc import Callable
from time import monotonic
from typing import Any
from uuid import uuid4

from claude_agent_sdk import (
    PermissionResultAllow,
    PermissionResultDeny,
    PermissionUpdate,
    ToolPermissionContext,
)

from claude_runner import faults
from claude_runner.events import Event, Outcome, TextDelta, ThinkingDelta, TurnEnd, Usage
from claude_runner.frames import NAME_LIMIT, Bill, Frame, Translator, shortened
from claude_runner.meter import Meter
from claude_runner.spec import Ask, Question

# Batches of events that may wait for a slow reader before the CLI is made to wait.
INBOX_FULL, INBOX_LOW = 256, 32
# Questions that may be open at once, and the characters of one's title.
MOST_QUESTIONS, LONGEST_TITLE = 16, 1000


class Turn:
    """`began`: monotonic time at which it was asked for. `pause` stops or resumes reading from the CLI."""

    def __init__(self, ask: Ask, began: float, pause: Callable[[bool], None]) -> None:
        self._ask, self._began, self._pause = ask, began, pause
        self._waited = monotonic() - began
        self._first_text: float | None = None
        self._inbox: asyncio.Queue[list[Event] | Frame | None] = asyncio.Queue()
        self._paused = False
        self._translator = Translator()
        self._questions = 0
        self._asking = self._asked = 0.0
        self._start = monotonic()
        self._last_heard = monotonic()
        self.interrupted = False
        self.error: dict[str, str] | None = None
        self.over = asyncio.Event()

    # What comes in

    def frames(self, frames: list[Frame]) -> None:
        self._last_heard = monotonic()
        if events := self._translator.translate(frames):
            self._inbox.put_nowait(events)
            if self._inbox.qsize() > INBOX_FULL and not self._paused:
                self._pause(True)
                self._paused = True

    def result(self, frame: Frame) -> None:
        self._inbox.put_nowait(frame)

    def gone(self) -> None:
        """The process ended, so there will be no result."""
        self._inbox.put_nowait(None)

    def fail(self, error: dict[str, str]) -> None:
        """Whatever comes now, the turn has failed with this. The first reason counts."""
        self.error = self.error or error

    async def ask(
        self, name: str, tool_input: dict[str, Any], context: ToolPermissionContext
    ) -> PermissionResultAllow | PermissionResultDeny:
        """Put a tool call to the person. May take as long as a person needs."""
        choices = ["allow", *(["allow_always"] if context.suggestions else []), "deny"]
        title = str(context.title or context.description or context.display_name or name)[:LONGEST_TITLE]
        if self._questions >= MOST_QUESTIONS:
            return PermissionResultDeny(message="Too many questions are open already.")
        tool_use, name = str(context.tool_use_id or "")[:NAME_LIMIT], str(name)[:NAME_LIMIT]
        question = Question(str(uuid4()), tool_use, name, shortened(tool_input), title, choices)
        if not self._questions:
            self._asking = monotonic()
        self._questions += 1
        try:
            answer = await self._ask(question)
        finally:
            self._questions -= 1
            if not self._questions:
                self._asked += monotonic() - self._asking
            self._last_heard = monotonic()
        if answer.decision == "allow_always":
            return PermissionResultAllow(updated_permissions=_for_the_session(context.suggestions))
        if answer.decision == "allow":
            return PermissionResultAllow()
        return PermissionResultDeny(message=answer.message or "The person said no.")

    # What goes out

    async def next(self) -> list[Event] | Frame | None:
        """Events that arrived together; or the result, or None for a process that is gone: the end."""
        item = await self._inbox.get()
        if self._paused and self._inbox.qsize() < INBOX_LOW:
            self._pause(False)
            self._paused = False
        if self._first_text is None and isinstance(item, list):
            if any(isinstance(event, TextDelta | ThinkingDelta) for event in item):
                self._first_text = monotonic() - self._began
        return item

    @property
    def ran(self) -> float:
        """Seconds since it began, without those in which it waited for a person."""
        now = monotonic()
        return now - self._start - self._asked - (now - self._asking if self._questions else 0)

    def silence(self, meter: Meter) -> float:
        """Seconds for which the CLI has said nothing without anything that it could be waiting for."""
        if meter.in_flight or self._questions or self._translator.open_tools or self._paused:
            self._last_heard = monotonic()
        return monotonic() - self._last_heard - self._translator.retry_delay

    def closing(self, result: Frame | None, bill: Bill, meter: Meter) -> list[Event]:
        """The last events: what it used, if that is known, and its end."""
        usage = Usage() if result is None else bill.turn(result, self._translator.context_used)
        outcome, error = self._verdict(result, meter)
        timing = {"process_ms": self._waited, "model_ms": meter.busy, "first_text_ms": self._first_text}
        end = TurnEnd(
            outcome,
            (result or {}).get("stop_reason") or self._translator.stop_reason,
            usage.tokens(),
            usage.cost_usd,
            error,
            {name: round(seconds * 1000) for name, seconds in timing.items() if seconds is not None},
        )
        return [end] if result is None else [usage, end]

    def _verdict(self, result: Frame | None, meter: Meter) -> tuple[Outcome, dict[str, str] | None]:
        if self.error is not None:
            return "failed", self.error
        if result is not None and not result.get("is_error"):
            return "completed", None
        if self.interrupted:
            return "interrupted", None
        if result is None:
            return "failed", faults.fault(faults.DIED)
        said = result.get("result") or "; ".join(map(str, result.get("errors") or ()))
        return "failed", faults.upstream_fault(result.get("api_error_status"), str(said), meter.refusal)


def _for_the_session(suggestions: list[PermissionUpdate]) -> list[PermissionUpdate]:
    """Remembered by this process only: the CLI's own suggestion is a settings file in the workspace."""
    return [dataclasses.replace(suggestion, destination="session") for suggestion in suggestions]
