"""Composes what the engine needs for one turn, so that `claude_runner` never sees a model."""

from dataclasses import dataclass
from uuid import UUID

from django.utils.translation import gettext as _

from claude_runner import Account, Content, LaunchSpec
from conversations.accounts import TurnAccount
from conversations.events import all_events
from conversations.leases import Claim
from conversations.models import Conversation, Turn
from conversations.prompts import text_of
from tenants.context import in_tenant
from tenants.credentials import kind_for, no_credential

MOST_QUOTED = 4000


@dataclass(frozen=True, slots=True)
class Launch:
    """A spec, with the account that its requests to the model go to."""

    spec: LaunchSpec
    account: Account


def launch_of(claim: Claim) -> Launch:
    """The launch for a claimed turn, without a trip to the database; InvalidRequest says what is missing."""
    return _launch(
        TurnAccount(claim.tenant, claim.conversation, claim.author, claim.turn),
        claim.model,
        claim.system_prompt,
        claim.permission_mode,
        claim.credential_kind,
    )


def launch_for_author(tenant: UUID, conversation_id: UUID) -> Launch:
    """The launch that the next turn of the conversation's author would get."""
    conversation = Conversation.objects.select_related("assistant").get(id=conversation_id)
    return _launch(
        TurnAccount(tenant, conversation.id, conversation.author_id),
        conversation.effective_model,
        conversation.assistant.system_prompt,
        conversation.permission_mode,
        kind_for(tenant, conversation.author_id),
    )


def _launch(
    account: TurnAccount, model: str, system_prompt: str, permission_mode: str, credential_kind: str | None
) -> Launch:
    if credential_kind is None:
        raise no_credential()
    spec = LaunchSpec(
        conversation=str(account.conversation),
        tenant=str(account.tenant),
        model=model or None,
        system_prompt=system_prompt,
        permission_mode=permission_mode,
        credential_kind=credential_kind,
    )
    return Launch(spec, account)


async def content_of(claim: Claim) -> Content:
    """The turn's message, with a note before it when the answer before was cut off by a lost machine.

    The CLI's transcript ends before such an answer, so without the note the model would not know of it.
    """
    prompt: Content = claim.prompt
    if not claim.after_loss:
        return prompt
    note = await in_tenant(claim.tenant, _note_before, claim)
    blocks = [{"type": "text", "text": prompt}] if isinstance(prompt, str) else prompt
    return [{"type": "text", "text": note}, *blocks]


def _note_before(claim: Claim) -> str:
    turn = Turn.objects.get(id=claim.turn)
    return _cut_off_note(Turn.objects.get(conversation=claim.conversation, number=turn.number - 1))


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
