"""Markdown: what is shown, what is made harmless, and where a growing text is cut."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import thread_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversations import blocks
from conversations.blocks import MOST_OPEN, finish_blocks, split_blocks
from conversations.markdown import Rendered, render_block, visible

PIECES = [
    "word", "**bold**", "a | b", "--- | ---", "1 | 2", "```", "```py", "~~~", "````", "- item", "  - inner",
    "1. one", "2) two", "> quote", "# Title", "===", "---", "    code", "[a]: /b", "<div>", "\\", "***", " ", "\t",
    "|", "`x`", "``` a`b", "\u2028", "\u00a0",
    "- - -", "- a | b", "  --|--", "--|--", "- ", "-", "* x", "10. ten", "   deep", "|a|", "|-|", "|b|c|", "é",
    "   ```", "    ```",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from([*PIECES, "\n", "\n", "\n\n"]), max_size=30).map("".join)


def blocks_of(pieces: list[str]) -> list[str]:
    """The blocks of a text that grows by these pieces."""
    tail, blocks = "", []
    for piece in pieces:
        closed, tail = split_blocks(tail + piece)
        blocks += closed
    return blocks + finish_blocks(tail)


@given(TEXTS, st.data(), st.sampled_from([None, 5, 12, 30]))
def test_a_text_is_cut_alike_however_it_arrives(text: str, data: st.DataObject, most: int | None) -> None:
    with limits(most):
        assert_cut_alike(text, data)


def assert_cut_alike(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert blocks_of(pieces) == blocks_of([text])
    assert blocks_of(list(text)) == blocks_of([text])


LINES = st.lists(st.sampled_from(PIECES), max_size=12).map("\n".join)


@contextmanager
def limits(most: int | None) -> Iterator[None]:
    """So much of a text may be open: as usual, or hardly any."""
    with pytest.MonkeyPatch.context() as patch:
        if most:
            patch.setattr(blocks, "MOST_OPEN", most)
            patch.setattr(blocks, "MOST_LINES", most // 4 + 1)
            patch.setattr(blocks, "MOST_CODE", 2 * most)
        yield


@given(st.one_of(TEXTS, LINES))
def test_the_quick_way_tells_what_a_parse_tells(text: str) -> None:
    quick = split_blocks(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_is_one_open_block", lambda text: False)
        assert split_blocks(text) == quick


@given(TEXTS)
def test_nothing_is_lost_by_cutting(text: str) -> None:
    whole = "".join(blocks_of([text]))
    assert "".join(whole.split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("text", "closed", "tail"),
    [
        ("One.\n\nTwo", ["One.\n"], "Two"),
        ("One\n", [], "One\n"),
        ("# Title\nOne", ["# Title\n"], "One"),
        ("```\na\n\nb\n", [], "```\na\n\nb\n"),
        ("```\na\n```\n", ["```\na\n```\n"], ""),
        ("- a\n\n- b\n", [], "- a\n\n- b\n"),
        ("- a\n\nOne", [], "- a\n\nOne"),
        ("- a\n\nOne\n", ["- a\n"], "One\n"),
        ("a | b\n-- | --\n1 | 2\n\n", ["a | b\n-- | --\n1 | 2\n"], ""),
    ],
)
def test_a_block_closes_once_nothing_can_change_it(text: str, closed: list[str], tail: str) -> None:
    assert split_blocks(text) == (closed, tail)


def test_an_answer_looks_as_written() -> None:
    assert render_block("# Title\n") == "<h3>Title</h3>\n"
    assert "<em>a</em> <strong>b</strong> <s>c</s> <code>d</code>" in render_block("*a* **b** ~~c~~ `d`")
    assert '<td class="end">1</td>' in render_block("a | b\n--- | ---:\nx | 1\n")
    assert '<span class="k">def</span>' in render_block("```python\ndef f(): ...\n```\n")
    assert "data-copy" in render_block("```\nx\n```\n")
    assert "&lt;b&gt;" in render_block("```nonsense\n<b>\n```\n")


ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[a](javascript:alert(1))",
    "[a](data:text/html;base64,PHNjcmlwdD4=)",
    "[a](vbscript:x)",
    "[a](/accounts/logout/)",
    "[a](//evil.example)",
    "![a](https://evil.example/pixel.png)",
    "![a](javascript:alert(1))",
    "[![a](https://evil.example/b.png)](https://evil.example)",
    '```"><script>alert(1)</script>\nx\n```',
    "```python\n</code></pre><script>alert(1)</script>\n```",
    "`</figcaption><script>alert(1)</script>`",
    '<a href="https://x" style="position:fixed" class="question" id="thread">a</a>',
    "[a](https://x 'title\" onmouseover=\"alert(1)')",
    '<https://x/" onclick=alert(1)>',
    "| a |\n| --- |\n| <iframe src=//evil.example> |",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_the_model_says_can_only_be_read(attack: str) -> None:
    html = render_block(attack)
    tree = parsed(html)
    assert not tree.xpath("//script | //img | //iframe | //style | //link | //form | //input | //object")
    for element in tree.iter():
        names = set(element.attrib)
        assert not {name for name in names if name.startswith("on")} | names & {"style", "id", "src"}
    for link in tree.xpath("//a"):
        assert link.get("href").startswith(("https://", "http://", "mailto:"))
        assert link.get("target") == "_blank"
        assert {"noopener", "noreferrer", "nofollow"} <= set(link.get("rel").split())


def test_an_image_is_a_link_until_somebody_asks_for_it() -> None:
    [link] = parsed(render_block("![a cat](https://example.org/cat.png)")).xpath("//a")
    assert (link.get("href"), link.text) == ("https://example.org/cat.png", "a cat")


def test_terminal_codes_and_bidi_controls_are_signs() -> None:
    assert visible("a\x1b[31mb\u202ec\x00\x85\r\n\td\x7f") == "a␛[31mb⟨U+202E⟩c␀\ufffd\n\td␡"


def test_t21_no_colouring_takes_longer_than_its_text_deserves() -> None:
    """Java's lexer is quadratic in line ends, mcschema's exponential; Markdown's calls those of its own blocks."""
    quick = ["```java\n" + "\n" * 40_000 + "```\n", "```mcschema\n" + "<!--" * 300 + "\n```\n"]
    quick += [
        "````md\n```mcschema\n" + "<!--" * 300 + "\n```\n````\n",
        "```java\n" + "a " * 6_000 + "\n```\n",
    ]
    for source in quick:
        assert seconds(render_block, source) < 1


