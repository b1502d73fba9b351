"""The figures as a table and as JSON, each with its aim where there is one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of both sides. The aim is for `ours / bare`, or for `ours` alone where there is no bare.

    `at_most` for times, `at_least` for rates.
    """

    what: str
    unit: str
    bare: float | None
    ours: float
    at_most: float | None = None
    at_least: float | None = None

    @property
    def ratio(self) -> float | None:
        return self.ours / self.bare if self.bare else None

    @property
    def met(self) -> bool | None:
        measured = self.ours if self.ratio is None else self.ratio
        if self.at_most is not None:
            return measured <= self.at_most
        return None if self.at_least is None else measured >= self.at_least

    def as_json(self) -> dict[str, Any]:
        fields = {"what": self.what, "unit": self.unit, "bare": self.bare, "ours": self.ours}
        return fields | {
            "ratio": self.ratio,
            "at_most": self.at_most,
            "at_least": self.at_least,
            "met": self.met,
        }


def times(what: str, bare: Sequence[float], ours: Sequence[float], *aims: float | None) -> list[Row]:
    """Median and 95th percentile in milliseconds; `aims`: at most so many times the bare one's, of each."""
    first, second = (*aims, None, None)[:2]
    return [
        Row(f"{what}, median", "ms", median(bare) * 1000, median(ours) * 1000, at_most=first),
        Row(f"{what}, p95", "ms", p95(bare) * 1000, p95(ours) * 1000, at_most=second),
    ]


def p95(values: Sequence[float]) -> float:
    return sorted(values)[math.ceil(len(values) * 0.95) - 1]


def table(rows: Sequence[Row]) -> str:
    lines = [("", "unit", "bare", "ours", "ratio", "aim", "")]
    lines += [
        (
            row.what,
            row.unit,
            number(row.bare),
            number(row.ours),
            number(row.ratio, 2),
            _aim(row),
            _verdict(row),
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(_line(line, widths) for line in lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    aligned = [
        cell.rjust(width) if 2 <= column <= 4 else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(aligned).rstrip()


def number(value: float | None, places: int | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:,.{places if places is not None else (0 if value >= 100 else 1)}f}"


def _aim(row: Row) -> str:
    if row.at_most is not None:
        return f"<= {row.at_most:g}"
    return "" if row.at_least is None else f">= {row.at_least:g}"


def _verdict(row: Row) -> str:
    return {None: "", True: "met", False: "MISSED"}[row.met]
