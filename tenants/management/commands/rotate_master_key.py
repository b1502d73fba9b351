"""`manage.py rotate_master_key`: wrap the keys of all tenants with the first key of MASTER_KEY."""

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError

from tenants.master_keys import SecretError, master_keys
from tenants.models import Tenant
from tenants.rotation import all_tenants, wrap_anew


class Command(BaseCommand):
    help = (
        "Wrap each tenant's key with the first key of MASTER_KEY. May be interrupted and repeated; nobody"
        " notices. docs/operating.md has the whole way."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            former = len(master_keys().keys) - 1
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        wrapped, closed = 0, []
        tenants = all_tenants()
        for tenant, slug in tenants:
            try:
                wrapped += wrap_anew(tenant)
            except Tenant.DoesNotExist:
                continue  # deleted meanwhile
            except SecretError as error:
                closed.append(f"{slug}: {error}")
        self.stdout.write(f"{wrapped} of {len(tenants)} tenants' keys were wrapped anew.")
        if closed:
            raise CommandError(
                "These could not be opened; keep the former keys in MASTER_KEY, and repeat this:\n- "
                + "\n- ".join(closed)
            )
        if former:
            self.stdout.write(
                "All are wrapped with the first key of MASTER_KEY. The others may be taken out of it, once every"
                " web and runner has been started with this list. Backups from before need them still."
            )
