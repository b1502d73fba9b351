"""The scripted model over real HTTP: to the official SDK, to raw clients, and to the real CLI."""

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anthropic
import claude_agent_sdk
import httpx
import pytest
from anthropic.types import Message, MessageParam, ToolParam

from claude_runner.scripted_model import MODELS, ScriptedModel
from claude_runner.scripted_model.refusals import BY_NAME
from claude_runner.scripted_model.script import COMMANDS, STATUSES

ROOT = Path(__file__).parents[2]
CLI = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"
REMINDER = "<system-reminder>\nNot from a person: words 3\n</system-reminder>\n"
TOOLS: list[ToolParam] = [
    {"name": name, "input_schema": {"type": "object"}} for name in ("Write", "Edit", "Read", "Bash", "Agent")
]


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as model:
        yield model


@pytest.fixture
async def sdk(model: ScriptedModel) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=model.url, api_key="any", max_retries=0) as sdk:
        yield sdk


@pytest.fixture
async def http(model: ScriptedModel) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=model.url, headers={"x-api-key": "any"}, timeout=10) as http:
        yield http


def turn(text: str | list[Any]) -> MessageParam:
    return {"role": "user", "content": text}


def body(*messages: object, **more: object) -> dict[str, object]:
    return {"model": "any", "max_tokens": 200_000, "messages": list(messages), **more}


async def say(sdk: anthropic.AsyncAnthropic, *messages: MessageParam, **more: Any) -> Message:
    """The streamed answer, put together by the official SDK."""
    request: dict[str, Any] = {"model": "any", "max_tokens": 200_000} | more
    async with sdk.messages.stream(messages=messages, **request) as stream:
        return await stream.get_final_message()


async def words(sdk: anthropic.AsyncAnthropic, *messages: MessageParam, **more: Any) -> str:
    answer = await say(sdk, *messages, **more)
    return "".join(block.text for block in answer.content if block.type == "text")


def without_ids(answer: Message) -> list[dict[str, Any]]:
    blocks = [block.to_dict() for block in answer.content]
    return [{name: value for name, value in block.items() if name != "id"} for block in blocks]


async def listen(http: httpx.AsyncClient, request: dict[str, object], heard: bytearray) -> None:
    async with http.stream("POST", "/v1/messages", json=request) as answer:
        async for part in answer.aiter_bytes():
            heard += part


def result(tool_use: str, text: str, *, is_error: bool = False) -> dict[str, object]:
    content = [{"type": "text", "text": f"{text}\n{REMINDER}"}]
    return {"type": "tool_result", "tool_use_id": tool_use, "content": content, "is_error": is_error}


# The wire


