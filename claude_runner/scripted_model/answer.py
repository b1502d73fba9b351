"""What the model can do with a request: answer it, refuse it, keep silent, or fail first and answer later."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import Any, Self

MODELS: Mapping[str, str] = {
    "offline-scripted": "Offline scripted model (not Claude)",
    "offline-scripted-mini": "Offline scripted model, mini (not Claude)",
}
"""The names that `GET /v1/models` lists. Requests may name any model; the answer is the same."""


@dataclass(frozen=True, slots=True)
class Text:
    """Words for the person, in Markdown."""

    text: str


@dataclass(frozen=True, slots=True)
class Thinking:
    """Words that come before the answer, in a block of their own."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A call that the CLI is to make; its result comes back in the next request."""

    name: str
    input: Mapping[str, Any]

    @property
    def input_json(self) -> str:
        return json.dumps(self.input, ensure_ascii=False)


type Block = Text | Thinking | ToolUse


class Ending(Enum):
    """How the stream of an answer ends."""

    WHOLE = "whole"
    CUT = "the connection drops half-way"
    STALL = "nothing more comes half-way, and the connection stays"
    OVERLOADED = "an error event comes half-way"


@dataclass(frozen=True)
class Answer:
    """Blocks in the order of speaking; `delay` is the pause after each word, in seconds."""

    blocks: tuple[Block, ...]
    delay: float = 0.0
    ending: Ending = Ending.WHOLE
    cut_at_limit: bool = False

    @property
    def stop_reason(self) -> str:
        if self.cut_at_limit:
            return "max_tokens"
        return "tool_use" if any(isinstance(block, ToolUse) for block in self.blocks) else "end_turn"

    @cached_property
    def tokens(self) -> int:
        """One a word."""
        return sum(len(_words(block)) for block in self.blocks)

    def within(self, limit: int) -> Self:
        """The same answer, cut where `max_tokens` ends it."""
        if self.tokens <= limit:
            return self
        kept: list[Block] = []
        for block in self.blocks:
            words = _words(block)
            if len(words) > limit:
                if limit and not isinstance(block, ToolUse):
                    kept.append(replace(block, text=" ".join(words[:limit])))
                break
            kept.append(block)
            limit -= len(words)
        return replace(self, blocks=tuple(kept), cut_at_limit=True)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error in the API's shape."""

    status: int
    type: str
    message: str
    retry_after: int | None = None

    def body(self, request_id: str) -> dict[str, Any]:
        error = {"type": self.type, "message": self.message}
        return {"type": "error", "error": error, "request_id": request_id}


@dataclass(frozen=True, slots=True)
class Silence:
    """No answer at all; the connection stays open until the client leaves."""


type Fault = Refusal | Silence | Answer


@dataclass(frozen=True, slots=True)
class Flaky:
    """Fails as often as asked for one and the same prompt, then answers."""

    fault: Fault
    times: int
    then: Answer


type Reply = Answer | Refusal | Silence | Flaky


def say(text: str) -> Answer:
    """An answer of one text."""
    return Answer((Text(text),))


def _words(block: Block) -> list[str]:
    return (block.input_json if isinstance(block, ToolUse) else block.text).split()
