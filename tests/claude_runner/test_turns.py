"""Turns on the real CLI: what streams, who is asked, how they end."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from claude_runner import (
    Answer,
    Question,
    Status,
    TextDelta,
    ThinkingDelta,
    Tier,
    ToolFinished,
    ToolStarted,
    Upstream,
    Usage,
)
from claude_runner.scripted_model import ScriptedModel
from tests.purse import Purse

from .conftest import SECRET, Engine, NewEngine, allow, command_of, eventually

pytestmark = pytest.mark.needs_bubblewrap


@pytest.mark.parametrize("tier", [None, Tier.NONE], ids=["walled", "none"])
async def test_a_turn_streams_and_ends(new_engine: NewEngine, tier: Tier | None) -> None:
    engine = await new_engine(tier)
    said = await engine.say("echo one two three")
    assert [event.data() for event in said.of(Status)] == [{"state": "starting"}, {"state": "ready"}]
    assert said.text == "one two three"
    assert {event.block for event in said.of(TextDelta)} == {0}
    end = said.end
    assert (end.type, end.stop_reason, end.error) == ("turn.completed", "end_turn", None)
    assert end.usage["input_tokens"] > 0
    assert end.timing.keys() == {"process_ms", "model_ms", "first_text_ms"}
    assert end.timing["first_text_ms"] >= end.timing["process_ms"] > 0
    [usage] = said.of(Usage)
    assert usage.context_limit > usage.context_used > 0


async def test_a_warm_process_answers_without_a_start(engine: Engine) -> None:
    await engine.warm()
    await engine.warm()
    said = await engine.say("echo at once")
    assert said.text == "at once"
    assert said.of(Status) == []


async def test_words_come_before_the_answer_ends(engine: Engine) -> None:
    await engine.warm()
    began = time.monotonic()
    first = None
    async for event in engine.pool.turn(engine.spec, engine.account, engine.store, "slow 10 2", allow):
        if isinstance(event, TextDelta) and first is None:
            first = time.monotonic() - began
    assert first is not None
    assert first < 1 < time.monotonic() - began


async def test_thinking_and_text_are_blocks_of_one_count(engine: Engine) -> None:
    said = await engine.say("think about the sea")
    assert {event.block for event in said.of(ThinkingDelta)} == {0}
    assert {event.block for event in said.of(TextDelta)} == {1}


async def test_lines_of_any_length_come_through(engine: Engine) -> None:
    said = await engine.say("error flood 3 MB")
    assert len(said.text) == 3_000_000
    assert said.end.outcome == "completed"


async def test_a_tool_runs_when_the_person_allows_it(engine: Engine) -> None:
    questions: list[Question] = []

    async def ask(question: Question) -> Answer:
        questions.append(question)
        return Answer("allow")

    said = await engine.say("run echo $((6 * 7)) > answer.txt; cat answer.txt", ask)
    [started], [finished] = said.of(ToolStarted), said.of(ToolFinished)
    assert (started.name, started.parent) == ("Bash", None)
    assert "answer.txt" in started.input["command"]
    assert (finished.tool_use, finished.is_error, finished.output) == (started.tool_use, False, "42")
    assert [(q.tool_use, q.name, q.input) for q in questions] == [(started.tool_use, "Bash", started.input)]
    assert questions[0].choices[0] == "allow"
    assert questions[0].choices[-1] == "deny"
    assert engine.pool.has_files(engine.spec.conversation)


async def test_a_tool_does_not_run_when_the_person_denies_it(engine: Engine) -> None:
    async def ask(_question: Question) -> Answer:
        return Answer("deny", "Not on my machine.")

    said = await engine.say("write secret.txt: hello", ask)
    [finished] = said.of(ToolFinished)
    assert finished.is_error
    assert "Not on my machine." in finished.output
    assert not engine.pool.has_files(engine.spec.conversation)
    assert said.end.outcome == "completed"


async def test_always_means_no_more_questions(engine: Engine) -> None:
    questions: list[Question] = []

    async def ask(question: Question) -> Answer:
        questions.append(question)
        return Answer("allow_always")

    await engine.say("run touch one", ask)
    await engine.say("run touch one", ask)
    assert len(questions) == 1


async def test_a_question_may_stay_open_longer_than_silence_is_borne(new_engine: NewEngine) -> None:
    engine = await new_engine(hung_after=1.0)

    async def ask(_question: Question) -> Answer:
        await asyncio.sleep(2.5)
        return Answer("allow")

    said = await engine.say("run echo patience", ask)
    assert [event.output for event in said.of(ToolFinished)] == ["patience"]


async def test_interrupting_words_keeps_the_process(engine: Engine) -> None:
    await engine.warm()
    before = engine.process_ids()
    words = asyncio.Event()
    turn = asyncio.create_task(engine.say("slow 100 20", on_text=words.set))
    await asyncio.wait_for(words.wait(), 10)
    began = time.monotonic()
    await engine.pool.interrupt(engine.spec.conversation)
    said = await turn
    assert time.monotonic() - began < 1
    assert said.end.outcome == "interrupted"
    assert said.end.error is None
    assert said.text
    assert "interrupted" not in said.text
    assert (await engine.say("echo still here")).text == "still here"
    assert engine.process_ids() == before


async def test_interrupting_a_tool_ends_the_tool(engine: Engine) -> None:
    await engine.warm()
    turn = asyncio.create_task(engine.say("run sleep 77"))
    await eventually(lambda: any("sleep 77" in command_of(pid) for pid in engine.process_ids()))
    began = time.monotonic()
    await engine.pool.interrupt(engine.spec.conversation)
    assert (await turn).end.outcome == "interrupted"
    assert time.monotonic() - began < 1
    assert (await engine.say("echo next")).text == "next"
    assert not any(command_of(pid).startswith("sleep") for pid in engine.process_ids())


async def test_interrupting_a_start_ends_the_turn(engine: Engine) -> None:
    turn = asyncio.create_task(engine.say("echo never"))
    await asyncio.sleep(0.3)
    began = time.monotonic()
    await engine.pool.interrupt(engine.spec.conversation)
    assert (await turn).end.outcome == "interrupted"
    assert time.monotonic() - began < 1
    assert (await engine.say("echo later")).text == "later"


async def test_interrupting_withdraws_the_question(engine: Engine) -> None:
    asked, withdrawn = asyncio.Event(), asyncio.Event()

    async def ask(_question: Question) -> Answer:
        asked.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            withdrawn.set()
            raise
        raise AssertionError("nobody answers")

    turn = asyncio.create_task(engine.say("run touch no", ask))
    await asyncio.wait_for(asked.wait(), 10)
    await engine.pool.interrupt(engine.spec.conversation)
    assert (await turn).end.outcome == "interrupted"
    assert withdrawn.is_set()


async def test_a_turn_that_nobody_reads_is_interrupted(engine: Engine) -> None:
    await engine.warm()
    turn = asyncio.create_task(engine.say("slow 100 20"))
    await asyncio.sleep(0.5)
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    said = await engine.say("echo clean")
    assert (said.text, said.end.outcome) == ("clean", "completed")


async def test_nothing_is_lost_on_a_slow_reader(engine: Engine) -> None:
    await engine.warm()
    text = ""
    async for event in engine.pool.turn(engine.spec, engine.account, engine.store, "words 500", allow):
        await asyncio.sleep(0.01)
        if isinstance(event, TextDelta):
            text += event.text
    assert len(text.split()) == 500


@pytest.mark.parametrize(
    ("kind", "type_", "advice"),
    [
        ("400", "invalid_request_error", "did not take the request"),
        ("401", "authentication_error", "Enter a new one"),
        ("429", "rate_limit_error", "Wait a minute"),
        ("500", "api_error", "server failed"),
        ("529", "overloaded_error", "Wait a minute"),
    ],
)
async def test_an_api_error_fails_the_turn_with_advice(
    engine: Engine, kind: str, type_: str, advice: str
) -> None:
    said = await engine.say(f"error {kind}")
    assert said.end.outcome == "failed"
    assert said.end.error is not None
    assert said.end.error["type"] == type_
    assert advice in said.end.error["message"]
    assert said.text == ""
    assert (await engine.say("echo again")).text == "again"


async def test_a_retry_is_shown_and_survived(engine: Engine) -> None:
    said = await engine.say("error 529 once")
    assert [(s.state, s.detail) for s in said.of(Status)][-1] == (
        "retrying",
        "overloaded (529), attempt 1 of 1",
    )
    assert said.end.outcome == "completed"
    assert "after one failed attempt" in said.text


async def test_a_refused_credential_is_not_tried_again(engine: Engine, model: ScriptedModel) -> None:
    engine.account.upstream = Upstream("api_key", model.url, "wrong")
    said = await engine.say("echo never")
    assert said.end.error is not None
    assert said.end.error["type"] == "authentication_error"
    assert "retrying" not in [status.state for status in said.of(Status)]
    engine.account.upstream = Upstream("api_key", model.url, "right")
    assert (await engine.say("echo repaired")).text == "repaired"


async def test_an_upstream_that_is_not_there(new_engine: NewEngine) -> None:
    engine = await new_engine(max_retries=0)
    engine.account.upstream = Upstream("endpoint", "http://127.0.0.1:9", SECRET)
    said = await engine.say("echo never")
    assert said.end.error is not None
    assert "127.0.0.1:9 cannot be reached" in said.end.error["message"]
    assert SECRET not in said.end.error["message"]


async def test_an_answer_that_breaks_off_says_so(new_engine: NewEngine) -> None:
    said = await (await new_engine(max_retries=0)).say("error overloaded")
    assert said.end.outcome == "failed"
    assert said.end.error is not None
    assert said.end.error["type"] == "overloaded_error"


async def test_each_turn_pays_for_itself(engine: Engine) -> None:
    first, second = (await engine.say("echo one")).end, (await engine.say("echo two")).end
    assert second.cost_usd > 0
    assert second.cost_usd < 1.9 * first.cost_usd
    assert second.usage["output_tokens"] == first.usage["output_tokens"]


async def test_a_turn_after_a_resume_pays_for_itself(engine: Engine) -> None:
    ends = [(await engine.say("echo one")).end, (await engine.say("echo two")).end]
    await engine.pool.stop(engine.spec.conversation)
    resumed = (await engine.say("echo one")).end
    assert resumed.usage["output_tokens"] == ends[0].usage["output_tokens"]
    assert 0 < resumed.cost_usd < ends[0].cost_usd + ends[1].cost_usd


async def test_a_conversation_keeps_its_memory_whatever_is_typed(engine: Engine) -> None:
    await engine.say("echo keep me")
    said = await engine.say("/clear")
    assert said.end.error is not None
    assert "Start a new conversation" in said.end.error["message"]
    assert "keep me" in (await engine.say("recall")).text


async def test_a_command_is_answered_by_the_cli_itself(engine: Engine, model: ScriptedModel) -> None:
    await engine.warm()
    model.requests.clear()
    said = await engine.say("/help")
    assert said.text == "/help isn't available in this environment."
    assert said.end.outcome == "completed"
    assert not model.requests


async def test_a_second_turn_at_once_is_refused(engine: Engine) -> None:
    await engine.warm()
    words = asyncio.Event()
    turn = asyncio.create_task(engine.say("slow 20 2", on_text=words.set))
    await asyncio.wait_for(words.wait(), 10)
    refused = await engine.say("echo me too")
    assert refused.end.error is not None
    assert "still answering" in refused.end.error["message"]
    assert (await turn).end.outcome == "completed"


async def test_model_and_mode_change_on_the_live_process(engine: Engine, model: ScriptedModel) -> None:
    await engine.warm()
    before = engine.process_ids()
    await engine.pool.set_model(engine.spec.conversation, "claude-sonnet-5")
    changed = engine.about(model="claude-sonnet-5")
    await changed.say("echo other model")
    assert model.requests[-1].body["model"] == "claude-sonnet-5"
    accepting = changed.about(permission_mode="acceptEdits")
    said = await accepting.say("write a.txt: unasked", _nobody)
    assert [finished.is_error for finished in said.of(ToolFinished)] == [False]
    assert engine.process_ids() == before


async def test_what_a_change_of_model_costs_is_on_the_account_of_the_turn_that_wants_it(
    engine: Engine,
) -> None:
    await engine.say("echo mine")
    first, before = engine.account, engine.account.admitted
    await engine.pool.set_model(engine.spec.conversation, "claude-opus-5-5")
    theirs = replace(engine.about(model="claude-sonnet-5"), account=Purse(first.upstream))
    assert (await theirs.say("echo theirs")).text == "theirs"
    assert theirs.account.admitted >= 2, "the change, and the answer"
    assert first.admitted == before


async def _nobody(_question: Question) -> Answer:
    raise AssertionError("nobody should be asked")


async def test_a_long_prompt_is_taken(engine: Engine, model: ScriptedModel) -> None:
    long = engine.about(system_prompt="a rule; " * 40_000)
    assert (await long.say("echo fine")).text == "fine"
    assert any(b"a rule; " * 40_000 in request.raw for request in model.requests)


async def test_another_prompt_takes_another_process(
    engine: Engine, model: ScriptedModel, all_gone: Callable[[list[int]], bool]
) -> None:
    await engine.say("echo remember me")
    before = engine.process_ids()
    said = await engine.about(system_prompt="Canary: be brief.").say("recall")
    assert "remember me" in said.text
    assert any(b"Canary: be brief." in request.raw for request in model.requests)
    assert not any("Canary" in command_of(pid) for pid in engine.process_ids())
    assert all_gone(before)
