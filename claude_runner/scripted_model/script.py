"""From a request to what is said: the commands that a person can type, and the words for all else."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from claude_runner.scripted_model.answer import (
    Answer,
    Ending,
    Fault,
    Flaky,
    Reply,
    Silence,
    Text,
    Thinking,
    say,
)
from claude_runner.scripted_model.prose import prose
from claude_runner.scripted_model.refusals import BY_NAME
from claude_runner.scripted_model.request import Request
from claude_runner.scripted_model.side import answer_side_request
from claude_runner.scripted_model.steps import answer_steps

type Respond = Callable[[Request, re.Match[str]], Reply]

FAULTY_ANSWER = Answer((Text(prose(60)),), delay=0.02)
FLOODED_AT_MOST = 64
STATUSES = (*BY_NAME, "invalid", "timeout", "overloaded")
TIMES = {None: None, "once": 1, "twice": 2}


@dataclass(frozen=True, slots=True)
class Command:
    """A thing to type. `usage` and `about` are what people read, in the greeting and in the documents."""

    usage: str
    about: str
    pattern: re.Pattern[str] | None = None
    respond: Respond | None = None


def reply(request: Request) -> Reply:
    """What the model says to this request. The same request always gets the same reply."""
    return answer_side_request(request) or answer_steps(request) or _by_command(request) or _unknown(request)


def _by_command(request: Request) -> Reply | None:
    prompt = request.prompt.lstrip()
    for command in COMMANDS:
        if command.pattern and command.respond and (found := command.pattern.fullmatch(prompt)):
            return command.respond(request, found)
    return None


def _echo(_request: Request, found: re.Match[str]) -> Reply:
    return say(found["text"])


def _words(_request: Request, found: re.Match[str]) -> Reply:
    return say(prose(_count(found["count"] or found["wished"])))


def _slow(_request: Request, found: re.Match[str]) -> Reply:
    count = _count(found["count"] or "60")
    seconds = float(found["seconds"] or count / 10)
    return Answer((Text(prose(count)),), delay=seconds / max(count, 1))


def _count(digits: str) -> int:
    return int(re.sub(r"\D", "", digits))


def _think(_request: Request, found: re.Match[str]) -> Reply:
    subject = found["subject"].strip() or "nothing in particular"
    thought = (
        f"I was asked to think about: {subject}\n\n"
        "As a scripted model I can't. A real model would weigh here what is known, what is missing and what "
        "to do first, and the page would show it as it comes.\n\nNow I answer."
    )
    return Answer((Thinking(thought), Text(f"I thought about it: {subject}")))


def _recall(request: Request, _found: re.Match[str]) -> Reply:
    earlier = request.prompts[:-1]
    if not earlier:
        return say("This is the first message of our conversation; there is nothing to recall.")
    lines = [f"{number}. {_in_one_line(prompt)}" for number, prompt in enumerate(earlier, start=1)]
    return say("You wrote, in this order:\n\n" + "\n".join(lines))


def _in_one_line(text: str, longest: int = 200) -> str:
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[:longest]}…"


def _model(request: Request, _found: re.Match[str]) -> Reply:
    tools = ", ".join(f"`{name}`" for name in sorted(request.tools)) or "none"
    return say(f"- model: `{request.model}`\n- folder: `{request.directory}`\n- tools: {tools}")


def _error(_request: Request, found: re.Match[str]) -> Reply:
    fault = _fault(found["kind"].lower(), found["size"])
    times = int(found["count"]) if found["count"] else TIMES[found["times"] and found["times"].lower()]
    if times is None:
        return fault
    attempts = "one failed attempt" if times == 1 else f"{times} failed attempts"
    return Flaky(fault, times, then=say(f"This answer came after {attempts}, as asked."))


def _fault(kind: str, size: str | None) -> Fault:
    match kind:
        case "hang":
            return Silence()
        case "flood":
            megabytes = min(int(size or 2), FLOODED_AT_MOST)
            return say("flood" * (megabytes * 200_000))
        case "cut" | "stall" | "overloaded":
            return Answer(FAULTY_ANSWER.blocks, FAULTY_ANSWER.delay, Ending[kind.upper()])
        case "invalid":
            return BY_NAME["400"]
        case "timeout":
            return BY_NAME["504"]
    return BY_NAME[kind]


def _greet(request: Request, _found: re.Match[str]) -> Reply:
    return say(welcome(request.model))


def _unknown(request: Request) -> Answer:
    prompt = request.prompt
    quoted = "\n".join(f"> {line}" for line in prompt[:400].splitlines()) or "> (no text)"
    return say(
        f"This is Parley's **offline scripted model**, not Claude, so I can't answer that. "
        f"This is what reached me:\n\n{quoted}\n\n"
        f"- words in it: {len(prompt.split())}\n"
        f"- messages of yours in this conversation: {len(request.prompts)}\n\n"
        "Write `help` to see what I can do, or enter a real credential to talk to a real model."
    )


def welcome(model: str) -> str:
    """The greeting: what this is, what it is not, and what to try."""
    rows = "\n".join(f"| `{command.usage}` | {command.about} |" for command in COMMANDS)
    return f"""\