async def test_a_stream_has_the_events_of_the_real_api(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/messages", json=body(turn("words 7"), stream=True))
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["request-id"].startswith("req_")
    events = [part.split("\ndata: ") for part in answer.text.strip().split("\n\n")]
    assert [name for name, _ in events] == [
        f"event: {name}"
        for name in (
            "message_start",
            "ping",
            "content_block_start",
            *["content_block_delta"] * 3,
            "content_block_stop",
            "message_delta",
            "message_stop",
        )
    ]
    assert all(json.loads(data)["type"] == name.removeprefix("event: ") for name, data in events)


@pytest.mark.parametrize(
    "prompt", ["hello", "words 300", "think about it", "write a file", "echo  a\n\n b\n"]
)
async def test_streamed_and_whole_are_the_same_message(sdk: anthropic.AsyncAnthropic, prompt: str) -> None:
    streamed = await say(sdk, turn(prompt), tools=TOOLS)
    whole = await sdk.messages.create(model="any", max_tokens=9_000, messages=[turn(prompt)], tools=TOOLS)
    assert without_ids(streamed) == without_ids(whole)
    assert streamed.stop_reason == whole.stop_reason
    assert streamed.usage.output_tokens == whole.usage.output_tokens


async def test_models_are_listed_under_names_that_are_not_claude(sdk: anthropic.AsyncAnthropic) -> None:
    listed = [model.id async for model in sdk.models.list()]
    assert listed == list(MODELS)
    assert not any("claude" in name for name in listed)
    assert (await sdk.models.retrieve(listed[0])).display_name == MODELS[listed[0]]
    with pytest.raises(anthropic.NotFoundError):
        await sdk.models.retrieve("claude-something")


async def test_tokens_are_counted_and_add_up(sdk: anthropic.AsyncAnthropic) -> None:
    short = await sdk.messages.count_tokens(model="any", messages=[turn("hello")])
    longer = await sdk.messages.count_tokens(model="any", messages=[turn("hello " * 50)])
    assert 0 < short.input_tokens < longer.input_tokens
    usage = (await say(sdk, turn("words 40"))).usage
    assert (usage.output_tokens, usage.cache_read_input_tokens) == (40, 0)


async def test_the_first_request_writes_the_cache_and_later_ones_read_it(
    sdk: anthropic.AsyncAnthropic,
) -> None:
    cached = [{"type": "text", "text": "a b c", "cache_control": {"type": "ephemeral"}}]
    first = (await say(sdk, turn("hello"), system=cached)).usage
    assert first.cache_creation_input_tokens
    assert not first.cache_read_input_tokens
    answered: MessageParam = {"role": "assistant", "content": "Yes."}
    later = (await say(sdk, turn("hello"), answered, turn("words 3"), system=cached)).usage
    assert (later.input_tokens, later.cache_creation_input_tokens) == (2, 0)
    assert later.cache_read_input_tokens


async def test_an_answer_longer_than_max_tokens_is_cut_there(sdk: anthropic.AsyncAnthropic) -> None:
    answer = await say(sdk, turn("words 100"), max_tokens=10)
    assert answer.stop_reason == "max_tokens"
    assert answer.usage.output_tokens == 10


async def test_requests_are_recorded(sdk: anthropic.AsyncAnthropic, model: ScriptedModel) -> None:
    await say(sdk, turn("hello"))
    recorded = model.requests[-1]
    assert (recorded.method, recorded.path) == ("POST", "/v1/messages")
    assert recorded.headers["authorization"] == "Bearer any"
    assert recorded.body["messages"] == [turn("hello")]


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({}, "required"),
        ({"x-api-key": "wrong"}, "invalid x-api-key"),
        ({"authorization": "Bearer wrong"}, "Invalid bearer token"),
        ({"authorization": "Bearer expired"}, "expired"),
        ({"x-api-key": "expired"}, "expired"),
    ],
)
async def test_bad_credentials_are_refused(model: ScriptedModel, headers: dict[str, str], says: str) -> None:
    async with httpx.AsyncClient(base_url=model.url) as stranger:
        answer = await stranger.post("/v1/messages", json=body(turn("hello")), headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"
    assert says in answer.json()["error"]["message"]
    assert answer.json()["request_id"] == answer.headers["request-id"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b"{}", "model: Field required"),
        (json.dumps(body()).encode(), "at least one message"),
        (json.dumps(body("hello")).encode(), "messages.0.role"),
        (json.dumps(body({"role": "user"})).encode(), "messages.0.content"),
        (json.dumps(body(turn("hi"), max_tokens=0)).encode(), "max_tokens"),
        (json.dumps(body(turn("hi"), tools=["Bash"])).encode(), "tools"),
        (json.dumps(body(turn("hi"), output_config="json")).encode(), "output_config"),
    ],
)
async def test_bad_input_is_a_clear_error(http: httpx.AsyncClient, content: bytes, says: str) -> None:
    answer = await http.post("/v1/messages", content=content)
    assert answer.status_code == 400
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert says in answer.json()["error"]["message"]


async def test_other_paths_have_errors_of_the_same_shape(http: httpx.AsyncClient) -> None:
    assert (await http.head("/")).status_code == 200
    for answer in (await http.get("/v1/nothing"), await http.get("/v1/messages")):
        assert answer.status_code in (404, 405)
        assert answer.json()["type"] == "error"
        assert answer.json()["request_id"] == answer.headers["request-id"]


# What it says


async def test_the_greeting_says_what_it_is_and_names_every_command(sdk: anthropic.AsyncAnthropic) -> None:
    greeting = await words(sdk, turn("Hello!"))
    assert "not Claude" in greeting
    assert "offline scripted model" in greeting
    assert all(command.usage in greeting for command in COMMANDS)


def test_the_documents_name_every_command_and_failure() -> None:
    text = (ROOT / "docs" / "offline-model.md").read_text()
    for name in (*(command.usage for command in COMMANDS), *STATUSES, "cut", "stall", "hang", "flood"):
        assert f"`{name}`" in text


@pytest.mark.parametrize(
    "prompt", ["what is 2+2?", "ünknown — *text*", "words", "write 12 apples", "use X {oops}"]
)
async def test_unknown_text_is_quoted_back_with_an_explanation(
    sdk: anthropic.AsyncAnthropic, prompt: str
) -> None:
    answer = await words(sdk, turn(prompt))
    assert "not Claude" in answer
    assert f"> {prompt}" in answer


