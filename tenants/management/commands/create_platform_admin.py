"""`manage.py create_platform_admin EMAIL`: somebody who operates the platform, at /admin/."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from tenants.errors import ApiError
from tenants.founding import make_platform_admin


class Command(BaseCommand):
    help = "Let somebody operate the platform in /admin/; a new account's password is printed, this once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("email", help="an old account, which keeps its password, or a new one")
        parser.add_argument(
            "--unproved",
            action="store_true",
            help="also an account whose address nobody has proved to be theirs",
        )

    def handle(self, *args: Any, email: str, unproved: bool, **options: Any) -> None:
        try:
            user, password = make_platform_admin(email, unproved=unproved)
        except ApiError as error:
            raise CommandError(error.message) from error
        self.stdout.write(json.dumps({"email": user.email, "password": password}, indent=2))
