"""Both servers as one thing that is started and stopped."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from config.embedded.account import account_for
from config.embedded.postgres import Postgres
from config.embedded.valkey import Valkey
from config.files import make_private

LARGEST_LOG = 10 * 2**20


@dataclass(slots=True)
class EmbeddedServers:
    """PostgreSQL and Valkey under `data_dir`, either left out on request.

    `with EmbeddedServers(data_dir) as servers:` waits until both answer, and stops both at the end. Start it
    from the main thread: a server ends with the thread that started it. Whoever starts it holds the lock on
    `data_dir`, if others could start it too. `durable=False` is quicker, and loses data in a power cut.
    """

    data_dir: Path
    with_postgres: bool = True
    with_valkey: bool = True
    durable: bool = True
    postgres: Postgres | None = field(default=None, init=False)
    valkey: Valkey | None = field(default=None, init=False)

    @property
    def admin_database_url(self) -> str:
        """Of PostgreSQL's superuser, to its database `postgres`; '' where it was left out."""
        return self.postgres.url if self.postgres else ""

    @property
    def redis_url(self) -> str:
        return self.valkey.url if self.valkey else ""

    def start(self) -> None:
        """Start both, or neither; ServerError says why."""
        data_dir = make_private(self.data_dir.absolute(), 0o711)
        logs = make_private(data_dir / "logs")
        keys = make_private(data_dir / "keys")
        try:
            if self.with_valkey:
                self.valkey = Valkey(_log(logs / "valkey.log"), account_for(data_dir / "postgres" / "data"))
                self.valkey.start()
            if self.with_postgres:
                self.postgres = Postgres(
                    folder=data_dir / "postgres",
                    password_file=keys / "postgres_admin",
                    log=_log(logs / "postgres.log"),
                    durable=self.durable,
                )
                self.postgres.start()
        except BaseException:
            self.stop()
            raise

    def revive(self) -> Iterator[str]:
        """Start again whichever died, under the same URL; gives their names."""
        for name, server in (("postgres", self.postgres), ("valkey", self.valkey)):
            if server and server.child and not server.child.alive:
                yield name
                server.restart()

    def stop(self) -> None:
        """Valkey, then PostgreSQL (a fast shutdown: sessions are cut, nothing committed is lost)."""
        for server in (self.valkey, self.postgres):
            if server:
                server.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _log(path: Path) -> Path:
    """The log to append to; one that has grown large starts anew."""
    if path.exists() and path.stat().st_size > LARGEST_LOG:
        path.replace(path.with_name(path.name + ".old"))
    return path
