"""`manage.py isolation_probe`: what the runner hosts have proved of their sandboxes; or this machine, now."""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.utils import timezone

from claude_runner import EngineError, prove_tier
from conversations.hosts import unsaved
from conversations.isolation import HostReport, is_red, report_of, reports
from conversations.management.commands.runner import runner_folder, settings_for
from conversations.proving import Walls

HERE = "this machine"
MARKS = {"holds": "ok   ", "fails": "FAILS", "stale": "OLD  ", "lacked": "-    "}


class Command(BaseCommand):
    help = "Print each runner host with its tier and the last result of each probe. Status 1 when any is red."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="as JSON")
        parser.add_argument("--here", action="store_true", help="probe this machine now, whatever runs on it")

    def handle(self, *args: Any, here: bool, **options: Any) -> None:
        try:
            hosts = [probe_here()] if here else reports()
        except EngineError as error:
            self.stderr.write(f"{HERE}: {error}")
            sys.exit(1)
        if options["json"]:
            self.stdout.write(
                json.dumps({"red": is_red(hosts), "hosts": [h.as_json() for h in hosts]}, indent=2)
            )
        else:
            self.stdout.write("\n".join(_lines(hosts)))
        sys.exit(1 if is_red(hosts) else 0)


def probe_here() -> HostReport:
    """Prove this machine's tier as a runner would at its start. EngineError where SANDBOX_TIER is not to be had."""
    folder = runner_folder("isolation_probe")
    folder.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    folder.mkdir(mode=0o711, exist_ok=True)
    runner_settings = settings_for(folder, "isolation_probe")
    walls = Walls(runner_settings, prove_tier(runner_settings), settings.UNWALLED_TENANTS)
    return report_of(unsaved(walls.said(HERE)), silent_for=timedelta(), proof_age=timedelta())


def _lines(hosts: list[HostReport]) -> Iterable[str]:
    if not hosts:
        yield "No runner host is known: start one with manage.py runner."
    for report in hosts:
        host = report.host
        yield f"{host.name}: {host.tier}{', ' + '; '.join(report.problems) if report.is_red else ''}"
        if host.tier_reason:
            yield f"  {host.tier_reason}"
        yield f"  proved {_when(host.proved_at)}, heard of {_when(host.seen_at)}"
        for probe in report.probes:
            yield f"  {MARKS[probe.state]} {probe.name}{': ' + probe.detail if probe.detail else ''}"


def _when(at: Any) -> str:
    return "never" if at is None else f"{timezone.localtime(at):%Y-%m-%d %H:%M:%S} UTC"
