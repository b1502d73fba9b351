"""scripts/ground.sh, as far as it can be seen without installing anything."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def ground(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "scripts/ground.sh", *arguments],
        cwd=ROOT,
        env=dict(os.environ) | settings,
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_says_how_it_is_used() -> None:
    refused = ground()
    assert refused.returncode != 0
    assert "run | check | test | mutate | bench" in refused.stderr


def test_only_known_tests_are_left_out() -> None:
    refused = ground("test", WITHOUT="chromium everything")
    assert refused.returncode != 0
    assert refused.stderr == "WITHOUT takes chromium and bubblewrap, not everything.\n"


def test_every_verb_of_the_makefile_is_one_of_the_script() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for verb in ("run", "check", "test", "mutate", "bench"):
        assert f"\n{verb}: ##" in makefile
        assert f"scripts/ground.sh {verb}" in makefile
