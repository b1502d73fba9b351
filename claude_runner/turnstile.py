"""How often and how much one conversation may ask its gateway, so that a flood is its own trouble only."""

from time import monotonic

MOST_AT_ONCE = 16
# Requests: so many at a stroke, then so many a second. A megabyte of body counts as one more, so do PARTS of it.
BURST, PER_SECOND = 40.0, 10.0
MEGABYTE = 1 << 20
PARTS = 50_000
MOST_HELD = 64 * MEGABYTE


class Turnstile:
    """`enter()` before a request and `leave()` after it; `hold()` and `let_go()` for what lies in memory."""

    def __init__(self) -> None:
        self._inside = self._held = 0
        self._left, self._at = BURST, monotonic()

    def enter(self) -> bool:
        """Whether one more may go through now."""
        now = monotonic()
        self._left = min(BURST, self._left + (now - self._at) * PER_SECOND)
        self._at = now
        if self._inside >= MOST_AT_ONCE or self._left < 1:
            return False
        self._left -= 1
        self._inside += 1
        return True

    def leave(self) -> None:
        self._inside -= 1

    def hold(self, size: int) -> bool:
        """Whether there is room for so many bytes more; they are held if there is."""
        if self._held + size > MOST_HELD:
            return False
        self._held += size
        self._left -= size / MEGABYTE
        return True

    def look_through(self, parts: int) -> bool:
        """Whether a body of so many parts may be read now, while everybody waits; few of them always may."""
        cost = parts / PARTS
        if cost >= 1 and self._left < cost:
            return False
        self._left -= cost
        return True

    def let_go(self, size: int) -> None:
        self._held -= size
