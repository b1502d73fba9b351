"""Wake-ups over the channel layer. They may get lost: each one only says 'look into Postgres now'.

Nobody waits for one to be sent, so that a channel layer that hangs holds up neither a message nor an answer.
"""

import asyncio
import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

from channels.layers import get_channel_layer
from redis.exceptions import RedisError

from conversations.events import Wire

logger = logging.getLogger("parley.nudges")

ALL_RUNNERS = "runners"
MOST_BYTES = 64 * 1024
MOST_WAITING = 1000
PATIENCE = 1.0


def conversation_group(conversation: UUID | str) -> str:
    """Where readers of one conversation listen."""
    return f"conversation.{conversation}"


def runner_group(name: str) -> str:
    """Where one runner listens (a group's name takes few characters, a runner's any)."""
    return f"runner.{hashlib.sha256(name.encode()).hexdigest()[:24]}"


async def publish(events: Iterable[Wire]) -> None:
    """Tell the readers of each conversation what was stored, with the events themselves while they are small."""
    by_conversation: dict[str, list[Wire]] = defaultdict(list)
    for event in events:
        by_conversation[event["conversation"]].append(event)
    for conversation, news in by_conversation.items():
        small = sum(len(str(event.get("output", ""))) for event in news) < MOST_BYTES
        _outbox().put(
            conversation_group(conversation),
            {
                "type": "conversation.events",
                "conversation": conversation,
                "last_seq": news[-1]["seq"],
                "events": news if small else [],
            },
        )


async def nudge_runners(holder: str, kind: str, **more: str) -> None:
    """Wake the holder of a conversation, or all runners when it has none. kind: turn, control, warm, dispose."""
    _outbox().put(runner_group(holder) if holder else ALL_RUNNERS, {"type": f"runner.{kind}", **more})


class Outbox:
    """What waits to be sent, in order; as soon as one can't be sent, all that wait are out of date."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue(MOST_WAITING)
        self._sending = asyncio.create_task(self._send_all(), name="outbox")

    def put(self, group: str, message: dict[str, Any]) -> None:
        if not self._waiting.full():
            self._waiting.put_nowait((group, message))

    async def _send_all(self) -> None:
        while True:
            group, message = await self._waiting.get()
            try:
                await _send(group, message)
            except (RedisError, OSError) as error:
                # Postgres has it already; readers find it within a second.
                logger.warning("The channel layer is away, nobody was told: %r", error)
                while not self._waiting.empty():
                    self._waiting.get_nowait()


async def _send(group: str, message: dict[str, Any]) -> None:
    layer = get_channel_layer()
    if layer is not None:
        async with asyncio.timeout(PATIENCE):
            await layer.group_send(group, message)


_outboxes: "WeakKeyDictionary[asyncio.AbstractEventLoop, Outbox]" = WeakKeyDictionary()


def _outbox() -> Outbox:
    """The outbox of the running event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _outboxes:
        _outboxes[loop] = Outbox()
    return _outboxes[loop]
