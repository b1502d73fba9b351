"""DATA_DIR as `manage.py up` keeps it: one holder at a time, keys made once.

keys/             secret_key, master_key, postgres_admin
logs/             of PostgreSQL and Valkey
postgres/         its data
servers.json      where the servers are, for other commands with the same DATA_DIR
first-run.json    the first tenant's sign-in and API key
model.json        where the scripted model was, and the credential that points there
up.lock           held while `up` runs
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from config.files import make_private, write_private


class AlreadyRunning(Exception):
    """Another `up` holds this DATA_DIR."""

    def __init__(self, pid: int, url: str) -> None:
        super().__init__(f"Parley is running already at {url} (process {pid}).")
        self.pid = pid
        self.url = url


@contextmanager
def hold(data_dir: Path, url: str) -> Iterator[None]:
    """Hold `data_dir`, made if need be; AlreadyRunning where somebody else does.

    The kernel lets go when the holder dies, however it dies.
    """
    make_private(data_dir, 0o711)  # the user that PostgreSQL runs as passes through; its leaves are closed
    with open(os.open(data_dir / "up.lock", os.O_RDWR | os.O_CREAT, 0o600), "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _already_running(lock.read()) from None
        lock.truncate()
        lock.write(json.dumps({"pid": os.getpid(), "url": url}))
        lock.flush()
        yield


def _already_running(written: str) -> AlreadyRunning:
    try:
        found = json.loads(written)
    except ValueError:  # it holds the lock and has not written yet
        return AlreadyRunning(0, "an address that it has not told yet")
    return AlreadyRunning(found["pid"], found["url"])


def ensure_key(data_dir: Path, name: str, make: Callable[[], str]) -> None:
    """Make keys/`name` unless it is there. It is never replaced: what it locked would stay locked."""
    path = make_private(data_dir / "keys") / name
    if not path.exists():
        write_private(path, make())
