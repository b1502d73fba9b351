"""Conversations and turns as the API gives them."""

from typing import Any

from conversations.events import Wire, all_events
from conversations.models import ACTIVE, Conversation, Turn, TurnState

type Record = dict[str, Any]


def conversation_record(conversation: Conversation, *, with_turns: bool = False) -> Record:
    """A conversation; with its turns and what was said in them when asked for."""
    turns = list(conversation.turns.all())
    record: Record = {
        "id": str(conversation.id),
        "title": conversation.title,
        "assistant": str(conversation.assistant_id),
        "model": conversation.effective_model,
        "permission_mode": conversation.permission_mode,
        "state": _state(turns),
        "archived": conversation.archived_at is not None,
        "created_at": conversation.created_at.isoformat(),
        "updated_at": conversation.updated_at.isoformat(),
        "last_seq": conversation.last_seq,
    }
    if with_turns:
        events = list(all_events(conversation.id)) if turns else []
        record["turns"] = [_record(turn, events) for turn in turns]
    return record


def turn_record(turn: Turn) -> Record:
    """One turn and what was said in it so far."""
    return _record(turn, list(all_events(turn.conversation_id)))


def _state(turns: list[Turn]) -> str:
    for state in (*ACTIVE, TurnState.QUEUED):
        if any(turn.state == state for turn in turns):
            return str(state)
    return "idle"


def _record(turn: Turn, events: list[Wire]) -> Record:
    return {
        "id": str(turn.id),
        "conversation": str(turn.conversation_id),
        "number": turn.number,
        "state": turn.state,
        "prompt": turn.prompt,
        "blocks": blocks([event for event in events if event.get("turn") == str(turn.id)]),
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


def blocks(events: list[Wire]) -> list[Record]:
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
