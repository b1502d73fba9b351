"""The queue's side of the database: claiming turns and holding conversations. See sql/ for each function.

Everything here crosses tenants and is called through `across_tenants`.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from time import monotonic
from typing import Any
from uuid import UUID

from django.db import connection

from conversations.events import Wire

LEASE = timedelta(seconds=10)
WANTED_AFTER = timedelta(seconds=5)
RENEW_SECONDS = LEASE.total_seconds() / 4
# After which one whose row somebody had is asked for again.
BUSY_SECONDS = RENEW_SECONDS / 20
FENCE_SECONDS = LEASE.total_seconds() / 2
# No stall is a reason to wait any longer than this.
LAST_MOMENT = LEASE.total_seconds() * 0.8
WATCH_SECONDS, LOOKS = FENCE_SECONDS / 10, 2


# Numbers what this process writes. One for all leases: a lease that was let go and taken up again under the
# same epoch must not use a number twice.
ORDINALS = count(1)


@dataclass(slots=True)
class Lease:
    """This runner's hold on one conversation; `renewed` is the monotonic time at which it last asked for it.

    The database counts from a moment after that, so the lease holds until LEASE after `renewed` at least.
    `late`: how often in a row the runner found it older than it should be.
    """

    tenant: UUID
    conversation: UUID
    epoch: int
    renewed: float = field(default_factory=monotonic)
    late: int = 0

    def look(self) -> bool:
        """Whether its processes have to end; to be asked every WATCH_SECONDS.

        Half its time without a renewal is enough where we were awake to ask for one. After a stall of our own
        the renewal that is due goes first, while there still is time to end the processes before the lease ends.
        """
        age = monotonic() - self.renewed
        self.late = self.late + 1 if age > FENCE_SECONDS - LOOKS * WATCH_SECONDS else 0
        return age > LAST_MOMENT or (age > FENCE_SECONDS and self.late > LOOKS)


@dataclass(frozen=True, slots=True)
class Claim:
    """A turn that this runner has to run now, with all that its launch needs.

    `after_loss`: the turn before it was cut off by a lost machine. `credential_kind`: of the credential that
    the author's requests will use, None where there is none; its secret is the account's to open. `more`: others
    are queued beside it, for whomever.
    """

    tenant: UUID
    conversation: UUID
    turn: UUID
    author: UUID
    epoch: int
    prompt: str | list[dict[str, Any]]
    model: str
    system_prompt: str
    permission_mode: str
    files_on: str
    after_loss: bool
    credential_kind: str | None
    queued_ms: int
    more: bool
    started: Wire


def claim_turn(runner: str, take_new: bool, instance: str = "") -> Claim | None:
    """The next turn for `runner`, or None; also where the name is not that `instance`'s any more."""
    text = _value("SELECT claim_turn(%s, %s, %s, %s)", [runner, instance, LEASE, take_new])
    if text is None:
        return None
    row = json.loads(text)
    started: Wire = {
        "type": "turn.started",
        "conversation": row["conversation"],
        "turn": row["turn"],
        "seq": row["seq"],
        "at": _at(row["at"]),
        "prompt": row["prompt"],
        "author": row["author"],
        "client_id": row["client_id"],
    }
    return Claim(
        tenant=UUID(row["tenant"]),
        conversation=UUID(row["conversation"]),
        turn=UUID(row["turn"]),
        author=UUID(row["author"]),
        epoch=row["epoch"],
        prompt=row["prompt"],
        model=row["model"],
        system_prompt=row["system_prompt"],
        permission_mode=row["permission_mode"],
        files_on=row["files_on"],
        after_loss=row["after_loss"],
        credential_kind=row["credential_kind"],
        queued_ms=int(row["queued_ms"]),
        more=row["more"],
        started=started,
    )


def take_lease(runner: str, tenant: UUID, conversation: UUID) -> int | None:
    """Hold a conversation without a turn; its epoch, or None when it is not to be had."""
    epoch: int | None = _value("SELECT take_lease(%s, %s, %s, %s)", [runner, LEASE, tenant, conversation])
    return epoch


def renew_leases(runner: str, leases: list[Lease]) -> tuple[set[UUID], set[UUID]]:
    """Renew them: the conversations that were, and those still held whose row somebody else has just now."""
    ids, epochs = [lease.conversation for lease in leases], [lease.epoch for lease in leases]
    arguments: list[Any] = [runner, LEASE, ids, epochs]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT conversation, busy FROM renew_leases(%s, %s, %s::uuid[], %s::bigint[])", arguments
        )
        told = cursor.fetchall()
    return {one for one, busy in told if not busy}, {one for one, busy in told if busy}


def release_lease(runner: str, lease: Lease) -> bool:
    """Give a conversation back after its process has gone."""
    released: bool = _value("SELECT release_lease(%s, %s, %s)", [runner, lease.conversation, lease.epoch])
    return released


def expire_leases(runner: str) -> None:
    """What a former process of the same name held is free: who has taken the name may say so."""
    _value("SELECT expire_leases(%s)", [runner])


def disown_turns(runner: str, known: Iterable[UUID]) -> None:
    """Let go of turns that `runner` was given without hearing of it; they end as lost."""
    _value("SELECT disown_turns(%s, %s::uuid[])", [runner, list(known)])


def end_lost_turns() -> list[Wire]:
    """End the turns of runners that are gone; the events that say so."""
    events = [json.loads(text) for text in _column("SELECT end_lost_turns()", [])]
    return [event | {"at": _at(event["at"])} for event in events]


def is_room_wanted() -> bool:
    """Whether a turn has waited for a while that could begin if there were room."""
    wanted: bool = _value("SELECT is_room_wanted(%s)", [WANTED_AFTER])
    return wanted


def take_controls(runner: str, done: Iterable[int]) -> list[dict[str, Any]]:
    """What people want of this runner's turns, oldest first; each again until it was said to be done."""
    return [
        json.loads(text) for text in _column("SELECT take_controls(%s, %s::bigint[])", [runner, list(done)])
    ]


def _at(text: str) -> str:
    """PostgreSQL leaves out trailing zeros of a time, Python doesn't: an event reads the same by either way."""
    return datetime.fromisoformat(text).isoformat()


def _value(sql: str, arguments: list[Any]) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql, arguments)
        row = cursor.fetchone()
        return row[0] if row else None


def _column(sql: str, arguments: list[Any]) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql, arguments)
        return [row[0] for row in cursor.fetchall()]
