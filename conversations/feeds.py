"""Following conversations: one feed per reader, one hub per process.

A feed yields the events after a cursor in order, without a gap and never twice. It reads Postgres whenever what
the channel layer brought does not continue its cursor exactly. The hub listens once per conversation for all
feeds of the process, and compares `last_seq` of all of them once a second, so that a lost wake-up hangs nobody.
"""

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from typing import Self
from uuid import UUID
from weakref import WeakKeyDictionary

from channels.layers import get_channel_layer
from django.db import DatabaseError, connection
from redis.exceptions import RedisError

from conversations.events import Wire, read_events
from conversations.nudges import conversation_group
from tenants.context import across_tenants, in_tenant

logger = logging.getLogger("parley.feeds")

WATCH_SECONDS = 1.0
MOST_WAITING = 64


class Feed:
    """One reader's place in one conversation. Use as `async with Feed(...) as feed: async for batch in feed`."""

    def __init__(self, tenant: UUID, conversation: UUID, after: int) -> None:
        self.tenant = tenant
        self.conversation = conversation
        self.cursor = after
        self._heard: deque[list[Wire]] = deque()
        self._behind = True
        self._news = asyncio.Event()
        self._news.set()

    async def __aenter__(self) -> Self:
        await hub().add(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        await hub().remove(self)

    def hear(self, last_seq: int, events: list[Wire]) -> None:
        """News from the channel layer or the watch; `events` may be empty."""
        if last_seq <= self.cursor:
            return
        if events and len(self._heard) < MOST_WAITING:
            self._heard.append(events)
        else:
            # A reader this slow, or news without content: Postgres has it, memory need not.
            self._heard.clear()
            self._behind = True
        self._news.set()

    async def __aiter__(self) -> AsyncIterator[list[Wire]]:
        while True:
            await self._news.wait()
            self._news.clear()
            while batch := await self._next():
                self.cursor = batch[-1]["seq"]
                yield batch

    async def _next(self) -> list[Wire]:
        while self._heard:
            batch = [event for event in self._heard.popleft() if event["seq"] > self.cursor]
            if batch and batch[0]["seq"] == self.cursor + 1:
                return batch
            self._behind |= bool(batch)
        if not self._behind:
            return []
        batch = await in_tenant(self.tenant, read_events, self.conversation, self.cursor)
        self._behind = bool(batch)
        return batch


class Hub:
    """All feeds of one process."""

    def __init__(self) -> None:
        self._feeds: dict[UUID, set[Feed]] = defaultdict(set)
        self._channel = ""
        self._tasks: list[asyncio.Task[None]] = []

    async def add(self, feed: Feed) -> None:
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._listen())]
        first = not self._feeds[feed.conversation]
        self._feeds[feed.conversation].add(feed)
        if first and self._channel:
            await self._join(feed.conversation)

    async def remove(self, feed: Feed) -> None:
        feeds = self._feeds[feed.conversation]
        feeds.discard(feed)
        if feeds:
            return
        del self._feeds[feed.conversation]
        layer = get_channel_layer()
        if layer is not None and self._channel:
            try:
                await layer.group_discard(conversation_group(feed.conversation), self._channel)
            except (RedisError, OSError, KeyError) as error:
                logger.warning("Could not leave a conversation's group: %s", error)

    async def _join(self, conversation: UUID) -> None:
        layer = get_channel_layer()
        assert layer is not None
        try:
            await layer.group_add(conversation_group(conversation), self._channel)
        except (RedisError, OSError) as error:
            logger.warning("Could not join a conversation's group: %s", error)

    async def _listen(self) -> None:
        layer = get_channel_layer()
        assert layer is not None
        while True:
            try:
                self._channel = await layer.new_channel()
                for conversation in list(self._feeds):
                    await self._join(conversation)
                while True:
                    message = await layer.receive(self._channel)
                    self._tell(UUID(message["conversation"]), message["last_seq"], message["events"])
            except (RedisError, OSError) as error:
                logger.warning("The channel layer is away, reading Postgres each second: %s", error)
                await asyncio.sleep(WATCH_SECONDS)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if not self._feeds:
                continue
            try:
                for conversation, last_seq in await across_tenants(_last_seqs, list(self._feeds)):
                    self._tell(conversation, last_seq, [])
            except DatabaseError as error:
                logger.warning("The database is away: %s", error)

    def _tell(self, conversation: UUID, last_seq: int, events: list[Wire]) -> None:
        for feed in self._feeds.get(conversation, ()):
            feed.hear(last_seq, events)


def _last_seqs(ids: list[UUID]) -> list[tuple[UUID, int]]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, last_seq FROM last_seqs(%s)", [ids])
        rows: list[tuple[UUID, int]] = cursor.fetchall()
        return rows


_hubs: "WeakKeyDictionary[asyncio.AbstractEventLoop, Hub]" = WeakKeyDictionary()


def hub() -> Hub:
    """The hub of the running event loop."""
    return _hubs.setdefault(asyncio.get_running_loop(), Hub())
