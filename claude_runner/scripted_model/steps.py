"""Prompts that ask for tools: each line a step, run one after another, up to the first that fails."""

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from claude_runner.scripted_model.answer import Answer, Text, ToolUse, say
from claude_runner.scripted_model.request import Request, ToolResult

QUOTED_AT_MOST = 2_000
STARTS_STEP = re.compile(r"(?:write|edit|read|grep|run|use)\s|\$ ", re.IGNORECASE)
HELLO = "# Hello\n\nThis file was written by Parley's offline scripted model.\n"


@dataclass(frozen=True, slots=True)
class Step:
    """One tool call, with the words before and after it."""

    intro: str
    done: str
    call: ToolUse


def answer_steps(request: Request) -> Answer | None:
    """The next tool call of the prompt, the closing words after the last, or None if it asks for no tool."""
    steps = _read_steps(request)
    if not steps:
        return None
    results = request.results[: len(steps)]
    if len(results) == len(steps) or any(result.is_error for result in results):
        return _closing(steps, results)
    step = steps[len(results)]
    if step.call.name not in request.tools:
        return say(f"{step.intro} But this request offers no tool named `{step.call.name}`.")
    return Answer((Text(step.intro), step.call))


def _closing(steps: Sequence[Step], results: Sequence[ToolResult]) -> Answer:
    parts = []
    for step, result in zip(steps, results, strict=False):
        words = "That did not work. The tool said:" if result.is_error else f"{step.done} The tool said:"
        parts.append(f"{words}\n\n{_fenced(result.text)}")
    left_out = len(steps) - len(results)
    if left_out:
        parts.append(f"I stop here; not done: {left_out} more.")
    return say("\n\n".join(parts))


def _fenced(text: str) -> str:
    if len(text) > QUOTED_AT_MOST:
        text = f"{text[:QUOTED_AT_MOST]}\n… {len(text) - QUOTED_AT_MOST:,} more characters"
    longest = max((len(ticks) for ticks in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}text\n{text or '(nothing)'}\n{fence}"


def _read_steps(request: Request) -> list[Step]:
    steps = [_read_step(chunk, request) for chunk in _chunks(request.prompt)]
    return [step for step in steps if step] if all(steps) else []


def _chunks(prompt: str) -> list[str]:
    """Lines that start a step, each with the lines that follow it; a prompt that starts otherwise is one."""
    chunks: list[str] = []
    for line in prompt.strip().splitlines():
        if chunks and not STARTS_STEP.match(line):
            chunks[-1] += f"\n{line}"
        else:
            chunks.append(line)
    return chunks


def _read_step(chunk: str, request: Request) -> Step | None:
    for pattern, make in GRAMMAR:
        if found := pattern.fullmatch(chunk.rstrip()):
            return make(found, request)
    return None


def _path(name: str, request: Request) -> str:
    return str(PurePosixPath(request.directory) / name.strip("`'\""))


def _write(found: re.Match[str], request: Request) -> Step:
    name = found["path"]
    call = ToolUse("Write", {"file_path": _path(name, request), "content": found["text"]})
    return Step(f"I'll write `{name}`.", f"Wrote `{name}`.", call)


def _write_hello(_found: re.Match[str], request: Request) -> Step:
    call = ToolUse("Write", {"file_path": _path("hello.md", request), "content": HELLO})
    return Step("I'll write `hello.md`.", "Wrote `hello.md`.", call)


def _edit(found: re.Match[str], request: Request) -> Step:
    name = found["path"]
    change = {"file_path": _path(name, request), "old_string": found["old"], "new_string": found["new"]}
    return Step(f"I'll edit `{name}`.", f"Edited `{name}`.", ToolUse("Edit", change))


def _read(found: re.Match[str], request: Request) -> Step:
    name = found["path"]
    call = ToolUse("Read", {"file_path": _path(name, request)})
    return Step(f"I'll read `{name}`.", f"Read `{name}`.", call)


def _grep(found: re.Match[str], request: Request) -> Step:
    pattern, where = found["pattern"], _path(found["where"] or ".", request)
    words = f"I'll search for `{pattern}`.", f"Searched for `{pattern}`."
    if "Grep" in request.tools:
        return Step(*words, ToolUse("Grep", {"pattern": pattern, "path": where, "output_mode": "content"}))
    # The CLI offers Grep only when it is told to; its own advice is then to grep in Bash.
    command = f"grep -rnE -- {shlex.quote(pattern)} {shlex.quote(where)}"
    return Step(*words, _bash(command))


def _run(found: re.Match[str], _request: Request) -> Step:
    command = found["command"]
    shown = command.splitlines()[0]
    return Step(f"I'll run `{shown}`.", f"Ran `{shown}`.", _bash(command))


def _bash(command: str) -> ToolUse:
    return ToolUse("Bash", {"command": command, "description": f"Run {command.split()[0]}, as asked"})


def _use(found: re.Match[str], _request: Request) -> Step | None:
    name = found["name"]
    try:
        given = json.loads(found["input"] or "{}")
    except ValueError:
        return None
    return Step(f"I'll use `{name}`.", f"Used `{name}`.", ToolUse(name, _object(given)))


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {"value": value}


def _form(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE | re.DOTALL)


type Make = Callable[[re.Match[str], Request], Step | None]

GRAMMAR: Sequence[tuple[re.Pattern[str], Make]] = (
    (_form(r"write\s+(?:(?:an? |the )?file (?:called |named )?)?(?P<path>[^\s:]+):\s?(?P<text>.*)"), _write),
    (_form(r"write (?:an? |the )?file\b[^:]*"), _write_hello),
    (_form(r"edit\s+(?P<path>[^\s:]+):\s?(?P<old>.+?) => (?P<new>.*)"), _edit),
    (_form(r"read\s+(?:the )?(?:file )?(?P<path>\S+)"), _read),
    (_form(r"grep\s+(?P<pattern>\S.*?)(?:\s+in\s+(?P<where>\S+))?"), _grep),
    (_form(r"(?:run|\$)\s+(?P<command>\S.*)"), _run),
    (_form(r"use\s+(?P<name>[\w-]+)(?:\s+(?P<input>\{.*\}))?"), _use),
)
