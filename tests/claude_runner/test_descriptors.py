"""Open files: the runner has as many as its machine allows, a program inside as many as is usual."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from claude_runner import ToolFinished
from claude_runner.descriptors import MOST

from .conftest import Engine

PROJECT = Path(__file__).parents[2]
RUNNER = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (256, {hard}))
from claude_runner import descriptors
descriptors.open_as_many_as_allowed()
print(*resource.getrlimit(resource.RLIMIT_NOFILE), descriptors.inside())
"""


@pytest.mark.parametrize(("hard", "inside"), [(3000, "1024:3000"), (512, "512:512")])
def test_the_runner_takes_all_that_it_may_and_hands_on_no_more_than_that(hard: int, inside: str) -> None:
    script = RUNNER.format(hard=hard)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(hard), str(hard), inside]


@pytest.mark.needs_bubblewrap
async def test_a_program_inside_has_what_is_usual(engine: Engine) -> None:
    said = await engine.say("run ulimit -Sn; ulimit -Hn")
    output = "".join(finished.output for finished in said.of(ToolFinished))
    most = min(MOST, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    soft, hard = output.split()
    # The CLI raises its own, and what it starts inherits that.
    assert int(soft) <= int(hard) == most
