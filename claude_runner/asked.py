"""What a request to the model asks for, read from its body once, and only when somebody wants to know."""

import json
from functools import cached_property
from typing import Any

# Each list, object and comma may cost memory and time of everybody's event loop, since reading JSON can't be shared
# with other threads: so many take a tenth of a second. Long words cost next to nothing.
MOST_PARTS = 500_000


def parts(body: bytes) -> int:
    """A bound of what reading a document of JSON costs, found without reading it."""
    return sum(body.count(sign) for sign in (b"[", b"{", b","))


class Asked:
    """The body of a request. Unless it `can_be_read`, it must not pass."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.parts = parts(body)

    @property
    def can_be_read(self) -> bool:
        return self.parts <= MOST_PARTS

    @cached_property
    def model(self) -> str:
        """'' unless it is named once: readers differ in which of two they take."""
        named = [(name, value) for name, value in self._fields if name.casefold() == "model"]
        if len(named) != 1 or named[0][0] != "model" or type(named[0][1]) is not str:
            return ""
        return named[0][1]

    @cached_property
    def unseen(self) -> int:
        """Tokens that its server may write though nobody waits: all that were allowed, unless it streams them."""
        if [value for name, value in self._fields if name == "stream"] == [True]:
            return 0
        allowed = [value for name, value in self._fields if name == "max_tokens" and type(value) is _Number]
        return max((int(value) for value in allowed if value.isdecimal() and len(value) < 10), default=0)

    @cached_property
    def _fields(self) -> tuple[tuple[str, Any], ...]:
        try:
            # Objects become tuples of pairs, so that a name which stands twice is seen; numbers stay as written,
            # because long ones cost most of all.
            read = json.loads(self.body, object_pairs_hook=tuple, parse_int=_Number, parse_float=_Number)
        except (ValueError, RecursionError):
            return ()
        return read if isinstance(read, tuple) else ()


class _Number(str):
    """A number as it was written: no text, so no name of a model."""

    __slots__ = ()
