"""`manage.py prepare`: the part of `up` that needs Django and the database, in one process."""

from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import connections, transaction
from django.utils.translation import gettext as _

from config.files import read_json, write_private_json
from tenants.authentication import caller_for_key
from tenants.context import tenant_context
from tenants.drafts import CredentialDraft
from tenants.founding import found_tenant, make_platform_admin
from tenants.models import Credential, User
from tenants.roles import CredentialKind

SLUG = "home"
OWNER = "owner@localhost"
MIGRATING = 0x7061726C6579  # the number of the lock: "parley"


class Command(BaseCommand):
    help = "Migrate; found the first tenant where there is nobody yet; keep the offline model's address true."
    requires_system_checks = ()  # they look at tables that this makes

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--url", required=True, help="where people will find this")
        parser.add_argument("--model-url", required=True, help="where the offline model listens")
        parser.add_argument(
            "--one-machine", action="store_true", help="the first tenant's owner operates the platform, too"
        )

    def handle(self, *args: Any, url: str, model_url: str, one_machine: bool, **options: Any) -> None:
        with _alone():
            call_command("migrate", database="owner", interactive=False, verbosity=0)
            if not User.objects.exists():
                found(url, model_url, one_machine)
        follow_model(model_url)
        follow_url(url)


@contextmanager
def _alone() -> Iterator[None]:
    """One at a time, of all machines that share the database."""
    with connections["owner"].cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [MIGRATING])
        try:
            yield
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [MIGRATING])


def found(url: str, model_url: str, one_machine: bool) -> None:
    """The first tenant, its owner, a key, and the offline model as its credential; all of it, or nothing."""
    draft = CredentialDraft.checked(
        name=_("Offline model (scripted, not Claude)"),
        kind=CredentialKind.ENDPOINT,
        secret="offline",
        base_url=model_url,
    )
    with transaction.atomic():
        founded = found_tenant(SLUG, OWNER, _("Home"), url=url)
        if one_machine:
            make_platform_admin(OWNER)
        caller = caller_for_key(founded.api_key)
        with tenant_context(caller.tenant_id):
            credential = Credential.objects.create_for(caller, draft, default=True)
        # Before the commit: a password that nobody was told would be lost.
        write_private_json(settings.DATA_DIR / "first-run.json", founded.as_json())
        write_private_json(
            settings.DATA_DIR / "model.json",
            {"url": draft.base_url, "tenant": str(caller.tenant_id), "credential": str(credential.id)},
        )


def follow_model(url: str) -> None:
    """Point the credential to where the offline model listens now, unless somebody changed it."""
    file = settings.DATA_DIR / "model.json"
    model = read_json(file)
    if not model or model["url"] == url:
        return
    with tenant_context(UUID(model["tenant"])):
        Credential.objects.filter(id=model["credential"], base_url=model["url"]).update(base_url=url)
    write_private_json(file, model | {"url": url})


def follow_url(url: str) -> None:
    """Keep the address of first-run.json true."""
    file = settings.DATA_DIR / "first-run.json"
    first = read_json(file)
    if first and first["url"] != url:
        write_private_json(file, first | {"url": url})
