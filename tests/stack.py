"""A whole installation as real processes: servers and database of its own, the offline model, webs, runners.

It shares nothing with the servers of the other tests, so its servers may be killed, and its runners claim
nothing that a test without a runner has queued.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
import psycopg
import pytest

from config.children import free_port
from config.embedded import EmbeddedServers
from tenants.master_keys import new_master_key
from tenants.provision import provision
from tests.client import Client

PROJECT = Path(__file__).resolve().parent.parent
START_SECONDS = 90.0
# The environment is made from nothing: what the shell has set for another Parley must not reach this one.
KEPT = ("PATH", "HOME", "LANG")


def eventually[T](condition: Callable[[], T], seconds: float = 5, why: str = "") -> T:
    """Wait until the condition holds; what it then answered."""
    until = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < until, why or "It did not come about in time."
        time.sleep(0.02)
    return answer


class Process:
    """One process of the installation; what it says goes into `log`."""

    def __init__(
        self, argv: list[str], environment: dict[str, str], log: Path, within: Sequence[str] = ()
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self.child = subprocess.Popen(
                [*within, sys.executable, *argv], cwd=PROJECT, env=environment, stdout=output, stderr=output
            )

    @property
    def alive(self) -> bool:
        return self.child.poll() is None

    def family(self) -> list[psutil.Process]:
        """All that it started and that lives: CLIs, their walls, and what runs inside."""
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.child.pid).children(recursive=True)
        return []

    def signal(self, number: signal.Signals) -> None:
        self.child.send_signal(number)

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self.child.kill()
        self.child.wait()

    def leave(self, seconds: float = 30) -> int:
        """SIGTERM; returns its exit code."""
        self.child.terminate()
        return self.child.wait(seconds)

    def said(self) -> str:
        return self.log.read_text(errors="replace")


class Web(Process):
    """A `manage.py web`."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__(["manage.py", "web", "--port", str(self.port)], environment, log)

    def answers(self) -> bool:
        assert self.alive, f"web did not start: {self.said()}"
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/health", timeout=2).status_code == 200
        return False


class Installation:
    """`with Installation.standing() as installation:` has servers, a migrated database, and the offline model.

    Its first tenant has an `endpoint` credential for that model; `key` is its owner's API key.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers = EmbeddedServers(folder / "data", durable=False)
        self.webs: list[Web] = []
        self.runners: dict[str, Process] = {}

    @classmethod
    @contextmanager
    def standing(cls) -> Iterator[Self]:
        folder = Path(tempfile.mkdtemp(prefix="pli-", dir="/tmp"))  # short: unix sockets lie below
        folder.chmod(0o711)  # the servers' own user passes through, and the sandboxes' users
        installation = cls(folder)
        try:
            installation.start()
            yield installation
        finally:
            installation.stop()

    def start(self) -> None:
        self.servers.start()
        urls = provision(self.servers.admin_database_url, "parley")
        # What was committed outlives a crash of PostgreSQL, though not one of the machine.
        self.query("ALTER DATABASE parley SET synchronous_commit = on")
        model_port = free_port()
        self.environment = {name: os.environ[name] for name in KEPT if name in os.environ} | {
            "DATA_DIR": str(self.folder / "data"),
            "DATABASE_URL": urls.app,
            "DATABASE_OWNER_URL": urls.owner,
            "REDIS_URL": self.servers.redis_url,
            "SECRET_KEY": secrets.token_urlsafe(50),
            "MASTER_KEY": new_master_key(),
            "SANDBOX_DIR": str(self.folder / "s"),
            # Where a machine has no sandbox at all, tests with two tenants still find a runner.
            "UNWALLED_TENANTS": "true",
            "MODEL_UPSTREAM_ALLOWLIST": f"127.0.0.1:{model_port}",
        }
        self.model_url = f"http://127.0.0.1:{model_port}"
        model = ["-m", "claude_runner.scripted_model", "--port", str(model_port)]
        self.model = Process(model, self.environment, self.folder / "model.log")
        self.manage("prepare", "--url", "http://127.0.0.1", "--model-url", self.model_url)
        self.first_run: dict[str, Any] = json.loads((self.folder / "data" / "first-run.json").read_text())

    def stop(self) -> None:
        processes = [*self.webs, *self.runners.values(), self.model]
        for process in processes:
            if process.alive:
                process.signal(signal.SIGCONT)
                process.kill()
        self.servers.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def manage(self, *arguments: str) -> str:
        """What a `manage.py` command prints."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=PROJECT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    # Processes

    def up(self, runner: str = "one") -> Self:
        """One web process and this runner, as `make run` has them; they start side by side."""
        web = self._start_web({})
        self.runner(runner)
        eventually(web.answers, START_SECONDS, "web did not come up")
        return self

    def web(self, **settings: str) -> Web:
        """One more web process, once it answers."""
        web = self._start_web(settings)
        eventually(web.answers, START_SECONDS, "web did not come up")
        return web

    def _start_web(self, settings: dict[str, str]) -> Web:
        self.webs.append(Web(self.environment | settings, self.folder / f"web-{len(self.webs)}.log"))
        return self.webs[-1]

    def some_webs(self, count: int) -> list[Web]:
        """As many web processes as that; those that live serve again."""
        living = [web for web in self.webs if web.alive]
        return [*living, *(self.web() for _ in range(count - len(living)))][:count]

    def runner(self, name: str, **settings: str) -> Process:
        """Start the runner of this name, once it has said that it lives."""
        return self.only_runners(*{**self.runners, name: None}, **settings)[name]

    def only_runners(self, *names: str, within: Sequence[str] = (), **settings: str) -> dict[str, Process]:
        """Exactly these runners live: others are killed, missing ones are started with these settings.

        `within`: a command that becomes the runner.
        """
        for name in self.runners.keys() - set(names):
            self.runners.pop(name).kill()
        since = self.query("SELECT clock_timestamp()")
        fresh = [name for name in names if name not in self.runners or not self.runners[name].alive]
        for name in fresh:
            argv = ["manage.py", "runner", "--name", name]
            log = self.folder / f"runner-{name}.log"
            self.runners[name] = Process(argv, self.environment | settings, log, within)
        for name in fresh:
            eventually(lambda name=name: self._seen(name, since), START_SECONDS, f"runner {name}")  # type: ignore[misc]
        return {name: self.runners[name] for name in names}

    def _seen(self, name: str, since: object) -> bool:
        assert self.runners[name].alive, self.runners[name].said()
        return bool(
            self.query("SELECT seen_at > %s FROM conversations_runnerhost WHERE name = %s", since, name)
        )

    # What tests ask

    @property
    def key(self) -> str:
        return str(self.first_run["api_key"])

    def client(self, web: Web, key: str = "") -> Client:
        """A program that speaks to this web process, the first tenant's owner unless another key is given."""
        return Client(web.url, key or self.key)

    def query(self, sql: str, *arguments: object) -> Any:
        """The first column of the first row, as the superuser sees it; None without a row."""
        with psycopg.connect(
            self.servers.admin_database_url,
            dbname="parley",
            autocommit=True,
            options="-c default_transaction_read_only=off",
        ) as connection:
            found = connection.execute(sql.encode(), arguments)
            row = found.fetchone() if found.description else None
            return row[0] if row else None


@pytest.fixture(scope="package")
def installation() -> Iterator[Installation]:
    """One web process and one runner, for all tests of a folder that leave them alive."""
    with Installation.standing() as installation:
        yield installation.up()
