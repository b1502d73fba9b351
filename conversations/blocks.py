"""Where a growing Markdown text can be cut: into top-level blocks that no later text can change, and an open tail.

A reload cuts the same text at the same places, so it gets the same HTML as the page that watched it grow. The
price: a list is open until something that is no list follows it.

An open tail has a length: what it costs to look at grows with it. A longer block goes on in a second one.
"""

import re
from importlib import import_module
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

MOST_OPEN = 8_000  # characters of a block of prose
MOST_LINES = 200
MOST_CODE = 100_000  # characters of a fenced block, which is cheap to look at

# Cells that a row leaves out: the library adds up to 65,536 of them, a second's work for 4 kB.
_tables: Any = import_module("markdown_it.rules_block.table")
_tables.MAX_AUTOCOMPLETED_CELLS = 1_000

_ENDED_BY_BLANK_LINE = {"paragraph_open", "table_open", "blockquote_open"}
_ENDED_AT_ONCE = {"heading_open", "hr"}
_OPENING_FENCE = re.compile(r" {0,3}(?:(`{3,})[^`\n]*|(~{3,})[^\n]*)\n")
_LINE_START = re.compile(r"\n(?=\S)")

# Texts that are one open block for sure, told without parsing them: these are what answers are long in. Each
# pattern has to be right about every text that it matches, and may miss any.
_NO_RULE = r"(?!(?:[-*_][ \t]*){3,}\n)"
_NO_TABLE = r"(?! *[-:|][-:| \t]*\n)"
_ONE_OPEN_BLOCK = [
    re.compile(pattern)
    for pattern in (
        r"(?:[^\W\d_][^\n]*\n)+",  # a paragraph of lines that begin with a letter
        r"(?:>[^\n]*\n)+",
        rf"{_NO_RULE}([-*+]) \S[^\n]*\n(?:{_NO_RULE}\1 \S[^\n]*\n|{_NO_TABLE}  [^\n]*\n| *\n)*",
        rf"\d([.)]) \S[^\n]*\n(?:\d\1 \S[^\n]*\n|{_NO_TABLE}   [^\n]*\n| *\n)*",
        rf"\d\d?([.)]) \S[^\n]*\n(?:\d\d?\1 \S[^\n]*\n|{_NO_TABLE}    [^\n]*\n| *\n)*",
    )
]
_TABLE = re.compile(r"(\|[^\n]*\n\|[^\n]*\n)(?:\|[^\n]*\n)*")


def split_blocks(text: str) -> tuple[list[str], str]:
    """Cut a text into finished top-level blocks (sources) and the open tail.

    Only whole lines count, so that feeding a text in any pieces, each time what is left open plus the next
    piece, gives the same blocks. Costs a parse of the block structure of `text`: give it the open tail only.
    """
    blocks: list[str] = []
    while True:
        window = _window(text)
        closed, rest = _split_code(window) if is_fence(window) else _split_prose(window)
        if rest == window and _is_full(window):
            closed, rest = _cut(window)
        elif rest == window:
            return blocks, text
        blocks += closed
        text = rest + text[len(window) :]


def finish_blocks(tail: str) -> list[str]:
    """The blocks of an open tail to which nothing will be added any more."""
    blocks, rest = split_blocks(f"{tail}\n")
    return [*blocks, rest] if rest.strip() else blocks


def is_fence(tail: str) -> bool:
    """Whether an open tail is a block of code."""
    return _opening(tail) is not None


def dialect() -> MarkdownIt:
    """The Markdown that is understood here: CommonMark with tables and strikethrough, without references."""
    return MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable("reference")


def _opening(text: str) -> re.Match[str] | None:
    """The line that opens a code fence, where the text begins with one."""
    return _OPENING_FENCE.match(text, 0, MOST_OPEN)


def _window(text: str) -> str:
    """As much of an open tail as is looked at."""
    if is_fence(text):
        return text[:MOST_CODE]
    lines = text[:MOST_OPEN].split("\n", MOST_LINES)
    return "".join(f"{line}\n" for line in lines[:-1]) + (lines[-1] if len(lines) <= MOST_LINES else "")


def _is_full(window: str) -> bool:
    if is_fence(window):
        return len(window) >= MOST_CODE
    return len(window) >= MOST_OPEN or window.count("\n") >= MOST_LINES


def _cut(window: str) -> tuple[list[str], str]:
    """End the block of a full window where a line begins, at best one not indented; code goes on as code."""
    if opening := _opening(window):
        end = window.rfind("\n") + 1
        end = end if end > opening.end() else len(window)
        return [window[:end]], opening[0] + window[end:]
    starts = [match.end() for match in _LINE_START.finditer(window)]
    end = max(starts, default=window.rfind("\n") + 1) or len(window)
    return [window[:end]], window[end:]


def _split_code(text: str) -> tuple[list[str], str]:
    """One fenced block, if it has ended, and what follows it."""
    end = _end_of_fence(text)
    return ([text[:end].rstrip(" \t\n") + "\n"], text[end:]) if end else ([], text)


def _split_prose(text: str) -> tuple[list[str], str]:
    whole, newline, partial = text.rpartition("\n")
    if not newline or _is_one_open_block(whole + newline):
        return [], text
    lines = whole.split("\n")
    tokens = [token for token in _structure.parse(whole) if token.level == 0 and token.map]
    if not tokens:
        return [], partial
    starts = [token.map[0] for token in tokens if token.map]
    ends = [*starts[1:], len(lines)]
    blocks = ["\n".join(lines[start:end]) + "\n" for start, end in zip(starts, ends, strict=True)]
    if not _is_ended(tokens[-1], blocks[-1]):
        return _trimmed(blocks[:-1]), blocks[-1] + partial
    return _trimmed(blocks), partial


def _is_one_open_block(text: str) -> bool:
    """Whether whole lines are one block that goes on; the quick way out, false where a parse has to tell."""
    if any(pattern.fullmatch(text) for pattern in _ONE_OPEN_BLOCK):
        return True
    table = _TABLE.fullmatch(text)
    return table is not None and _structure.parse(table[1])[0].type == "table_open"


def _end_of_fence(text: str) -> int:
    """Where the code fence ends with which the text begins; 0 while it is open."""
    opening = _opening(text)
    if not opening:
        return len(text)
    marker = opening[1] or opening[2]
    if text.find(marker, opening.end()) < 0:
        return 0
    closing = re.compile(rf"^ {{0,3}}{re.escape(marker[0])}{{{len(marker)},}}[ \t]*\n", re.MULTILINE)
    found = closing.search(text, opening.end())
    return found.end() if found else 0


def _is_ended(last: Token, source: str) -> bool:
    """Whether no further line can belong to the last block."""
    if last.type == "fence":
        return _end_of_fence(source) > 0
    if last.type in _ENDED_AT_ONCE:
        return True
    return last.type in _ENDED_BY_BLANK_LINE and not source.split("\n")[-2].strip(" \t")


def _trimmed(blocks: list[str]) -> list[str]:
    """Without the blank lines at the end: how many of them there are depends on when the text came."""
    return [block.rstrip(" \t\n") + "\n" for block in blocks]


def _structure_parser() -> MarkdownIt:
    markdown = dialect()
    markdown.core.ruler.enableOnly(["normalize", "block"])
    return markdown


_structure = _structure_parser()
