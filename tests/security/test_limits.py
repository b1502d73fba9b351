"""T16: an agent takes all it can get of processes, memory, disk, processor, output and time, and hides daemons.

As root asked of both tiers of bubblewrap, as an ordinary user of theirs; and of a runner without any.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.security.glutton import DEEDS
from tests.uids import RUNNERS

pytestmark = [pytest.mark.needs_bubblewrap, pytest.mark.timeout(240)]

PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Gorged:
    """What became of each deed, and of the neighbour."""

    tier: str
    did: dict[str, dict[str, Any]]
    neighbour: dict[str, Any]


def gorged(uid: int, *arguments: str) -> Gorged:
    folder = tempfile.mkdtemp(prefix="p-", dir="/tmp")
    try:
        os.chown(folder, uid, -1)
        done = subprocess.run(
            [sys.executable, "-m", "tests.security.glutton", folder, str(uid), *arguments],
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
            cwd=PROJECT,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return Gorged(**json.loads(done.stdout))


@pytest.fixture(scope="module")
def gluttons() -> Iterator[dict[int, Future[Gorged]]]:
    """Side by side, since they wait more than they work."""
    with ThreadPoolExecutor() as pool:
        yield {uid: pool.submit(gorged, uid) for uid in RUNNERS.values()}


@pytest.fixture(scope="module", params=RUNNERS.values(), ids=[*RUNNERS])
def glutton(request: pytest.FixtureRequest, gluttons: dict[int, Future[Gorged]]) -> Gorged:
    return gluttons[request.param].result()


REASONS = {
    "fork bomb": "Stopped: the conversation ran more than 250 processes.",
    "memory": "Stopped: the conversation used more than 700 MB of memory.",
    "memory without a main thread": "Stopped: the conversation used more than 700 MB of memory.",
    "memory in /tmp": "Stopped: the conversation used more than 700 MB of memory.",
    "disk": "Stopped: the conversation's files took more than 100 MB. Have some deleted.",
    "deleted files": "Stopped: the conversation's files took more than 100 MB. Have some deleted.",
    "files below any path": "Stopped: the conversation's files took more than 100 MB. Have some deleted.",
    "small files": "Stopped: the conversation made more than 1,500 files. Have some deleted.",
    "small files in /tmp": "Stopped: the conversation made more than 1,500 temporary files.",
    "processor": "Stopped: the turn used more than 5 seconds of processor time.",
    "a turn without an end": "Stopped: the turn ran for more than 25 seconds.",
}


def test_t16_each_excess_ends_its_turn_with_the_reason(glutton: Gorged) -> None:
    assert set(glutton.did) == set(DEEDS)
    told = {deed: did["error"] for deed, did in glutton.did.items() if did["outcome"] == "failed"}
    assert told == REASONS


def test_t16_a_file_that_grows_too_large_is_refused(glutton: Gorged) -> None:
    assert "File size limit exceeded" in glutton.did["one file"]["output"]
    assert glutton.did["one file"]["outcome"] == "completed"


def test_t16_daemons_end_with_the_turn_that_started_them(glutton: Gorged) -> None:
    for deed in ("a daemon", "a bomb of daemons"):
        assert glutton.did[deed]["output"] == "started"
        assert glutton.did[deed]["outcome"] == "completed"


def test_t16_nothing_is_left_a_second_later(glutton: Gorged) -> None:
    assert {deed: did["left"] for deed, did in glutton.did.items() if did["left"]} == {}


def test_t16_only_its_own_conversation_ends_and_the_next_message_works(glutton: Gorged) -> None:
    assert {did["next"] for did in glutton.did.values()} == {"still here"}
    assert glutton.neighbour == {"outcome": "completed", "output": "mine", "same": True}


@pytest.mark.parametrize("tier", ["landlock", "none"])
def test_t16_so_it_is_without_bubblewrap(tier: str) -> None:
    glutton = gorged(os.geteuid(), tier, "fork bomb", "memory", "a daemon", "a bomb of daemons")
    assert glutton.tier == tier
    assert {deed: did["error"] for deed, did in glutton.did.items()} == {
        "fork bomb": REASONS["fork bomb"],
        "memory": REASONS["memory"],
        "a daemon": "",
        "a bomb of daemons": "",
    }
    assert {deed: did["left"] for deed, did in glutton.did.items() if did["left"]} == {}
    assert {did["next"] for did in glutton.did.values()} == {"still here"}
    assert glutton.neighbour == {"outcome": "completed", "output": "mine", "same": True}
