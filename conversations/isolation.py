"""What the runner hosts have proved of their sandboxes, judged: for the admin's page, for commands, for metrics.

Red is a host that is silent, that takes no turns, one of whose probes fails, or whose proof is older than 25
minutes: a runner proves its tier every ten.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import F
from django.db.models.functions import Now
from django.utils.translation import gettext as _

from conversations.hosts import ALIVE
from conversations.models import RunnerHost

STALE = timedelta(minutes=25)


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe's last result. `state`: holds, fails, lacked where the host's tier does not promise it, or stale
    where it was too long ago to count.
    """

    name: str
    state: str
    detail: str
    at: datetime | None

    @property
    def is_red(self) -> bool:
        return self.state in ("fails", "stale")


@dataclass(frozen=True, slots=True)
class HostReport:
    """One host as it stands, by the database's clock."""

    host: RunnerHost
    silent_for: timedelta
    proof_age: timedelta | None
    probes: list[Probe]

    @property
    def is_alive(self) -> bool:
        return self.silent_for < ALIVE

    @property
    def problems(self) -> list[str]:
        """Each reason why it is red, in words."""
        failing = [probe.name for probe in self.probes if probe.state == "fails"]
        told = [
            (not self.is_alive, _("not heard of since it last spoke")),
            (bool(self.host.refuses), _("takes no turns: %s") % self.host.refuses),
            (bool(failing), _("fails: %s") % ", ".join(failing)),
            (self.host.tier == "none", _("has no sandbox")),
            (self.proof_age is None, _("has proved nothing yet")),
            (self.proof_age is not None and self.proof_age > STALE, _("its proof is too old")),
        ]
        return [sentence for is_so, sentence in told if is_so]

    @property
    def is_red(self) -> bool:
        return bool(self.problems)

    def probe(self, name: str) -> Probe | None:
        return next((probe for probe in self.probes if probe.name == name), None)

    def as_json(self) -> dict[str, Any]:
        """The host as `isolation_probe --json` prints it."""
        host = self.host
        return {
            "host": host.name,
            "tier": host.tier,
            "reason": host.tier_reason,
            "seen_at": host.seen_at.isoformat(),
            "proved_at": host.proved_at.isoformat() if host.proved_at else None,
            "red": self.is_red,
            "problems": self.problems,
            "probes": [
                {"name": probe.name, "state": probe.state, "detail": probe.detail} for probe in self.probes
            ],
        }


def reports() -> list[HostReport]:
    """All hosts by name; those that left in order are gone, those that were lost stay until they are forgotten."""
    rows = RunnerHost.objects.annotate(silent_for=Now() - F("seen_at"), proof_age=Now() - F("proved_at"))
    return [report_of(row, row.silent_for, row.proof_age) for row in rows.order_by("name")]


def report_of(host: RunnerHost, silent_for: timedelta, proof_age: timedelta | None) -> HostReport:
    """One host's row, judged; both ages by the clock that made its times."""
    is_stale = proof_age is None or proof_age > STALE
    probes = [
        Probe(
            name=finding["name"],
            state=_state(finding, is_stale),
            detail=finding["detail"],
            at=host.proved_at,
        )
        for finding in host.findings
    ]
    return HostReport(host, silent_for, proof_age, probes)


def _state(finding: dict[str, Any], is_stale: bool) -> str:
    if finding["lacked"]:
        return "lacked"
    if not finding["holds"]:
        return "fails"
    return "stale" if is_stale else "holds"


def probe_names(hosts: list[HostReport]) -> list[str]:
    """Every probe of any of them, in the order in which they were made."""
    return list(dict.fromkeys(probe.name for report in hosts for probe in report.probes))


def is_red(hosts: list[HostReport]) -> bool:
    """Whether anything is; no host at all is no reason for trust either."""
    return not hosts or any(report.is_red for report in hosts)
