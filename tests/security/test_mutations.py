"""What `make mutate` would turn off stands where it looks for it, and the tests that it names are there."""

import re
from pathlib import Path

import pytest

from tests.mutate.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_is_up_to_date(mutation: Mutation) -> None:
    assert mutation.tests
    assert mutation.edits
    for edit in mutation.edits:
        assert (ROOT / edit.file).read_text().count(edit.old) == 1, edit
        assert edit.new != edit.old
    for test in mutation.tests:
        file, _, name = test.partition("::")
        assert re.search(rf"def {name}\(", (ROOT / file).read_text()), test


def test_each_layer_is_turned_off_by_itself() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 15
