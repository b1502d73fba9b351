"""The pool of database connections of one process."""

from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary

from psycopg import Connection, OperationalError
from psycopg_pool import ConnectionPool

# Asking each time whether a connection lives would double the trips of a short unit of work. One that is found
# dead within this time of its last use costs one error.
TRUSTED_SECONDS = 1.0
_asked: "WeakKeyDictionary[Connection[Any], float]" = WeakKeyDictionary()
_drained: "WeakKeyDictionary[ConnectionPool[Any], float]" = WeakKeyDictionary()


def check(connection: Connection[Any]) -> None:
    """Raises psycopg's OperationalError for one that has died; asks only what was not in use just now."""
    now = monotonic()
    if now - _asked.get(connection, -TRUSTED_SECONDS) >= TRUSTED_SECONDS:
        try:
            ConnectionPool.check_connection(connection)
        except OperationalError:
            _drain(now)
            raise
    _asked[connection] = now


def _drain(now: float) -> None:
    """A server that restarts ends all connections: found one by one, psycopg waits longer after each."""
    from django.db import connection  # the settings, which this belongs to, come before it

    pool = connection.pool  # type: ignore[attr-defined]  # PostgreSQL's has one
    if now - _drained.get(pool, -TRUSTED_SECONDS) >= TRUSTED_SECONDS:
        _drained[pool] = now
        pool.drain()
