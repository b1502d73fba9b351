"""That a runner's sandbox still is what it was proved to be: looked at again and again while it works."""

import asyncio
import logging
from collections.abc import Mapping
from datetime import timedelta
from time import monotonic
from typing import Any

from claude_runner import LACKS, Finding, Proof, RunnerSettings, Tier, prove_again
from conversations.hosts import Said

logger = logging.getLogger("parley.runner")


class Walls:
    """The tier that a runner works with, and its last proof. `refuses`: why it may take no turn, or ''."""

    def __init__(self, settings: RunnerSettings, proof: Proof, any_tenant: bool) -> None:
        self.tier = proof.tier
        self.reason = proof.reason
        self.findings = proof.findings
        self.any_tenant = any_tenant or proof.parts_tenants
        self.refuses = ""
        self._settings = settings
        self._proved = monotonic()

    @property
    def age(self) -> timedelta:
        """How old the last proof is."""
        return timedelta(seconds=monotonic() - self._proved)

    async def prove(self) -> bool:
        """Look again; whether all holds. It is never taken for a weaker tier: it is this one, or refuses."""
        asked = monotonic()
        wrong, self.findings = await asyncio.to_thread(prove_again, self._settings, self.tier)
        self._proved = asked
        if wrong and wrong != self.refuses:
            logger.error("The sandbox does not hold any more, so no turn is taken: %s", wrong)
        elif self.refuses and not wrong:
            logger.warning("The sandbox holds again: turns are taken.")
        self.refuses = wrong
        return not wrong

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


def _published(finding: Finding, tier: Tier) -> Mapping[str, Any]:
    lacked = not finding.holds and finding.name in LACKS[tier]
    return {"name": finding.name, "holds": finding.holds, "lacked": lacked, "detail": finding.detail}
