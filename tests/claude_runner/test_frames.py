"""Frames as the CLI writes them, and what becomes of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_runner import Status, TextDelta, ToolFinished, ToolStarted
from claude_runner.frames import INPUT_LIMIT, LONGEST_DELAY, OUTPUT_LIMIT, Bill, Translator, shortened
from claude_runner.transcript import canonical_path
from claude_runner.transport import _storable


def stream(event: dict[str, Any], parent: str | None = None) -> dict[str, Any]:
    return {"type": "stream_event", "event": event, "parent_tool_use_id": parent}


def start(message: str = "msg_1") -> dict[str, Any]:
    return stream({"type": "message_start", "message": {"id": message, "usage": {"input_tokens": 7}}})


def text_block(index: int, *texts: str) -> list[dict[str, Any]]:
    block = {"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}}
    deltas = [{"type": "text_delta", "text": text} for text in texts]
    return [
        stream(block),
        *(stream({"type": "content_block_delta", "index": index, "delta": delta}) for delta in deltas),
    ]


def assistant(*blocks: dict[str, Any], message: str = "msg_1", **more: Any) -> dict[str, Any]:
    return {"type": "assistant", "message": {"id": message, "content": list(blocks)}, **more}


def tool_result(tool_use: str, content: Any, is_error: bool = False) -> dict[str, Any]:
    block = {"type": "tool_result", "tool_use_id": tool_use, "content": content, "is_error": is_error}
    return {"type": "user", "message": {"role": "user", "content": [block]}}


def test_deltas_that_arrive_together_are_one_event() -> None:
    frames = [start(), *text_block(0, "a", "b"), *text_block(1, "c")]
    assert Translator().translate(frames) == [TextDelta(0, "ab"), TextDelta(1, "c")]


def test_blocks_count_on_over_messages() -> None:
    translator = Translator()
    translator.translate([start("msg_1"), *text_block(0, "a")])
    assert translator.translate([start("msg_2"), *text_block(0, "b")]) == [TextDelta(1, "b")]


def test_an_answer_that_was_streamed_is_not_told_twice() -> None:
    frames = [start(), *text_block(0, "a"), assistant({"type": "text", "text": "a"})]
    assert Translator().translate(frames) == [TextDelta(0, "a")]


def test_an_answer_that_was_not_streamed_is_told() -> None:
    frame = assistant({"type": "text", "text": "/help isn't available"}, message="synthetic")
    assert Translator().translate([frame]) == [TextDelta(0, "/help isn't available")]


def test_an_api_error_is_no_answer() -> None:
    frame = assistant({"type": "text", "text": "API Error: 401"}, message="x", is_api_error_message=True)
    assert Translator().translate([frame]) == []


def test_a_subagent_shows_its_tools_only() -> None:
    parent = "toolu_task"
    call = {"type": "tool_use", "id": "toolu_inner", "name": "Read", "input": {"file_path": "a"}}
    frames = [
        stream({"type": "message_start", "message": {"id": "inner"}}, parent),
        assistant({"type": "text", "text": "inner words"}, message="inner", parent_tool_use_id=parent),
        assistant(call, message="inner", parent_tool_use_id=parent),
        {**tool_result("toolu_inner", "done"), "parent_tool_use_id": parent},
    ]
    assert Translator().translate(frames) == [
        ToolStarted("toolu_inner", "Read", {"file_path": "a"}, parent),
        ToolFinished("toolu_inner", False, "done"),
    ]


def test_output_is_text_of_a_stated_size() -> None:
    translator = Translator()
    call = {"type": "tool_use", "id": "t", "name": "Read", "input": {}}
    content = [{"type": "text", "text": "x" * OUTPUT_LIMIT}, {"type": "image", "source": {}}]
    [_, finished] = translator.translate([assistant(call), tool_result("t", content, is_error=True)])
    assert finished == ToolFinished("t", True, "x" * OUTPUT_LIMIT)
    assert translator.open_tools == set()


def test_waiting_is_named() -> None:
    retry = {
        "type": "system",
        "subtype": "api_retry",
        "attempt": 2,
        "max_retries": 6,
        "retry_delay_ms": 1500,
        "error_status": 529,
        "error": "overloaded",
    }
    compacting = {"type": "system", "subtype": "status", "status": "compacting"}
    translator = Translator()
    assert translator.translate([retry, compacting, {"type": "system", "subtype": "init"}]) == [
        Status("retrying", "overloaded (529), attempt 2 of 6"),
        Status("compacting"),
    ]
    assert translator.retry_delay == 1.5


@pytest.mark.parametrize(
    "frame",
    [
        {},
        {"type": "prompt_suggestion"},
        {"type": "system"},
        {"type": ["list"]},
        {"type": "assistant"},
        {"type": "assistant", "message": {"content": [{"type": "tool_use"}]}},
        {"type": "stream_event", "event": "text"},
        {"type": "user", "message": {"content": ["text"]}},
    ],
)
def test_what_is_not_known_is_passed_over(frame: dict[str, Any]) -> None:
    assert Translator().translate([frame]) == []


def test_totals_become_what_one_turn_used() -> None:
    bill = Bill()
    model = {"inputTokens": 10, "outputTokens": 5, "contextWindow": 200_000}
    bill.start_from(1.0, {"m": model})
    grown = {"m": {**model, "inputTokens": 30}, "n": {"outputTokens": 2, "contextWindow": 100_000}}
    usage = bill.turn({"total_cost_usd": 1.25, "modelUsage": grown}, context_used=40)
    assert (usage.input_tokens, usage.output_tokens, usage.cost_usd) == (20, 2, 0.25)
    assert (usage.context_used, usage.context_limit) == (40, 200_000)
    again = bill.turn({"total_cost_usd": 1.25, "modelUsage": grown}, context_used=40)
    assert (again.input_tokens, again.cost_usd) == (0, 0.0)


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_what_is_parsed_can_be_stored(text: str) -> None:
    line = json.dumps({"text": text}, ensure_ascii=False)
    # As JSON.stringify writes it: single surrogates escaped, everything else as it is.
    escaped = "".join(f"\\u{ord(c):04x}" if 0xD800 <= ord(c) < 0xE000 else c for c in line)
    stored = json.loads(_storable(escaped.encode()))["text"]
    stored.encode()
    assert "\0" not in stored
    assert len(stored) == len(text)
    assert all(new in (old, "\ufffd") for old, new in zip(text, stored, strict=True))


def test_a_backslash_before_an_escape_stays_one() -> None:
    line = json.dumps({"text": "\\u0000 \\\\ud800 \0"}).encode()
    assert json.loads(_storable(line)) == {"text": "\\u0000 \\\\ud800 \ufffd"}


@pytest.mark.parametrize(
    ("path", "known_as"),
    [
        ("/c/projects/-workspace/S.jsonl", "/config/projects/-workspace/S.jsonl"),
        (
            "/c/projects/-tmp-x/S/subagents/agent-1.jsonl",
            "/config/projects/-workspace/S/subagents/agent-1.jsonl",
        ),
        ("/c/projects/-workspace/other.jsonl", None),
        ("/c/projects/-workspace/other/subagents/agent-1.jsonl", None),
        ("/c/projects/-workspace/S/../other.jsonl", None),
        ("/elsewhere/S.jsonl", None),
        ("/c/projects/S.jsonl", None),
    ],
)
def test_only_the_sessions_own_transcript_is_stored(path: str, known_as: str | None) -> None:
    assert canonical_path(path, Path("/c"), "S") == known_as


HOSTILE: list[dict[str, Any]] = [
    {"type": "user"},
    {"type": "assistant", "message": {"content": [{"type": "tool_use", "id": [], "name": "x", "input": {}}]}},
    {"type": "assistant", "message": {"content": [{"type": "tool_use", "id": "x", "name": "x", "input": 1}]}},
    {"type": "assistant", "message": {"content": [{"type": "text", "text": {}}]}},
    {"type": "system", "subtype": "api_retry", "retry_delay_ms": "soon"},
    {"type": "system", "subtype": "api_retry", "retry_delay_ms": 10**400},
    stream({"type": "content_block_start", "index": {}, "content_block": {"type": "text", "text": "a"}}),
    stream({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ["a"]}}),
    stream({"type": "message_start", "message": {"id": "x", "usage": {"input_tokens": "many"}}}),
]


@pytest.mark.parametrize("frame", HOSTILE, ids=lambda frame: json.dumps(frame)[:60])
def test_a_hostile_frame_is_left_out_and_told_once(
    frame: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    frame = {"more": "x" * 100_000, **frame}
    translator = Translator()
    assert translator.translate([frame] * 50) == []
    assert len(caplog.records) == 1
    assert len(caplog.text) < 400
    assert translator.translate([start(), *text_block(0, "a")])[-1].data()["text"] == "a"


@pytest.mark.parametrize("delay", [float("inf"), float("nan"), -1e12, 1e12])
def test_no_frame_makes_a_silent_cli_be_waited_for_without_an_end(delay: float) -> None:
    translator = Translator()
    translator.translate([{"type": "system", "subtype": "api_retry", "retry_delay_ms": delay}])
    assert 0 <= translator.retry_delay <= LONGEST_DELAY


def test_a_long_input_is_cut_and_says_so() -> None:
    block = {"type": "tool_use", "id": "t", "name": "Write"}
    frame = assistant({**block, "input": {"file_path": "a", "content": "x" * 100_000}})
    [started] = Translator().translate([frame])
    assert isinstance(started, ToolStarted)
    assert started.input["file_path"] == "a"
    assert started.input["content"].startswith("x" * 60_000)
    assert started.input["content"].endswith(" characters more)")
    assert len(json.dumps(started.input)) < INPUT_LIMIT + 100


@pytest.mark.parametrize(
    "value", [[{}] * 1_000_000, {str(n): n for n in range(100_000)}, ["x" * 100] * 10_000]
)
def test_an_input_of_many_parts_is_cut_too(value: Any) -> None:
    assert len(json.dumps(shortened({"a": value}))) < 2 * INPUT_LIMIT


def test_an_input_of_any_depth_is_cut() -> None:
    deep: Any = "bottom"
    for _ in range(100_000):
        deep = [deep]
    assert len(json.dumps(shortened({"a": deep}))) < 200


@given(st.dictionaries(st.text(), st.text() | st.lists(st.integers() | st.none())))
def test_an_input_of_usual_size_stays_as_it_is(value: dict[str, Any]) -> None:
    assert shortened(value) == value
