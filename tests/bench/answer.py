"""What either side is asked for, and what is noted of it."""

from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol


@dataclass(slots=True)
class Answer:
    """One turn as its reader saw it. Times in seconds since it was asked for."""

    asked: float = field(default_factory=perf_counter)
    first_text: float = 0.0
    last_text: float = 0.0
    ended: float = 0.0
    text: str = ""
    timing: dict[str, float] = field(default_factory=dict)

    def heard(self, text: str) -> None:
        self.last_text = perf_counter() - self.asked
        self.first_text = self.first_text or self.last_text
        self.text += text

    def over(self, timing: dict[str, float] | None = None) -> "Answer":
        self.ended = perf_counter() - self.asked
        self.timing = timing or {}
        return self


class Speaker(Protocol):
    """A conversation, on either side."""

    async def say(self, prompt: str) -> Answer: ...

    async def close(self) -> None: ...


class BenchFailed(Exception):
    """One side did not do what is measured."""
