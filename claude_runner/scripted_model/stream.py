"""Blocks to the bytes of the Messages API: server-sent events, or one JSON document."""

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from claude_runner.scripted_model.answer import Answer, Block, Ending, Text, Thinking, ToolUse
from claude_runner.scripted_model.refusals import OVERLOADED
from claude_runner.scripted_model.request import Request

ONE_WORD = re.compile(r"\s*\S{1,64}|\s+")
THREE_WORDS = re.compile(r"(?:\s*\S{1,64}){1,3}|\s+")
PING = b'event: ping\ndata: {"type": "ping"}\n\n'


def events(answer: Answer, request: Request, request_id: str) -> Iterator[bytes]:
    """The answer's events, each as its bytes: all of them, or half where it ends badly."""
    told = _all_events(answer, request)
    if answer.ending is Ending.WHOLE:
        yield from told
        return
    whole = list(told)
    yield from whole[: len(whole) // 2]
    if answer.ending is Ending.OVERLOADED:
        yield _event(OVERLOADED.body(request_id))


def gathered(parts: Iterable[bytes], size: int) -> Iterator[bytes]:
    """The same bytes in fewer pieces, each a little over `size`."""
    gathering = bytearray()
    for part in parts:
        gathering += part
        if len(gathering) >= size:
            yield bytes(gathering)
            gathering.clear()
    if gathering:
        yield bytes(gathering)


def document(answer: Answer, request: Request) -> dict[str, Any]:
    """The whole answer as one message."""
    blocks = [_block(block, place, request) for place, block in enumerate(answer.blocks)]
    message = _message(request, blocks, _usage(request, answer.tokens))
    return message | {"stop_reason": answer.stop_reason}


def _all_events(answer: Answer, request: Request) -> Iterator[bytes]:
    yield _event({"type": "message_start", "message": _message(request, [], _usage(request, 1))})
    yield PING
    pieces = ONE_WORD if answer.delay else THREE_WORDS
    for place, block in enumerate(answer.blocks):
        opening = _block(block, place, request, empty=True)
        yield _event({"type": "content_block_start", "index": place, "content_block": opening})
        yield from _deltas(block, place, pieces)
        yield _event({"type": "content_block_stop", "index": place})
    ending = {"stop_reason": answer.stop_reason, "stop_sequence": None}
    yield _event({"type": "message_delta", "delta": ending, "usage": _usage(request, answer.tokens)})
    yield _event({"type": "message_stop"})


def _deltas(block: Block, place: int, pieces: re.Pattern[str]) -> Iterator[bytes]:
    match block:
        case Text(text):
            kind, field = "text_delta", "text"
        case Thinking(text):
            kind, field = "thinking_delta", "thinking"
        case ToolUse():
            kind, field, text = "input_json_delta", "partial_json", block.input_json
    # Built once a block, not once a delta: only the words differ.
    head = (
        f'event: content_block_delta\ndata: {{"type": "content_block_delta", "index": {place}, '
        f'"delta": {{"type": "{kind}", "{field}": '
    )
    for piece in pieces.findall(text):
        yield f"{head}{json.dumps(piece)}}}}}\n\n".encode()
    if isinstance(block, Thinking):
        signed = {"type": "signature_delta", "signature": _signature(block.text)}
        yield _event({"type": "content_block_delta", "index": place, "delta": signed})


def _event(data: Mapping[str, Any]) -> bytes:
    return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n".encode()


def _message(request: Request, blocks: list[dict[str, Any]], usage: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"msg_offline_{request.digest}",
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": blocks,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }


def _block(block: Block, place: int, request: Request, *, empty: bool = False) -> dict[str, Any]:
    match block:
        case Text(text):
            return {"type": "text", "text": "" if empty else text}
        case Thinking(text):
            thought, signature = ("", "") if empty else (text, _signature(text))
            return {"type": "thinking", "thinking": thought, "signature": signature}
        case ToolUse(name, given):
            call = f"toolu_offline_{request.digest}_{place}"
            return {"type": "tool_use", "id": call, "name": name, "input": {} if empty else given}


def _signature(thought: str) -> str:
    return base64.b64encode(f"offline {len(thought)}".encode()).decode()


def _usage(request: Request, output_tokens: int) -> dict[str, Any]:
    """Tokens as in a real conversation: the first request fills the cache, later ones read it."""
    fresh = len(request.prompt.split()) if b'"cache_control"' in request.raw else request.words
    fresh = min(fresh, request.words)
    cached = request.words - fresh
    answered = any(message["role"] == "assistant" for message in request.body["messages"])
    written, read = (0, cached) if answered else (cached, 0)
    return {
        "input_tokens": fresh,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "cache_creation": {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0},
        "output_tokens": output_tokens,
        "service_tier": "standard",
    }
