"""A claim says which kind of credential its turn will use, so that a launch needs no look-up of its own."""

from importlib import import_module

from django.db import migrations

crossing = import_module("conversations.migrations.0002_crossing")


class Migration(migrations.Migration):
    dependencies = [
        ("conversations", "0002_crossing"),
        ("tenants", "0001_initial"),
    ]

    operations = [crossing._function("claim_turn")]
