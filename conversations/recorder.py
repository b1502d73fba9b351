"""Stores what the engine says, then publishes it. One per runner.

The deltas of all conversations of the host go into one write every 50 ms or less; adjacent deltas of one block
become one event. What a person waits for (a first delta, a question, an end) goes at once. A write whose outcome
is unknown is repeated: the database takes each (conversation, epoch, ordinal) once.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Any
from uuid import UUID

from django.db import DatabaseError, InterfaceError, connection

from conversations.events import wire
from conversations.leases import Lease
from conversations.nudges import publish
from tenants.context import across_tenants

logger = logging.getLogger("parley.recorder")

TICK = 0.03
DELTAS = frozenset({"text.delta", "thinking.delta"})
RETRY_SECONDS = 0.5


@dataclass(slots=True)
class Entry:
    """One event on its way into the database."""

    lease: Lease
    turn: UUID
    type: str
    data: dict[str, Any]
    ordinal: int = 0
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
    """`record()` never waits; `run()` writes. `on_fenced` hears of conversations that another host took over."""

    def __init__(self, on_fenced: Callable[[UUID], None]) -> None:
        self._on_fenced = on_fenced
        self._waiting: list[Entry] = []
        self._last: dict[UUID, Entry] = {}
        self._work = asyncio.Event()
        self._urgent = asyncio.Event()
        self._begun: set[UUID] = set()

    def record(self, lease: Lease, turn: UUID, kind: str, data: dict[str, Any]) -> None:
        """Take an event; it is stored within a tick."""
        self._take(Entry(lease, turn, kind, data))

    async def record_last(self, lease: Lease, turn: UUID, kind: str, data: dict[str, Any]) -> bool:
        """Take an event and wait until it is stored (true) or refused because another host took over (false)."""
        entry = Entry(lease, turn, kind, data, stored=asyncio.get_running_loop().create_future())
        self._take(entry)
        assert entry.stored is not None
        return await entry.stored

    def _take(self, entry: Entry) -> None:
        last = self._last.get(entry.turn)
        if last is not None and entry.continues(last):
            last.data = last.data | {"text": last.data["text"] + entry.data["text"]}
            return
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
                await _either(self._urgent, rest)
            self._work.clear()
            self._urgent.clear()
            batch, self._waiting = self._waiting, []
            self._last.clear()
            written = monotonic()
            await self._write(batch)

    async def _write(self, batch: list[Entry]) -> None:
        for entry in batch:
            entry.ordinal = next(entry.lease.ordinals)
            entry.data = storable(entry.data)
        text = json.dumps([_row(entry) for entry in batch])
        while True:
            try:
                rows = await across_tenants(append_events, text)
                break
            except (DatabaseError, InterfaceError) as error:
                logger.warning("The events could not be stored, trying again: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
        events = [
            wire(entry.lease.conversation, seq, entry.turn, entry.type, entry.data, at)
            for entry, (seq, at) in zip(batch, rows, strict=True)
            if seq is not None
        ]
        await publish(events)
        for entry, (seq, _at) in zip(batch, rows, strict=True):
            if seq is None:
                self._on_fenced(entry.lease.conversation)
            if entry.stored is not None and not entry.stored.done():
                entry.stored.set_result(seq is not None)


async def _either(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


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


def storable(value: Any) -> Any:
    """The same without what PostgreSQL's jsonb refuses: NUL and halves of surrogate pairs become U+FFFD."""
    if isinstance(value, str):
        clean = value.replace("\x00", "�")
        return (
            clean if clean.isascii() else clean.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        )
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    return value


def append_events(batch: str) -> list[tuple[int | None, datetime]]:
    """The recorder's only write: (seq, at) for each entry in order, seq None where it was refused."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT seq, at FROM append_events(%s::jsonb)", [batch])
        rows: list[tuple[int | None, datetime]] = cursor.fetchall()
        return rows
