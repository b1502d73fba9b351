"""What an answer of the model counted, read from its bytes as they pass.

Only the beginning and the end are kept, and looked at once when the answer is over: the words between cost a
copy of their first bytes and an entry in a queue. An answer without its end is estimated, never free.
"""

import json
from collections import deque
from collections.abc import Iterable
from typing import Any

from claude_runner.asked import MOST_PARTS, parts
from claude_runner.spec import Tokens

HEAD, TAIL, DOCUMENT = 16 << 10, 32 << 10, 4 << 20
# How many bytes of a request, and of a stream of events, are at least one token.
ASKED_BYTES, STREAMED_BYTES = 4, 20


class Reading:
    """`asked`: bytes of the request; `streamed`: whether the answer is server-sent events, or one document.

    `unseen`: what may have been written though it did not come here; none once the answer was `whole()`.
    """

    def __init__(self, asked: int, *, streamed: bool = True, unseen: int = 0) -> None:
        self._unseen = unseen
        self._asked = asked
        self._streamed = streamed
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._kept = self.passed = 0

    def read(self, chunk: bytes) -> None:
        self.passed += len(chunk)
        if len(self._head) < HEAD:
            self._head += chunk
        self._tail.append(chunk)
        self._kept += len(chunk)
        while self._kept - len(self._tail[0]) >= (TAIL if self._streamed else DOCUMENT):
            self._kept -= len(self._tail.popleft())

    def whole(self) -> None:
        self._unseen = 0

    def result(self) -> tuple[str, Tokens]:
        """The model's name as its server gave it ('' if it did not), and the count."""
        tail = b"".join(self._tail)
        parts: list[bytes] = [bytes(self._head), tail] if self._streamed else [tail]
        messages = [message for part in parts for message in _messages(part, self._streamed)]
        usage: dict[str, Any] = {}
        for message in messages:
            usage |= {name: value for name, value in message["usage"].items() if value is not None}
        model = next((message["model"] for message in messages if isinstance(message.get("model"), str)), "")
        # A stream begins with a count of its own, which says nothing of what followed.
        ended = bool(messages) and (not self._streamed or "model" not in messages[-1])
        return model[:120], self._tokens(usage, ended)

    def _tokens(self, usage: dict[str, Any], ended: bool) -> Tokens:
        def counted(name: str, of: dict[str, Any] = usage) -> int:
            value = of.get(name)
            return min(value, 1 << 40) if type(value) is int and value > 0 else 0

        created, tools = usage.get("cache_creation"), usage.get("server_tool_use")
        written, output = counted("cache_creation_input_tokens"), counted("output_tokens")
        return Tokens(
            input=counted("input_tokens") if usage else self._asked // ASKED_BYTES,
            output=output if ended else max(output, self.passed // STREAMED_BYTES, self._unseen),
            cache_read=counted("cache_read_input_tokens"),
            cache_write=written,
            cache_write_1h=min(counted("ephemeral_1h_input_tokens", created), written)
            if isinstance(created, dict)
            else 0,
            searches=counted("web_search_requests", tools) if isinstance(tools, dict) else 0,
            fast=usage.get("speed") == "fast",
            exact=ended,
        )


def _messages(part: bytes, streamed: bool) -> Iterable[dict[str, Any]]:
    """What carries a count, in order: of a stream the message at its start and the changes to it."""
    for line in part.splitlines() if streamed else [part]:
        if b'"usage"' in line and parts(line) <= MOST_PARTS:
            try:
                told = json.loads(line.removeprefix(b"data:") if streamed else line)
            except (ValueError, RecursionError):
                continue
            told = told.get("message", told) if isinstance(told, dict) else {}
            if isinstance(told, dict) and isinstance(told.get("usage"), dict):
                yield told
