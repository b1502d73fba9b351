"""The runner hosts, as they last said of themselves, by the database's clock."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.db.models.functions import Now
from django.utils import timezone

from conversations.models import RunnerHost

ALIVE = timedelta(seconds=15)


@dataclass(frozen=True, slots=True)
class Said:
    """What a runner says of itself; the fields are those of `RunnerHost`. `proof_age`: how old its proof is."""

    name: str
    tier: str
    tier_reason: str = ""
    cli_version: str = ""
    processes: int = 0
    places: int = 0
    findings: tuple[Mapping[str, Any], ...] = ()
    proof_age: timedelta = timedelta()
    refuses: str = ""
    any_tenant: bool = True
    turns_ended: Mapping[str, int] = field(default_factory=dict)


def live_hosts() -> list[RunnerHost]:
    """The hosts that were heard of within 15 s."""
    return list(RunnerHost.objects.filter(seen_at__gt=Now() - ALIVE).order_by("name"))


def say_alive(said: Said) -> None:
    """Publish this host, with what it proved of its sandbox."""
    fields = _fields(said) | {"seen_at": Now(), "proved_at": Now() - said.proof_age}
    RunnerHost.objects.update_or_create(
        name=said.name, defaults=fields, create_defaults=fields | {"started_at": Now()}
    )


def unsaved(said: Said) -> RunnerHost:
    """The same as a row that nobody else sees."""
    now = timezone.now()
    return RunnerHost(
        name=said.name, started_at=now, seen_at=now, proved_at=now - said.proof_age, **_fields(said)
    )


def _fields(said: Said) -> dict[str, Any]:
    return {
        "tier": said.tier,
        "tier_reason": said.tier_reason,
        "cli_version": said.cli_version,
        "processes": said.processes,
        "places": said.places,
        "findings": list(said.findings),
        "refuses": said.refuses,
        "any_tenant": said.any_tenant,
        "turns_ended": dict(said.turns_ended),
    }


def say_gone(name: str) -> None:
    """Take this host off the list, as it leaves."""
    RunnerHost.objects.filter(name=name).delete()
