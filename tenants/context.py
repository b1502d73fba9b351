"""Naming the tenant: the one way for requests, sockets, runners and commands to see a tenant's rows.

Row-level security shows no row until the transaction has named its tenant. The name is local to the
transaction, so that nothing leaks through a pool of connections. Units of work are short: no transaction
lasts across a stream, and nothing here is held while one waits for anything but the database.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import cache
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction

logger = logging.getLogger("parley.tenants")


@contextmanager
def tenant_context(tenant_id: UUID) -> Iterator[None]:
    """Run the block in one transaction that sees and writes this tenant's rows only.

    It nests, and the outer tenant is named again on exit. An exception rolls the block back.
    `on_commit` callbacks run after the outermost block: with no tenant named.
    """
    if not isinstance(tenant_id, UUID):
        raise TypeError(f"a tenant is named by its UUID, not by {tenant_id!r}")
    nested = connection.in_atomic_block
    with transaction.atomic():
        # A rollback to the savepoint brings the former name back by itself, its release does not.
        former = _named() if nested else ""
        _name(str(tenant_id))
        yield
        if nested:
            _name(former)


def _named() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT coalesce(current_setting('app.tenant_id', true), '')")
        (name,) = cursor.fetchone()
    return str(name)


def _name(tenant: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('app.tenant_id', %s, true)", [tenant])


async def in_tenant[**P, T](
    tenant_id: UUID, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Run the function inside `tenant_context` on a database thread; do not await anything else in between.

    Cancelling the caller does not stop a function that has begun: it is committed or rolled back as a whole.
    """

    def work() -> T:
        with tenant_context(tenant_id):
            return function(*args, **kwargs)

    return await _on_database_thread(work)


async def across_tenants[**P, T](function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run the function on a database thread with no tenant named.

    It sees tables that belong to no tenant, and calls the few database functions that cross tenants.
    """

    def work() -> T:
        return function(*args, **kwargs)

    return await _on_database_thread(work)


def in_background[**P](function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """Run the function soon, on a database thread with no tenant named; nobody waits. What it raises is logged."""

    def work() -> None:
        try:
            _with_connection(lambda: function(*args, **kwargs))
        except Exception:
            # A border: nobody else would hear of it.
            logger.exception("%s failed in the background", getattr(function, "__name__", function))

    _executor().submit(work)


async def _on_database_thread[T](work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(
        _executor(), copy_context().run, _with_connection, work
    )


def _with_connection[T](work: Callable[[], T]) -> T:
    connection.close_if_unusable_or_obsolete()
    try:
        return work()
    finally:
        connection.close_if_unusable_or_obsolete()


@cache
def _executor() -> ThreadPoolExecutor:
    """Threads that each keep one connection: Django's own would put all sockets behind a single one."""
    return ThreadPoolExecutor(getattr(settings, "DATABASE_THREADS", 16), thread_name_prefix="database")
