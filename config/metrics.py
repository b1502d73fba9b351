"""`GET /metrics`: what an operator watches, as Prometheus text. No tenant, no person, no text is in it."""

import hmac
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from django.conf import settings
from django.db import DatabaseError, connection
from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from conversations.consumers import open_sockets
from conversations.isolation import HostReport, is_red, reports
from tenants.context import across_tenants


@require_GET
@never_cache
async def metrics(request: HttpRequest) -> HttpResponse:
    """For the operator: with METRICS_TOKEN as a bearer token, or without one from this machine. Others get 404."""
    if not _is_operator(request):
        raise Http404
    try:
        hosts, queued = await across_tenants(lambda: (reports(), queued_turns()))
    except DatabaseError:
        return HttpResponse("The database does not answer.\n", content_type="text/plain", status=503)
    registry = CollectorRegistry()
    registry.register(Snapshot(hosts, queued, open_sockets()))
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)


def _is_operator(request: HttpRequest) -> bool:
    if token := settings.METRICS_TOKEN:
        given = request.headers.get("authorization", "")
        return hmac.compare_digest(given.encode(), f"Bearer {token}".encode())
    try:
        return ip_address(request.META.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:
        return False


def queued_turns() -> dict[str, int]:
    """How many turns wait, by what for: a free place, or one of `waiting.Reason`."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT reason, turns FROM queued_turns()")
        return {reason or "place": turns for reason, turns in cursor.fetchall()}


@dataclass(frozen=True, eq=False)
class Snapshot(Collector):
    """All of it at one moment. Every web process says the same of runners and queue; sockets are its own."""

    hosts: list[HostReport]
    queued: dict[str, int]
    sockets: int

    def collect(self) -> Iterator[Metric]:
        yield from self._of_hosts()
        yield from self._of_probes()
        queued = GaugeMetricFamily("parley_turns_queued", "Turns that wait, by what for.", labels=["reason"])
        for reason, turns in self.queued.items():
            queued.add_metric([reason], turns)
        yield queued
        yield GaugeMetricFamily("parley_web_sockets", "Open sockets of this web process.", value=self.sockets)

    def _of_hosts(self) -> Iterator[Metric]:
        alive = [report for report in self.hosts if report.is_alive]
        tiers = GaugeMetricFamily("parley_runner_hosts", "Live runner hosts by tier.", labels=["tier"])
        for tier, count in Counter(report.host.tier for report in alive).items():
            tiers.add_metric([tier], count)
        takes = GaugeMetricFamily("parley_runner_takes_turns", "Whether a host takes turns.", labels=["host"])
        processes = GaugeMetricFamily("parley_processes", "Live Claude Code processes.", labels=["host"])
        ended = CounterMetricFamily(
            "parley_turns_ended", "Turns that ended since the runner started.", labels=["host", "outcome"]
        )
        for report in self.hosts:
            host = report.host
            takes.add_metric([host.name], int(report.is_alive and not host.refuses))
            processes.add_metric([host.name], host.processes if report.is_alive else 0)
            for outcome, count in host.turns_ended.items():
                ended.add_metric([host.name, outcome], count)
        yield from (tiers, takes, processes, ended)

    def _of_probes(self) -> Iterator[Metric]:
        probes = GaugeMetricFamily(
            "parley_isolation_probe",
            "Each probe's state: holds, fails, stale, or lacked where the tier does not promise it.",
            labels=["host", "probe", "state"],
        )
        ages = GaugeMetricFamily(
            "parley_isolation_proof_age_seconds", "How old a host's proof is.", labels=["host"]
        )
        for report in self.hosts:
            for probe in report.probes:
                probes.add_metric([report.host.name, probe.name, probe.state], 1)
            if report.proof_age is not None:
                ages.add_metric([report.host.name], report.proof_age.total_seconds())
        red = GaugeMetricFamily(
            "parley_isolation_red", "Whether the isolation page is red.", value=is_red(self.hosts)
        )
        yield from (probes, ages, red)
