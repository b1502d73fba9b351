"""What the tests of this folder put on: a conversation, a claimed turn, events as a runner writes them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from conversations import leases
from conversations.events import Wire, all_events
from conversations.hosts import Said, say_alive
from conversations.leases import ORDINALS, Claim, Lease
from conversations.models import Turn
from conversations.recorder import append_events
from conversations.turns import Submission, Submitted, submit
from tenants.access import Caller
from tenants.context import tenant_context


def say(caller: Caller, text: str = "hello", conversation: UUID | None = None, **more: Any) -> Submitted:
    """Submit a message the short way, without nudging anybody."""
    named = str(conversation) if conversation else None
    return submit(caller, Submission.parsed(text, conversation=named, **more))


def events_of(caller: Caller, conversation: UUID, after: int = 0) -> list[Wire]:
    with tenant_context(caller.tenant_id):
        return list(all_events(conversation, after))


def turn_of(caller: Caller, turn: UUID) -> Turn:
    with tenant_context(caller.tenant_id):
        return Turn.objects.get(id=turn)


def live_host(tier: str = "bubblewrap-uid", **said: Any) -> str:
    """The name of a runner host that has published itself as this."""
    name = f"test-{uuid4()}"
    say_alive(Said(name, tier, **said))
    return name


@dataclass
class Hands:
    """A runner's hands without its engine: a real claim, real writes, under a name of its own."""

    claim: Claim
    lease: Lease
    runner: str

    @classmethod
    def claiming(cls, submitted: Submitted, runner: str = "") -> "Hands":
        """Claim until it is this conversation's turn (other tests' turns wait in the same queue)."""
        name = runner or live_host()
        while claim := leases.claim_turn(name, take_new=True):
            if claim.conversation == submitted.conversation:
                return cls(claim, Lease(claim.tenant, claim.conversation, claim.epoch), name)
        raise AssertionError("the turn was not in the queue")

    def row(
        self, kind: str, data: dict[str, Any], ordinal: int | None = None, **other: Any
    ) -> dict[str, Any]:
        return {
            "tenant": str(self.lease.tenant),
            "conversation": str(self.lease.conversation),
            "epoch": self.lease.epoch,
            "ordinal": next(ORDINALS) if ordinal is None else ordinal,
            "turn": str(self.claim.turn),
            "type": kind,
            "data": data,
        } | other

    def write(self, *rows: dict[str, Any]) -> list[int | None]:
        """Append; the seqs given, None for what was refused."""
        return [told.seq for told in append_events(json.dumps(rows))]

    def text(self, *texts: str) -> list[int | None]:
        return self.write(*(self.row("text.delta", {"block": 0, "text": text}) for text in texts))

    def finish(self) -> list[int | None]:
        says = {
            "stop_reason": "end_turn",
            "usage": {"output_tokens": 1},
            "cost_usd": 0.5,
            "timing": {"model_ms": 3},
        }
        return self.write(self.row("turn.completed", says))


def kinds(events: Iterable[Wire]) -> list[str]:
    return [event["type"] for event in events]
