"""Processes that are started ahead of the first message: who asks for many waits behind themselves.

A start takes most of a second of a processor, and the turns of all tenants wait in the same line for one. So those
that one tenant has warmed up never take more than half of the places.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from uuid import UUID

AT_ONCE = max(1, (os.cpu_count() or 1) // 2)
MOST_WAITING = 50


@dataclass(slots=True)
class Line:
    """Of one tenant: who waits or is being warmed up, and the places for that."""

    conversations: set[UUID] = field(default_factory=set)
    places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))


class WarmUps:
    """`start` has a conversation's process started, or leaves it if that is of no use (any more)."""

    def __init__(self, start: Callable[[UUID, UUID], Awaitable[None]]) -> None:
        self._start = start
        self._lines: dict[UUID, Line] = {}

    async def ask(self, tenant: UUID, conversation: UUID) -> None:
        """Start it when it is its turn. One that waits already, or that many wait before, is left out."""
        line = self._lines.setdefault(tenant, Line())
        if conversation in line.conversations or len(line.conversations) >= MOST_WAITING:
            return
        line.conversations.add(conversation)
        try:
            async with line.places:
                await self._start(tenant, conversation)
        finally:
            line.conversations.discard(conversation)
            if not line.conversations:
                del self._lines[tenant]
