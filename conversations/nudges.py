"""Wake-ups over the channel layer. They may get lost: each one only says 'look into Postgres now'."""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from channels.layers import get_channel_layer
from redis.exceptions import RedisError

from conversations.events import Wire

logger = logging.getLogger("parley.nudges")

ALL_RUNNERS = "runners"
MOST_BYTES = 64 * 1024


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
        await _send(
            conversation_group(conversation),
            {
                "type": "conversation.events",
                "conversation": conversation,
                "last_seq": news[-1]["seq"],
                "events": news if small else [],
            },
        )


async def nudge_runners(holder: str, kind: str, **more: str) -> None:
    """Wake the holder of a conversation, or all runners when it has none. kind: turn, control, warm."""
    await _send(runner_group(holder) if holder else ALL_RUNNERS, {"type": f"runner.{kind}", **more})


async def _send(group: str, message: dict[str, Any]) -> None:
    layer = get_channel_layer()
    if layer is None:
        return
    try:
        await layer.group_send(group, message)
    except (RedisError, OSError) as error:
        # Postgres has it already; readers find it within a second.
        logger.warning("Could not publish to %s: %s", group, error)
