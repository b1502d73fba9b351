"""A tool call in one line and in plain words: icon, verb, object, what changed, and what it would do."""

import difflib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from django.utils.translation import gettext, pgettext
from django.utils.translation import gettext_noop as _

type Input = dict[str, Any]

WORKSPACE = "/workspace/"
OBJECT_LENGTH = 120
MOST_COMPARED = 400  # lines of one side of a change: the worst took 0.1 s, of 2,000 lines minutes
MOST_SHOWN = 500  # lines of a change


class Kind(NamedTuple):
    """How one tool is spoken of. `object_of` names the input that the call is about."""

    icon: str
    running: str
    done: str
    failed: str
    question: str
    consequence: str
    object_of: str = ""


KINDS = {
    "Bash": Kind(
        "terminal", _("Running"), _("Ran"), _("Failed:"),
        _("Run this command?"),
        _("Runs this command in the sandbox of this conversation."), "command",
    ),
    "Write": Kind(
        "file-plus", _("Writing"), _("Wrote"), _("Could not write"),
        _("Write this file?"),
        _("Creates this file, or replaces it if it exists."), "file_path",
    ),
    "Edit": Kind(
        "pencil", _("Editing"), _("Edited"), _("Could not edit"),
        _("Change this file?"),
        _("Changes this file as shown."), "file_path",
    ),
    "NotebookEdit": Kind(
        "pencil", _("Editing"), _("Edited"), _("Could not edit"),
        _("Change this notebook?"),
        _("Changes a cell of this notebook."), "notebook_path",
    ),
    "Read": Kind(
        "file-text", _("Reading"), _("Read"), _("Could not read"),
        _("Read this file?"),
        _("Reads this file. Nothing is changed."), "file_path",
    ),
    "Glob": Kind(
        "folder-search", _("Looking for"), _("Looked for"), _("Could not look for"),
        _("Look for files?"),
        _("Lists files by name. Nothing is changed."), "pattern",
    ),
    "Grep": Kind(
        "search", _("Searching for"), _("Searched for"), _("Could not search for"),
        _("Search in files?"),
        _("Searches in files. Nothing is changed."), "pattern",
    ),
    "WebFetch": Kind(
        "globe", _("Opening"), _("Opened"), _("Could not open"),
        _("Open this page?"),
        _("Sends a request to this address on the internet."), "url",
    ),
    "WebSearch": Kind(
        "globe", _("Searching the web for"), _("Searched the web for"), _("Could not search the web for"),
        _("Search the web?"),
        _("Sends these words to a search engine."), "query",
    ),
    "Task": Kind(
        "bot", _("A helper works on"), _("A helper did"), _("A helper failed at"),
        _("Start a helper?"),
        _("Starts a helper that works on its own and may use tools."), "description",
    ),
    "TodoWrite": Kind(
        "list-checks", _("Updating the plan"), _("Updated the plan"), _("Could not update the plan"),
        _("Change the plan?"),
        _("Changes the list of steps of this conversation."),
    ),
}  # fmt: skip
KINDS["Agent"] = KINDS["Task"]
MCP = Kind(
    "plug", _("Using"), _("Used"), _("Could not use"), _("Use this tool?"),
    _("Calls a tool of a connected server with the input shown."),
)  # fmt: skip
OTHER = Kind(
    "wrench", _("Using"), _("Used"), _("Could not use"), _("Use this tool?"),
    _("Calls this tool with the input shown."),
)  # fmt: skip


class DiffLine(NamedTuple):
    """One line of a change: `kind` is add, del or same."""

    kind: str
    text: str


class Diff(NamedTuple):
    """A change: its first lines, and how many there are."""

    lines: list[DiffLine]
    added: int
    removed: int
    left_out: int


@dataclass(frozen=True)
class ToolLine:
    """What the pages say about one call."""

    name: str
    input: Input

    @property
    def kind(self) -> Kind:
        return KINDS.get(self.name) or (MCP if self.name.startswith("mcp__") else OTHER)

    @property
    def icon(self) -> str:
        return self.kind.icon

    def verb(self, state: str) -> str:
        """`state`: running, done, failed or stopped."""
        kind = self.kind
        if state == "stopped":
            return pgettext("a tool call was stopped", "Stopped:")
        return gettext({"running": kind.running, "failed": kind.failed}.get(state, kind.done))

    @property
    def object(self) -> str:
        """What the call is about, cut to one line; '' if the verb says it all."""
        if self.kind.object_of:
            return shown_path(one_line(str(self.input.get(self.kind.object_of, ""))))
        if self.name == "TodoWrite":
            return ""
        return " · ".join(self.name.removeprefix("mcp__").split("__"))

    @property
    def question(self) -> str:
        return gettext(self.kind.question)

    @property
    def consequence(self) -> str:
        return gettext(self.kind.consequence)

    @cached_property
    def diff(self) -> Diff | None:
        """The lines that a Write or an Edit adds and takes away; None where there are none."""
        diff = DIFFS[self.name](self.input) if self.name in DIFFS else None
        return diff if diff and diff.lines else None

    @property
    def rest(self) -> str:
        """The input as text, without what the diff shows already."""
        if self.name == "Bash":
            return str(self.input.get("command", ""))
        shown = {"content", "old_string", "new_string", "edits"} if self.diff else set()
        rest = {key: value for key, value in self.input.items() if key not in shown}
        return json.dumps(rest, indent=2, ensure_ascii=False) if rest and not self.diff else ""


def one_line(text: str) -> str:
    """The first line of a text that says something, cut."""
    line = text.strip().partition("\n")[0]
    return line if len(line) <= OBJECT_LENGTH else f"{line[:OBJECT_LENGTH]}…"


def shown_path(path: str) -> str:
    """A path as seen from the workspace."""
    return path.removeprefix(WORKSPACE) or path


def _written(given: Input) -> Diff:
    return _replaced([], str(given.get("content", "")).splitlines())


def _edited(given: Input) -> Diff:
    before = str(given.get("old_string", "")).splitlines()
    after = str(given.get("new_string", "")).splitlines()
    if max(len(before), len(after)) > MOST_COMPARED:
        return _replaced(before, after)
    signed = list(difflib.unified_diff(before, after, lineterm="", n=2))[2:]
    lines = [DiffLine(SIGNS[line[0]], line[1:]) for line in signed if line[0] in SIGNS]
    added, removed = (sum(line.kind == kind for line in lines) for kind in ("add", "del"))
    return Diff(lines[:MOST_SHOWN], added, removed, max(0, len(lines) - MOST_SHOWN))


def _replaced(before: list[str], after: list[str]) -> Diff:
    """All of one in place of all of the other; a long one leaves the half of the room to the other."""
    taken = before[: max(MOST_SHOWN // 2, MOST_SHOWN - len(after))]
    given = after[: MOST_SHOWN - len(taken)]
    lines = [*(DiffLine("del", line) for line in taken), *(DiffLine("add", line) for line in given)]
    return Diff(lines, len(after), len(before), len(before) + len(after) - len(lines))


SIGNS = {"+": "add", "-": "del", " ": "same"}
DIFFS: dict[str, Callable[[Input], Diff]] = {"Write": _written, "Edit": _edited}
