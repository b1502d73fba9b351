"""`python -m tests.mutate [WORDS]`: turns each layer of defence off in turn, in a copy of the tree.

Fails unless, for each, the test that is named for it passes with the layer and fails without it. WORDS pick
mutations by their names.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from time import monotonic
from xml.etree import ElementTree

from tests.mutate.mutations import MUTATIONS, Mutation

PROJECT = Path(__file__).resolve().parent.parent.parent
SECONDS = 300


def main() -> None:
    words = sys.argv[1:]
    chosen = [one for one in MUTATIONS if all(word in one.name for word in words)]
    if not chosen:
        sys.exit(f"No mutation is named like that. There are: {', '.join(one.name for one in MUTATIONS)}")
    with tempfile.TemporaryDirectory(prefix="parley-mutate-") as folder:
        tree = Path(folder)
        # A sandbox's own user passes through, and a runner that is an ordinary user imports from here.
        tree.chmod(0o755)
        copy_into(tree)
        tests = sorted({test for mutation in chosen for test in mutation.tests})
        say(f"With all layers on, {len(tests)} tests have to pass ...")
        if not_passed := {test: told for test, told in outcomes(tree, tests).items() if told != "passed"}:
            sys.exit("\n".join(f"{told}: {test}" for test, told in not_passed.items()))
        survivors = [mutation.name for mutation in chosen if not caught(tree, mutation)]
    if survivors:
        sys.exit(f"{len(survivors)} of {len(chosen)} went unnoticed: {', '.join(survivors)}")
    say(f"Each of {len(chosen)} layers is missed by its tests when it is off.")


def copy_into(tree: Path) -> None:
    """The tree as it stands, without what git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (PROJECT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, tree / name)


def caught(tree: Path, mutation: Mutation) -> bool:
    """Whether each of the mutation's tests fails while it is in force; tells about it."""
    began = monotonic()
    before = {edit.file: (tree / edit.file).read_text() for edit in mutation.edits}
    try:
        for edit in mutation.edits:
            edit.apply(tree)
        found = outcomes(tree, mutation.tests)
    except subprocess.TimeoutExpired:
        found = dict.fromkeys(mutation.tests, "not ended")
    finally:
        for file, text in before.items():
            (tree / file).write_text(text)
    is_caught = all(told == "failed" for told in found.values())
    say(f"{'caught ' if is_caught else 'MISSED '} {mutation.name} ({monotonic() - began:.0f} s)")
    if not is_caught:
        say("".join(f"    {told}: {test}\n" for test, told in found.items() if told != "failed").rstrip())
    return is_caught


def outcomes(tree: Path, tests: list[str] | tuple[str, ...]) -> dict[str, str]:
    """What became of each test in the tree: passed, failed, error, skipped, or missing."""
    report = tree / "report.xml"
    report.unlink(missing_ok=True)
    options = ("-q", "-n0", "-p", "no:cacheprovider", f"--junitxml={report}", f"--timeout={SECONDS // 2}")
    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=tree,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        run.wait(SECONDS * len(tests))
    finally:
        # With the servers that it started, should it hang or be stopped.
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGTERM)
    cases = list(ElementTree.parse(report).iter("testcase")) if report.is_file() else []
    return {test: _worst([_outcome(case) for case in cases if _is(case, test)]) for test in tests}


def _is(case: ElementTree.Element, test: str) -> bool:
    """Whether a case of the report is this test, whatever its parameters."""
    file, _, name = test.partition("::")
    named = case.get("name", "")
    parameterless = named if "[" in name else named.partition("[")[0]
    return case.get("classname") == file.removesuffix(".py").replace("/", ".") and parameterless == name


def _outcome(case: ElementTree.Element) -> str:
    kinds = {"failure": "failed", "error": "error", "skipped": "skipped"}
    return next((kinds[child.tag] for child in case if child.tag in kinds), "passed")


def _worst(told: list[str]) -> str:
    order = ("failed", "error", "skipped", "passed")
    return min(told, key=order.index) if told else "missing"


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
