"""Conversations and turns as the API gives them."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from conversations.events import LAST, Wire, all_events, seq_before
from conversations.models import ENDED, Conversation, Turn, TurnState
from conversations.waiting import Reason

type Record = dict[str, Any]


def conversation_record(conversation: Conversation) -> Record:
    """A conversation with its turns and what was said in them."""
    said = defaultdict(list)
    for event in all_events(conversation.id):
        said[event.get("turn")].append(event)
    turns = [_turn(turn, said[str(turn.id)]) for turn in conversation.turns.all()]
    return _summary(conversation, _states([conversation])) | {"turns": turns}


def conversation_summaries(conversations: list[Conversation]) -> list[Record]:
    """Conversations as a list shows them: without their turns."""
    states = _states(conversations)
    return [_summary(conversation, states) for conversation in conversations]


def turn_record(turn: Turn) -> Record:
    """One turn and what was said in it so far."""
    return _turn(turn, _events_of(turn))


def _events_of(turn: Turn) -> Iterable[Wire]:
    for event in all_events(turn.conversation_id, seq_before(turn)):
        if event.get("turn") == str(turn.id):
            yield event
            if event["type"] in LAST:
                return


def _states(conversations: list[Conversation]) -> dict[UUID, str]:
    """What their turns do that have not ended: an active one says it, else the first that is queued."""
    turns = Turn.objects.filter(conversation__in=conversations).exclude(state__in=ENDED).order_by("-number")
    return dict(turns.values_list("conversation_id", "state"))


def _summary(conversation: Conversation, states: dict[UUID, str]) -> Record:
    return {
        "id": str(conversation.id),
        "title": conversation.title,
        "assistant": str(conversation.assistant_id),
        "model": conversation.effective_model,
        "permission_mode": conversation.permission_mode,
        "state": states.get(conversation.id, "idle"),
        "author": str(conversation.author_id),
        "shared": conversation.is_shared,
        "archived": conversation.archived_at is not None,
        "created_at": conversation.created_at.isoformat(),
        "updated_at": conversation.updated_at.isoformat(),
        "last_seq": conversation.last_seq,
    }


def _turn(turn: Turn, events: Iterable[Wire]) -> Record:
    return {
        "id": str(turn.id),
        "conversation": str(turn.conversation_id),
        "number": turn.number,
        "state": turn.state,
        "waits_for": _waits_for(turn),
        "prompt": turn.prompt,
        "blocks": blocks(events),
        "stop_reason": turn.stop_reason or None,
        "usage": turn.usage,
        "cost_usd": None if turn.cost_usd is None else float(turn.cost_usd),
        "timing": turn.timing,
        "error": turn.error,
        "client_id": str(turn.client_id) if turn.client_id else None,
        "author": str(turn.author_id),
        "created_at": turn.created_at.isoformat(),
        "started_at": turn.started_at.isoformat() if turn.started_at else None,
        "ended_at": turn.ended_at.isoformat() if turn.ended_at else None,
    }


def _waits_for(turn: Turn) -> Record | None:
    """Why no host may take it at present."""
    if turn.state != TurnState.QUEUED or turn.waits_for not in Reason:
        return None
    return {"reason": turn.waits_for, "message": str(Reason(turn.waits_for).label)}


def blocks(events: Iterable[Wire]) -> list[Record]:
    """What was said in a turn, folded into content blocks of the Messages API, in order."""
    said: list[Record] = []
    open_blocks: dict[int, Record] = {}
    for event in events:
        match event["type"]:
            case "text.delta" | "thinking.delta" as kind:
                field = kind.removesuffix(".delta")
                if event["block"] not in open_blocks:
                    open_blocks[event["block"]] = {"type": field, field: ""}
                    said.append(open_blocks[event["block"]])
                open_blocks[event["block"]][field] += event["text"]
            case "tool.started":
                used = {
                    "type": "tool_use",
                    "id": event["tool_use"],
                    "name": event["name"],
                    "input": event["input"],
                }
                said.append(used)
            case "tool.finished":
                said.append(
                    {
                        "type": "tool_result",
                        "tool_use_id": event["tool_use"],
                        "content": event["output"],
                        "is_error": event["is_error"],
                    }
                )
    return said
