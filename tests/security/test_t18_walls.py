"""T18 with real runners: walls that are missing at the start, walls that fall while one works."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.client import Client
from tests.stack import PROJECT, Installation, Process, eventually

pytestmark = pytest.mark.needs_bubblewrap

STRONGEST = "bubblewrap-uid" if os.geteuid() == 0 else "bubblewrap"
# bubblewrap that leaves the network open, as one would that was replaced or misconfigured.
LEAKY = """#!/bin/bash
given=()
for argument in "$@"; do
    given+=("$argument")
    [ "$argument" = --unshare-all ] && given+=(--share-net)
done
exec {bwrap} "${{given[@]}}"
"""
MISSING = "#!/bin/sh\nexit 1\n"


class Walls:
    """A folder first in the PATH of runners, whose `bwrap` is what a test makes of it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.bwrap = folder / "bwrap"
        self.real = shutil.which("bwrap") or ""
        self.path = f"{folder}:{os.environ['PATH']}"
        self.are('#!/bin/sh\nexec {bwrap} "$@"\n')

    def are(self, script: str) -> None:
        fresh = self.bwrap.with_suffix(".new")
        fresh.write_text(script.format(bwrap=self.real))
        fresh.chmod(0o755)
        fresh.rename(self.bwrap)

    def stand(self) -> None:
        self.are('#!/bin/sh\nexec {bwrap} "$@"\n')


@pytest.fixture(scope="module")
def standing() -> Iterator[Installation]:
    with Installation.standing() as standing:
        standing.web()
        yield standing


@pytest.fixture
def walls(standing: Installation, request: pytest.FixtureRequest) -> Iterator[Walls]:
    standing.only_runners()
    standing.query("DELETE FROM conversations_runnerhost")
    yield Walls(standing.folder / f"walls-{abs(hash(request.node.name))}")
    standing.query("UPDATE tenants_tenant SET least_tier = ''")


@pytest.fixture
def client(standing: Installation) -> Client:
    return standing.client(standing.webs[0])


def host(standing: Installation, column: str) -> Any:
    return standing.query(f"SELECT {column} FROM conversations_runnerhost WHERE name = 'one'")


def claudes(runner: Process) -> list[int]:
    found = []
    for process in runner.family():
        with suppress(psutil.NoSuchProcess):  # a probe, say, that has ended meanwhile
            if process.name() == "claude":
                found.append(process.pid)
    return found


def waits_for(client: Client, conversation: str) -> str:
    waits = client.turns(conversation)[-1]["waits_for"]
    return str(waits["reason"]) if waits else ""


@pytest.mark.parametrize("flaw", [MISSING, LEAKY], ids=["missing", "leaky"])
def test_t18_where_a_tier_is_named_nothing_weaker_starts(
    standing: Installation, walls: Walls, flaw: str
) -> None:
    walls.are(flaw)
    started = subprocess.run(
        [sys.executable, "manage.py", "runner", "--name", "one"],
        cwd=PROJECT,
        env=standing.environment | {"PATH": walls.path, "SANDBOX_TIER": STRONGEST},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert started.returncode == 1
    assert STRONGEST in started.stderr
    assert "network" in started.stderr or "does not start" in started.stderr
    assert host(standing, "name") is None


def test_t18_in_production_the_tier_has_to_be_named(standing: Installation) -> None:
    production = {"PUBLIC_URL": "https://parley.example", "TRUSTED_PROXIES": "127.0.0.1"}
    started = subprocess.run(
        [sys.executable, "manage.py", "runner", "--name", "one"],
        cwd=PROJECT,
        env=standing.environment | production,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert started.returncode == 1
    assert "set SANDBOX_TIER to one of bubblewrap-uid" in started.stderr


def test_t18_without_a_runner_a_turn_waits_and_says_so(
    standing: Installation, walls: Walls, client: Client
) -> None:
    conversation = client.begin()
    client.submit("echo hello", conversation)
    with client.stream(conversation) as events:
        told = next(event for event in events if event["type"] == "status")
    assert (told["state"], told["reason"]) == ("waiting_for_host", "no_runner")
    assert "Your message is kept" in told["detail"]
    assert waits_for(client, conversation) == "no_runner"
    standing.only_runners("one", PATH=walls.path)
    eventually(lambda: client.turns(conversation)[0]["state"] == "completed", 20)


def test_t18_walls_that_fall_stop_every_agent_and_turns_wait_until_they_stand_again(
    standing: Installation, walls: Walls, client: Client
) -> None:
    runner = standing.only_runners("one", PATH=walls.path, SANDBOX_TIER=STRONGEST, SANDBOX_PROVE_SECONDS="1")[
        "one"
    ]
    first = host(standing, "proved_at")
    with client.socket() as socket:
        socket.say("slow 600 20")
        conversation = socket.until_text(5)[0]["conversation"]
        assert claudes(runner)
        walls.are(LEAKY)
        ended = socket.until_end()[-1]
    assert ended["type"] == "turn.failed"
    assert "sandbox" in ended["error"]["message"]
    eventually(lambda: not claudes(runner), 5, "an agent outlived its walls")
    eventually(lambda: "network" in host(standing, "refuses"), 5)
    assert host(standing, "tier") == STRONGEST
    assert "network" in runner.said()
    assert host(standing, "proved_at") > first

    client.submit("echo later", conversation)
    eventually(lambda: waits_for(client, conversation) == "broken_sandbox", 15)
    assert not claudes(runner)

    walls.stand()
    eventually(lambda: client.turns(conversation)[-1]["state"] == "completed", 20)
    assert host(standing, "refuses") == ""
    assert runner.leave() == 0


def test_t18_walls_that_can_not_be_looked_at_stop_nobody_for_a_while(
    standing: Installation, walls: Walls, client: Client
) -> None:
    runner = standing.only_runners("one", PATH=walls.path, SANDBOX_TIER=STRONGEST, SANDBOX_PROVE_SECONDS="1")[
        "one"
    ]
    with client.socket() as socket:
        socket.say("slow 900 20")
        socket.until_text(5)
        walls.are(MISSING)
        eventually(lambda: "does not start" in host(standing, "refuses"), 10)
        socket.until_text(40)
        assert len(claudes(runner)) == 1
        waiting = client.begin()
        client.submit("echo later", waiting)
        eventually(lambda: waits_for(client, waiting) == "broken_sandbox", 15)
        ended = socket.until_end(seconds=30)[-1]
    assert (ended["type"], "sandbox" in ended["error"]["message"]) == ("turn.failed", True)
    eventually(lambda: not claudes(runner), 5, "looked for in vain a dozen times")
    walls.stand()
    eventually(lambda: client.turns(waiting)[-1]["state"] == "completed", 20)


def test_t18_a_tenant_that_asks_for_more_than_the_host_has_waits_for_a_better_one(
    standing: Installation, walls: Walls, client: Client
) -> None:
    walls.are(MISSING)
    standing.only_runners("one", PATH=walls.path)
    assert host(standing, "tier") != STRONGEST
    standing.query("UPDATE tenants_tenant SET least_tier = %s", STRONGEST)
    conversation = client.begin()
    client.submit("echo hello", conversation)
    eventually(lambda: waits_for(client, conversation) == "weak_sandbox", 15)
    walls.stand()
    standing.only_runners("two", PATH=walls.path)
    eventually(lambda: client.turns(conversation)[0]["state"] == "completed", 20)
    assert (
        standing.query("SELECT files_on FROM conversations_conversation WHERE id = %s", conversation) != "one"
    )
