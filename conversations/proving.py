"""That a runner's sandbox still is what it was proved to be: looked at again and again while it works."""

import asyncio
import logging
from collections.abc import Mapping
from datetime import timedelta
from time import monotonic
from typing import Any

from claude_runner import LACKS, Finding, Proof, RunnerSettings, SandboxUnavailable, Tier, prove_again
from conversations.hosts import Said

logger = logging.getLogger("parley.runner")


# After a look that was not possible the next one follows soon; agents end after so many of them, two minutes.
VAIN_SECONDS, MOST_IN_VAIN = 10.0, 12


class Walls:
    """The tier that a runner works with, and its last proof. `refuses`: why it may take no turn, or ''."""

    def __init__(
        self, settings: RunnerSettings, proof: Proof, any_tenant: bool, prove_every: float = 600.0
    ) -> None:
        self.tier = proof.tier
        self.reason = proof.reason
        self.findings = proof.findings
        self.any_tenant = any_tenant or proof.parts_tenants
        self.refuses = ""
        self._settings = settings
        self._every = prove_every
        self._proved = monotonic()
        self._in_vain = 0

    @property
    def age(self) -> timedelta:
        """How old the last proof is."""
        return timedelta(seconds=monotonic() - self._proved)

    @property
    def look_again_in(self) -> float:
        """Seconds until the next proof is due."""
        return min(self._every, VAIN_SECONDS) if self._in_vain else self._every

    async def prove(self) -> bool:
        """Look again; whether agents may go on. It is never taken for a weaker tier: it is this one, or refuses.

        A look that was not possible has found no hole: nothing new is taken, and agents are given time until it is.
        """
        asked = monotonic()
        try:
            wrong, self.findings = await asyncio.to_thread(prove_again, self._settings, self.tier)
        except SandboxUnavailable as error:
            self._in_vain += 1
            return self._note(str(error), holds=self._in_vain < MOST_IN_VAIN)
        self._proved, self._in_vain = asked, 0
        return self._note(wrong, holds=not wrong)

    def _note(self, wrong: str, *, holds: bool) -> bool:
        if wrong and wrong != self.refuses:
            logger.error("The sandbox %s, so no turn is taken: %s", _is(holds), wrong)
        elif self.refuses and not wrong:
            logger.warning("The sandbox holds again: turns are taken.")
        self.refuses = wrong
        return holds

    def said(self, name: str, **more: Any) -> Said:
        """What the host of this name publishes; of each probe whether it is `lacked`: not promised by the tier."""
        return Said(
            name=name,
            tier=self.tier,
            tier_reason=self.reason,
            findings=tuple(_published(finding, self.tier) for finding in self.findings),
            proof_age=self.age,
            refuses=self.refuses,
            any_tenant=self.any_tenant,
            **more,
        )


def _is(holds: bool) -> str:
    return "can not be proved again" if holds else "does not hold any more"


def _published(finding: Finding, tier: Tier) -> Mapping[str, Any]:
    lacked = not finding.holds and finding.name in LACKS[tier]
    return {"name": finding.name, "holds": finding.holds, "lacked": lacked, "detail": finding.detail}
