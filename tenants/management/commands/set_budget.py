"""manage.py set_budget SLUG USD: what a tenant's requests to models may come to in a calendar month.

The tenant's admins may change that; a ceiling is the operator's alone.
"""

from argparse import ArgumentParser
from decimal import Decimal, InvalidOperation
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from tenants.context import tenant_context
from tenants.models import Tenant
from tenants.rotation import all_tenants

MOST = Decimal(9_999_999_999)


class Command(BaseCommand):
    help = "Limits what a tenant may spend on models in a calendar month (UTC)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("slug", help="the tenant's name in addresses")
        parser.add_argument("usd", help="US dollars, as in 25 or 12.50; none for no limit")
        parser.add_argument("--tokens", default=None, help="tokens of all kinds; none for no limit")
        parser.add_argument(
            "--ceiling", help="US dollars that the tenant's own admins can't raise; none for none"
        )

    def handle(
        self, *args: Any, slug: str, usd: str, tokens: str | None, ceiling: str | None, **options: Any
    ) -> None:
        tenant = next((tenant for tenant, known in all_tenants() if known == slug), None)
        if tenant is None:
            raise CommandError(f"There is no tenant {slug}.")
        changes: dict[str, Any] = {"budget_usd": _amount(usd)}
        if tokens is not None:
            limit = _amount(tokens)
            changes["budget_tokens"] = None if limit is None else int(limit)
        if ceiling is not None:
            changes["ceiling_usd"] = _amount(ceiling)
        with tenant_context(tenant):
            row = Tenant.objects.select_for_update(no_key=True).get(id=tenant)
            for name, value in changes.items():
                setattr(row, name, value)
            row.save(update_fields=list(changes))
            row.note_change(None, changes)
        self.stdout.write(f"{slug}: " + ", ".join(f"{name} {value}" for name, value in changes.items()))


def _amount(text: str) -> Decimal | None:
    if text == "none":
        return None
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise CommandError(f"{text} is no number. Give one, as in 25 or 12.50, or: none") from None
    if not (amount.is_finite() and 0 <= amount <= MOST):
        raise CommandError(f"{text} is no budget: it lies between 0 and {MOST}.")
    return amount
