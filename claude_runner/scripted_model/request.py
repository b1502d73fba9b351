"""What a request of the Messages API asks: the person's prompts, and the tool results since the newest."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from claude_runner.scripted_model.refusals import InvalidRequest

REMINDER = re.compile(r"\s*<system-reminder>.*?</system-reminder>\s*", re.DOTALL)
NOT_SAID_BY_A_PERSON = (
    "<command-",
    "<local-command-",
    "[Request interrupted by user",
)
NOTICE = re.compile(r"<task-notification>.*?<summary>(.*?)</summary>", re.DOTALL)
CONTINUED = "This session is being continued from"
REMEMBERED = "The person wrote: "
"""Begins a line of a summary made by this model; what follows is one prompt, as a JSON string."""
REMEMBERED_LINE = re.compile(rf"^{REMEMBERED}(\".*\")$", re.MULTILINE)
ROLES = ("user", "assistant", "system")
SHAPES: Mapping[str, type] = {"model": str, "messages": list, "tools": list, "output_config": dict}
SHAPE_NAMES: Mapping[type, str] = {str: "string", list: "list", dict: "dictionary"}
DIRECTORY = re.compile(r"working directory: (/[^\n\"\\]*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool gave back."""

    text: str
    is_error: bool


@dataclass(frozen=True)
class Request:
    """One request, read once."""

    raw: bytes
    body: Mapping[str, Any]
    prompts: tuple[str, ...]
    results: tuple[ToolResult, ...]
    notice: str
    """What became of a background task, where nobody has said anything since; else empty."""

    @classmethod
    def read(cls, raw: bytes) -> Self:
        """Reads the body, or raises `InvalidRequest` with the API's words."""
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"The request body is not valid JSON: {error}") from error
        if not isinstance(body, dict):
            raise InvalidRequest("The request body must be a JSON object.")
        _check(body)
        prompts, results, notice = _said(body["messages"])
        return cls(raw, body, tuple(prompts), tuple(results), notice)

    @property
    def prompt(self) -> str:
        """The newest text of the person; empty where there is none."""
        return self.prompts[-1] if self.prompts else ""

    @property
    def model(self) -> str:
        return str(self.body["model"])

    @property
    def max_tokens(self) -> int:
        """Raises `InvalidRequest` where the field is missing, as the API does for all but token counts."""
        limit = self.body.get("max_tokens")
        if not isinstance(limit, int) or limit < 1:
            raise InvalidRequest("max_tokens: Field required, an integer of at least 1")
        return limit

    @property
    def streamed(self) -> bool:
        return self.body.get("stream") is True

    @cached_property
    def words(self) -> int:
        """The gaps between words, counted in the raw bytes: far cheaper than a walk over the CLI's 50 kB."""
        return self.raw.count(b" ") + 1

    @cached_property
    def digest(self) -> str:
        """A name for this request that a repetition of it shares."""
        return hashlib.blake2b(self.raw, digest_size=12).hexdigest()

    @cached_property
    def thread(self) -> str:
        """Names the newest prompt in its conversation; each retry of it has the same name."""
        metadata = self.body.get("metadata")
        asked = json.dumps([metadata, self.prompts], sort_keys=True)
        return hashlib.blake2b(asked.encode(), digest_size=12).hexdigest()

    @cached_property
    def tools(self) -> frozenset[str]:
        """The names of the tools that may be called."""
        return frozenset(str(tool.get("name")) for tool in self.body.get("tools") or ())

    @cached_property
    def schema(self) -> Mapping[str, Any] | None:
        """The JSON schema that the answer has to follow, where one is asked for."""
        config = self.body.get("output_config") or {}
        shape = config.get("format") or self.body.get("output_format")
        schema = shape.get("schema") if isinstance(shape, dict) else None
        return schema if isinstance(schema, dict) else None

    @cached_property
    def directory(self) -> str:
        """The folder that the CLI says it works in; relative paths are meant from there."""
        for text in self._system_texts():
            if found := DIRECTORY.search(text):
                return found[1].rstrip()
        return "/workspace"

    def _system_texts(self) -> Iterator[str]:
        for message in self.body["messages"]:
            if message.get("role") == "system":
                yield from _texts(message.get("content"))
        yield from _texts(self.body.get("system"))


def _check(body: Mapping[str, Any]) -> None:
    for name in ("model", "messages"):
        if name not in body:
            raise InvalidRequest(f"{name}: Field required")
    for name, shape in SHAPES.items():
        if not isinstance(body.get(name, shape()), shape):
            raise InvalidRequest(f"{name}: Input should be a valid {SHAPE_NAMES[shape]}")
    if not body["messages"]:
        raise InvalidRequest("messages: at least one message is required")
    for place, message in enumerate(body["messages"]):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise InvalidRequest(f"messages.{place}.role: Input should be one of {', '.join(ROLES)}")
        if not isinstance(message.get("content"), str | list):
            raise InvalidRequest(f"messages.{place}.content: Field required")
    if not all(isinstance(tool, dict) for tool in body.get("tools", ())):
        raise InvalidRequest("tools: Input should be a valid list of tools")


def _said(messages: Iterable[Mapping[str, Any]]) -> tuple[list[str], list[ToolResult], str]:
    """The prompts, the tool results since the newest, and the notice that came last."""
    prompts: list[str] = []
    results: list[ToolResult] = []
    notice = ""
    for block in _user_blocks(messages):
        text = str(block.get("text", ""))
        if block.get("type") == "tool_result":
            results.append(_tool_result(block))
            notice = ""
        elif said := _by_person(text):
            prompts.extend(said)
            results.clear()
            notice = ""
        elif found := NOTICE.search(text):
            notice = found[1]
    return prompts, results, notice


def _user_blocks(messages: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for message in messages:
        if message["role"] == "user":
            yield from _blocks(message["content"])


def _tool_result(block: Mapping[str, Any]) -> ToolResult:
    text = "\n".join(_texts(block.get("content")))
    return ToolResult(REMINDER.sub("", text).strip(), bool(block.get("is_error")))


def _by_person(text: str) -> list[str]:
    """What a person said in a text block: nothing in what the CLI adds, one prompt, or those of a summary.

    The CLI puts reminders in blocks of their own or in front of the prompt.
    """
    while reminder := REMINDER.match(text):
        text = text[reminder.end() :]
    if text.startswith(CONTINUED):
        return _remembered(text)
    return [text] if text.strip() and not text.startswith(NOT_SAID_BY_A_PERSON) else []


def _remembered(summary: str) -> list[str]:
    try:
        return [json.loads(line) for line in REMEMBERED_LINE.findall(summary)]
    except ValueError:
        return []


def _blocks(content: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(content, str):
        yield {"type": "text", "text": content}
    elif isinstance(content, list):
        yield from (block for block in content if isinstance(block, dict))


def _texts(content: Any) -> Iterator[str]:
    for block in _blocks(content):
        if block.get("type") == "text":
            yield str(block.get("text", ""))
