"""`DATA_DIR=… python -m tests.bench.queries SLUG CONVERSATION`: the statements behind each page, as JSON.

A process of its own, since settings are read once: pages are asked for in here, on the running stack's database.
"""

import json
import os
import sys

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

import django

django.setup()

from django.db import connection  # noqa: E402
from django.test import Client  # noqa: E402
from django.test.utils import CaptureQueriesContext  # noqa: E402

from tenants.models import User  # noqa: E402


def main() -> None:
    slug, conversation = sys.argv[1:]
    client = Client(headers={"host": "127.0.0.1"})
    client.force_login(User.objects.get())
    pages = {
        "a chat page": f"/t/{slug}/c/{conversation}/",
        "the list of conversations": f"/t/{slug}/conversations",
        "the credentials page": f"/t/{slug}/credentials/",
    }
    print(json.dumps({name: _queries(client, path) for name, path in pages.items()}))


def _queries(client: Client, path: str) -> int:
    # The second time, as most are: what a process learns once is not of the page.
    for _ in range(2):
        with CaptureQueriesContext(connection) as caught:
            answer = client.get(path)
        if answer.status_code != 200:
            raise SystemExit(f"{path} answered {answer.status_code}")
    return len(caught)


if __name__ == "__main__":
    main()
