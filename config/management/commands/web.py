"""`manage.py web`: one web process. Any number may run beside each other."""

import os
import threading
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import connections

from tenants.checks import assert_safe_database

LAST_SECONDS = 5.0


class Command(BaseCommand):
    help = "Serve pages, API and sockets until SIGTERM."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--host", default=settings.HOST)
        parser.add_argument("--port", type=int, default=settings.PORT)

    def handle(self, *args: Any, host: str, port: int, **options: Any) -> None:
        assert_safe_database()
        connections.close_all()
        # Only here: the one builds the application, the other installs the reactor of the whole process.
        from config.asgi import application
        from config.web import Limits, Server

        limits = Limits(stall_seconds=settings.WEB_STALL_SECONDS, drain_seconds=settings.WEB_DRAIN_SECONDS)
        Server(application, host, port, limits).run()
        _end_within(LAST_SECONDS)


def _end_within(seconds: float) -> None:
    """Python waits for its threads, and a thread waits for a database that may never answer."""
    last = threading.Timer(seconds, os._exit, [1])
    last.daemon = True
    last.start()
