"""`manage.py create_tenant SLUG --owner EMAIL`: a tenant, its owner and an API key, printed as JSON."""

import json
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from tenants.errors import ApiError
from tenants.founding import found_tenant


class Command(BaseCommand):
    help = "Make a tenant with its owner and one API key, and print them as JSON, this once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("slug", help="its name in addresses: small letters, digits, inner hyphens")
        parser.add_argument("--owner", required=True, metavar="EMAIL", help="an old account or a new one")
        parser.add_argument("--name", default="", help="its name for people")
        parser.add_argument(
            "--unproved",
            action="store_true",
            help="also an account whose address nobody has proved to be theirs",
        )

    def handle(self, *args: Any, slug: str, owner: str, name: str, unproved: bool, **options: Any) -> None:
        try:
            founded = found_tenant(slug, owner, name, url=settings.PUBLIC_URL, unproved=unproved)
        except ApiError as error:
            raise CommandError(error.message) from error
        self.stdout.write(json.dumps(founded.as_json(), indent=2))
