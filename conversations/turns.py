"""`submit_turn()`: the one use case behind every mouth (page, socket, SSE, API).

It stores the turn and its `turn.queued` event in one transaction, then tells readers and runners.
"""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from conversations import prompts
from conversations.access import assistant_for, conversation_for, latest_conversation
from conversations.events import Wire, record, seq_before
from conversations.models import Conversation, PermissionMode, Turn, TurnState
from conversations.nudges import nudge_runners, publish
from tenants.access import Caller
from tenants.context import in_tenant
from tenants.errors import Conflict, InvalidRequest, NotFound
from tenants.models import uuid_of
from tenants.rates import rates

MOST_QUEUED = 50
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

    Raises NotFound, PermissionDenied, InvalidRequest, RateLimited, or Conflict (the id was used otherwise).
    """
    await rates().count_message(caller)
    submitted = await in_tenant(caller.tenant_id, submit, caller, submission)
    if submitted.fresh:
        await nudge_runners(submitted.holder, "turn")
        await publish(submitted.events)
    return submitted


def submit(caller: Caller, submission: Submission) -> Submitted:
    """The storing half of `submit_turn`, inside the tenant's context."""
    caller.require(caller.may_write)
    digest = prompts.digest_of(submission.content, submission.options, submission.assistant)
    if repeated := _repeated(caller, submission, digest):
        return repeated
    try:
        with transaction.atomic():
            return _store(caller, submission, digest)
    except IntegrityError:
        # The same id came in twice at the same moment; the other one was first.
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
    conversation = _conversation(caller, submission)
    last = conversation.turns.order_by("-number").first()
    # Who begins a conversation sees it from its first event.
    before = conversation.last_seq if last else 0
    if conversation.turns.filter(state=TurnState.QUEUED).count() >= MOST_QUEUED:
        raise Conflict(_("Too many messages are queued already. Wait until some were answered."))
    turn = Turn.objects.create(
        tenant_id=caller.tenant_id,
        conversation=conversation,
        number=last.number + 1 if last else 1,
        author_id=caller.member_id,
        client_id=submission.client_id,
        digest=digest,
        prompt=submission.content,
    )
    says = {
        "prompt": submission.content,
        "author": str(caller.member_id),
        "client_id": str(submission.client_id) if submission.client_id else None,
    }
    events = [record(conversation, "turn.queued", says, turn)]
    if changes := _changes(conversation, submission):
        for name, value in changes.items():
            setattr(conversation, name, value)
        conversation.save(update_fields=[*changes, "updated_at"])
        events.append(record(conversation, "conversation.updated", changes))
    held = conversation.lease_until is not None and conversation.lease_until > timezone.now()
    return Submitted(
        conversation.id,
        turn.id,
        turn.state,
        before,
        fresh=True,
        holder=conversation.holder if held else "",
        events=tuple(events),
    )


def _conversation(caller: Caller, submission: Submission) -> Conversation:
    if submission.conversation is not None:
        return conversation_for(caller, submission.conversation, writing=True, lock=True)
    if submission.continue_latest and (latest := latest_conversation(caller)):
        return conversation_for(caller, latest.id, writing=True, lock=True)
    if submission.draft and submission.assistant is None:
        try:
            return conversation_for(caller, submission.draft, writing=True, lock=True)
        except NotFound:
            pass  # It waited for a message so long that it was deleted.
    return draft(caller, submission.assistant)


def draft(caller: Caller, assistant: object | None = None) -> Conversation:
    """A new conversation without a turn yet."""
    caller.require(caller.may_write)
    return Conversation.objects.create(
        tenant_id=caller.tenant_id,
        author_id=caller.member_id,
        assistant=assistant_for(caller, assistant),
    )


def _changes(conversation: Conversation, submission: Submission) -> dict[str, str]:
    wanted = {
        "title": conversation.title or prompts.title_of(submission.content),
        "model": submission.options.get("model", conversation.model),
        "permission_mode": submission.options.get("permission_mode", conversation.permission_mode),
    }
    return {name: value for name, value in wanted.items() if value != getattr(conversation, name)}


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
