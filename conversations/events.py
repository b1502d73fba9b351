"""The event log of a conversation: reading it from any cursor, and packing what is old.

An event on the wire is a flat dict: {"type", "conversation", "turn"?, "seq", "at", ...}. `seq` counts up by
one per conversation without gaps. Everything here runs inside the tenant's context.
"""

import json
import zlib
from collections.abc import Iterator
from datetime import datetime
from itertools import takewhile
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
FIRST = "turn.queued"
LAST = frozenset(f"turn.{state}" for state in ENDED)

# One batch is cut by rows and by bytes in the database, so that a reader's memory stays small. It is one statement:
# what is being packed meanwhile is seen either loose or packed.
READ = """
WITH pack AS (
    SELECT packed FROM conversations_eventpack
    WHERE conversation_id = %(conversation)s AND last_seq > %(after)s ORDER BY first_seq LIMIT 1
)
SELECT packed, NULL::bigint AS seq, NULL::uuid, NULL::text, NULL::text, NULL::timestamptz FROM pack
UNION ALL
SELECT NULL::bytea, seq, turn_id, type, data, at FROM (
    SELECT seq, turn_id, type, data, at,
           sum(octet_length(data)) OVER (ORDER BY seq) - octet_length(data) AS bytes_before
    FROM (SELECT seq, turn_id, type, data::text AS data, at FROM conversations_event
          WHERE conversation_id = %(conversation)s AND seq > %(after)s ORDER BY seq LIMIT %(rows)s) AS newest
) AS measured WHERE bytes_before < %(bytes)s AND NOT EXISTS (SELECT FROM pack) ORDER BY seq
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
    with connection.cursor() as cursor:
        cursor.execute(
            READ,
            {"conversation": conversation, "after": after, "rows": BATCH_ROWS, "bytes": BATCH_BYTES},
        )
        rows = cursor.fetchall()
    if rows and rows[0][0] is not None:
        return [event for event in unpack(rows[0][0]) if event["seq"] > after]
    return [
        wire(conversation, seq, turn, kind, json.loads(data), at) for _, seq, turn, kind, data, at in rows
    ]


def all_events(conversation: UUID, after: int = 0) -> Iterator[Wire]:
    """Every event after `after`, batch by batch."""
    while batch := read_events(conversation, after):
        yield from batch
        after = batch[-1]["seq"]


def seq_before(turn: Turn) -> int:
    """Where the events of a turn begin: its first has a higher seq. 0 where that one has been packed."""
    return _first_seq(turn.conversation_id, {turn.id}) - 1


def open_events(conversation: Conversation, up_to: int) -> list[Wire]:
    """The events up to `up_to` of the turns that had not ended then: what a page of that time may still change."""
    turns = _open_at(conversation, up_to)
    if not turns:
        return []
    since = all_events(conversation.id, _first_seq(conversation.id, turns) - 1)
    shown = takewhile(lambda event: event["seq"] <= up_to, since)
    wanted = {str(turn) for turn in turns}
    return [event for event in shown if event.get("turn") in wanted]


def _first_seq(conversation: UUID, turns: set[UUID]) -> int:
    """The seq of the first event of these turns; 1 where the first one of any has been packed."""
    first = Event.objects.filter(conversation=conversation, turn_id__in=turns, type=FIRST)
    loose = list(first.values_list("seq", flat=True))
    return min(loose) if len(loose) == len(turns) else 1


def _open_at(conversation: Conversation, seq: int) -> set[UUID]:
    """The turns that had not ended by then, and maybe some that had not begun either."""
    turns = Turn.objects.filter(conversation=conversation).exclude(state__in=ENDED).values_list("id")
    found = {turn for (turn,) in turns}
    if seq < conversation.last_seq:
        loose = Event.objects.filter(conversation=conversation, seq__gt=seq, type__in=LAST)
        found |= {turn for (turn,) in loose.values_list("turn_id") if turn}
        packs = EventPack.objects.filter(conversation=conversation, last_seq__gt=seq).values_list("packed")
        packed = (event for (pack,) in packs for event in unpack(bytes(pack)))
        found |= {UUID(event["turn"]) for event in packed if event["type"] in LAST and event["seq"] > seq}
    return found


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

    The events of a turn that has not ended stay loose: a runner may still repeat their write. So does what follows
    a young event: where clocks differ, an older time may stand behind a newer one.
    """
    Conversation.objects.select_for_update().get(pk=conversation.pk)
    loose = Event.objects.filter(conversation=conversation)
    unfinished = Turn.objects.filter(conversation=conversation).exclude(state__in=ENDED)
    staying = loose.filter(Q(at__gte=before) | Q(turn_id__in=unfinished.values("id")))
    first_staying = staying.aggregate(first=Min("seq"))["first"]
    if first_staying is not None:
        loose = loose.filter(seq__lt=first_staying)
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


def unpack(packed: bytes) -> list[Wire]:
    """The events of a pack, as they were."""
    events: list[Wire] = json.loads(zlib.decompress(packed))
    return events
