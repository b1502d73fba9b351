"""Which worker of pytest-xdist runs what, and when.

The tests of one file share what they start, and so do those of some folders and files. What takes long begins
first, so that no worker is left alone with it at the end.
"""

import pytest
from xdist.scheduler import LoadFileScheduling

TOGETHER: tuple[tuple[str, ...], ...] = (
    ("tests/cluster/",),
    ("tests/browser/",),
    ("tests/security/test_t8_", "tests/security/test_t20_", "tests/security/test_t31_"),
    ("tests/security/test_sign_in", "tests/security/test_production"),
)
LONG = (*(beginning for unit in TOGETHER for beginning in unit), "tests/security/", "tests/claude_runner/")


class Shifts(LoadFileScheduling):  # type: ignore[misc]
    """Hands out such units, in the order of `by_length`."""

    def _split_scope(self, nodeid: str) -> str:
        together = (unit[0] for unit in TOGETHER if nodeid.startswith(unit))
        return next(together, super()._split_scope(nodeid))


def by_length(item: pytest.Item) -> int:
    """To sort by; what is not said to be long stays in its order."""
    return next(
        (place for place, beginning in enumerate(LONG) if item.nodeid.startswith(beginning)), len(LONG)
    )
