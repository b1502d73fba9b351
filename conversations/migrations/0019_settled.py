"""What was settled long ago goes."""

from importlib import import_module

from django.db import migrations

from tenants.rls import CrossingFunction

crossing = import_module("conversations.migrations.0002_crossing")


class Migration(migrations.Migration):
    dependencies = [("conversations", "0018_packable")]

    operations = [
        CrossingFunction(
            "delete_settled",
            "older_than interval, most integer",
            "integer",
            (crossing.SQL / "delete_settled.sql").read_text(),
        ),
    ]
