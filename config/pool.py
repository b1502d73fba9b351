"""The pool of database connections of one process."""

from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary

from psycopg import Connection
from psycopg_pool import ConnectionPool

# Asking each time whether a connection lives would double the trips of a short unit of work. One that is found
# dead within this time of its last use costs one error.
TRUSTED_SECONDS = 1.0
_asked: "WeakKeyDictionary[Connection[Any], float]" = WeakKeyDictionary()


def check(connection: Connection[Any]) -> None:
    """Raises psycopg's OperationalError for one that has died; asks only what was not in use just now."""
    now = monotonic()
    if now - _asked.get(connection, -TRUSTED_SECONDS) >= TRUSTED_SECONDS:
        ConnectionPool.check_connection(connection)
    _asked[connection] = now
