"""A renewal of leases waits for nobody's row, and says whose it could not have."""

from importlib import import_module

from django.db import migrations

from tenants.rls import CrossingFunction

crossing = import_module("conversations.migrations.0002_crossing")

# What a function answers can't be replaced.
DROP = """
    DO $drop$ BEGIN
        EXECUTE format('SET LOCAL ROLE %I', current_database() || '_crossing');
        DROP FUNCTION renew_leases(text, interval, uuid[], bigint[]);
    END $drop$;
    RESET ROLE;
"""


class Migration(migrations.Migration):
    dependencies = [("conversations", "0012_fair_places")]

    operations = [
        migrations.RunSQL(DROP),
        CrossingFunction(
            "renew_leases",
            "runner text, lease interval, ids uuid[], epochs bigint[]",
            "TABLE (conversation uuid, busy boolean)",
            "#variable_conflict use_column\n" + (crossing.SQL / "renew_leases.sql").read_text(),
        ),
    ]