@pytest.mark.parametrize(
    ("prompt", "count"),
    [
        ("words 1", 1),
        ("words 2000", 2000),
        ("Write 300 words about the sea.", 300),
        ("please give me 1,500 words", 1500),
        ("WORDS 0", 0),
    ],
)
async def test_an_answer_has_exactly_the_wished_length(
    sdk: anthropic.AsyncAnthropic, prompt: str, count: int
) -> None:
    answer = await words(sdk, turn(prompt))
    assert len(answer.split()) == count
    assert answer == await words(sdk, turn(prompt))


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "# a\n\n```py\nx\n```\n",
        "  two\n\tthree  ",
        "é" * 500,
        "\ud83d\ude00",
        "words 3",
    ],
)
async def test_echo_is_verbatim(sdk: anthropic.AsyncAnthropic, text: str) -> None:
    text = text.encode("utf-16", "surrogatepass").decode("utf-16")
    assert await words(sdk, turn(f"echo {text}")) == text


async def test_a_thought_comes_before_the_answer(sdk: anthropic.AsyncAnthropic) -> None:
    answer = await say(sdk, turn("think about the sea"))
    thought, text = answer.content
    assert thought.type == "thinking"
    assert "the sea" in thought.thinking
    assert thought.signature
    assert text.type == "text"


async def test_a_slow_answer_comes_word_by_word(http: httpx.AsyncClient) -> None:
    arrivals = []
    async with http.stream("POST", "/v1/messages", json=body(turn("slow 10 0.5"), stream=True)) as answer:
        async for line in answer.aiter_lines():
            if "text_delta" in line:
                arrivals.append(time.monotonic())
    assert len(arrivals) == 10
    assert arrivals[-1] - arrivals[0] > 0.3


async def test_it_listens_to_the_person_not_to_reminders(sdk: anthropic.AsyncAnthropic) -> None:
    messages: list[Any] = [
        turn([{"type": "text", "text": REMINDER}, {"type": "text", "text": f"{REMINDER}words 5"}]),
        {"role": "system", "content": "words 7"},
        turn([{"type": "text", "text": "[Request interrupted by user]"}, {"type": "text", "text": REMINDER}]),
        turn("<command-name>/compact</command-name>"),
    ]
    assert len((await words(sdk, *messages)).split()) == 5


async def test_recall_lists_earlier_prompts_also_behind_a_compaction(sdk: anthropic.AsyncAnthropic) -> None:
    assert "nothing to recall" in await words(sdk, turn("recall"))
    earlier: list[Any] = [turn("first\nthing"), {"role": "assistant", "content": "Yes."}, turn("second")]
    answer = await words(sdk, *earlier, turn("What did I say?"))
    assert "1. first thing\n2. second" in answer
    asked = "CRITICAL: Respond with TEXT ONLY. Do NOT call any tools. Summarize."
    summary = await words(sdk, *earlier, turn(asked))
    assert "<summary>" in summary
    continued = turn(f"This session is being continued from a previous conversation.\n\n{summary}")
    assert "1. first thing\n2. second" in await words(sdk, continued, turn("recall"))


async def test_structured_output_follows_its_schema(http: httpx.AsyncClient) -> None:
    properties = {"title": {"type": "string"}, "kind": {"enum": ["a", "b"]}, "count": {"type": "integer"}}
    schema = {"type": "object", "properties": properties}
    wish = {"format": {"type": "json_schema", "schema": schema}}
    session = turn(
        "<session>\nerror 529: what does it mean for a person of my age?\n</session>\nTitle, please."
    )
    answer = await http.post("/v1/messages", json=body(session, output_config=wish))
    value = json.loads(answer.json()["content"][0]["text"])
    assert value == {"title": "error 529: what does it mean", "kind": "a", "count": 0}


async def test_no_answer_is_longer_than_the_longest(http: httpx.AsyncClient) -> None:
    # The SDK takes half a minute to put this one together.
    answer = await http.post("/v1/messages", json=body(turn("words 999999999")))
    assert len(answer.json()["content"][0]["text"].split()) == 100_000


# Tools


