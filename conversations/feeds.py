"""Following conversations: one feed per reader, one hub per process.

A feed yields the events after a cursor in order, without a gap and never twice. It reads Postgres whenever what
the channel layer brought does not continue its cursor exactly. The hub listens once per conversation for all
feeds of the process, and compares `last_seq` of all of them once a second, so that a lost wake-up hangs nobody.
"""

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self
from uuid import UUID
from weakref import WeakKeyDictionary

from channels.layers import BaseChannelLayer, get_channel_layer
from django.db import Error, connection
from redis.exceptions import RedisError

from conversations.events import Wire, read_events
from conversations.nudges import conversation_group, publish
from conversations.waiting import explain_waiting
from tenants.context import across_tenants, in_tenant

logger = logging.getLogger("parley.feeds")

WATCH_SECONDS = 1.0
MOST_WAITING = 64
PATIENCE = 1.0


class Feed:
    """One reader's place in one conversation. Use as `async with Feed(...) as feed: async for batch in feed`.

    It ends when the conversation was deleted, and only then.
    """

    def __init__(self, tenant: UUID, conversation: UUID, after: int) -> None:
        self.tenant = tenant
        self.conversation = conversation
        self.cursor = after
        self._heard: deque[list[Wire]] = deque()
        self._behind = True
        self._ended = False
        self._news = asyncio.Event()
        self._news.set()

    async def __aenter__(self) -> Self:
        try:
            await hub().add(self)
        except asyncio.CancelledError:
            await hub().remove(self)
            raise
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

    def end(self) -> None:
        """The conversation was deleted: nothing more comes."""
        self._ended = True
        self._news.set()

    async def __aiter__(self) -> AsyncIterator[list[Wire]]:
        while not self._ended:
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
        batch = await self._read()
        self._behind = bool(batch)
        return batch

    async def _read(self) -> list[Wire]:
        while True:
            try:
                return await in_tenant(self.tenant, read_events, self.conversation, self.cursor)
            except Error as error:
                logger.warning("A reader waits for the database: %s", error)
                await asyncio.sleep(WATCH_SECONDS)


class Hub:
    """All feeds of one process."""

    def __init__(self) -> None:
        self._feeds: dict[UUID, set[Feed]] = defaultdict(set)
        self._joined: set[UUID] = set()
        self._channel = ""
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Follow what happens; the first feed does it, and the first message, which may have to wait."""
        if not self._tasks:
            loops = (self._watch, self._listen, self._rejoin, self._explain)
            self._tasks = [asyncio.create_task(self._forever(loop), name=loop.__name__) for loop in loops]

    async def add(self, feed: Feed) -> None:
        self.start()
        self._feeds[feed.conversation].add(feed)
        await self._join(feed.conversation)

    async def remove(self, feed: Feed) -> None:
        feeds = self._feeds[feed.conversation]
        feeds.discard(feed)
        if not feeds:
            del self._feeds[feed.conversation]
            await self._part(feed.conversation)

    async def _join(self, conversation: UUID) -> bool:
        """Hear of the conversation. Where that fails, the watch stands in until it works."""
        if conversation in self._joined or not self._channel:
            return bool(self._channel)
        self._joined.add(conversation)
        try:
            async with asyncio.timeout(PATIENCE):
                await _layer().group_add(conversation_group(conversation), self._channel)
        except (RedisError, OSError) as error:
            self._joined.discard(conversation)
            logger.warning("Could not join a conversation's group: %r", error)
            return False
        return True

    async def _part(self, conversation: UUID) -> None:
        if conversation not in self._joined:
            return
        self._joined.discard(conversation)
        try:
            async with asyncio.timeout(PATIENCE):
                await _layer().group_discard(conversation_group(conversation), self._channel)
        except (RedisError, OSError, KeyError) as error:
            logger.warning("Could not leave a conversation's group: %r", error)

    async def _forever(self, loop: Callable[[], Awaitable[None]]) -> None:
        """Whatever breaks a loop, readers depend on it."""
        while True:
            try:
                await loop()
            except (RedisError, OSError, Error) as error:
                logger.warning("%s: %r; trying again", loop.__name__, error)
            except Exception:
                # A border: a bug here must not leave all readers of the process without news.
                logger.exception("The hub's loop %s failed; going on", loop.__name__)
            await asyncio.sleep(WATCH_SECONDS)

    async def _listen(self) -> None:
        self._channel = await _layer().new_channel()
        self._joined.clear()
        for conversation in list(self._feeds):
            await self._join(conversation)
        while True:
            message = await _layer().receive(self._channel)
            self._tell(UUID(message["conversation"]), message["last_seq"], message["events"])

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if not self._feeds:
                continue
            asked = list(self._feeds)
            found = dict(await across_tenants(_last_seqs, asked))
            for conversation, last_seq in found.items():
                self._tell(conversation, last_seq, [])
            for deleted in asked:
                if deleted not in found:
                    for feed in self._feeds.get(deleted, ()):
                        feed.end()

    async def _rejoin(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            for conversation in self._feeds.keys() - self._joined:
                if not await self._join(conversation):
                    break

    async def _explain(self) -> None:
        """Say why turns wait. Runners say it as well, but there may be none."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            await publish(await across_tenants(explain_waiting))

    def _tell(self, conversation: UUID, last_seq: int, events: list[Wire]) -> None:
        for feed in self._feeds.get(conversation, ()):
            feed.hear(last_seq, events)


def _layer() -> BaseChannelLayer:
    layer = get_channel_layer()
    assert layer is not None
    return layer


def _last_seqs(ids: list[UUID]) -> list[tuple[UUID, int]]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, last_seq FROM last_seqs(%s)", [ids])
        rows: list[tuple[UUID, int]] = cursor.fetchall()
        return rows


_hubs: "WeakKeyDictionary[asyncio.AbstractEventLoop, Hub]" = WeakKeyDictionary()


def hub() -> Hub:
    """The hub of the running event loop."""
    return _hubs.setdefault(asyncio.get_running_loop(), Hub())
