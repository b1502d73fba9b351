"""An event changes a turn and questions of its own conversation only."""

from importlib import import_module

from django.db import migrations

crossing = import_module("conversations.migrations.0002_crossing")


class Migration(migrations.Migration):
    dependencies = [("conversations", "0013_nobody_waited_for")]

    operations = [crossing._function(name) for name in ("append_events", "end_lost_turns")]
