"""Pages from events: whatever a page shows when it is loaded, patches bring it to what a reload shows."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree
from lxml import html as lxml_html

from conversations.parts import Patch, render
from conversations.people import People
from conversations.rendering import FOLDS, Event, Thread

OUTSIDE = {"announcer", "conversations", "conversation-title", "thread"}
EXACT = {"open", "thoughts"}


class Page:
    """As much of a browser as the patches need."""

    def __init__(self, thread: Thread) -> None:
        turns = "".join(render("_turn", turn=turn) for turn in thread.turns)
        self.root = lxml_html.fragment_fromstring(f'<main><div id="turns">{turns}</div></main>')

    def element(self, target: str) -> Any:
        [found] = self.root.xpath("//*[@id=$target]", target=target)
        return found

    def apply(self, patches: Iterable[Patch]) -> None:
        for patch in patches:
            if patch["target"] not in OUTSIDE:
                getattr(self, patch["op"])(self.element(patch["target"]), patch)

    def append(self, target: Any, patch: Patch) -> None:
        target.extend(elements(patch["html"]))

    def before(self, target: Any, patch: Patch) -> None:
        for element in elements(patch["html"]):
            target.addprevious(element)

    def fill(self, target: Any, patch: Patch) -> None:
        attributes = dict(target.attrib)
        target.clear()
        target.attrib.update(attributes)
        whole = lxml_html.fragment_fromstring(patch["html"], create_parent="div")
        target.text = whole.text
        target.extend(list(whole))

    def replace(self, target: Any, patch: Patch) -> None:
        [element] = elements(patch["html"])
        target.getparent().replace(target, element)

    def write(self, target: Any, patch: Patch) -> None:
        assert len(target) == 0
        target.text = (target.text or "") + patch["text"]

    def text(self, target: Any, patch: Patch) -> None:
        target.text = patch["text"]

    def state(self, target: Any, patch: Patch) -> None:
        target.set("data-state", patch["text"])

    def remove(self, target: Any, patch: Patch) -> None:
        target.getparent().remove(target)

    def html(self) -> str:
        """The page without the space between its elements."""
        for element in self.root.iter():
            exact = element.xpath("ancestor-or-self::pre") or EXACT & set(element.get("class", "").split())
            if not exact and not (element.text or "").strip():
                element.text = None
            if not element.xpath("ancestor::pre") and not (element.tail or "").strip():
                element.tail = None
            if not element.text:
                element.text = None
        return etree.tostring(self.root, encoding="unicode")


def elements(html: str) -> list[Any]:
    found: list[Any] = list(lxml_html.fragments_fromstring(html.strip()))
    for element in found:
        element.tail = None
    return found


# Any list of events -------------------------------------------------------------------------------------------

TURNS = st.sampled_from(["t1", "t2"])
TEXT = st.lists(
    st.sampled_from(
        [
            "word ",
            "**b**",
            "\n",
            "\n\n",
            "```\n",
            "- a\n",
            "# T\n",
            "a|b\n-|-\n",
            "<b>",
            "\x1b[0m",
            " ",
            "> q",
        ]
    ),
    min_size=1,
    max_size=5,
).map("".join)
BLOCK = st.integers(0, 3)
TOOL = st.sampled_from(["u1", "u2"])
CALL = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["Write", "Edit", "Bash", "Task", "mcp__a__b", "Odd<"]),
        "input": st.fixed_dictionaries(
            {},
            optional={
                "file_path": st.just("/workspace/a&b.txt"),
                "content": TEXT,
                "old_string": TEXT,
                "new_string": TEXT,
                "command": TEXT,
                "description": TEXT,
            },
        ),
        "tool_use": TOOL,
    }
)
ENDING = st.sampled_from(["turn.completed", "turn.failed", "turn.interrupted"])
EVENTS = st.one_of(
    st.fixed_dictionaries({"type": st.just("turn.queued"), "prompt": TEXT}),
    st.fixed_dictionaries({"type": st.just("turn.started"), "prompt": TEXT}),
    st.fixed_dictionaries({"type": st.just("text.delta"), "block": BLOCK, "text": TEXT}),
    st.fixed_dictionaries({"type": st.just("text.delta"), "block": BLOCK, "text": TEXT}),
    st.fixed_dictionaries({"type": st.just("thinking.delta"), "block": st.integers(4, 5), "text": TEXT}),
    st.builds(
        lambda call, parent: {"type": "tool.started", "parent": parent, **call}, CALL, st.none() | TOOL
    ),
    st.fixed_dictionaries(
        {"type": st.just("tool.finished"), "tool_use": TOOL, "is_error": st.booleans(), "output": TEXT}
    ),
    st.builds(lambda call, r: {"type": "permission.requested", "request": r, **call}, CALL, TOOL),
    st.fixed_dictionaries(
        {
            "type": st.just("permission.resolved"),
            "request": TOOL,
            "decision": st.sampled_from(["allow", "allow_always", "deny"]),
            "by": st.just("m1"),
        }
    ),
    st.fixed_dictionaries(
        {"type": st.just("status"), "state": st.sampled_from(["ready", "retrying", "running", "odd"])},
        optional={"detail": TEXT},
    ),
    st.fixed_dictionaries({"type": st.just("conversation.updated"), "title": TEXT}),
    st.fixed_dictionaries({"type": st.just("usage")}),
    st.fixed_dictionaries(
        {"type": ENDING, "cost_usd": st.none() | st.just(0.01), "timing": st.just({"first_text_ms": 30})},
        optional={"error": st.fixed_dictionaries({"type": st.just("api_error"), "message": TEXT})},
    ),
)


def numbered(events: list[tuple[str, dict[str, Any]]]) -> list[Event]:
    first = [("t1", {"type": "turn.queued", "prompt": "Hello"})]
    return [
        {"conversation": "c", "turn": turn, "seq": seq, "at": f"2026-01-01T00:00:{seq:02}+00:00", **event}
        for seq, (turn, event) in enumerate([*first, *events], start=1)
    ]


# The author alone, and who only reads what another shares.
AUTHOR = People()
READER = People("m2", {"m1": "Ada <b>"}, "Ada <b> or an admin")


@given(
    st.lists(st.tuples(TURNS, EVENTS), max_size=25).map(numbered),
    st.sampled_from([AUTHOR, READER]),
    st.data(),
)
def test_a_patched_page_is_a_reloaded_page(events: list[Event], people: People, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(events)))
    thread = Thread("c", "Ada", people=people).load(events[:cut])
    page = Page(thread)
    whole = Page(Thread("c", "Ada", people=people).load(events)).html()
    in_batches = Thread("c", "Ada", people=people).load(events[:cut])
    batched = Page(in_batches)
    middle = data.draw(st.integers(cut, len(events)))
    for event in events[cut:]:
        page.apply(thread.apply(event))
    for batch in (events[cut:middle], events[middle:]):
        batched.apply(in_batches.apply_all(batch))
    assert page.html() == whole and batched.html() == whole


LONG = {
    "a list": "- item one\n  - inner\n" * 900,
    "code": "```python\n" + "x = 1\n\n" * 30_000 + "```\nafter\n",
    "one line": "word " * 5_000,
    "rules of a table": "a|b\n-|-\n" * 1_500,
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_t21_an_answer_of_any_length_looks_alike_when_it_comes_and_when_it_is_loaded(text: str) -> None:
    step = len(text) // 40 + 1
    pieces = [
        ("t1", {"type": "text.delta", "block": 0, "text": text[i : i + step]})
        for i in range(0, len(text), step)
    ]
    events = numbered([("t1", {"type": "turn.started"}), *pieces, ("t1", {"type": "usage"})])
    thread = Thread("c")
    page = Page(thread)
    for event in events:
        page.apply(thread.apply(event))
        if event["seq"] % 13 == 0:
            assert page.html() == Page(Thread("c").load(events[: event["seq"]])).html()
    assert page.html() == Page(Thread("c").load(events)).html()


@given(st.lists(st.tuples(TURNS, EVENTS), max_size=20).map(numbered))
def test_what_was_seen_changes_nothing(events: list[Event]) -> None:
    thread = Thread("c").load(events)
    before = Page(thread).html()
    assert [patch for event in events for patch in thread.apply(event)] == []
    assert Page(thread).html() == before


# One turn, told ---------------------------------------------------------------------------------------------------


class Told:
    """A conversation written down event by event."""

    def __init__(self, people: People = AUTHOR) -> None:
        self.thread = Thread("c", "Ada", people=people)
        self.page = Page(self.thread)
        self.patches: list[Patch] = []
        self("turn.queued", prompt="Do it", client_id="k1")("turn.started")

    def __call__(self, kind: str, **data: Any) -> "Told":
        seq = self.thread.seq + 1
        event = {"type": kind, "conversation": "c", "turn": "t1", "seq": seq, "at": "2026-01-01T00:00:00Z"}
        self.patches = self.thread.apply(event | data)
        self.page.apply(self.patches)
        return self

    def text(self, path: str) -> str:
        return " ".join(" ".join(self.page.root.xpath(f"//{path}//text()")).split())


@pytest.fixture
def told() -> Told:
    return Told()


def test_a_word_is_one_small_patch(told: Told) -> None:
    told("text.delta", block=0, text="Hello")
    told("text.delta", block=0, text=" you")
    assert told.patches == [{"op": "write", "target": "text-t1-0-open", "text": " you"}]


def test_a_finished_block_is_rendered_once(told: Told) -> None:
    told("text.delta", block=0, text="**One**\n\n")
    assert [patch["op"] for patch in told.patches if "open" in patch["target"]] == ["before", "text"]
    told("text.delta", block=0, text="Two\n\nThree")
    assert "One" not in str(told.patches)


def test_an_opened_card_stays_open(told: Told) -> None:
    told("tool.started", tool_use="u1", name="Bash", input={"command": "make"})
    card = told.page.element("tool-t1-u1")
    card.set("open", "")
    told("tool.finished", tool_use="u1", is_error=False, output="done")
    told("turn.completed")
    assert told.page.element("tool-t1-u1") is card and card.get("open") == ""


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (("Write", {"file_path": "/workspace/a/notes.txt", "content": "1\n2\n3\n"}), "Wrote a/notes.txt +3"),
        (
            ("Edit", {"file_path": "/workspace/a.py", "old_string": "a\nb", "new_string": "a\nc\nd"}),
            "Edited a.py +2 \N{MINUS SIGN}1",
        ),
        (("Bash", {"command": "ls -la\nrm x"}), "Ran ls -la"),
        (("Grep", {"pattern": "def f"}), "Searched for def f"),
        (("mcp__files__list", {}), "Used files · list"),
        (("TodoWrite", {"todos": []}), "Updated the plan"),
    ],
)  # fmt: skip
def test_a_tool_call_is_one_line(told: Told, call: tuple[str, dict[str, Any]], line: str) -> None:
    told("tool.started", tool_use="u1", name=call[0], input=call[1])
    told("tool.finished", tool_use="u1", is_error=False, output="ok")
    assert told.text("details/summary") == line


def test_t21_of_a_long_change_the_first_lines_are_shown_and_the_others_counted(told: Told) -> None:
    told(
        "tool.started",
        tool_use="u1",
        name="Write",
        input={"file_path": "/workspace/a", "content": "\n" * 9_000},
    )
    told(
        "tool.started",
        tool_use="u2",
        name="Edit",
        input={"old_string": "a\n" * 900, "new_string": "b\n" * 900},
    )
    written, edited = (told.page.element(f"tool-t1-{name}") for name in ("u1", "u2"))
    assert len(written.xpath(".//span[@class='diff-add']")) == 500
    assert (
        len(edited.xpath(".//span[@class='diff-add']"))
        == len(edited.xpath(".//span[@class='diff-del']"))
        == 250
    )
    assert "8500 more lines are not shown." in "".join(written.itertext()).replace(",", "")
    assert "+9000" in told.text("details[@id='tool-t1-u1']/summary")
    assert "1300 more lines are not shown." in "".join(edited.itertext()).replace(",", "")


def test_a_failed_call_says_why(told: Told) -> None:
    told("tool.started", tool_use="u1", name="Read", input={"file_path": "/workspace/a"})
    told(
        "tool.finished", tool_use="u1", is_error=True, output="<tool_use_error>No such file.</tool_use_error>"
    )
    assert told.text("details/summary") == "Could not read a No such file."


def test_a_question_waits_for_its_answer(told: Told) -> None:
    told("permission.requested", request="r1", name="Bash", input={"command": "make"}, title="Run make?",
         choices=["allow", "deny"])  # fmt: skip
    assert told.page.element("turn-t1").get("data-state") == "waiting"
    assert told.page.root.xpath("//button/@data-decision") == ["allow", "deny"]
    assert "Run this command? make" in told.text("section[@data-request='r1']")
    told("permission.resolved", request="r1", decision="deny", by="m1")
    assert told.page.root.xpath("//button/@data-decision") == []
    assert told.text("p[@class='answered']") == "You denied Bash"


def test_who_only_reads_is_told_whom_a_question_waits_for_and_gets_no_choices() -> None:
    told = Told(READER)(
        "permission.requested", request="r1", name="Bash", input={}, choices=["allow", "deny"]
    )
    said = told.text("section[@data-request='r1']")
    assert "Waits for Ada <b> or an admin to decide." in said and "until you decide" not in said
    assert told.page.root.xpath("//button/@data-decision") == []
    assert told.text("div[@id='status-t1']") == "Ada · Waiting for Ada <b> or an admin"
    told("permission.resolved", request="r1", decision="deny", by="m1")
    assert told.text("p[@class='answered']") == "Ada <b> denied Bash"


def test_a_question_left_behind_can_no_longer_be_answered(told: Told) -> None:
    told("permission.requested", request="r1", name="Bash", input={}, choices=["allow", "deny"])
    told("turn.interrupted")
    assert not told.page.root.xpath("//button/@data-decision")
    assert "Not answered" in told.text("p[@class='answered']")


@pytest.mark.parametrize(
    ("event", "line"),
    [
        ({"kind": "status", "state": "ready"}, "Ada · Waiting for the first word"),
        ({"kind": "status", "state": "retrying", "detail": "overloaded (529), attempt 2 of 10"},
         "Ada · Trying again: overloaded (529), attempt 2 of 10"),
        ({"kind": "status", "state": "waiting_for_host", "detail": "No runner is up."}, "Ada · No runner is up."),
        ({"kind": "status", "state": "queued", "detail": ""}, "Ada · Waiting for its turn"),
        ({"kind": "thinking.delta", "block": 0, "text": "Hm"}, "Ada · Thinking"),
        ({"kind": "tool.started", "tool_use": "u", "name": "Bash", "input": {}}, "Ada · Running a tool: Bash"),
        ({"kind": "turn.completed"}, ""),
    ],
)  # fmt: skip
def test_what_is_waited_for_is_said(told: Told, event: dict[str, Any], line: str) -> None:
    told(**event)
    assert told.text("div[@id='status-t1']") == line


def test_a_failure_says_what_happened_what_was_kept_and_what_to_quote(told: Told) -> None:
    told("text.delta", block=0, text="Half")
    told("turn.failed", error={"type": "api_error", "message": "The key was refused. Enter another one."})
    said = told.text("footer")
    assert "The key was refused. Enter another one." in said
    assert "What was said so far is kept." in said and "t1" in said


def test_an_ended_turn_is_announced_once(told: Told) -> None:
    told("turn.completed")
    assert [patch["text"] for patch in told.patches if patch["op"] == "announce"] == ["Answer finished"]
    told("text.delta", block=9, text="late")
    assert told.patches == []


def test_hostile_names_and_outputs_are_text(told: Told) -> None:
    evil = "<img src=x onerror=alert(1)>\x1b[31m\u202e"
    told("tool.started", tool_use='"><script>', name=evil, input={evil: evil})
    told("tool.finished", tool_use='"><script>', is_error=True, output=evil)
    told("permission.requested", request='"><b>', name=evil, input={"command": evil}, title=evil)
    told("turn.failed", error={"type": "x", "message": evil})
    html = Page(told.thread).html()
    assert not told.page.root.xpath("//img | //script") and "<img" not in html
    assert "\x1b" not in html and "\u202e" not in html


def test_every_event_of_the_protocol_is_known_or_deliberately_left_out() -> None:
    assert {"usage", "files.changed", "turn.queued", "conversation.updated", "error"}.isdisjoint(FOLDS)
    assert len(FOLDS) == 11
