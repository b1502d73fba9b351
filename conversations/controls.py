"""What a person does to a running turn: stop it, answer its question, change its model. A row, then a nudge."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.utils import timezone
from django.utils.translation import gettext as _

from conversations.access import conversation_for, permission_for
from conversations.events import Wire, record
from conversations.models import ACTIVE, ENDED, TITLE_LENGTH, Control, Conversation, Turn, TurnState
from conversations.nudges import nudge_runners, publish
from conversations.prompts import is_storable
from conversations.turns import check_options
from tenants.access import Caller
from tenants.acts import Act
from tenants.context import in_tenant
from tenants.errors import Conflict, InvalidRequest
from tenants.models import AuditEvent, Membership

DECISIONS = ("allow", "allow_always", "deny")


async def interrupt(caller: Caller, conversation: object) -> None:
    """Stop the running turn, or, when none runs, the first queued one. Without either nothing happens."""
    holder, events = await in_tenant(caller.tenant_id, _interrupt, caller, conversation)
    await _tell(holder, events)


async def answer(caller: Caller, request: object, decision: object, message: object = "") -> None:
    """Answer a question about a tool call. InvalidRequest for an unknown decision, Conflict for a second one."""
    if decision not in DECISIONS:
        raise InvalidRequest(_("decision is one of: %(known)s.") % {"known": ", ".join(DECISIONS)})
    if not isinstance(message, str) or len(message) > 10_000 or not is_storable(message):
        raise InvalidRequest(_("message is a text of at most 10,000 characters."))
    holder = await in_tenant(caller.tenant_id, _answer, caller, request, decision, message)
    await _tell(holder, [])


async def set_options(caller: Caller, conversation: object, options: dict[str, Any]) -> None:
    """Change the conversation's model or permission mode, for a running turn too."""
    check_options(options)
    holder, events = await in_tenant(caller.tenant_id, _set_options, caller, conversation, options)
    await _tell(holder, events)


@dataclass(frozen=True, slots=True)
class Change:
    """What is to become of a conversation; None leaves it as it is. InvalidRequest for a title that can't be."""

    title: str | None = None
    archived: bool | None = None
    shared: bool | None = None

    def __post_init__(self) -> None:
        if self.title is not None:
            object.__setattr__(self, "title", checked_title(self.title))


async def change(caller: Caller, conversation: object, wanted: Change) -> None:
    """Rename a conversation, put it away or bring it back, share it with the tenant or stop that."""
    await publish(await in_tenant(caller.tenant_id, change_now, caller, conversation, wanted))


def checked_title(title: str) -> str:
    """The title without outer spaces, or InvalidRequest."""
    title = title.strip()
    if not title or len(title) > TITLE_LENGTH or not is_storable(title):
        raise InvalidRequest(_("title has 1 to %(most)d characters.") % {"most": TITLE_LENGTH})
    return title


def stop_turns_of(member: Membership, **_signal: object) -> None:
    """Stop all that a member who leaves has running or waiting, inside the transaction that ends their belonging.

    Nobody is nudged: runners and readers look once a second.
    """
    unfinished = Turn.objects.filter(author=member).exclude(state__in=ENDED)
    # In the order in which the recorder locks them.
    rows = Conversation.objects.select_for_update().order_by("id")
    for conversation in rows.filter(id__in=unfinished.values("conversation_id")):
        for turn in unfinished.filter(conversation=conversation):
            _stop(conversation, turn)


async def _tell(holder: str, events: list[Wire]) -> None:
    if holder:
        await nudge_runners(holder, "control")
    await publish(events)


def _interrupt(caller: Caller, conversation_id: object) -> tuple[str, list[Wire]]:
    conversation = conversation_for(caller, conversation_id, "moderating", lock=True)
    turns = conversation.turns
    turn = turns.filter(state__in=ACTIVE).first() or turns.filter(state=TurnState.QUEUED).first()
    return (conversation.holder, _stop(conversation, turn)) if turn else ("", [])


def _stop(conversation: Conversation, turn: Turn) -> list[Wire]:
    """Have a turn end: by its runner, or at once where none has it. The conversation's row is locked."""
    if turn.state in ACTIVE:
        _ask(conversation, Control.Kind.INTERRUPT, {}, turn.id)
        return []
    turn.state, turn.ended_at, turn.stop_reason = TurnState.INTERRUPTED, timezone.now(), "interrupted"
    turn.save(update_fields=["state", "ended_at", "stop_reason"])
    says: dict[str, Any] = {"stop_reason": "interrupted", "usage": {}, "cost_usd": None, "timing": {}}
    return [record(conversation, "turn.interrupted", says, turn)]


def _answer(caller: Caller, request_id: object, decision: str, message: str) -> str:
    request = permission_for(caller, request_id)
    if request.decision:
        raise Conflict(_("This question was answered already, or its turn has ended."))
    request.decision, request.decided_by, request.decided_at = decision, caller.member_id, timezone.now()
    request.save(update_fields=["decision", "decided_by", "decided_at"])
    says = {"request": str(request.id), "decision": decision, "message": message, "by": str(caller.member_id)}
    _ask(request.conversation, Control.Kind.PERMISSION, says, request.turn_id)
    AuditEvent.objects.note(
        caller.tenant_id, Act.PERMISSION_ANSWERED, caller, request.conversation_id, decision=decision
    )
    return request.conversation.holder


def _set_options(caller: Caller, conversation_id: object, options: dict[str, Any]) -> tuple[str, list[Wire]]:
    conversation = conversation_for(caller, conversation_id, "writing", lock=True)
    changed = {name: value for name, value in options.items() if getattr(conversation, name) != value}
    if not changed:
        return "", []
    for name, value in changed.items():
        setattr(conversation, name, value)
    conversation.save(update_fields=[*changed, "updated_at"])
    _ask(conversation, Control.Kind.SET, changed, None)
    return conversation.holder, [record(conversation, "conversation.updated", changed)]


def change_now(caller: Caller, conversation_id: object, wanted: Change) -> list[Wire]:
    """The storing half of `change`, inside the tenant's context; the events that say so."""
    conversation = conversation_for(caller, conversation_id, "moderating", lock=True)
    if wanted.shared:
        conversation_for(caller, conversation_id, "writing")
    changed: dict[str, Any] = {}
    if wanted.title is not None and wanted.title != conversation.title:
        conversation.title = changed["title"] = wanted.title
    if wanted.archived is not None and wanted.archived != (conversation.archived_at is not None):
        conversation.archived_at = timezone.now() if wanted.archived else None
        changed["archived"] = wanted.archived
    if wanted.shared is not None and wanted.shared != conversation.is_shared:
        conversation.is_shared = changed["shared"] = wanted.shared
        act = Act.CONVERSATION_SHARED if wanted.shared else Act.CONVERSATION_UNSHARED
        AuditEvent.objects.note(caller.tenant_id, act, caller, conversation.id)
    if not changed:
        return []
    conversation.save(update_fields=["title", "archived_at", "is_shared"])
    return [record(conversation, "conversation.updated", changed)]


def _ask(conversation: Conversation, kind: Control.Kind, data: dict[str, Any], turn: UUID | None) -> None:
    Control.objects.create(
        tenant_id=conversation.tenant_id, conversation=conversation, turn_id=turn, kind=kind, data=data
    )
