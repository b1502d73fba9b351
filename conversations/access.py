"""The one door to a conversation. A stranger learns nothing (404); who may only read is told so (403).

A conversation is its author's alone until it is shared: then the whole tenant reads it. Only the author writes into
it; admins may moderate it. Everything here runs inside the tenant's context of the caller.
"""

import json
from collections.abc import Iterable
from typing import Literal
from uuid import UUID

from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _

from conversations.models import Assistant, Conversation, PermissionRequest
from conversations.prompts import is_storable
from tenants.access import Caller
from tenants.errors import InvalidRequest, NotFound, PermissionDenied
from tenants.models import uuid_of
from tenants.roles import Action

type Purpose = Literal["reading", "moderating", "writing"]


def readable(caller: Caller) -> QuerySet[Conversation]:
    """The caller's own conversations and those that are shared with the tenant."""
    return Conversation.objects.filter(Q(author_id=caller.member_id) | Q(is_shared=True))


def conversation_for(
    caller: Caller, conversation: object, purpose: Purpose = "reading", *, lock: bool = False
) -> Conversation:
    """A conversation that the caller may read, or NotFound; PermissionDenied where the purpose needs more.

    Moderating is what its author may do, and admins in a shared one: stop, answer, rename, put away, unshare,
    delete. Writing is its author's alone. `lock` holds its row until the transaction ends.
    """
    rows = readable(caller)
    rows = rows.select_for_update() if lock else rows.select_related("assistant")
    row = rows.filter(id=uuid_of(conversation)).first()
    if row is None:
        raise NotFound(_("There is no such conversation."))
    _require(caller, row, purpose)
    return row


def listed(caller: Caller, shared: bool | None = None) -> QuerySet[Conversation]:
    """What a list shows: the caller's own; with `shared`, all that is shared, or what is the caller's alone."""
    whose = Q(is_shared=True) if shared else Q(author_id=caller.member_id)
    rows = Conversation.objects.filter(whose, archived_at=None, last_seq__gt=0)
    return rows if shared is None else rows.filter(is_shared=shared)


def having(rows: QuerySet[Conversation], text: str) -> QuerySet[Conversation]:
    """Those with it in their title or in a message; all for an empty one. InvalidRequest for what is no text."""
    if not is_storable(text):
        raise InvalidRequest(_("q is a text."))
    if not (text := text.strip()):
        return rows
    # As it stands in the JSON of a prompt.
    quoted = json.dumps(text, ensure_ascii=False)[1:-1]
    return rows.filter(Q(title__icontains=text) | Q(turns__prompt__icontains=quoted)).distinct()


def still_readable(caller: Caller, conversations: Iterable[UUID]) -> set[UUID]:
    """Those of them that the caller may read now."""
    return set(readable(caller).filter(id__in=list(conversations)).values_list("id", flat=True))


def may(caller: Caller, conversation: Conversation, purpose: Purpose) -> bool:
    """Whether the caller, who reads it, may do that as well."""
    try:
        _require(caller, conversation, purpose)
    except PermissionDenied:
        return False
    return True


def _require(caller: Caller, conversation: Conversation, purpose: Purpose) -> None:
    if purpose == "reading":
        return caller.require(Action.READ_CONVERSATIONS)
    if conversation.author_id == caller.member_id:
        return caller.require(Action.HOLD_CONVERSATIONS)
    if purpose == "moderating":
        return caller.require(Action.MODERATE_CONVERSATIONS)
    raise PermissionDenied(_("Only its author writes in a shared conversation. Begin one of your own."))


def latest_conversation(caller: Caller) -> Conversation | None:
    """The caller's own most recent conversation that has a turn."""
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
    """A question about a tool call, its row locked. NotFound; PermissionDenied where others have to answer it.

    The conversation's row is locked before it, in the order of the recorder that ends its turn.
    """
    asked = PermissionRequest.objects.filter(id=uuid_of(request), conversation__in=readable(caller)).first()
    # Unshared or deleted meanwhile, it is not there either.
    found = asked and readable(caller).select_for_update().filter(id=asked.conversation_id).first()
    row = asked and found and PermissionRequest.objects.select_for_update().filter(id=asked.id).first()
    if not row or not found:
        raise NotFound(_("There is no such question."))
    _require(caller, found, "moderating")
    row.conversation = found
    return row
