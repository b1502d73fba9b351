"""Composes what the engine needs for one turn: decrypts here, so that `claude_runner` never sees a model."""

from dataclasses import dataclass
from uuid import UUID

from django.utils.translation import gettext as _

from claude_runner import Content, LaunchSpec, Upstream
from conversations.events import all_events
from conversations.leases import Claim
from conversations.models import Conversation, Turn
from conversations.prompts import text_of
from tenants.credentials import credential_for

MOST_QUOTED = 4000


@dataclass(frozen=True, slots=True)
class Launch:
    """A spec with the upstream it is to use."""

    spec: LaunchSpec
    upstream: Upstream


def launch_of(claim: Claim) -> Launch:
    """The launch for a claimed turn; InvalidRequest says what is missing."""
    return _launch(
        claim.tenant,
        claim.conversation,
        claim.author,
        claim.model,
        claim.system_prompt,
        claim.permission_mode,
    )


def launch_for_author(tenant: UUID, conversation_id: UUID) -> Launch:
    """The launch that the next turn of the conversation's author would get."""
    conversation = Conversation.objects.select_related("assistant").get(id=conversation_id)
    return _launch(
        tenant,
        conversation.id,
        conversation.author_id,
        conversation.effective_model,
        conversation.assistant.system_prompt,
        conversation.permission_mode,
    )


def _launch(
    tenant: UUID, conversation: UUID, member: UUID, model: str, system_prompt: str, permission_mode: str
) -> Launch:
    credential = credential_for(tenant, member)
    spec = LaunchSpec(
        conversation=str(conversation),
        tenant=str(tenant),
        model=model or None,
        system_prompt=system_prompt,
        permission_mode=permission_mode,
        credential_kind=credential.kind,
    )
    return Launch(spec, Upstream(credential.kind, credential.base_url, credential.secret))


def content_of(claim: Claim) -> Content:
    """The turn's message, with a note before it when the answer before was cut off by a lost machine.

    The CLI's transcript ends before such an answer, so without the note the model would not know of it.
    """
    prompt: Content = claim.prompt
    if not claim.after_loss:
        return prompt
    turn = Turn.objects.get(id=claim.turn)
    note = _cut_off_note(Turn.objects.get(conversation=claim.conversation, number=turn.number - 1))
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
