"""A write of events waits for nobody's row, and says whose it could not have."""

from importlib import import_module

from django.db import migrations

from tenants.rls import CrossingFunction

crossing = import_module("conversations.migrations.0002_crossing")

# What a function answers can't be replaced.
DROP = """
    DO $drop$ BEGIN
        EXECUTE format('SET LOCAL ROLE %I', current_database() || '_crossing');
        DROP FUNCTION append_events(jsonb);
    END $drop$;
    RESET ROLE;
"""


class Migration(migrations.Migration):
    dependencies = [("conversations", "0015_most_queued")]

    operations = [
        migrations.RunSQL(DROP),
        CrossingFunction(
            "append_events",
            "batch jsonb",
            "TABLE (conversation uuid, ordinal bigint, seq bigint, at timestamptz, busy boolean)",
            "#variable_conflict use_column\n" + (crossing.SQL / "append_events.sql").read_text(),
        ),
    ]
