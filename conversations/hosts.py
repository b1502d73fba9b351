"""The runner hosts, as they last said of themselves, by the database's clock."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Q
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
    instance: str = ""


def live_hosts() -> list[RunnerHost]:
    """The hosts that were heard of within 15 s."""
    return list(RunnerHost.objects.filter(seen_at__gt=Now() - ALIVE).order_by("name"))


class NameTaken(Exception):
    """Another process is the runner of this name; a sentence."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"A runner named {name} works elsewhere already. Two of one name would write into the same"
            " conversations: give each its own RUNNER_NAME (or --name)."
        )


def take_name(said: Said, home: str) -> datetime | None:
    """Publish this host as the one of its name from now on. None, or when another one said last that it has it.

    It is to be had from a former process of the same `home`, a folder whose lock is held, since that one is gone
    for sure; from any other after a silence in which it stopped all that it ran. Instances are called HOME.PROCESS.
    """
    fields = _fields(said) | {"seen_at": Now(), "proved_at": Now() - said.proof_age, "started_at": Now()}
    named = RunnerHost.objects.filter(name=said.name)
    to_be_had = Q(instance__startswith=f"{home}.") | Q(seen_at__lte=Now() - ALIVE)
    while not (named.filter(to_be_had).update(**fields) or _publish_new(said.name, fields)):
        if (other := named.values_list("seen_at", flat=True).first()) is not None:
            return other
    return None


def say_alive(said: Said) -> None:
    """Publish this host, with what it proved of its sandbox; NameTaken where it is another instance's by now."""
    fields = _fields(said) | {"seen_at": Now(), "proved_at": Now() - said.proof_age}
    ours = RunnerHost.objects.filter(name=said.name, instance=said.instance)
    if not (ours.update(**fields) or _publish_new(said.name, fields | {"started_at": Now()})):
        raise NameTaken(said.name)


def _publish_new(name: str, fields: dict[str, Any]) -> bool:
    """False where there is one of this name."""
    try:
        with transaction.atomic():
            RunnerHost.objects.create(name=name, **fields)
    except IntegrityError:
        return False
    return True


def unsaved(said: Said) -> RunnerHost:
    """The same as a row that nobody else sees."""
    now = timezone.now()
    return RunnerHost(
        name=said.name, started_at=now, seen_at=now, proved_at=now - said.proof_age, **_fields(said)
    )


def _fields(said: Said) -> dict[str, Any]:
    return {
        "instance": said.instance,
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


def say_gone(name: str, instance: str = "") -> None:
    """Take this host off the list, as it leaves."""
    RunnerHost.objects.filter(name=name, instance=instance).delete()
