"""The one door to a conversation. A stranger learns nothing (404); who may only read is told so (403).

Everything here runs inside the tenant's context of the caller.
"""

from django.utils.translation import gettext as _

from conversations.models import Assistant, Conversation, PermissionRequest
from tenants.access import Caller
from tenants.errors import NotFound
from tenants.models import uuid_of
from tenants.roles import Action


def conversation_for(
    caller: Caller, conversation: object, *, writing: bool = False, lock: bool = False
) -> Conversation:
    """The caller's own conversation, or NotFound. `lock` holds its row until the transaction ends."""
    rows = Conversation.objects.filter(author_id=caller.member_id)
    found = (rows.select_for_update() if lock else rows.select_related("assistant")).filter(
        id=uuid_of(conversation)
    )
    row = found.first()
    if row is None:
        raise NotFound(_("There is no such conversation."))
    if writing:
        caller.require(Action.HOLD_CONVERSATIONS)
    return row


def latest_conversation(caller: Caller) -> Conversation | None:
    """The caller's most recent conversation that has a turn."""
    return (
        Conversation.objects.filter(author_id=caller.member_id, last_seq__gt=0, archived_at=None)
        .order_by("-updated_at")
        .first()
    )


def assistant_for(caller: Caller, assistant: object | None) -> Assistant:
    """The assistant named, or the tenant's first one, which is made when there is none yet."""
    if assistant is not None:
        named = Assistant.objects.filter(id=uuid_of(assistant)).first()
        if named is None:
            raise NotFound(_("There is no such assistant."))
        return named
    first = Assistant.objects.order_by("created_at").first()
    if first is not None:
        return first
    made, _new = Assistant.objects.get_or_create(tenant_id=caller.tenant_id, name="Claude Code")
    return made


def permission_for(caller: Caller, request: object) -> PermissionRequest:
    """A question about a tool call in one of the caller's conversations, its row locked, or NotFound."""
    found = (
        PermissionRequest.objects.select_for_update(of=("self",))
        .filter(id=uuid_of(request), conversation__author_id=caller.member_id)
        .first()
    )
    if found is None:
        raise NotFound(_("There is no such question."))
    caller.require(Action.HOLD_CONVERSATIONS)
    return found
