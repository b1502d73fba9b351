"""The CLI's frames, turned into typed events.

Text and thinking come from the raw stream events; tool calls from the assistant frames, which the CLI writes
when a block is complete; their results from user frames. What a subagent says stays inside, what it does is
shown with its `parent`.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Any

from claude_runner.events import Event, Status, TextDelta, ThinkingDelta, ToolFinished, ToolStarted, Usage

logger = logging.getLogger(__name__)

# Characters of a tool's output, and of its input, that an event carries; the transcript keeps the whole.
OUTPUT_LIMIT = INPUT_LIMIT = 64_000
NAME_LIMIT, DEEPEST = 200, 40
# Seconds between two requests beyond which no honest CLI waits.
LONGEST_DELAY = 600.0

type Frame = dict[str, Any]


class Translator:
    """One turn's worth of state. What comes out of a sandbox may have any shape: it costs its own turn at most.

    `open_tools` are started and not finished, `retry_delay` is what the CLI last said it would wait (s):
    reasons for it to be silent.
    """

    def __init__(self) -> None:
        self._blocks = 0
        self._open: dict[int, int] = {}
        self._streamed: set[str] = set()
        self.open_tools: set[str] = set()
        self.retry_delay = 0.0
        self.context_used = 0
        self.stop_reason: str | None = None
        self._odd = 0
        self._by_type: dict[str, Callable[[Frame], Iterable[Event]]] = {
            "stream_event": self._stream_event,
            "assistant": self._assistant,
            "user": self._user,
            "system": self._system,
        }

    def translate(self, frames: Iterable[Frame]) -> list[Event]:
        """The events of frames that arrived together; adjacent deltas of one block become one."""
        events: list[Event] = []
        for frame in frames:
            for event in self._events_of(frame):
                if events and (merged := _merge(events[-1], event)):
                    events[-1] = merged
                else:
                    events.append(event)
        return events

    def _events_of(self, frame: Frame) -> list[Event]:
        handler = self._by_type.get(str(frame.get("type")))
        try:
            return list(handler(frame)) if handler else []
        except (LookupError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
            if not self._odd:
                logger.warning("a %.20s frame of an unknown shape: %.100r", frame.get("type"), error)
            self._odd += 1
            return []

    def _next_block(self) -> int:
        self._blocks += 1
        return self._blocks - 1

    def _stream_event(self, frame: Frame) -> Iterable[Event]:
        if frame.get("parent_tool_use_id"):
            return
        event = frame["event"]
        match event["type"]:
            case "content_block_delta":
                yield from self._delta(event["index"], event["delta"])
            case "content_block_start":
                yield from self._block_start(event["index"], event["content_block"])
            case "message_start":
                self._open.clear()
                self._streamed.add(event["message"]["id"])
                self.context_used = _context(event["message"].get("usage") or {})
            case "message_delta":
                self.stop_reason = _name(event["delta"].get("stop_reason") or "") or self.stop_reason
                self.context_used += (event.get("usage") or {}).get("output_tokens") or 0

    def _block_start(self, index: int, block: dict[str, Any]) -> Iterable[Event]:
        if block["type"] in ("text", "thinking"):
            self._open[index] = self._next_block()
            yield from self._delta(index, {**block, "type": f"{block['type']}_delta"})

    def _delta(self, index: int, delta: dict[str, Any]) -> Iterable[Event]:
        block = self._open.get(index)
        if block is None:
            return
        if delta["type"] == "text_delta" and delta["text"]:
            yield TextDelta(block, _said(delta["text"]))
        elif delta["type"] == "thinking_delta" and delta["thinking"]:
            yield ThinkingDelta(block, _said(delta["thinking"]))

    def _assistant(self, frame: Frame) -> Iterable[Event]:
        if frame.get("is_api_error_message"):
            return
        message, parent = frame["message"], _name(frame.get("parent_tool_use_id") or "") or None
        unseen = not parent and message.get("id") not in self._streamed
        for block in message["content"]:
            if block["type"] == "tool_use":
                tool_use, name = _name(block["id"]), _name(block["name"])
                self.open_tools.add(tool_use)
                yield ToolStarted(tool_use, name, shortened(block["input"]), parent)
            elif unseen and block["type"] == "text":
                # A command answered by the CLI itself, or a reply that fell back to not streaming.
                yield TextDelta(self._next_block(), _said(block["text"]))

    def _user(self, frame: Frame) -> Iterable[Event]:
        content = frame["message"]["content"]
        for block in content if isinstance(content, list) else ():
            if block.get("type") == "tool_result" and block["tool_use_id"] in self.open_tools:
                self.open_tools.discard(block["tool_use_id"])
                output = _text(block.get("content"))[:OUTPUT_LIMIT]
                yield ToolFinished(block["tool_use_id"], bool(block.get("is_error")), output)

    def _system(self, frame: Frame) -> Iterable[Event]:
        match frame.get("subtype"), frame.get("status"):
            case "api_retry", _:
                delay = float(frame.get("retry_delay_ms") or 0) / 1000
                self.retry_delay = min(LONGEST_DELAY, max(0.0, delay))
                yield Status("retrying", _retry(frame))
            case "status", "compacting":
                yield Status("compacting")


def shortened(tool_input: Any) -> dict[str, Any]:
    """A tool's input with no more than INPUT_LIMIT characters; where something is left out, it says how much."""
    if not isinstance(tool_input, dict):
        raise TypeError(f"a tool's input is no {type(tool_input).__name__}")
    cut: dict[str, Any] = _Scissors().cut(tool_input)
    return cut


