"""The CLI's own requests beside the conversation, answered quietly: titles, summaries, suggestions."""

import json
import re
from collections.abc import Mapping
from typing import Any

from claude_runner.scripted_model.answer import Answer, say
from claude_runner.scripted_model.request import REMEMBERED, Request

SESSION = re.compile(r"<session>\s*(.*?)\s*</session>", re.DOTALL)
TITLE_WORDS = 6


def answer_side_request(request: Request) -> Answer | None:
    """The answer, or None where a person asks."""
    prompt = request.prompt
    if request.schema is not None:
        return say(json.dumps(instance(request.schema, _title(prompt))))
    if prompt.startswith("CRITICAL: Respond with TEXT ONLY"):
        return say(_summary(request.prompts[:-1]))
    if prompt.startswith("[SUGGESTION MODE"):
        return say("words 100")
    if request.notice:
        return say(f"Something that ran in the background is done: {request.notice}.")
    if prompt == "quota":
        return say("ok")
    return None


def instance(schema: Mapping[str, Any], text: str) -> Any:
    """The smallest value that follows a JSON schema; its strings are `text`."""
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return instance(options[0], text)
    kind = schema.get("type")
    if kind == "object":
        return {name: instance(part, text) for name, part in schema.get("properties", {}).items()}
    plain = {"array": [], "string": text, "integer": 0, "number": 0, "boolean": False}
    return plain.get(kind) if isinstance(kind, str) else None


def _title(prompt: str) -> str:
    session = SESSION.search(prompt)
    return " ".join((session[1] if session else prompt).split()[:TITLE_WORDS])


def _summary(prompts: tuple[str, ...]) -> str:
    """A summary that this model can read again, so that `recall` reaches back behind a compaction."""
    lines = "\n".join(f"{REMEMBERED}{json.dumps(prompt)}" for prompt in prompts)
    return f"<analysis>Each prompt is kept.</analysis>\n<summary>\n{lines}\n</summary>"
