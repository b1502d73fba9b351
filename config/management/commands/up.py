"""`manage.py up`: all of Parley on this machine, until Ctrl-C. `make run` runs it."""

import os
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils.translation import gettext as _

from config.data_dir import AlreadyRunning
from config.embedded import ServerError
from config.files import read_json
from config.machine import Machine, NotReady, Plan, Stopped
from config.supervisor import GaveUp, Stop
from tenants.provision import ProvisionError


class Command(BaseCommand):
    help = "Run everything on this machine: servers, offline model, web and runner, until Ctrl-C."
    requires_system_checks = ()  # web and runner have theirs, once there is a database

    def handle(self, *args: Any, **options: Any) -> None:
        stop = Stop()
        with stop.on_signals():
            machine = Machine(_plan(), stop, self._greet)
            try:
                machine.run()
            except Stopped:
                pass
            except (AlreadyRunning, ServerError, ProvisionError, NotReady, GaveUp) as error:
                raise CommandError(str(error)) from error
            except PermissionError as error:
                raise CommandError(
                    _("%(data_dir)s belongs to somebody else, or parts of it: %(error)s")
                    % {"data_dir": settings.DATA_DIR, "error": error}
                ) from error
        self.stdout.write(_("Parley has stopped. Everything is kept in %s.") % settings.DATA_DIR)

    def _greet(self, ready: dict[str, Any]) -> None:
        first = read_json(settings.DATA_DIR / "first-run.json")
        lines = [_("Parley is ready"), ""]
        lines.append(_("Open       %s") % (settings.GIVEN_PUBLIC_URL or _plan().url))
        if first:
            lines.append(_("Sign in    %(email)s  with  %(password)s") % first)
            lines.append(_("API key    in %s") % (settings.DATA_DIR / "first-run.json"))
        lines.append(_("Data       %s") % settings.DATA_DIR)
        lines += sandbox_lines(ready)
        lines.append("")
        if first:
            lines.append(_("Answers come from the offline model, which is not Claude, until you enter a"))
            lines.append(_("credential of your own on the page of credentials."))
        lines.append(_("Ctrl-C ends it."))
        self.stdout.write("\n" + "\n".join(f"    {line}".rstrip() for line in lines) + "\n\n")
        self.stdout.flush()


def sandbox_lines(ready: dict[str, Any]) -> list[str]:
    """The tier that the runner proved, and what would make it stronger, out of what `/ready` says."""
    sandbox = ready.get("sandbox")
    if not isinstance(sandbox, dict):
        return []
    lines = [_("Sandbox    %s") % sandbox.get("tier", "")]
    if sandbox.get("reason"):
        lines.append(f"           {sandbox['reason']}")
    return lines


def _plan() -> Plan:
    return Plan(
        base_dir=settings.BASE_DIR,
        data_dir=settings.DATA_DIR,
        host=settings.HOST,
        port=settings.PORT,
        public_url=settings.GIVEN_PUBLIC_URL,
        database_url=settings.GIVEN_DATABASE_URL,
        database_owner_url=settings.GIVEN_DATABASE_OWNER_URL,
        redis_url=settings.GIVEN_REDIS_URL,
        allowlist=frozenset(settings.MODEL_UPSTREAM_ALLOWLIST),
        environment=dict(os.environ),
    )
