"""Where a growing Markdown text can be cut: into top-level blocks that no later text can change, and an open tail.

A reload cuts the same text at the same places, so it gets the same HTML as the page that watched it grow. The
price: a list is open until something that is no list follows it.
"""

import re

from markdown_it import MarkdownIt
from markdown_it.token import Token

_ENDED_BY_BLANK_LINE = {"paragraph_open", "table_open", "blockquote_open"}
_ENDED_AT_ONCE = {"heading_open", "hr"}
_OPENING_FENCE = re.compile(r" {0,3}(?:(`{3,})[^`\n]*|(~{3,})[^\n]*)\n")

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


def finish_blocks(tail: str) -> list[str]:
    """The blocks of an open tail to which nothing will be added any more."""
    blocks, rest = split_blocks(f"{tail}\n")
    return [*blocks, rest] if rest.strip() else blocks


def is_fence(tail: str) -> bool:
    """Whether an open tail is a block of code."""
    return _OPENING_FENCE.match(tail) is not None


def dialect() -> MarkdownIt:
    """The Markdown that is understood here: CommonMark with tables and strikethrough, without references."""
    return MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable("reference")


def _is_one_open_block(text: str) -> bool:
    """Whether whole lines are one block that goes on; the quick way out, false where a parse has to tell."""
    if is_fence(text):
        return _inside_fence(text)
    if any(pattern.fullmatch(text) for pattern in _ONE_OPEN_BLOCK):
        return True
    table = _TABLE.fullmatch(text)
    return table is not None and _structure.parse(table[1])[0].type == "table_open"


def _inside_fence(text: str) -> bool:
    """Whether the text is one code fence that has not been closed."""
    opening = _OPENING_FENCE.match(text)
    if not opening:
        return False
    marker = opening[1] or opening[2]
    closing = rf"^ {{0,3}}{re.escape(marker[0])}{{{len(marker)},}}[ \t]*\n"
    return not re.search(closing, text[opening.end() :], re.MULTILINE)


def _is_ended(last: Token, source: str) -> bool:
    """Whether no further line can belong to the last block."""
    if last.type == "fence":
        return not _inside_fence(source)
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
