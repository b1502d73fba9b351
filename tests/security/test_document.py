"""docs/security.md names every threat, and every test of a threat; nobody may forget one."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs/security.md"
THREATS = [f"T{number}" for number in range(1, 33)]


@cache
def rows() -> dict[str, list[str]]:
    """The cells of each row by its threat: what it is, the defence, the tests."""
    found = re.findall(r"^\| (T\d+) \|(.*)\|$", DOCUMENT.read_text(), re.MULTILINE)
    assert len(found) == len({threat for threat, _rest in found}), "a threat has one row"
    return {threat: [cell.strip() for cell in rest.split(" | ")] for threat, rest in found}


def names_in(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield f"{path.relative_to(ROOT)}::{node.name}"


@cache
def numbered() -> dict[str, set[str]]:
    """The tests in this folder by the threat in their name."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in sorted((ROOT / "tests/security").glob("test_*.py")):
        for test in names_in(path):
            if number := re.search(r"::test_t(\d+)_", test):
                found[f"T{number[1]}"].add(test)
    return found


def named_in(threat: str) -> list[str]:
    return re.findall(r"`(tests/[\w/]+\.py::\w+)`", rows()[threat][2])


def test_every_threat_has_its_row_and_in_order() -> None:
    assert list(rows()) == THREATS
    assert [threat for threat, cells in rows().items() if len(cells) != 3 or not all(cells)] == []


@pytest.mark.parametrize("threat", THREATS)
def test_what_a_row_names_exists_and_each_test_of_the_threat_is_named(threat: str) -> None:
    named = named_in(threat)
    assert len(named) == len(set(named))
    assert {test for test in named if test not in set(names_in(ROOT / test.partition("::")[0]))} == set()
    assert numbered()[threat] - set(named) == set(), f"name them in the row of {threat} in docs/security.md"
    assert named, f"{threat} has no test"


def test_every_number_is_one_of_a_threat() -> None:
    assert set(numbered()) <= set(THREATS)


def test_what_is_not_promised_is_said() -> None:
    _before, _heading, section = DOCUMENT.read_text().partition("\n## What is not promised\n")
    for word in ("kernel", "allowed domains", "own workspace", "own budget"):
        assert word in section, word
