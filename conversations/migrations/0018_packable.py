"""What can't be packed stands before nothing that can."""

from importlib import import_module

from django.db import migrations

from tenants.rls import CrossingFunction

crossing = import_module("conversations.migrations.0002_crossing")


class Migration(migrations.Migration):
    dependencies = [("conversations", "0017_one_of_a_name")]

    operations = [
        CrossingFunction(
            "packable_conversations",
            "older_than interval, most integer",
            "TABLE (tenant_id uuid, conversation_id uuid)",
            "#variable_conflict use_column\n" + (crossing.SQL / "packable_conversations.sql").read_text(),
        ),
    ]
