"""What a runner has to delete: the folders of deleted conversations.

The database itself writes the order, in the transaction that deletes the conversation, whatever deletes it. A
runner names the folders that it has and is told which of them were ordered away. So one that was down does it
later, and a wrong or an empty database, which has no orders, costs nobody a file.

Everything here but `wait_until_done` crosses tenants and is called through `across_tenants`, or from a command.
"""

import time
from collections.abc import Iterable
from uuid import UUID

from django.db import connection


def ordered_among(folders: Iterable[UUID]) -> list[UUID]:
    """Those of these conversations that were ordered away, and that are indeed gone."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT disposals_among(%s::uuid[])", [list(folders)])
        return [conversation for (conversation,) in cursor.fetchall()]


def note_done(runner: str, conversations: Iterable[UUID]) -> None:
    """Keep that this runner has nothing left of them."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT note_disposals(%s, %s::uuid[])", [runner, list(conversations)])


def still_open(conversations: Iterable[UUID]) -> dict[str, int]:
    """By runner, how many folders of these conversations it has not said to be gone."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT runner, folders FROM open_disposals(%s::uuid[])", [list(conversations)])
        return dict(cursor.fetchall())


def wait_until_done(conversations: list[UUID], seconds: float) -> dict[str, int]:
    """What is still open after at most so long."""
    until = time.monotonic() + seconds
    while (left := still_open(conversations)) and time.monotonic() < until:
        time.sleep(0.2)
    return left
