"""Stores what the engine says, then publishes it. One per runner.

The deltas of all conversations of the host go into one write every 50 ms or less; adjacent deltas of one block
become one event. What a person waits for (a first delta, a question, an end) goes at once. A write whose outcome
is unknown is repeated, each conversation by itself: the database takes each (conversation, epoch, ordinal) once.
What the database will never take costs its own conversation the turn, and no other. A conversation whose row
somebody holds is set aside, with all that it says meanwhile, and written when the row is free again.
"""

import asyncio
import json
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from time import monotonic
from typing import Any, NamedTuple
from uuid import UUID

from django.db import Error, connection

from conversations.events import wire
from conversations.leases import ORDINALS, Lease
from conversations.nudges import publish
from tenants.context import across_tenants

logger = logging.getLogger("parley.recorder")

TICK = 0.03
DELTAS = frozenset({"text.delta", "thinking.delta"})
RETRY_SECONDS = 0.5
# Of one write, and of what one conversation may have waiting before its CLI is made to wait.
BATCH_BYTES, MOST_WAITING = 8 << 20, 4 << 20
# How often what one conversation says may fail, on a database that answers, before it is given up.
TRIES = 3
DEEPEST = 50
# How often what was set aside is tried again, and about how much of one conversation at once: until its row is free
# it is for nothing.
BUSY_SECONDS, BUSY_BYTES = 0.05, 64 << 10
# SQLSTATE classes of what is wrong with a write itself: its data, a constraint, a limit of the program.
HOPELESS = ("22", "23", "54")
LOCKED = "55P03"


class Stored(NamedTuple):
    """What became of an event: its seq and time; without them it was refused, or is `busy`: to be tried again."""

    seq: int | None
    at: datetime
    busy: bool


@dataclass(slots=True)
class Entry:
    """One event on its way into the database."""

    lease: Lease
    turn: UUID
    type: str
    data: dict[str, Any]
    ordinal: int = 0
    size: int = 0
    stored: "asyncio.Future[bool] | None" = None

    def continues(self, other: "Entry") -> bool:
        """Whether this delta can be joined to `other`, the one before it in its turn."""
        return (
            self.type in DELTAS
            and other.type == self.type
            and other.turn == self.turn
            and other.data["block"] == self.data["block"]
        )


