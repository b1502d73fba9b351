"""What a person sends: text, or content blocks of the Messages API. Checked here, once, for all mouths."""

import hashlib
import json
import re
from math import isfinite
from typing import Any

from django.utils.translation import gettext as _

from conversations.models import TITLE_LENGTH
from tenants.errors import InvalidRequest, TooLarge

type Content = str | list[dict[str, Any]]

MOST_CHARACTERS = 200_000
MOST_BYTES = 16 * 1024 * 1024
DEEPEST = 20
NO_TEXT = re.compile(r"[\x00\ud800-\udfff]")
BLOCK_TYPES = ("text", "image", "document")


def checked(content: object) -> Content:
    """The content, unchanged, if it can be a message; else InvalidRequest or TooLarge with what to do."""
    if not isinstance(content, str | list) or not content:
        raise InvalidRequest(_("A message is a text or a list of content blocks, and it can't be empty."))
    if not is_storable(content):
        raise InvalidRequest(_("The message holds what is no text: NUL, half a surrogate pair, or NaN."))
    if isinstance(content, str):
        _check_text(content)
        return content
    for block in content:
        _check_block(block)
    if len(json.dumps(content)) > MOST_BYTES:
        raise TooLarge(_("The message is larger than 16 MiB. Send less, or send it in parts."))
    text = text_of(content)
    if text or all(block["type"] == "text" for block in content):
        _check_text(text)
    return content


def _check_block(block: object) -> None:
    if not isinstance(block, dict) or block.get("type") not in BLOCK_TYPES:
        raise InvalidRequest(_("A content block is an object with a type: text, image or document."))
    if block["type"] == "text":
        if not isinstance(block.get("text"), str):
            raise InvalidRequest(_("A text block needs its text."))
    elif not isinstance(block.get("source"), dict):
        raise InvalidRequest(_("An image or a document needs its source."))


def _check_text(text: str) -> None:
    if not text.strip():
        raise InvalidRequest(_("The message is empty. Write something first."))
    if len(text) > MOST_CHARACTERS:
        raise TooLarge(
            _("The message has %(has)d characters; at most %(most)d fit. Send it in parts, or as a file.")
            % {"has": len(text), "most": MOST_CHARACTERS}
        )


def is_storable(value: object, depth: int = DEEPEST) -> bool:
    """Whether PostgreSQL can keep it: JSON allows NUL, half a surrogate pair, NaN and any depth; jsonb does not."""
    match value:
        case str():
            return NO_TEXT.search(value) is None
        case float():
            return isfinite(value)
        case dict():
            return depth > 0 and all(is_storable(part, depth - 1) for pair in value.items() for part in pair)
        case list():
            return depth > 0 and all(is_storable(part, depth - 1) for part in value)
    return True


def text_of(content: Content) -> str:
    """The text of a message, its blocks joined by newlines."""
    if isinstance(content, str):
        return content
    return "\n".join(block["text"] for block in content if block.get("type") == "text")


def title_of(content: Content) -> str:
    """A conversation's first title: the first line of its first message, cut."""
    line = next((line.strip() for line in text_of(content).splitlines() if line.strip()), "")
    return line if len(line) <= TITLE_LENGTH // 2 else line[: TITLE_LENGTH // 2 - 1].rstrip() + "…"


def digest_of(*parts: object) -> str:
    """A fingerprint of a submission, to tell a repeated one from another under the same id."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
