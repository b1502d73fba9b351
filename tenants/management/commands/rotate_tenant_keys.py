"""`manage.py rotate_tenant_keys [SLUG…]`: new keys for tenants' secrets, while they are used."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from tenants.errors import NotFound
from tenants.master_keys import SecretError
from tenants.models import Tenant
from tenants.rotation import change_key, tenants_called


class Command(BaseCommand):
    help = (
        "Give tenants a new key and seal their secrets with it. May be interrupted and repeated: every secret"
        " can be read at any moment, and the former key goes when nothing needs it."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("slugs", nargs="*", metavar="SLUG", help="only these tenants; without any, all")

    def handle(self, *args: Any, slugs: list[str], **options: Any) -> None:
        try:
            tenants = tenants_called(slugs)
        except NotFound as error:
            raise CommandError(error.message) from error
        changed, left = 0, []
        for slug, tenant in tenants.items():
            try:
                unopened = change_key(tenant)
            except Tenant.DoesNotExist:
                continue  # deleted meanwhile
            except SecretError as error:
                left.append(f"{slug}: {error}")
                continue
            changed += not unopened
            left += [f"{slug}: {lost.field} of {lost.row} does not open; enter it again" for lost in unopened]
        self.stdout.write(f"{changed} tenants have a new key.")
        if left:
            raise CommandError("Left as they were, to be repeated:\n- " + "\n- ".join(left))
