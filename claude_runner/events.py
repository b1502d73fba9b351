"""What comes out: one frozen value per event, named as on the wire.

`type` is the wire name and `data()` the fields beside it. Every turn ends with exactly one `TurnEnd`.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

type Outcome = Literal["completed", "failed", "interrupted"]


@dataclass(frozen=True, slots=True)
class TextDelta:
    """`block` counts over all text and thinking blocks of the turn."""

    type: ClassVar[str] = "text.delta"
    block: int
    text: str

    def data(self) -> dict[str, Any]:
        return {"block": self.block, "text": self.text}


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    type: ClassVar[str] = "thinking.delta"
    block: int
    text: str

    def data(self) -> dict[str, Any]:
        return {"block": self.block, "text": self.text}


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """`parent` is the tool_use of the subagent's call that this call happens in. `input` is `frames.shortened`."""

    type: ClassVar[str] = "tool.started"
    tool_use: str
    name: str
    input: dict[str, Any]
    parent: str | None = None

    def data(self) -> dict[str, Any]:
        data = {"tool_use": self.tool_use, "name": self.name, "input": self.input}
        return data if self.parent is None else {**data, "parent": self.parent}


@dataclass(frozen=True, slots=True)
class ToolFinished:
    """`output` is text, cut at `frames.OUTPUT_LIMIT` characters."""

    type: ClassVar[str] = "tool.finished"
    tool_use: str
    is_error: bool
    output: str

    def data(self) -> dict[str, Any]:
        return {"tool_use": self.tool_use, "is_error": self.is_error, "output": self.output}


@dataclass(frozen=True, slots=True)
class Status:
    """What is being waited for: starting, ready, thinking, running, compacting, retrying."""

    type: ClassVar[str] = "status"
    state: str
    detail: str = ""

    def data(self) -> dict[str, Any]:
        return {"state": self.state, "detail": self.detail} if self.detail else {"state": self.state}


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of this turn with its subagents, what they cost, and how full the context is (tokens)."""

    type: ClassVar[str] = "usage"
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cost_usd: float = 0.0
    context_used: int = 0
    context_limit: int = 0

    def tokens(self) -> dict[str, int]:
        """The four token counts under the Messages API's names."""
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cache_read_input_tokens": self.cache_read_input_tokens,
            "cache_creation_input_tokens": self.cache_creation_input_tokens,
        }

    def data(self) -> dict[str, Any]:
        return {
            **self.tokens(),
            "cost_usd": self.cost_usd,
            "context_used": self.context_used,
            "context_limit": self.context_limit,
        }


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """The last event of a turn. `error`: {type, message}, its message says what to do. `timing`: in ms."""

    outcome: Outcome
    stop_reason: str | None = None
    usage: dict[str, int] = field(default_factory=dict)
    cost_usd: float = 0.0
    error: dict[str, str] | None = None
    timing: dict[str, int] = field(default_factory=dict)

    @property
    def type(self) -> str:
        return f"turn.{self.outcome}"

    def data(self) -> dict[str, Any]:
        data = {
            "stop_reason": self.stop_reason,
            "usage": self.usage,
            "cost_usd": self.cost_usd,
            "timing": self.timing,
        }
        return data if self.error is None else {**data, "error": self.error}


type Event = TextDelta | ThinkingDelta | ToolStarted | ToolFinished | Status | Usage | TurnEnd
