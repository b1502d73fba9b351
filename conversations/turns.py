"""`submit_turn()`: the one use case behind every mouth (page, socket, SSE, API).

It stores the turn and its `turn.queued` event in one transaction, then tells readers and runners.
"""

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.db import IntegrityError, connection
from django.utils.translation import gettext as _

from conversations import prompts
from conversations.access import assistant_for, conversation_for, latest_conversation
from conversations.events import Wire, seq_before, wire
from conversations.feeds import hub
from conversations.models import Conversation, PermissionMode, Turn, TurnState
from conversations.nudges import nudge_runners, publish
from tenants.access import Caller
from tenants.context import across_tenants, tenant_context
from tenants.errors import ApiError, AuthenticationError, Conflict, InvalidRequest, RateLimited
from tenants.models import uuid_of
from tenants.rates import rates
from tenants.roles import Action

MOST_QUEUED = 50
FULL_SECONDS = 10
OPTIONS = frozenset({"model", "permission_mode", "output_format"})


@dataclass(frozen=True, slots=True)
class Submission:
    """What a client sends. `client_id` is its idempotency key; without a conversation a new one begins.

    `draft` is a conversation that was prepared for that case; it is used if it is there still.
    """

    content: prompts.Content
    client_id: UUID | None = None
    conversation: str | None = None
    continue_latest: bool = False
    assistant: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    draft: UUID | None = None

    @classmethod
    def parsed(
        cls,
        content: object,
        *,
        client_id: object = None,
        conversation: object = None,
        continue_latest: object = False,
        assistant: object = None,
        options: object = None,
        draft: UUID | None = None,
    ) -> "Submission":
        """A submission out of untrusted JSON; InvalidRequest says which part is wrong."""
        options = {} if options is None else options
        if not isinstance(options, dict) or not OPTIONS.issuperset(options):
            raise InvalidRequest(_("options takes %(known)s.") % {"known": ", ".join(sorted(OPTIONS))})
        check_options(options)
        return cls(
            content=prompts.checked(content),
            client_id=_uuid("id", client_id),
            conversation=_text("conversation", conversation),
            continue_latest=continue_latest is True,
            assistant=_text("assistant", assistant),
            options=options,
            draft=draft,
        )


@dataclass(frozen=True, slots=True)
class Submitted:
    """A turn that stands in the queue, or stood there before: `fresh` is false for a repeated id.

    All its events have a seq above `first_seq`.
    """

    conversation: UUID
    turn: UUID
    state: str
    first_seq: int
    fresh: bool
    holder: str = ""
    events: tuple[Wire, ...] = ()


def check_options(options: dict[str, Any]) -> None:
    """InvalidRequest for a model or a mode that can't be."""
    model = options.get("model")
    if model is not None and not (
        isinstance(model, str) and model.strip() and len(model) <= 120 and model.isprintable()
    ):
        raise InvalidRequest(_("options.model is the name of a model, of at most 120 characters."))
    mode = options.get("permission_mode")
    if mode is not None and mode not in PermissionMode.values:
        raise InvalidRequest(
            _("options.permission_mode is one of: %(modes)s.") % {"modes": ", ".join(PermissionMode.values)}
        )


async def submit_turn(caller: Caller, submission: Submission) -> Submitted:
    """Queue a turn. The same `client_id` again gives the same turn and starts nothing.

    Raises NotFound, PermissionDenied, InvalidRequest, RateLimited, Conflict (the id was used otherwise), or
    AuthenticationError (the caller has left meanwhile).
    """
    await rates().count_message(caller)
    submitted = await across_tenants(submit, caller, submission)
    if submitted.fresh:
        hub().start()
        await nudge_runners(submitted.holder, "turn")
        await publish(submitted.events)
    return submitted


def submit(caller: Caller, submission: Submission) -> Submitted:
    """The storing half of `submit_turn`, in a transaction of its own."""
    caller.require(Action.HOLD_CONVERSATIONS)
    digest = prompts.digest_of(submission.content, submission.options, submission.assistant)
    try:
        with tenant_context(caller.tenant_id):
            return _store(caller, submission, digest)
    except (IntegrityError, ApiError):
        # Most ids are new, so that one which was used before is looked for only where something stands in the way.
        with tenant_context(caller.tenant_id):
            if repeated := _repeated(caller, submission, digest):
                return repeated
        raise


