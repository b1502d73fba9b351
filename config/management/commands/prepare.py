"""`manage.py prepare`: the part of `up` that needs the database, in one process."""

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import connections, transaction

from config.files import read_json, write_private_json

OFFLINE = "Offline model (scripted, not Claude)"
SLUG = "home"
OWNER = "owner@localhost"
