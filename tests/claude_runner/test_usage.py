"""What an answer counted, however it comes in pieces, and what that costs: as the CLI itself bills it."""

import json
from decimal import Decimal
from time import process_time
from typing import Any

import pytest

from claude_runner import Tokens, Usage
from claude_runner.prices import PRICES, price_of
from claude_runner.scripted_model import ScriptedModel
from claude_runner.usage import TAIL, Reading

from .conftest import Engine

START = {
    "input_tokens": 7,
    "cache_creation_input_tokens": 30,
    "cache_read_input_tokens": 500,
    "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 10},
    "output_tokens": 1,
}
WHOLE = Tokens(input=7, output=90, cache_read=500, cache_write=30, cache_write_1h=10)


def event(kind: str, **data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | data)}\n\n".encode()


def text(words: str) -> bytes:
    return event("content_block_delta", index=0, delta={"type": "text_delta", "text": words})


def stream(*middle: bytes, end: dict[str, Any] | None = None) -> bytes:
    opening = event("message_start", message={"model": "claude-sonnet-5", "usage": START})
    ending = event(
        "message_delta",
        delta={"stop_reason": "end_turn"},
        usage={"output_tokens": 90} if end is None else end,
    )
    return b"".join((opening, *middle, ending, event("message_stop")))


def read(answer: bytes, size: int = 1000, *, asked: int = 400, streamed: bool = True) -> tuple[str, Tokens]:
    reading = Reading(asked, streamed=streamed)
    for place in range(0, len(answer), size):
        reading.read(answer[place : place + size])
    return reading.result()


@pytest.mark.parametrize("size", [1, 7, 100, 5_000, 1 << 20])
def test_the_count_is_the_same_in_whatever_pieces_it_comes(size: int) -> None:
    assert read(stream(*[text("word ")] * 900), size) == ("claude-sonnet-5", WHOLE)


def test_a_document_with_too_many_parts_is_estimated_unread() -> None:
    document = b'{"usage": {"output_tokens": 1}, "x": [' + b"[]," * 1_000_000 + b"1]}"
    began = process_time()
    model, tokens = read(document, 1 << 16, streamed=False)
    assert (model, tokens.exact) == ("", False)
    assert tokens.output > 100_000
    assert process_time() - began < 0.05


def test_what_lies_between_is_not_kept() -> None:
    reading = Reading(400)
    for _ in range(50):
        reading.read(text("x" * 1_000_000))
    assert sum(map(len, reading._tail)) < 1_000_000 + TAIL + 200
    assert len(reading._head) < 1_100_000


def test_words_that_look_like_a_count_are_words() -> None:
    lie = 'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":0}}\n\n'
    assert read(stream(text(lie), text('"usage"'))) == ("claude-sonnet-5", WHOLE)


def test_a_whole_document_counts_too() -> None:
    document = {
        "type": "message",
        "model": "claude-sonnet-5",
        "content": [],
        "usage": START | {"output_tokens": 90},
    }
    assert read(json.dumps(document).encode(), 10, streamed=False) == ("claude-sonnet-5", WHOLE)


def test_an_answer_without_its_end_is_estimated_and_not_free() -> None:
    cut = stream(*[text("word ")] * 900).partition(b"event: message_delta")[0]
    model, tokens = read(cut)
    assert (model, tokens.input, tokens.exact) == ("claude-sonnet-5", 7, False)
    assert tokens.output > 900
    assert read(b"") == ("", Tokens(input=100, output=0, exact=False))


@pytest.mark.parametrize(
    "usage",
    [
        {"output_tokens": -5},
        {"output_tokens": "many"},
        {"output_tokens": True},
        {"output_tokens": 1.5},
        {"output_tokens": [1]},
        {"server_tool_use": 3},
        {"cache_creation": "x"},
    ],
)
def test_a_count_of_any_shape_is_no_fault(usage: dict[str, Any]) -> None:
    _model, tokens = read(stream(end=usage))
    assert 0 <= tokens.output <= 90
    assert (tokens.input, tokens.searches) == (7, 0)


def test_a_count_beyond_belief_is_cut() -> None:
    assert read(stream(end={"output_tokens": 10**30}))[1].output == 1 << 40


@pytest.mark.parametrize(
    "junk", [b"{", b"null", b'"usage"', b"[" * 100_000 + b'"usage"', b"\xff\xfe", b'{"usage": 1}']
)
def test_junk_is_no_fault(junk: bytes) -> None:
    for streamed in (True, False):
        assert not read(b"data: " + junk if streamed else junk, streamed=streamed)[1].exact


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("claude-haiku-4-5", "claude-haiku-4-5"),
        ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("claude-opus-4-20250514", "claude-opus-4"),
        ("Claude-Opus-5[1m]", "claude-opus-5"),
        ("us.anthropic.claude-opus-4-5-20251101-v1:0", "claude-opus-4-5"),
        ("claude-haiku-4-5@20251001", "claude-haiku-4-5"),
    ],
)
def test_a_model_has_one_price_under_all_its_names(name: str, known: str) -> None:
    assert price_of(name) is PRICES[known]


@pytest.mark.parametrize("name", ["", "offline-scripted", "claude-opus-99", "gpt", "claude-"])
def test_an_unknown_model_has_none(name: str) -> None:
    assert price_of(name) is None


def test_a_cost_adds_up() -> None:
    tokens = Tokens(
        input=1_000_000, output=100_000, cache_read=2_000_000, cache_write=300_000, cache_write_1h=100_000
    )
    assert PRICES["claude-sonnet-4-5"].of(tokens) == Decimal("3") + Decimal("1.5") + Decimal("0.6") + Decimal(
        "1.35"
    )
    assert PRICES["claude-sonnet-4-5"].of(Tokens(searches=3)) == Decimal("0.03")


@pytest.mark.needs_bubblewrap
@pytest.mark.parametrize("named", ["claude-opus-5-5", "claude-haiku-5-5", "claude-sonnet-4-6"])
async def test_the_cli_bills_a_turn_with_its_subagent_the_same(engine: Engine, named: str) -> None:
    engine = engine.about(model=named)
    sub = json.dumps({"description": "d", "prompt": "echo below", "subagent_type": "general-purpose"})
    said = await engine.say(f"use Agent {sub}")
    spent = [spending for spending in engine.account.settled if spending.tokens]
    costs = [price.of(s.tokens) for s in spent if s.tokens and (price := price_of(s.model))]
    assert len(costs) == 3, "the question, the subagent's answer, the answer"
    assert float(sum(costs)) == pytest.approx(said.of(Usage)[-1].cost_usd, abs=1e-6)
    assert all(s.tokens and s.tokens.exact for s in spent)


@pytest.mark.needs_bubblewrap
async def test_each_request_counts_once_also_after_a_resume(engine: Engine, model: ScriptedModel) -> None:
    for message in ("echo one", "echo two"):
        await engine.say(message)
        await engine.pool.stop(engine.spec.conversation)
    asked = [request for request in model.requests if request.path.startswith("/v1/messages?")]
    assert len(engine.account.settled) == len(asked) == 2
    assert len({spending.request for spending in engine.account.settled}) == 2
