"""Markdown of the model's answers, made safe, one top-level block at a time.

`blocks` cuts a text into finished blocks; each is rendered once by `render_block()`. What reaches across blocks
does not exist here: reference definitions stay visible text.

Raw HTML is shown as text; nh3 goes over everything once more with a list of what may stay.
"""

import re
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from threading import Lock
from typing import Any

import nh3
from django.template.loader import render_to_string
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import get_language
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererProtocol
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.token import STANDARD_TYPES
from pygments.util import ClassNotFound

from conversations.blocks import dialect

# Characters of one code block; longer ones stay uncoloured. Lexers are patterns with quadratic cases: of so many
# line ends the worst of these, Java's, takes 0.1 s. Others take seconds for 500 characters.
MOST_HIGHLIGHTED = 1_500
HIGHLIGHTED = set(
    "bash c console cpp css dart diff docker elixir go graphql haskell html ini java javascript json jsx kotlin lua"
    " make nginx perl php powershell protobuf python r ruby rust scala scss sql swift toml tsx typescript"
    " xml yaml".split()
)
MOST_CACHED = 16_000_000  # characters of sources and their HTML

_BIDI = [*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C]
_CONTROLS = [code for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (0x09, 0x0A, 0x0D)]
_VISIBLE: dict[int, str] = (
    {code: f"⟨U+{code:04X}⟩" for code in _BIDI}
    | {
        code: chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"
        for code in _CONTROLS
    }
    | {0x0D: ""}
)

_SAFE_LINK = re.compile(r"(https?://|mailto:)", re.IGNORECASE)


def visible(text: str) -> str:
    """The text with terminal codes and bidirectional controls as signs that do nothing; no carriage returns."""
    return text.translate(_VISIBLE)


class Rendered:
    """Blocks that were rendered lately, so many characters of them. Threads may share it."""

    def __init__(self, most: int) -> None:
        self.size = 0
        self._most = most
        self._blocks: OrderedDict[tuple[str, str | None], SafeString] = OrderedDict()
        self._lock = Lock()

    def html_of(self, source: str, language: str | None) -> SafeString:
        key = (source, language)
        with self._lock:
            if (known := self._blocks.get(key)) is not None:
                self._blocks.move_to_end(key)
                return known
        html = _render(source, language)
        with self._lock:
            if key not in self._blocks:
                self._blocks[key] = html
                self.size += len(source) + len(html)
            while self.size > self._most:
                (old, _), gone = self._blocks.popitem(last=False)
                self.size -= len(old) + len(gone)
        return html


_rendered = Rendered(MOST_CACHED)


def render_block(source: str) -> SafeString:
    """One finished block as HTML. Cached in the process by source and language."""
    return _rendered.html_of(source, get_language())


def _render(source: str, language: str | None) -> SafeString:
    html = nh3.clean(
        _markdown.render(source),
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        allowed_classes=_CLASSES,
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}},
    )
    # Text can't hold this tag, it would be escaped: these are our own code blocks.
    return mark_safe(html.replace("</figcaption>", f"{_code_tools(language)}</figcaption>"))


@lru_cache
def _code_tools(language: str | None) -> str:
    return render_to_string("conversations/_code_tools.html").strip()


_TAGS = set(
    "a blockquote br code del div em figcaption figure h3 h4 h5 h6 hr li ol p pre s span strong"
    " table tbody td th thead tr ul".split()
)
_ATTRIBUTES = {
    "a": {"href", "title"},
    "div": {"tabindex"},
    "pre": {"tabindex"},
    "ol": {"start"},
    "figure": {"data-language"},
}
_CLASSES = {
    "span": {name for name in STANDARD_TYPES.values() if name} | {"inert"},
    "div": {"table"},
    "figure": {"code"},
    "th": {"start", "center", "end"},
    "td": {"start", "center", "end"},
}
_ALIGN = {"text-align:left": "start", "text-align:center": "center", "text-align:right": "end"}


def _code(
    self: RendererProtocol, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType
) -> str:
    token = tokens[index]
    language = (token.info.split() or [""])[0]
    name = escape(language)
    return (
        f'<figure class="code" data-language="{name}"><figcaption><span>{name}</span></figcaption>'
        f'<pre tabindex="0"><code>{_highlighted(token.content, language)}</code></pre></figure>'
    )


def _highlighted(code: str, language: str) -> str:
    if not language or len(code) > MOST_HIGHLIGHTED:
        return escape(code)
    try:
        lexer = get_lexer_by_name(language, stripnl=False)
    except ClassNotFound:
        return escape(code)
    if HIGHLIGHTED.isdisjoint(lexer.aliases):
        return escape(code)
    return highlight(code, lexer, HtmlFormatter(nowrap=True))


def _image(
    self: RendererProtocol, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType
) -> str:
    """A link, never a picture: nothing is loaded from elsewhere unless the person asks."""
    address = str(tokens[index].attrs.get("src", ""))
    label = escape(tokens[index].content or address)
    if not _SAFE_LINK.match(address):
        return f'<span class="inert">{label}</span>'
    return f'<a href="{escape(address)}">{label}</a>'


def _modest(markdown: Any, tokens: list[Token]) -> None:
    """Headings two sizes down, links to foreign schemes without effect, tables that scroll, no styles."""
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + 2, 6)}"
        elif token.type in ("th_open", "td_open") and (style := token.attrs.pop("style", None)):
            token.attrs["class"] = _ALIGN.get(str(style), "start")
        _defuse_links(token.children or [])


def _defuse_links(children: list[Token]) -> None:
    harmless: list[bool] = []
    for token in children:
        if token.type == "link_open":
            harmless.append(bool(_SAFE_LINK.match(str(token.attrs.get("href", "")))))
        if token.type in ("link_open", "link_close") and not harmless[-1]:
            token.tag, token.attrs = "span", {"class": "inert"} if token.nesting == 1 else {}
        if token.type == "link_close":
            harmless.pop()


def _parser() -> MarkdownIt:
    markdown = dialect()
    markdown.validateLink = lambda url: True  # type: ignore[method-assign]  # _defuse_links decides
    markdown.core.ruler.push("modest", lambda state: _modest(markdown, state.tokens))
    markdown.add_render_rule("fence", _code)
    markdown.add_render_rule("code_block", _code)
    markdown.add_render_rule("image", _image)
    markdown.add_render_rule("table_open", lambda *_: '<div class="table" tabindex="0"><table>')
    markdown.add_render_rule("table_close", lambda *_: "</table></div>")
    return markdown


_markdown = _parser()
