"""`manage.py delete_tenant SLUG`: a tenant with its conversations, files, processes, credentials and key.

And the accounts of its people, those that belong nowhere else and do not operate the platform.
"""

from argparse import ArgumentParser
from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.core.management.base import BaseCommand, CommandError
from redis.exceptions import RedisError

from conversations.disposals import wait_until_done
from conversations.ending import delete_conversations, delete_rest, shut_out
from conversations.nudges import ALL_RUNNERS
from tenants import key_parts
from tenants.rotation import all_tenants

PATIENCE = 30.0


class Command(BaseCommand):
    help = (
        "Delete a tenant for good, and the accounts of its people who have nothing in another tenant and do not"
        " operate the platform. May be interrupted and repeated."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("slug")
        parser.add_argument("--yes", action="store_true", help="don't ask, for scripts")

    def handle(self, *args: Any, slug: str, yes: bool, **options: Any) -> None:
        tenant = next((id for id, known in all_tenants() if known == slug), None)
        if tenant is None:
            raise CommandError(f"There is no tenant {slug}.")
        if not yes and input(f"Everything of {slug} will be gone. Type its slug again: ").strip() != slug:
            raise CommandError("That is not its slug. Nothing was deleted.")
        shut_out(tenant)
        conversations = delete_conversations(tenant)
        _wake_runners()
        left = wait_until_done(conversations, PATIENCE)
        accounts = delete_rest(tenant)
        self.stdout.write(
            f"{slug} is deleted, with {len(conversations)} folders of conversations ordered away, and"
            f" {accounts} accounts that belonged nowhere else."
        )
        for runner, folders in left.items():
            self.stdout.write(
                f"The runner {runner} has not answered: it deletes {folders} folders when it is back. Where it"
                " never comes back, its disk is yours to wipe."
            )
        self.stdout.write(_about_backups())


def _about_backups() -> str:
    if key_parts.are_used():
        return (
            "Its credentials open from no backup of the database; a backup of TENANT_KEYS_DIR has their key's part"
            " still."
        )
    return (
        "TENANT_KEYS_DIR is none: in backups of the database its credentials open with MASTER_KEY, until that was"
        " rotated and the former one destroyed."
    )


def _wake_runners() -> None:
    """They look every few seconds anyhow."""
    layer = get_channel_layer()
    if layer is None:
        return
    try:
        async_to_sync(layer.group_send)(ALL_RUNNERS, {"type": "runner.dispose"})
    except (RedisError, OSError):
        pass
