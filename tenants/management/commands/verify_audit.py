"""`manage.py verify_audit [SLUG…]`: whether each tenant's audit is as it was written."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from tenants.audit import chain
from tenants.context import tenant_context
from tenants.errors import NotFound
from tenants.rotation import tenants_called


class Command(BaseCommand):
    help = (
        "Recompute the chain of each tenant's audit. Prints how long it is and its last digest: kept elsewhere, the"
        " two show later whether events were cut off at the end. Status 1 where an event is not as it was written."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("slugs", nargs="*", metavar="SLUG", help="only these tenants; without any, all")

    def handle(self, *args: Any, slugs: list[str], **options: Any) -> None:
        try:
            tenants = tenants_called(slugs)
        except NotFound as error:
            raise CommandError(error.message) from error
        broken = []
        for slug, tenant in tenants.items():
            with tenant_context(tenant):
                found = chain()
            self.stdout.write(f"{slug} {found.length} {found.digest}")
            if found.broken_at is not None:
                broken.append(f"{slug}: event {found.broken_at} is not as it was written, or one is missing")
        if broken:
            raise CommandError("The audit was tampered with:\n- " + "\n- ".join(broken))
