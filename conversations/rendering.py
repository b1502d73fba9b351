"""From events to pages: a thread folds the events of a conversation into turns for templates, and answers each
event with the patches that bring a page from the state before it to the state after it.

Pages show turns independently of each other, so a thread that follows a page needs the earlier events of
unfinished turns only.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Self, cast

from django.utils.dateparse import parse_datetime
from django.utils.safestring import SafeString
from django.utils.translation import gettext

from conversations.markdown import visible
from conversations.parts import Changes, Part, Patch, QuestionPart, TextPart, ThinkingPart, ToolPart, render
from conversations.people import People
from conversations.tool_lines import ToolLine

type Event = dict[str, Any]

ENDS = {"turn.completed": "completed", "turn.failed": "failed", "turn.interrupted": "interrupted"}
# What the engine calls it, and what the page waits for then.
PHASES = {"ready": "first word", "running": "model"}


@dataclass
class TurnView:
    """One turn as the page shows it. `phase` names what is being waited for; '' once it has ended."""

    id: str
    assistant: str = ""
    people: People = field(default_factory=People)
    asked_by: str = ""
    prompt: Any = ""
    client_id: str = ""
    at: str = ""
    state: str = "queued"
    phase: str = "queued"
    detail: str = ""
    since: str = ""
    parts: list[Part] = field(default_factory=list)
    end: Event = field(default_factory=dict)
    _by_id: dict[str, Part] = field(default_factory=dict)

    @classmethod
    def queued(cls, event: Event, assistant: str, people: People) -> Self:
        """`asked_by` names the author where that is not the reader."""
        author = event.get("author")
        return cls(
            id=str(event["turn"]),
            assistant=assistant,
            people=people,
            asked_by="" if people.is_reader(author) else people.name_of(author),
            prompt=event.get("prompt", ""),
            client_id=str(event.get("client_id") or ""),
            at=str(event.get("at", "")),
            since=str(event.get("at", "")),
        )

    def html(self) -> SafeString:
        return render("_turn", turn=self)

    def apply(self, event: Event, page: Changes) -> None:
        if fold := FOLDS.get(event["type"]):
            fold(self, event, page)

    @property
    def has_ended(self) -> bool:
        return self.state in ENDS.values()

    @property
    def prompt_pieces(self) -> list[dict[str, str]]:
        """The prompt as texts and the names of what was attached."""
        if isinstance(self.prompt, str):
            return [{"type": "text", "text": self.prompt}]
        blocks = [block for block in self.prompt if isinstance(block, dict)]
        return [
            {"type": str(block.get("type", "")), "text": str(block.get("text") or block.get("title") or "")}
            for block in blocks
        ]

    @property
    def status_line(self) -> str:
        """What is being waited for, in words."""
        detail, deciders = visible(self.detail), visible(self.people.deciders)
        lines = {
            "queued": gettext("Waiting for its turn"),
            "starting": gettext("Starting"),
            "first word": gettext("Waiting for the first word"),
            "thinking": gettext("Thinking"),
            "writing": gettext("Writing"),
            "tool": gettext("Running a tool: %s") % detail,
            "question": gettext("Waiting for %s") % deciders
            if deciders
            else gettext("Waiting for your answer"),
            "model": gettext("Waiting for the model"),
            "compacting": gettext("Making room: summing up what was said before"),
            "retrying": gettext("Trying again: %s") % detail if detail else gettext("Trying again"),
        }
        return lines.get(self.phase) or detail or visible(self.phase)

    @property
    def error(self) -> str:
        """Why the turn failed, and what to do about it; '' if nothing was said."""
        error = self.end.get("error")
        return str(error.get("message") or "") if isinstance(error, dict) else ""

    @property
    def model(self) -> str:
        return str(self.end.get("model") or "")

    @property
    def timing(self) -> dict[str, Any]:
        return self.end.get("timing") or {}

    @property
    def took_ms(self) -> float | None:
        """From the message to the end of its answer."""
        asked, ended = parse_datetime(self.at), parse_datetime(str(self.end.get("at", "")))
        return (ended - asked).total_seconds() * 1000 if asked and ended else None

    # Events -------------------------------------------------------------------------------------------------

    def start(self, event: Event, page: Changes) -> None:
        if self.state == "queued":
            self.since = str(event.get("at", ""))
            self._wait_for("starting", page)

    def status(self, event: Event, page: Changes) -> None:
        phase = str(event.get("state", ""))
        if phase == "running" and self.phase == "tool":
            return
        self._wait_for(PHASES.get(phase, phase), page, str(event.get("detail") or ""), self.state)

    def text(self, event: Event, page: Changes) -> None:
        self._part(f"text-{self.id}-{event['block']}", TextPart, page).add(str(event["text"]), page)
        self._wait_for("writing", page)

    def thinking(self, event: Event, page: Changes) -> None:
        self._part(f"thinking-{self.id}-{event['block']}", ThinkingPart, page).add(str(event["text"]), page)
        self._wait_for("thinking", page)

    def start_tool(self, event: Event, page: Changes) -> None:
        part = ToolPart(self._tool_id(event), tool_line(event))
        if part.id not in self._by_id:
            self._add(part, page, event.get("parent"))
            self._wait_for("tool", page, part.line.name)

    def finish_tool(self, event: Event, page: Changes) -> None:
        part = self._by_id.get(self._tool_id(event))
        if not isinstance(part, ToolPart) or part.state != "running":
            return
        part.finish(bool(event.get("is_error")), str(event.get("output") or ""), page)
        running = [p for p in self._by_id.values() if isinstance(p, ToolPart) and p.state == "running"]
        self._wait_for("tool" if running else "model", page, running[-1].line.name if running else "")

    def ask(self, event: Event, page: Changes) -> None:
        part = QuestionPart(
            f"question-{self.id}-{event['request']}",
            request=str(event["request"]),
            line=tool_line(event),
            choices=list(event.get("choices") or ["allow", "deny"]),
            deciders=self.people.deciders,
        )
        if part.id not in self._by_id:
            self._add(part, page)
            self._wait_for("question", page, state="waiting")

    def answer(self, event: Event, page: Changes) -> None:
        part = self._by_id.get(f"question-{self.id}-{event['request']}")
        if not isinstance(part, QuestionPart) or not part.is_open:
            return
        part.resolve(str(event.get("decision") or "deny"), self.people.name_of(event.get("by")), page)
        if not any(isinstance(other, QuestionPart) and other.is_open for other in self.parts):
            self._wait_for("model", page)

    def finish(self, event: Event, page: Changes) -> None:
        self.end = event
        for part in self._by_id.values():
            part.cut_off(page)
        self._wait_for("", page, state=ENDS[event["type"]])
        page.html("fill", f"end-{self.id}", "_turn_end", turn=self)
        said = gettext("Answer finished") if self.state == "completed" else gettext("Answer stopped")
        page.text("announce", "announcer", said)

    def settle(self) -> None:
        for part in self._by_id.values():
            if isinstance(part, TextPart) and part.is_open:
                part.settle(Changes(silent=True))

    # Parts --------------------------------------------------------------------------------------------------

    def _wait_for(self, phase: str, page: Changes, detail: str = "", state: str = "running") -> None:
        if state != self.state:
            self.state = state
            page.text("state", f"turn-{self.id}", state)
        if (phase, detail) != (self.phase, self.detail):
            self.phase, self.detail = phase, detail
            page.html("fill", f"status-{self.id}", "_status", turn=self)

    def _tool_id(self, event: Event) -> str:
        return f"tool-{self.id}-{event['tool_use']}"

    def _part[P: Part](self, part_id: str, kind: Callable[[str], P], page: Changes) -> P:
        """The part with this id, made if need be."""
        part = cast("P | None", self._by_id.get(part_id))
        if part is None:
            part = kind(part_id)
            self._add(part, page)
        return part

    def _add(self, part: Part, page: Changes, parent: Any = None) -> None:
        """Show a part after the others, or inside the call that it belongs to."""
        outer = self._by_id.get(f"tool-{self.id}-{parent}") if parent else None
        parts, target = self.parts, f"parts-{self.id}"
        if isinstance(outer, ToolPart):
            parts, target = outer.inner, f"{outer.id}-inner"
        if parts:
            parts[-1].end(page)
        self._by_id[part.id] = part
        parts.append(part)
        page.html("append", target, part.template, part=part)


type Fold = Callable[[TurnView, Event, Changes], None]
FOLDS: dict[str, Fold] = {
    "turn.started": TurnView.start,
    "status": TurnView.status,
    "text.delta": TurnView.text,
    "thinking.delta": TurnView.thinking,
    "tool.started": TurnView.start_tool,
    "tool.finished": TurnView.finish_tool,
    "permission.requested": TurnView.ask,
    "permission.resolved": TurnView.answer,
    **dict.fromkeys(ENDS, TurnView.finish),
}


class Thread:
    """A conversation as the page shows it. Feed it events in order; what it has seen already changes nothing."""

    def __init__(
        self, conversation: str, assistant: str = "", model: str = "", people: People | None = None
    ) -> None:
        self.conversation = conversation
        self.assistant = assistant
        self.model = model
        self.people = people or People()
        self.title = ""
        self.seq = 0
        self._turns: dict[str, TurnView] = {}

    @property
    def turns(self) -> list[TurnView]:
        return list(self._turns.values())

    @property
    def is_busy(self) -> bool:
        """Whether a turn is queued or running, so that there is something to stop."""
        return any(not turn.has_ended for turn in self._turns.values())

    def load(self, events: Iterable[Event]) -> Self:
        """Fold what is stored already, for a page that is about to be made: quicker than `apply`."""
        page = Changes(silent=True)
        for event in events:
            self._fold(event, page)
        for turn in self._turns.values():
            turn.settle()
        return self

    def apply(self, event: Event) -> list[Patch]:
        """Fold one event; the patches for a page that shows all events before it."""
        page = Changes()
        self._fold(event, page)
        return page.patches

    def apply_all(self, events: Iterable[Event]) -> list[Patch]:
        """As `apply`, for several at once: what one text grew by is looked at once."""
        page = Changes()
        for event in joined(event for event in events if event["seq"] > self.seq):
            self._fold(event, page)
        return page.patches

    def _fold(self, event: Event, page: Changes) -> None:
        if event["seq"] <= self.seq:
            return
        self.seq = event["seq"]
        if event["type"] == "conversation.updated":
            self._update(event, page)
        elif event["type"] == "turn.queued":
            self._queue(event, page)
        elif (turn := self._turns.get(str(event.get("turn")))) and not turn.has_ended:
            turn.apply(event, page)
            if event["type"] in ENDS:
                self._mark(page)

    def _queue(self, event: Event, page: Changes) -> None:
        turn = TurnView.queued(event, self.assistant, self.people)
        if turn.id not in self._turns:
            self._turns[turn.id] = turn
            page.html("append", "turns", "_turn", turn=turn)
            self._mark(page)

    def _update(self, event: Event, page: Changes) -> None:
        self.model = str(event.get("model") or self.model)
        if event.get("title"):
            self.title = str(event["title"])
            page.text("text", "conversation-title", visible(self.title))
            page.note("refresh", "conversations")
        if "shared" in event:
            page.text("state", "sharing", "shared" if event["shared"] else "private")
            page.note("refresh", "conversations")

    def _mark(self, page: Changes) -> None:
        """The page around the turns: whether there is something to stop, and the list at its side."""
        page.text("state", "thread", "busy" if self.is_busy else "idle")
        page.note("refresh", "conversations")


def joined(events: Iterable[Event]) -> Iterator[Event]:
    """The events, those one after the other that lengthen the same text as one."""
    for _text, group in groupby(events, _lengthens):
        same = list(group)
        if len(same) == 1:
            yield same[0]
        else:
            yield same[-1] | {"text": "".join(str(event["text"]) for event in same)}


def _lengthens(event: Event) -> tuple[Any, ...]:
    """Which text; for other events themselves alone."""
    lone = None if event["type"] in ("text.delta", "thinking.delta") else event["seq"]
    return event["type"], event.get("turn"), event.get("block"), lone


def tool_line(event: Event) -> ToolLine:
    given = event.get("input")
    return ToolLine(str(event["name"]), given if isinstance(given, dict) else {})
