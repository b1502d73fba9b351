"""The event log of a conversation: reading it from any cursor, and packing what is old.

An event on the wire is a flat dict: {"type", "conversation", "turn"?, "seq", "at", ...}. `seq` counts up by
one per conversation without gaps. Everything here runs inside the tenant's context.
"""

import json
import zlib
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import Min, Q
from django.utils import timezone

from conversations.models import ENDED, Conversation, Event, EventPack, Turn

type Wire = dict[str, Any]

BATCH_ROWS = 500
BATCH_BYTES = 256 * 1024
PACK_ROWS = 1000

# One batch is cut by rows and by bytes in the database, so that a reader's memory stays small.
READ = """
SELECT seq, turn_id, type, data, at FROM (
    SELECT seq, turn_id, type, data, at,
           sum(octet_length(data)) OVER (ORDER BY seq) - octet_length(data) AS bytes_before
    FROM (SELECT seq, turn_id, type, data::text AS data, at FROM conversations_event
          WHERE conversation_id = %s AND seq > %s ORDER BY seq LIMIT %s) AS newest
) AS measured WHERE bytes_before < %s ORDER BY seq
"""


def wire(
    conversation: UUID | str,
    seq: int,
    turn: UUID | str | None,
    kind: str,
    data: dict[str, Any],
    at: datetime | str,
) -> Wire:
    """One event as clients get it."""
    event: Wire = {"type": kind, "conversation": str(conversation)}
    if turn is not None:
        event["turn"] = str(turn)
    event["seq"] = seq
    event["at"] = at if isinstance(at, str) else at.isoformat()
    return event | data


def read_events(conversation: UUID, after: int) -> list[Wire]:
    """The next events after `after`, oldest first: some at least if there are any, never more than a batch."""
    packed = (
        EventPack.objects.filter(conversation=conversation, last_seq__gt=after).order_by("first_seq").first()
    )
    if packed is not None:
        return [event for event in unpack(packed) if event["seq"] > after]
    with connection.cursor() as cursor:
        cursor.execute(READ, [conversation, after, BATCH_ROWS, BATCH_BYTES])
        return [
            wire(conversation, seq, turn, kind, json.loads(data), at)
            for seq, turn, kind, data, at in cursor.fetchall()
        ]


def all_events(conversation: UUID, after: int = 0) -> Iterator[Wire]:
    """Every event after `after`, batch by batch."""
    while batch := read_events(conversation, after):
        yield from batch
        after = batch[-1]["seq"]


def seq_before(turn: Turn) -> int:
    """Where the events of a turn begin: its first has a higher seq. 0 where they have been packed."""
    first = Event.objects.filter(conversation=turn.conversation_id, turn_id=turn.id).aggregate(
        first=Min("seq")
    )
    return first["first"] - 1 if first["first"] else 0


def open_events(conversation: UUID, up_to: int) -> list[Wire]:
    """The events up to `up_to` of the turns that have not ended since: what a page may still have to change."""
    unfinished = Turn.objects.filter(conversation=conversation).exclude(state__in=ENDED)
    ended_later = Event.objects.filter(
        conversation=conversation, seq__gt=up_to, type__in=[f"turn.{state}" for state in ENDED]
    )
    rows = Event.objects.filter(
        Q(turn_id__in=unfinished.values("id")) | Q(turn_id__in=ended_later.values("turn_id")),
        conversation=conversation,
        seq__lte=up_to,
    ).order_by("seq")
    return [wire(conversation, e.seq, e.turn_id, e.type, e.data, e.at) for e in rows]


def record(conversation: Conversation, kind: str, data: dict[str, Any], turn: Turn | None = None) -> Wire:
    """Store an event of `web`'s own; the caller has locked the conversation's row. Answers it for publishing."""
    conversation.last_seq += 1
    at = timezone.now()
    Event.objects.create(
        tenant_id=conversation.tenant_id,
        conversation=conversation,
        seq=conversation.last_seq,
        turn_id=turn.id if turn else None,
        type=kind,
        data=data,
        at=at,
    )
    conversation.save(update_fields=["last_seq", "updated_at"])
    return wire(conversation.id, conversation.last_seq, turn.id if turn else None, kind, data, at)


def pack(conversation: Conversation, before: datetime) -> int:
    """Pack the oldest events up to `before` into one row; how many. What is read afterwards is the same.

    The events of a turn that has not ended stay loose: a runner may still repeat their write.
    """
    Conversation.objects.select_for_update().get(pk=conversation.pk)
    loose = Event.objects.filter(conversation=conversation, at__lt=before)
    unfinished = Turn.objects.filter(conversation=conversation).exclude(state__in=ENDED)
    first_open = Event.objects.filter(turn_id__in=unfinished.values("id")).aggregate(first=Min("seq"))[
        "first"
    ]
    if first_open is not None:
        loose = loose.filter(seq__lt=first_open)
    old = list(loose.order_by("seq")[:PACK_ROWS])
    if not old:
        return 0
    events = [wire(conversation.id, e.seq, e.turn_id, e.type, e.data, e.at) for e in old]
    EventPack.objects.create(
        tenant_id=conversation.tenant_id,
        conversation=conversation,
        first_seq=old[0].seq,
        last_seq=old[-1].seq,
        packed=zlib.compress(json.dumps(events).encode(), level=9),
    )
    Event.objects.filter(conversation=conversation, seq__lte=old[-1].seq).delete()
    return len(old)


def unpack(packed: EventPack) -> list[Wire]:
    """The events of a pack, as they were."""
    events: list[Wire] = json.loads(zlib.decompress(packed.packed))
    return events
