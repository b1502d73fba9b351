"""What a turn consists of on the page: texts, thinking, tool calls, questions.

Each part folds the events that concern it and notes the changes for pages that show it already; its template
shows the same state from nothing. The two must agree: tests/conversations/test_rendering.py holds them together.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from conversations.blocks import MOST_CODE, MOST_OPEN, finish_blocks, is_fence, split_blocks
from conversations.markdown import render_block, visible
from conversations.tool_lines import ToolLine, one_line

type Patch = dict[str, str]


class Changes:
    """The patches that bring a page from one state to the next; a silent one notes nothing.

    A patch is {"op", "target", ...}, target being an element's id. With "html": `append` (as last child),
    `before` (as sibling before), `fill` (as content), `replace`. With "text": `write` (added at the end),
    `text` (as content), `state` (as data-state), `announce` (read out to those who can't see). With neither:
    `remove`, and `refresh` (that part of the page loads itself again).
    """

    def __init__(self, *, silent: bool = False) -> None:
        self.silent = silent
        self.patches: list[Patch] = []

    def html(self, op: str, target: str, template: str, **context: Any) -> None:
        """Note a change to what `template` shows of `context` now."""
        if not self.silent:
            self.patches.append({"op": op, "target": target, "html": render(template, **context)})

    def text(self, op: str, target: str, text: str) -> None:
        if not self.silent:
            self.patches.append({"op": op, "target": target, "text": text})

    def note(self, op: str, target: str) -> None:
        if not self.silent:
            self.patches.append({"op": op, "target": target})


def render(template: str, **context: Any) -> SafeString:
    return render_to_string(f"conversations/{template}.html", context)


@dataclass
class Part:
    """One piece of an answer, in the order of its first event."""

    id: str
    template: ClassVar[str]

    @property
    def path(self) -> str:
        """Its template, for `include`."""
        return f"conversations/{self.template}.html"

    def end(self, page: Changes) -> None:
        """Something else began after it."""

    def cut_off(self, page: Changes) -> None:
        """The turn ended; nothing more will come."""
        self.end(page)


@dataclass
class TextPart(Part):
    """Finished blocks as Markdown, and the open one as plain text until it closes."""

    template: ClassVar[str] = "_text"
    closed: list[SafeString] = field(default_factory=list)
    tail: str = ""
    is_open: bool = False

    @property
    def open_id(self) -> str:
        return f"{self.id}-open"

    @property
    def open_kind(self) -> str:
        """How the open block looks meanwhile: code is set as code."""
        return "code" if is_fence(self.tail) else "text"

    def add(self, text: str, page: Changes) -> None:
        if not self.is_open:
            self.is_open = True
            page.html("append", self.id, "_open", part=self)
        text, kind = visible(text), self.open_kind
        self.tail += text
        if page.silent:
            if len(self.tail) > 2 * MOST_CODE:
                self.settle(page)
            return
        if not (("\n" in text or len(self.tail) >= MOST_OPEN) and self.settle(page)):
            page.text("write", self.open_id, text)
        if kind != self.open_kind:
            page.text("state", self.open_id, self.open_kind)

    def settle(self, page: Changes) -> bool:
        """Close the blocks that are finished; whether there were any. Silent additions leave it to the end."""
        blocks, rest = split_blocks(self.tail)
        if rest == self.tail:
            return False
        self.tail = rest
        self._close(blocks, page)
        page.text("text", self.open_id, rest)
        return True

    def end(self, page: Changes) -> None:
        if self.is_open:
            self.is_open = False
            blocks, self.tail = finish_blocks(self.tail), ""
            self._close(blocks, page)
            page.note("remove", self.open_id)

    def _close(self, sources: Iterable[str], page: Changes) -> None:
        for source in sources:
            block = render_block(source)
            self.closed.append(block)
            page.html("before", self.open_id, "_block", block=block)


@dataclass
class ThinkingPart(Part):
    template: ClassVar[str] = "_thinking"
    text: str = ""
    state: str = "running"

    def add(self, text: str, page: Changes) -> None:
        text = visible(text)
        self.text += text
        page.text("write", f"{self.id}-text", text)
        self._become("running", page)

    def end(self, page: Changes) -> None:
        if self.state == "running":
            self._become("done", page)

    def _become(self, state: str, page: Changes) -> None:
        if state != self.state:
            page.text("state", self.id, state)
        self.state = state
        page.html("fill", f"{self.id}-line", "_thinking_line", part=self)


@dataclass
class ToolPart(Part):
    """One tool call: running, done, failed, or stopped with its turn."""

    template: ClassVar[str] = "_tool"
    line: ToolLine
    state: str = "running"
    output: str = ""
    inner: list[Part] = field(default_factory=list)

    @property
    def verb(self) -> str:
        return self.line.verb(self.state)

    @property
    def reason(self) -> str:
        """Why it failed, in one line."""
        return one_line(self.output.removeprefix("<tool_use_error>").partition("</tool_use_error>")[0])

    def finish(self, is_error: bool, output: str, page: Changes) -> None:
        self.output = output
        self._become("failed" if is_error else "done", page)

    def cut_off(self, page: Changes) -> None:
        if self.state == "running":
            self._become("stopped", page)

    def _become(self, state: str, page: Changes) -> None:
        # Never the whole card: a person may have opened it.
        self.state = state
        page.text("state", self.id, state)
        page.html("fill", f"{self.id}-line", "_tool_line", part=self)
        page.html("fill", f"{self.id}-output", "_tool_output", part=self)


@dataclass
class QuestionPart(Part):
    """A question to the person: open, answered, or left behind by its turn.

    `deciders` is who answers it, in words, where that is not the reader.
    """

    template: ClassVar[str] = "_question"
    request: str
    line: ToolLine
    choices: list[str]
    deciders: str = ""
    decision: str = ""
    by: str = ""

    @property
    def is_open(self) -> bool:
        return not self.decision

    def resolve(self, decision: str, by: str, page: Changes) -> None:
        self.decision, self.by = decision, by
        page.html("replace", self.id, self.template, part=self)

    def cut_off(self, page: Changes) -> None:
        if self.is_open:
            self.resolve("expired", "", page)
