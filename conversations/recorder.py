"""Stores what the engine says, then publishes it. One per runner.

The deltas of all conversations of the host go into one write every 50 ms or less; adjacent deltas of one block
become one event. What a person waits for (a first delta, a question, an end) goes at once. A write whose outcome
is unknown is repeated, each conversation by itself: the database takes each (conversation, epoch, ordinal) once.
What the database will never take costs its own conversation the turn, and no other.
"""

import asyncio
import json
import logging
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from time import monotonic
from typing import Any
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
# SQLSTATE classes of what is wrong with a write itself: its data, a constraint, a limit of the program.
HOPELESS = ("22", "23", "54")


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
    """`record()` never waits, `room()` does; `run()` writes.

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
        size = count = 0
        for entry in self._waiting:
            if count and size + entry.size > BATCH_BYTES:
                break
            size, count = size + entry.size, count + 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        self._last.clear()
        return batch

    async def _write(self, batch: list[Entry]) -> None:
        """Store it all, whatever is refused; a conversation that can't be stored holds up no other for long."""
        for entry in batch:
            entry.ordinal = next(ORDINALS)
        parts, failed = deque([batch]), Counter[UUID]()
        while parts:
            part = parts.popleft()
            try:
                await self._store(part)
            except Error as error:
                logger.warning("The events of a write could not be stored: %s", error)
                if not _is_hopeless(error):
                    await asyncio.sleep(RETRY_SECONDS)
                if len(apart := _by_conversation(part)) > 1:
                    parts.extend(apart)
                elif _is_hopeless(error) or await self._is_refused(part, failed):
                    logger.error("Conversation %s can't be stored: %s", part[0].lease.conversation, error)
                    self._settle(part, [None] * len(part))
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

    async def _store(self, batch: list[Entry]) -> None:
        """Store and publish; raises a database's Error."""
        rows = await across_tenants(
            append_events, json.dumps([_row(entry) for entry in batch], ensure_ascii=False)
        )
        await publish(
            wire(entry.lease.conversation, seq, entry.turn, entry.type, entry.data, at)
            for entry, (seq, at) in zip(batch, rows, strict=True)
            if seq is not None
        )
        self._settle(batch, [seq for seq, _at in rows])

    def _settle(self, batch: list[Entry], seqs: list[int | None]) -> None:
        for entry, seq in zip(batch, seqs, strict=True):
            self._backlog[entry.lease.conversation] -= entry.size
            if seq is None:
                self._on_fenced(entry.lease)
            if entry.stored is not None and not entry.stored.done():
                entry.stored.set_result(seq is not None)
        for conversation in {entry.lease.conversation for entry in batch}:
            if self._backlog[conversation] <= 0:
                del self._backlog[conversation]
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
    return str(getattr(error.__cause__, "sqlstate", "")).startswith(HOPELESS)


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


def append_events(batch: str) -> list[tuple[int | None, datetime]]:
    """The recorder's only write: (seq, at) for each entry in order, seq None where it was refused."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT seq, at FROM append_events(%s::jsonb)", [batch])
        rows: list[tuple[int | None, datetime]] = cursor.fetchall()
        return rows
