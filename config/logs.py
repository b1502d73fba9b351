"""What is logged: one line a record, without secrets, whatever a stranger had written into it."""

import logging
import re
from collections.abc import Iterable

KEPT = "…"
# What looks like a secret, and how much of it may stay.
PATTERNS = (
    (re.compile(r"\b(parley_|sk-ant-|sk-)[\w-]{6,}"), rf"\1{KEPT}"),
    (re.compile(r"\b(bearer|basic)(\s+)[^\s\"',;]{6,}", re.IGNORECASE), rf"\1\2{KEPT}"),
    (
        re.compile(
            r"((?:api[-_]?key|authorization|cookie|password|passwd|secret|token|__host-session|sessionid)"
            r"(?:[\"']{0,2}\s*[:=]\s*|[\"']\s*,\s*)b?[\"']{0,2})(?!(?:bearer|basic)\s)[^\s\"',;&}]+",
            re.IGNORECASE,
        ),
        rf"\1{KEPT}",
    ),
    (re.compile(r"(://[^\s/:@]*:)[^\s/@]+@"), rf"\1{KEPT}@"),
    (re.compile(r"(/invitation/|/reset/key/|/confirm-email/)[^\s/?\"']+"), rf"\1{KEPT}"),
)
# What ends a line, moves a cursor, or turns text around; as the escapes of a Python string.
INERT = {
    code: ascii(chr(code))[1:-1]
    for code in (
        *range(0x20),
        *range(0x7F, 0xA0),
        0x061C,
        *range(0x200B, 0x2010),
        *range(0x2028, 0x202F),
        *range(0x2066, 0x206A),
        0xFEFF,
        *range(0xD800, 0xE000),
    )
}


class Line(logging.Formatter):
    """A record as one line, its traceback included, redacted. `secrets` are those of this installation."""

    def __init__(self, *, secrets: Iterable[str] = ()) -> None:
        super().__init__("{levelname} {name}: {message}", style="{")
        known = sorted({secret for secret in secrets if len(secret) >= 8}, key=len, reverse=True)
        self.known = re.compile("|".join(map(re.escape, known))) if known else None

    def format(self, record: logging.LogRecord) -> str:
        return self.redacted(super().format(record)).translate(INERT)

    def redacted(self, text: str) -> str:
        if self.known is not None:
            text = self.known.sub(KEPT, text)
        for pattern, kept in PATTERNS:
            text = pattern.sub(kept, text)
        return text