class Recorder:
    """`record()` never waits, `room()` does; `run()` writes, `catch_up()` what was set aside.

    `on_fenced` hears of leases that another host took over.
    """

    def __init__(self, on_fenced: Callable[[Lease], None]) -> None:
        self._on_fenced = on_fenced
        self._waiting: list[Entry] = []
        self._last: dict[UUID, Entry] = {}
        self._work = asyncio.Event()
        self._urgent = asyncio.Event()
        self._begun: set[UUID] = set()
        self._backlog = Counter[UUID]()
        self._settled = asyncio.Event()
        # By conversation, in order; while one is in here, all that it says goes here.
        self._aside: dict[UUID, list[Entry]] = {}
        self._some_aside = asyncio.Event()

    def record(self, lease: Lease, turn: UUID, kind: str, data: dict[str, Any]) -> None:
        """Take an event; it is stored within a tick."""
        self._take(Entry(lease, turn, kind, storable(data)))

    async def room(self, conversation: UUID) -> None:
        """Wait while too much of this conversation is not stored yet."""
        while self._backlog[conversation] > MOST_WAITING:
            await self._settled.wait()

    async def record_last(self, lease: Lease, turn: UUID, kind: str, data: dict[str, Any]) -> bool:
        """Take an event and wait until it is stored (true) or refused because another host took over (false)."""
        entry = Entry(lease, turn, kind, storable(data), stored=asyncio.get_running_loop().create_future())
        self._take(entry)
        assert entry.stored is not None
        return await entry.stored

    def _take(self, entry: Entry) -> None:
        size = _size(entry)
        self._backlog[entry.lease.conversation] += size
        last = self._last.get(entry.turn)
        if last is not None and entry.continues(last):
            last.size += size
            last.data = last.data | {"text": last.data["text"] + entry.data["text"]}
            return
        entry.size = size
        self._waiting.append(entry)
        self._last[entry.turn] = entry
        if entry.type not in DELTAS or entry.turn not in self._begun:
            self._urgent.set()
        if entry.type in DELTAS:
            self._begun.add(entry.turn)
        if entry.stored is not None:
            self._begun.discard(entry.turn)
        self._work.set()

    async def run(self) -> None:
        """Write until cancelled."""
        written = 0.0
        while True:
            await self._work.wait()
            rest = TICK - (monotonic() - written)
            if rest > 0 and not self._urgent.is_set():
                await wait_for(self._urgent, rest)
            self._work.clear()
            self._urgent.clear()
            written = monotonic()
            while batch := self._next_batch():
                await self._write(batch)

    def _next_batch(self) -> list[Entry]:
        """What has waited longest, as much as the database takes at once."""
        for entry in self._waiting:
            if entry.lease.conversation in self._aside:
                self._aside[entry.lease.conversation].append(entry)
        self._waiting = [one for one in self._waiting if one.lease.conversation not in self._aside]
        batch = _first(self._waiting, BATCH_BYTES)
        del self._waiting[: len(batch)]
        self._last.clear()
        return batch

    async def catch_up(self) -> None:
        """Write what was set aside, as soon as it can be, until cancelled."""
        while True:
            await self._some_aside.wait()
            await asyncio.sleep(BUSY_SECONDS)
            for conversation in list(self._aside):
                await self._write_aside(conversation)
            if not self._aside:
                self._some_aside.clear()

    async def _write_aside(self, conversation: UUID) -> None:
        """As much of what this conversation has set aside as its row lets through."""
        entries = self._aside[conversation]
        while entries:
            part = _first(entries, BUSY_BYTES)
            left = len(entries) - len(part)
            del entries[: len(part)]
            await self._write(part)
            if len(entries) > left:  # Some came back, or more was said: there is another time.
                return
        del self._aside[conversation]

    def _set_aside(self, entries: list[Entry]) -> None:
        """Keep them before what their conversation said later."""
        for part in _by_conversation(entries):
            self._aside.setdefault(part[0].lease.conversation, [])[:0] = part
            self._some_aside.set()

    async def _write(self, batch: list[Entry]) -> None:
        """Store it all, whatever is refused; a conversation that can't be stored holds up no other for long."""
        for entry in batch:
            entry.ordinal = entry.ordinal or next(ORDINALS)
        parts, failed = deque([batch]), Counter[UUID]()
        while parts:
            part = parts.popleft()
            apart = _by_conversation(part)
            try:
                self._set_aside(await self._store(part))
            except Error as error:
                logger.warning("The events of a write could not be stored: %s", error)
                is_locked = _sqlstate(error) == LOCKED
                if not _is_hopeless(error) and not is_locked:
                    await asyncio.sleep(RETRY_SECONDS)
                if len(apart) > 1:
                    parts.extend(apart)
                elif is_locked:
                    self._set_aside(part)
                elif _is_hopeless(error) or await self._is_refused(part, failed):
                    logger.error("Conversation %s can't be stored: %s", part[0].lease.conversation, error)
                    self._settle((entry, None) for entry in part)
                else:
                    parts.append(part)

    async def _is_refused(self, part: list[Entry], failed: Counter[UUID]) -> bool:
        """Whether this conversation alone is the trouble: it fails again and again while the database answers."""
        try:
            await across_tenants(append_events, "[]")
        except Error:
            return False
        failed[part[0].lease.conversation] += 1
        return failed[part[0].lease.conversation] >= TRIES

    async def _store(self, batch: list[Entry]) -> list[Entry]:
        """Store and publish; what is busy and has to be stored later. Raises a database's Error."""
        rows = await across_tenants(
            append_events, json.dumps([_row(entry) for entry in batch], ensure_ascii=False)
        )
        await publish(
            wire(entry.lease.conversation, seq, entry.turn, entry.type, entry.data, at)
            for entry, (seq, at, _) in zip(batch, rows, strict=True)
            if seq is not None
        )
        told = list(zip(batch, rows, strict=True))
        self._settle((entry, row.seq) for entry, row in told if not row.busy)
        return [entry for entry, row in told if row.busy]

    def _settle(self, told: Iterable[tuple[Entry, int | None]]) -> None:
        for entry, seq in told:
            self._backlog[entry.lease.conversation] -= entry.size
            if seq is None:
                self._on_fenced(entry.lease)
            if entry.stored is not None and not entry.stored.done():
                entry.stored.set_result(seq is not None)
            if self._backlog[entry.lease.conversation] <= 0:
                del self._backlog[entry.lease.conversation]
        self._settled.set()
        self._settled = asyncio.Event()


async def wait_for(event: asyncio.Event, seconds: float | None) -> None:
    """Return when the event is set, or the time is up."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def _is_hopeless(error: Error) -> bool:
    return _sqlstate(error).startswith(HOPELESS)


def _sqlstate(error: Error) -> str:
    return str(getattr(error.__cause__, "sqlstate", ""))


def _first(entries: list[Entry], most: int) -> list[Entry]:
    """The first of them that have so many bytes together; one at least, if there are any."""
    size = count = 0
    for entry in entries:
        if count and size + entry.size > most:
            break
        size, count = size + entry.size, count + 1
    return entries[:count]


def _by_conversation(batch: list[Entry]) -> list[list[Entry]]:
    apart: dict[UUID, list[Entry]] = {}
    for entry in batch:
        apart.setdefault(entry.lease.conversation, []).append(entry)
    return list(apart.values())


def _size(entry: Entry) -> int:
    """About how many bytes it is in a write."""
    said = entry.data["text"] if entry.type in DELTAS else json.dumps(entry.data)
    return 300 + len(said)


def _row(entry: Entry) -> dict[str, Any]:
    return {
        "tenant": str(entry.lease.tenant),
        "conversation": str(entry.lease.conversation),
        "epoch": entry.lease.epoch,
        "ordinal": entry.ordinal,
        "turn": str(entry.turn),
        "type": entry.type,
        "data": entry.data,
    }


def storable(value: Any, depth: int = 0) -> Any:
    """The same as PostgreSQL's jsonb takes it, out of whatever a model or a tool wrote.

    NUL and halves of surrogate pairs become U+FFFD, numbers that are none become text, and what is nested
    deeper than any reader would follow is left out.
    """
    if isinstance(value, str):
        clean = value.replace("\x00", "�")
        return (
            clean if clean.isascii() else clean.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        )
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    if depth == DEEPEST and isinstance(value, dict | list | tuple):
        return "…"
    if isinstance(value, dict):
        return {storable(key): storable(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item, depth + 1) for item in value]
    return value


def append_events(batch: str) -> list[Stored]:
    """The recorder's only write: what became of each entry, in order."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT seq, at, busy FROM append_events(%s::jsonb)", [batch])
        return [Stored(*row) for row in cursor.fetchall()]