async def test_lines_are_steps_one_after_another(sdk: anthropic.AsyncAnthropic) -> None:
    prompt = turn("write notes.md: one\n  two: 2\nread /etc/hosts\nrun echo 300 words")
    folder = " - Primary working directory: /srv/work\n - more"
    messages: list[MessageParam] = [prompt]
    asked: list[tuple[str, object]] = []
    for number in range(3):
        answer = await say(sdk, *messages, tools=TOOLS, system=folder)
        assert answer.stop_reason == "tool_use"
        intro, call = answer.content
        assert intro.type == "text"
        assert call.type == "tool_use"
        asked.append((call.name, call.input))
        messages += [
            {"role": "assistant", "content": answer.content},
            turn([result(call.id, f"done {number}")]),
        ]
    write, read, run = asked
    assert write == ("Write", {"file_path": "/srv/work/notes.md", "content": "one\n  two: 2"})
    assert read == ("Read", {"file_path": "/etc/hosts"})
    assert run[0] == "Bash"
    assert isinstance(run[1], dict)
    assert run[1]["command"] == "echo 300 words"
    closing = await words(sdk, *messages, tools=TOOLS, system=folder)
    assert all(f"done {number}" in closing for number in range(3))
    assert "reminder" not in closing


async def test_steps_end_at_the_first_that_is_refused(sdk: anthropic.AsyncAnthropic) -> None:
    prompt = turn("write a.txt: x\nrun rm a.txt")
    call = (await say(sdk, prompt, tools=TOOLS)).content[-1]
    assert call.type == "tool_use"
    refused = turn([result(call.id, "The person said no", is_error=True)])
    answer = await say(sdk, prompt, {"role": "assistant", "content": [call]}, refused, tools=TOOLS)
    assert answer.stop_reason == "end_turn"
    assert answer.content[0].type == "text"
    assert "The person said no" in answer.content[0].text
    assert "not done: 1" in answer.content[0].text


@pytest.mark.parametrize(
    ("prompt", "name", "given"),
    [
        ("write a file", "Write", {"file_path": "/workspace/hello.md"}),
        ("Write the file called a/b.txt: hi", "Write", {"file_path": "/workspace/a/b.txt", "content": "hi"}),
        (
            "edit a.txt: old => new",
            "Edit",
            {"file_path": "/workspace/a.txt", "old_string": "old", "new_string": "new"},
        ),
        ("grep it's in src", "Bash", {"command": """grep -rnE -- 'it'"'"'s' /workspace/src"""}),
        ("$ cat <<X\na\nX", "Bash", {"command": "cat <<X\na\nX"}),
        ('use Agent {"prompt": "words 5"}', "Agent", {"prompt": "words 5"}),
    ],
)
async def test_each_verb_calls_its_tool(
    sdk: anthropic.AsyncAnthropic, prompt: str, name: str, given: dict[str, str]
) -> None:
    call = (await say(sdk, turn(prompt), tools=TOOLS)).content[-1]
    assert call.type == "tool_use"
    assert call.name == name
    assert isinstance(call.input, dict)
    assert given.items() <= call.input.items()


async def test_grep_is_used_where_it_is_offered(sdk: anthropic.AsyncAnthropic) -> None:
    grep: ToolParam = {"name": "Grep", "input_schema": {"type": "object"}}
    call = (await say(sdk, turn("grep TODO"), tools=[grep])).content[-1]
    assert call.type == "tool_use"
    assert call.input == {"pattern": "TODO", "path": "/workspace", "output_mode": "content"}


async def test_a_tool_that_is_not_offered_is_not_called(sdk: anthropic.AsyncAnthropic) -> None:
    answer = await say(sdk, turn("run id"))
    assert answer.stop_reason == "end_turn"
    assert answer.content[0].type == "text"
    assert "no tool named `Bash`" in answer.content[0].text


async def test_the_notice_of_a_background_task_does_not_repeat_the_closing(
    sdk: anthropic.AsyncAnthropic,
) -> None:
    notice = "<task-notification>\n<summary>Agent finished</summary>\n</task-notification>"
    answer = await words(sdk, turn("words 5"), turn(f"<system-reminder>\n{notice}\n</system-reminder>"))
    assert "Agent finished" in answer


# Failures


@pytest.mark.parametrize("name", BY_NAME)
async def test_each_status_is_the_apis_error(sdk: anthropic.AsyncAnthropic, name: str) -> None:
    with pytest.raises(anthropic.APIStatusError) as failed:
        await say(sdk, turn(f"error {name}"))
    assert failed.value.status_code == int(name)
    assert isinstance(failed.value.body, dict)
    assert failed.value.body["error"]["type"] == BY_NAME[name].type
    assert ("retry-after" in failed.value.response.headers) == (name == "429")


