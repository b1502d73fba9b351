"""The runner hosts, as they last said of themselves, by the database's clock."""

from datetime import timedelta

from django.db.models.functions import Now

from conversations.models import RunnerHost

ALIVE = timedelta(seconds=15)


def live_hosts() -> list[RunnerHost]:
    """The hosts that were heard of within 15 s."""
    return list(RunnerHost.objects.filter(seen_at__gt=Now() - ALIVE).order_by("name"))


def say_alive(name: str, tier: str, tier_reason: str, cli_version: str, processes: int) -> None:
    """Publish this host, with what it proved of its sandbox."""
    now = Now()
    said = {"tier": tier, "tier_reason": tier_reason, "cli_version": cli_version, "processes": processes}
    RunnerHost.objects.update_or_create(
        name=name,
        defaults={"seen_at": now, **said},
        create_defaults={"seen_at": now, "started_at": now, **said},
    )


def say_gone(name: str) -> None:
    """Take this host off the list, as it leaves."""
    RunnerHost.objects.filter(name=name).delete()
