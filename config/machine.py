"""All of Parley on one machine: servers, the offline model, web and runner, from start to end."""

import os
import secrets
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from config.children import Child, Step, free_port, is_free
from config.data_dir import ensure_key, hold
from config.embedded import EmbeddedServers, ServerError
from config.files import read_json, write_private_json
from config.readers import fingerprint
from config.readiness import wait_until_ready
from config.supervisor import Stop, Supervisor
from tenants.master_keys import new_master_key
from tenants.provision import DatabaseUrls, provision

DATABASE = "parley"
PORT_SECONDS = 5.0
READY_SECONDS = 120.0
LADDER = (Step(signal.SIGTERM, 40),)


class NotReady(Exception):
    """The processes run, but `/ready` does not say so."""


class Stopped(Exception):
    """We were asked to end before everything stood."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the operator asked for. The URLs are empty where our own servers are wanted."""

    base_dir: Path
    data_dir: Path
    host: str
    port: int
    public_url: str = ""
    database_url: str = ""
    database_owner_url: str = ""
    redis_url: str = ""
    allowlist: frozenset[str] = frozenset()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where a browser on this machine finds it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        if ":" in host and not host.startswith("["):
            host = f"[{host}]"
        return f"http://{host}:{self.port}"


class Machine:
    """Starts a plan's processes in order, keeps them, ends them in reverse.

    `ready(body)` is called with what `/ready` said, once everything stands.
    """

    def __init__(self, plan: Plan, stop: Stop, ready: Callable[[dict[str, Any]], None]) -> None:
        self.plan = plan
        self.stop = stop
        self.ready = ready
        self.servers = EmbeddedServers(
            plan.data_dir, with_postgres=not plan.database_url, with_valkey=not plan.redis_url
        )
        self.supervisor = Supervisor(self.servers, stop)
        self.urls: dict[str, str] = {}

    def run(self) -> None:
        """Return when we were asked to end and everything has ended.

        Raises AlreadyRunning, ServerError, ProvisionError, NotReady, GaveUp or Stopped; then too nothing is
        left running.
        """
        with ExitStack() as undo:
            undo.enter_context(hold(self.plan.data_dir, self.plan.url))
            self._check_plan()
            self._wait_for_port()
            self._make_keys()
            undo.callback(self.supervisor.end)
            self.servers.start()
            self._go_on()
            self._publish_urls()
            self._go_on()
            self._start_model()
            self._prepare()
            self._start_ours("runner")
            self._start_ours("web")
            self._wait_until_ready()
            self.supervisor.watch()

    def _go_on(self) -> None:
        if self.stop.wanted.is_set():
            raise Stopped

    def _check_plan(self) -> None:
        if self.plan.database_owner_url and not self.plan.database_url:
            raise ServerError("DATABASE_OWNER_URL is given without DATABASE_URL: give both, or neither.")

    def _wait_for_port(self) -> None:
        """The web process of a killed predecessor may need a moment to be gone."""
        for _ in range(int(PORT_SECONDS / 0.1)):
            if is_free(self.plan.host, self.plan.port):
                return
            if self.stop.wanted.wait(0.1):
                raise Stopped
        raise ServerError(
            f"Nothing can listen on {self.plan.host} port {self.plan.port}: is something else there? "
            f"Free it, or choose another, as in:  make run PORT={self.plan.port + 1}"
        )

    def _make_keys(self) -> None:
        given = self.plan.environment
        if not given.get("SECRET_KEY") and not given.get("SECRET_KEY_FILE"):
            ensure_key(self.plan.data_dir, "secret_key", lambda: secrets.token_urlsafe(50))
        if not given.get("MASTER_KEY") and not given.get("MASTER_KEY_FILE"):
            ensure_key(self.plan.data_dir, "master_key", new_master_key)

    def _publish_urls(self) -> None:
        """Find out all URLs, and leave them where other commands look."""
        file = self.plan.data_dir / "servers.json"
        made_with = fingerprint(self.plan.database_url) if self.plan.database_url else ""
        database = self._database(read_json(file), made_with)
        model = urlsplit(read_json(self.plan.data_dir / "model.json").get("url", ""))
        self.urls = {
            "database_url": database.app,
            "database_owner_url": database.owner,
            "redis_url": self.plan.redis_url or self.servers.redis_url,
            "model_url": f"http://127.0.0.1:{free_port(model.port or 0)}",
        }
        write_private_json(file, self.urls | {"made_with": made_with, "url": self.plan.url})

    def _database(self, earlier: dict[str, str], made_with: str) -> DatabaseUrls:
        """The roles' URLs: as given, or made with the administrator's.

        On our own server the passwords are new at each start. On the operator's, where others may use
        them, those of the `earlier` start stay.
        """
        plan = self.plan
        if plan.database_owner_url:
            return DatabaseUrls(app=plan.database_url, owner=plan.database_owner_url)
        if not plan.database_url:
            return provision(self.servers.admin_database_url, DATABASE, new_passwords=True)
        known = None
        if earlier.get("made_with") == made_with:
            known = DatabaseUrls(app=earlier["database_url"], owner=earlier["database_owner_url"])
        return provision(plan.database_url, _database_of(plan.database_url), known)

    def _start_model(self) -> None:
        port = urlsplit(self.urls["model_url"]).port
        self.supervisor.start(
            Child(
                name="model",
                argv=[sys.executable, "-m", "claude_runner.scripted_model", "--port", str(port)],
                env={"PATH": os.defpath, "PYTHONUNBUFFERED": "1"},  # it answers to agents: it gets no secret
                cwd=self.plan.base_dir,
                ladder=(Step(signal.SIGTERM, 3),),
            )
        )

    def _prepare(self) -> None:
        arguments = ["--url", self.plan.public_url or self.plan.url, "--model-url", self.urls["model_url"]]
        if not self.plan.database_url and not self.plan.public_url:
            arguments.append("--one-machine")
        migrating = {"DATABASE_OWNER_URL": self.urls["database_owner_url"]}
        code = self.supervisor.run(self._ours("prepare", *arguments, environment=migrating))
        if code is None:
            raise Stopped
        if code:
            raise ServerError("The database could not be prepared; the lines above say why.")

    def _start_ours(self, command: str) -> None:
        self._go_on()
        self.supervisor.start(self._ours(command))

    def _ours(self, *arguments: str, environment: dict[str, str] | None = None) -> Child:
        return Child(
            name=arguments[0],
            argv=[sys.executable, str(self.plan.base_dir / "manage.py"), *arguments],
            env=self._environment() | (environment or {}),
            cwd=self.plan.base_dir,
            ladder=LADDER,
        )

    def _environment(self) -> dict[str, str]:
        """The operator's settings, with each URL as we found it, but for the one of who may change tables."""
        model = urlsplit(self.urls["model_url"]).netloc
        # NAME_FILE would win over NAME.
        ours = {"DATABASE_URL_FILE", "DATABASE_OWNER_URL", "DATABASE_OWNER_URL_FILE", "REDIS_URL_FILE"}
        return {name: value for name, value in self.plan.environment.items() if name not in ours} | {
            "DATA_DIR": str(self.plan.data_dir),
            "HOST": self.plan.host,
            "PORT": str(self.plan.port),
            "DATABASE_URL": self.urls["database_url"],
            "REDIS_URL": self.urls["redis_url"],
            "MODEL_UPSTREAM_ALLOWLIST": ",".join(sorted(self.plan.allowlist | {model})),
            "PYTHONUNBUFFERED": "1",
        }

    def _wait_until_ready(self) -> None:
        status, body = wait_until_ready(self.plan.url, READY_SECONDS, self._still_starting)
        self._go_on()
        if status != 200:
            raise NotReady(f"{self.plan.url}/ready says {status or 'nothing'}: {body or 'no answer'}")
        self.ready(body)

    def _still_starting(self) -> bool:
        # Later a child that dies is started again. Now it would only say the same once more.
        for kept in self.supervisor.kept:
            if not kept.child.alive:
                raise NotReady(f"{kept.child.name} ended at its start; the lines above say why.")
        return not self.stop.wanted.is_set()


def _database_of(admin_url: str) -> str:
    """The database that an administrator's URL means: its own, unless that is the server's."""
    name = urlsplit(admin_url).path.strip("/")
    return DATABASE if name in ("", "postgres", "template1") else name
