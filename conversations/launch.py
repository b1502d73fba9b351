"""Composes what the engine needs for one turn: decrypts here, so that `claude_runner` never sees a model."""

from dataclasses import dataclass
from uuid import UUID

from django.utils.translation import gettext as _

from claude_runner import Content, LaunchSpec, Upstream
from conversations.events import all_events
from conversations.models import Assistant, Conversation, Turn, TurnState
from conversations.prompts import text_of
from tenants.credentials import credential_for

MOST_QUOTED = 4000


@dataclass(frozen=True, slots=True)
class Launch:
    """A spec with the upstream it is to use."""

    spec: LaunchSpec
    upstream: Upstream


def compose(tenant: UUID, conversation_id: UUID, member: UUID) -> Launch:
    """The launch of a conversation for one of its members; NotFound/InvalidRequest says what is missing."""
    conversation = Conversation.objects.select_related("assistant").get(id=conversation_id)
    assistant: Assistant = conversation.assistant
    credential = credential_for(tenant, member)
    spec = LaunchSpec(
        conversation=str(conversation_id),
        tenant=str(tenant),
        model=conversation.effective_model or None,
        system_prompt=assistant.system_prompt,
        permission_mode=conversation.permission_mode,
        credential_kind=credential.kind,
    )
    return Launch(spec, Upstream(credential.kind, credential.base_url, credential.secret))


def content_of(turn_id: UUID) -> Content:
    """The turn's message, with a note before it when the answer before was cut off by a lost machine.

    The CLI's transcript ends before such an answer, so without the note the model would not know of it.
    """
    turn = Turn.objects.get(id=turn_id)
    prompt: Content = turn.prompt
    before = Turn.objects.filter(conversation=turn.conversation_id, number=turn.number - 1).first()
    if before is None or before.state != TurnState.INTERRUPTED or before.stop_reason != "runner_lost":
        return prompt
    note = _cut_off_note(before)
    blocks = [{"type": "text", "text": prompt}] if isinstance(prompt, str) else prompt
    return [{"type": "text", "text": note}, *blocks]


def _cut_off_note(turn: Turn) -> str:
    said = "".join(
        event["text"]
        for event in all_events(turn.conversation_id)
        if event["type"] == "text.delta" and event.get("turn") == str(turn.id)
    )
    return _(
        "<system-reminder>The machine that ran the turn before this one was lost in the middle of the answer. "
        "The person had written:\n%(prompt)s\n\nOf the answer they saw:\n%(said)s</system-reminder>"
    ) % {"prompt": text_of(turn.prompt)[:MOST_QUOTED], "said": said[-MOST_QUOTED:] or _("(nothing)")}