def test_t21_a_text_of_any_kind_is_looked_at_in_pieces() -> None:
    """Each of these took seconds as one block; an answer that grows is looked at as often as it does."""
    rows = "|" + "a|" * 100 + "\n|" + "-|" * 100 + "\n" + "a\n" * 3_000
    wide = "|" + "a|" * 900 + "\n|" + "-|" * 900 + "\n" + "a\n" * 190
    assert sum(render_block(block).count("<td") for block in blocks_of([wide])) < 3_000
    for text in (rows, wide, "-\ta\n" * 3_000, "**a " * 3_000, "![" * 5_000, "x" * 30_000):
        cut = blocks_of([text])
        assert max(map(len, cut)) <= MOST_OPEN + 1
        assert sum(seconds(render_block, block) for block in cut) < 1


def test_long_code_goes_on_as_code() -> None:
    code = "".join(f"line {number}\n" for number in range(20_000))
    cut = blocks_of([f"before\n\n```py\n{code}```\nafter\n"])
    assert len(cut) == 5 and cut[0] == "before\n" and cut[-1] == "after\n"
    pieces = cut[1:-1]
    assert all(piece.startswith("```py\nline") for piece in pieces)
    assert "".join(piece.removeprefix("```py\n") for piece in pieces) == f"{code}```\n"


def test_t21_rendered_blocks_are_kept_by_their_size() -> None:
    kept = Rendered(10_000)
    first = kept.html_of("first\n", None)
    assert kept.html_of("first\n", None) is first
    for number in range(20):
        kept.html_of(f"{number} " + "`a` " * 200 + "\n", None)
        assert kept.size <= 10_000
    assert kept.html_of("first\n", None) is not first


def seconds(work: Callable[[str], object], text: str) -> float:
    start = thread_time()
    work(text)
    return thread_time() - start


def parsed(html: str) -> Any:
    from lxml import html as lxml_html

    return lxml_html.fragment_fromstring(html, create_parent="div")