@pytest.mark.parametrize(("name", "status"), [("invalid", 400), ("timeout", 504)])
async def test_failures_have_names_too(sdk: anthropic.AsyncAnthropic, name: str, status: int) -> None:
    with pytest.raises(anthropic.APIStatusError) as failed:
        await say(sdk, turn(f"error {name}"))
    assert failed.value.status_code == status


@pytest.mark.parametrize(
    ("prompt", "times"), [("error 529 once", 1), ("error 500 twice", 2), ("ERROR 429 3 times", 3)]
)
async def test_a_failure_can_pass(sdk: anthropic.AsyncAnthropic, prompt: str, times: int) -> None:
    for _lap in range(2):
        for _attempt in range(times):
            with pytest.raises(anthropic.APIStatusError):
                await say(sdk, turn(prompt))
        assert "as asked" in await words(sdk, turn(prompt))


async def test_an_overload_can_come_in_the_middle(sdk: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.APIStatusError, match="overloaded_error"):
        await say(sdk, turn("error overloaded"))


@pytest.mark.parametrize("streamed", [True, False])
async def test_the_connection_can_drop_in_the_middle(http: httpx.AsyncClient, streamed: bool) -> None:
    heard = bytearray()
    with pytest.raises(httpx.RemoteProtocolError):
        await listen(http, body(turn("cut"), stream=streamed), heard)
    assert (b"text_delta" in heard) == streamed


@pytest.mark.parametrize(("prompt", "begins"), [("hang", False), ("stall", True)])
async def test_an_answer_can_fail_to_come(model: ScriptedModel, prompt: str, begins: bool) -> None:
    heard = bytearray()
    async with httpx.AsyncClient(base_url=model.url, headers={"x-api-key": "a"}, timeout=1) as patient:
        with pytest.raises(httpx.ReadTimeout):
            await listen(patient, body(turn(prompt), stream=True), heard)
    assert (b"text_delta" in heard) == begins


async def test_an_open_answer_does_not_hold_up_the_end() -> None:
    headers = {"x-api-key": "any"}
    async with httpx.AsyncClient(headers=headers) as http, AsyncExitStack() as answers:
        async with ScriptedModel() as model:
            request = http.stream("POST", f"{model.url}/v1/messages", json=body(turn("stall"), stream=True))
            await answers.enter_async_context(request)
            started = time.monotonic()
        assert time.monotonic() - started < 2


async def test_a_flood_is_as_large_as_asked_for(sdk: anthropic.AsyncAnthropic) -> None:
    assert len(await words(sdk, turn("flood 1 MB"))) == 1_000_000


# As a process, and behind the real CLI


async def test_it_runs_as_a_server_until_told_to_stop(tmp_path: Path) -> None:
    port_file = tmp_path / "port"
    command = ("-m", "claude_runner.scripted_model", "--port", "0", "--port-file", str(port_file))
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    while not port_file.exists():
        assert process.returncode is None
        await asyncio.sleep(0.05)
    async with httpx.AsyncClient() as http:
        url = f"http://127.0.0.1:{int(port_file.read_text())}/v1/models"
        assert (await http.get(url, headers={"x-api-key": "any"})).status_code == 200
    process.send_signal(signal.SIGTERM)
    await process.communicate()
    assert process.returncode == 0


async def ask_the_cli(model: ScriptedModel, folder: Path, prompt: str) -> str:
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "CLAUDE_CONFIG_DIR": str(folder / ".claude"),
        "ANTHROPIC_BASE_URL": model.url,
        "ANTHROPIC_API_KEY": "any",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
    }
    flags = ("--model", "offline-scripted", "--permission-mode", "acceptEdits", "--allowedTools", "Bash")
    process = await asyncio.create_subprocess_exec(
        str(CLI), "-p", prompt, *flags, cwd=folder, env=environment,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, complaints = await process.communicate()
    assert process.returncode == 0, complaints
    return output.decode()


async def test_the_real_cli_writes_reads_greps_and_runs(model: ScriptedModel, tmp_path: Path) -> None:
    prompt = "write six.py: print(6 * 7)\nread six.py\ngrep print\nrun python3 six.py | tr 4 9"
    answer = await ask_the_cli(model, tmp_path, prompt)
    assert (tmp_path / "six.py").read_text() == "print(6 * 7)"
    assert "92" in answer
    assert len(model.requests) == 5


async def test_the_real_cli_tries_again_when_overloaded(model: ScriptedModel, tmp_path: Path) -> None:
    assert "after 2 failed attempts" in await ask_the_cli(model, tmp_path, "error 529 twice")
    assert len(model.requests) == 3