class _Scissors:
    """`room`: characters that are left. What is no text counts for some too."""

    def __init__(self) -> None:
        self.room = INPUT_LIMIT

    def cut(self, value: Any, depth: int = 0) -> Any:
        self.room -= 8
        if isinstance(value, str):
            return self._cut_text(value)
        if not isinstance(value, dict | list):
            return value
        if depth == DEEPEST:
            return "…"
        if isinstance(value, list):
            return [self.cut(item, depth + 1) for item in self._fitting(value)]
        return {self._cut_text(key): self.cut(value[key], depth + 1) for key in self._fitting(value)}

    def _cut_text(self, text: str) -> str:
        room, self.room = max(0, self.room), self.room - len(text)
        return text if len(text) <= room else f"{text[:room]}… ({len(text) - room:,} characters more)"

    def _fitting[T](self, items: Iterable[T]) -> Iterable[T]:
        for item in items:
            if self.room <= 0:
                return
            yield item


def _said(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError(f"a text is no {type(text).__name__}")
    return text


def _name(name: Any) -> str:
    return _said(name)[:NAME_LIMIT]


def _merge(before: Event, after: Event) -> Event | None:
    if isinstance(before, TextDelta) and isinstance(after, TextDelta) and before.block == after.block:
        return TextDelta(before.block, before.text + after.text)
    if isinstance(before, ThinkingDelta) and isinstance(after, ThinkingDelta) and before.block == after.block:
        return ThinkingDelta(before.block, before.text + after.text)
    return None


def _retry(frame: Frame) -> str:
    reason = str(frame.get("error") or "no answer").replace("_", " ")
    status = f" ({frame['error_status']})" if frame.get("error_status") else ""
    return f"{reason}{status}, attempt {frame.get('attempt')} of {frame.get('max_retries')}"[:1000]


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    return "\n".join(block.get("text") or f"[{block.get('type')}]" for block in blocks)


def _context(usage: dict[str, Any]) -> int:
    names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    return sum(usage.get(name) or 0 for name in names)


class Bill:
    """Turns the CLI's running totals into what one turn used.

    `total_cost_usd` and `modelUsage` grow over the whole session and go on from the old total after a resume;
    `usage` is the turn's own but leaves subagents out. So the difference of the totals is what counts.
    """

    def __init__(self) -> None:
        self._cost = 0.0
        self._tokens = dict.fromkeys(_TOTALS, 0)

    def start_from(self, total_cost: float, model_usage: dict[str, Any]) -> None:
        """What the session had cost before this process."""
        self._cost, self._tokens = total_cost, _totals(model_usage)

    def turn(self, result: Frame, context_used: int) -> Usage:
        cost, tokens = float(result.get("total_cost_usd") or 0), _totals(result.get("modelUsage") or {})
        used = {name: max(0, tokens[name] - self._tokens[name]) for name in _TOTALS}
        spent = max(0.0, cost - self._cost)
        self._cost, self._tokens = cost, tokens
        limits = [int(model.get("contextWindow") or 0) for model in (result.get("modelUsage") or {}).values()]
        return Usage(
            input_tokens=used["inputTokens"],
            output_tokens=used["outputTokens"],
            cache_read_input_tokens=used["cacheReadInputTokens"],
            cache_creation_input_tokens=used["cacheCreationInputTokens"],
            cost_usd=round(spent, 6),
            context_used=context_used,
            context_limit=max(limits, default=0),
        )


_TOTALS = ("inputTokens", "outputTokens", "cacheReadInputTokens", "cacheCreationInputTokens")


def _totals(model_usage: dict[str, Any]) -> dict[str, int]:
    models = model_usage.values()
    return {name: sum(int(model.get(name) or 0) for model in models) for name in _TOTALS}