# Hello from Parley

You are talking to Parley's **offline scripted model** (asked for as `{model}`). It is **not Claude**: it
understands nothing and follows a short script. All around it is real: Claude Code itself, its tools, its
sandbox and this page. For real answers, enter a credential of your own.

## Three things to try first

1. `words 300`, to see an answer stream in.
2. `think about the sea`, to see a thought before the answer.
3. These lines as one message, to see tools at work:

```text
write hello.py: print(6 * 7)
run python3 hello.py
```

## Everything it knows

| Write | What happens |
| --- | --- |
{rows}
"""


def _form(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?:{pattern})\s*", re.IGNORECASE | re.DOTALL)


COMMANDS: tuple[Command, ...] = (
    Command(
        "help",
        "this greeting, also for `hello`",
        _form(r"(?:hello|hi|hey|help|hallo|what can (?:you|i) (?:do|try))\b[\s\w,.!?]{0,40}"),
        _greet,
    ),
    Command("echo TEXT", "TEXT comes back as it is", _form(r"echo\s(?P<text>.*)"), _echo),
    Command(
        "slow N SECONDS",
        "N words spread over SECONDS; without them 60 words, ten a second",
        _form(
            r"slow(?:ly)?(?:\s+(?P<count>\d{1,9})(?:\s+words)?(?:\s+(?:in\s+)?(?P<seconds>\d{1,6}(?:\.\d+)?)"
            r"(?:\s*s(?:econds)?)?)?)?"
        ),
        _slow,
    ),
    Command(
        "think TEXT", "a thought first, then an answer", _form(r"think\b(?:\s+about)?(?P<subject>.*)"), _think
    ),
    Command(
        "recall", "your earlier messages", _form(r"recall|what did i (?:say|ask|write)\b.{0,40}"), _recall
    ),
    Command("model", "the model, folder and tools of the request", _form(r"model|tools"), _model),
    Command("write FILE: TEXT", "the Write tool; `write a file` does without more"),
    Command("edit FILE: OLD => NEW", "the Edit tool"),
    Command("read FILE", "the Read tool"),
    Command("grep PATTERN in PATH", "the Grep tool where it is offered, else grep in Bash"),
    Command("run COMMAND", "the Bash tool"),
    Command("use TOOL JSON", "any other tool, with this input"),
    Command(
        "words N",
        "exactly N words; also `write 300 words`",
        _form(r"words?\s+(?P<count>\d[\d,]{0,9})|[^\n]*?\b(?P<wished>\d[\d,]{0,9})\s+words?\b[^\n]*"),
        _words,
    ),
    Command(
        "error KIND",
        "a failure: a status such as 401, 429, 500 or 529, or invalid, timeout, overloaded, cut, stall, "
        "hang, flood; with `once`, `twice` or `3 times` it ends after so many attempts",
        _form(
            rf"(?:error\s+)?(?P<kind>hang|flood|cut|stall|(?<=error )(?:{'|'.join(STATUSES)}))"
            r"(?:\s+(?P<size>\d{1,4})\s*MB)?(?:\s+(?P<times>once|twice)|\s+(?P<count>\d{1,3})\s+times)?"
        ),
        _error,
    ),
)
