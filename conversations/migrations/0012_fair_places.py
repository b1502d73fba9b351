"""Places are shared between tenants: a claim knows how many there are, and who wants one can be asked."""

from importlib import import_module

from django.db import migrations, models

from tenants.rls import CrossingFunction

crossing = import_module("conversations.migrations.0002_crossing")


class Migration(migrations.Migration):
    dependencies = [("conversations", "0011_disposals")]

    operations = [
        migrations.AddField("RunnerHost", "places", models.PositiveIntegerField(default=0, db_default=0)),
        crossing._function("claim_turn"),
        CrossingFunction(
            "is_room_wanted",
            "patience interval",
            "boolean",
            (crossing.SQL / "is_room_wanted.sql").read_text(),
        ),
    ]
