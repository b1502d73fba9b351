"""A database's host that swallows packets: who connects to it hears nothing, and must not wait without end."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

import httpx
import pytest

from tests.cluster.relay import relayed
from tests.stack import PROJECT, Installation, eventually


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that lets everybody connect, and never says a word."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=50)) as listening:
        yield int(listening.getsockname()[1])


@pytest.mark.parametrize(
    "command", ["migrate --database owner", "runner", "web --port 0", "rotate_master_key"]
)
def test_no_process_waits_for_it_at_its_start(cluster: Installation, silent_port: int, command: str) -> None:
    urls = {
        name: urlsplit(cluster.environment[name])._replace(netloc=f"u:p@127.0.0.1:{silent_port}").geturl()
        for name in ("DATABASE_URL", "DATABASE_OWNER_URL")
    }
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "manage.py", *command.split()],
        cwd=PROJECT,
        env=cluster.environment | urls,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode != 0
    assert "connection timeout expired" in ended.stderr or "couldn't get a connection" in ended.stderr
    assert time.monotonic() - began < 25


def test_web_and_runner_come_back_with_it(cluster: Installation) -> None:
    with relayed(cluster.environment["DATABASE_URL"]) as (cable, url):
        web = cluster.web(DATABASE_URL=url)
        cluster.only_runners("deafened", DATABASE_URL=url)
        client = cluster.client(web)
        with client.socket() as before:
            before.say("words 2")
            before.until_end()
        cable.deaf.set()
        cable.cut()
        # Longer than anybody's patience: whatever tries to connect has begun to.
        until = time.monotonic() + 12
        while time.monotonic() < until:
            asked = time.monotonic()
            assert httpx.get(f"{web.url}/ready", timeout=10).status_code == 503
            assert time.monotonic() - asked < 8
            assert httpx.get(f"{web.url}/health", timeout=2).status_code == 200
            time.sleep(0.5)
        cable.deaf.clear()
        eventually(lambda: httpx.get(f"{web.url}/ready", timeout=10).status_code == 200, 20)
        with client.socket() as after:
            after.say("words 3")
            assert after.until_end()[-1]["type"] == "turn.completed"
        web.kill()
        cluster.webs.remove(web)
        cluster.only_runners()