def _repeated(caller: Caller, submission: Submission, digest: str) -> Submitted | None:
    if submission.client_id is None:
        return None
    turn = Turn.objects.filter(author_id=caller.member_id, client_id=submission.client_id).first()
    if turn is None:
        return None
    elsewhere = submission.conversation and uuid_of(submission.conversation) != turn.conversation_id
    if turn.digest != digest or elsewhere:
        raise Conflict(_("This id was used for another message already. Send a new message under a new id."))
    return Submitted(turn.conversation_id, turn.id, turn.state, seq_before(turn), fresh=False)


def _store(caller: Caller, submission: Submission, digest: str) -> Submitted:
    turn = uuid4()
    conversation = _named(caller, submission) or draft(caller, submission.assistant).id
    queued = _queue(caller, submission, digest, conversation, turn)
    if queued is None and conversation == submission.draft:
        # It waited for a message so long that it was deleted.
        conversation = draft(caller, submission.assistant).id
        queued = _queue(caller, submission, digest, conversation, turn)
    if queued is None:
        conversation_for(caller, conversation, "writing")
        raise AuthenticationError  # It is theirs, so they are not a member any more.
    if "full" in queued:
        raise RateLimited(_too_many(queued["full"]), retry_after=FULL_SECONDS)
    seq, at = queued["last_seq"], datetime.fromisoformat(queued["at"])
    events = [wire(conversation, seq + 1, turn, "turn.queued", queued["says"], at)]
    if queued["changes"]:
        events.append(wire(conversation, seq + 2, None, "conversation.updated", queued["changes"], at))
    return Submitted(
        conversation,
        turn,
        TurnState.QUEUED,
        # Who begins a conversation sees it from its first event.
        0 if queued["is_first"] else seq,
        fresh=True,
        holder=queued["holder"],
        events=tuple(events),
    )


def _too_many(of: str) -> str:
    if of == "author":
        return _("Too many messages of yours are queued already. Wait until some were answered.")
    return _("Too many messages are queued here already. Wait until some were answered.")


def _named(caller: Caller, submission: Submission) -> UUID | None:
    """The conversation that the message goes to; None for a new one."""
    if submission.conversation is not None:
        return uuid_of(submission.conversation)
    if submission.continue_latest and (latest := latest_conversation(caller)):
        return latest.id
    return submission.draft if submission.assistant is None else None


def _queue(
    caller: Caller, submission: Submission, digest: str, conversation: UUID, turn: UUID
) -> dict[str, Any] | None:
    """Calls the database's `queue_turn`: None where the caller has no such conversation, or writes no more."""
    wanted = {"title": prompts.title_of(submission.content)} | {
        name: submission.options[name]
        for name in ("model", "permission_mode")
        if submission.options.get(name) is not None
    }
    arguments = [
        caller.tenant_id,
        conversation,
        caller.member_id,
        turn,
        submission.client_id,
        digest,
        json.dumps(submission.content),
        json.dumps(wanted),
        MOST_QUEUED,
        settings.MEMBER_QUEUED_TURNS,
    ]
    with connection.cursor() as cursor:
        cursor.execute("SELECT queue_turn(%s, %s, %s, %s, %s, %s, %s::jsonb, %s::jsonb, %s, %s)", arguments)
        (told,) = cursor.fetchone() or (None,)
    return None if told is None else json.loads(told)


def draft(caller: Caller, assistant: object | None = None) -> Conversation:
    """A new conversation without a turn yet."""
    caller.require(Action.HOLD_CONVERSATIONS)
    return Conversation.objects.create(
        tenant_id=caller.tenant_id,
        author_id=caller.member_id,
        assistant=assistant_for(caller, assistant),
    )


def discard_draft(caller: Caller, conversation: UUID) -> bool:
    """Delete a conversation that was prepared and never used; whether it was there, and unused."""
    unused = Conversation.objects.filter(id=conversation, author_id=caller.member_id, last_seq=0)
    row = unused.select_for_update().first()
    return row is not None and row.delete()[0] > 0


def _uuid(name: str, value: object) -> UUID | None:
    if value is None:
        return None
    try:
        return UUID(str(value))
    except ValueError:
        raise InvalidRequest(_("%(name)s is a UUID.") % {"name": name}) from None


def _text(name: str, value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise InvalidRequest(_("%(name)s is an id, a text.") % {"name": name})
