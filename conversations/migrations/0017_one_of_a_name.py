"""A runner's name is one process's: which one stands in its host's row, and no other claims a turn under it."""

from importlib import import_module

from django.db import migrations, models

from tenants.rls import CrossingFunction

crossing = import_module("conversations.migrations.0002_crossing")

# It takes one argument more.
DROP = """
    DO $drop$ BEGIN
        EXECUTE format('SET LOCAL ROLE %I', current_database() || '_crossing');
        DROP FUNCTION claim_turn(text, interval, boolean);
    END $drop$;
    RESET ROLE;
"""
# The epoch rises: who had the name before, and may live after all, renews nothing and writes nothing more.
EXPIRE_LEASES = (
    "BEGIN UPDATE conversations_conversation c SET lease_until = clock_timestamp(), epoch = c.epoch + 1 "
    "WHERE c.holder = runner; END"
)


class Migration(migrations.Migration):
    dependencies = [("conversations", "0016_nobody_waited_for_by_events")]

    operations = [
        migrations.AddField(
            "RunnerHost", "instance", models.CharField(max_length=80, blank=True, db_default="")
        ),
        migrations.RunSQL(DROP),
        CrossingFunction(
            "claim_turn",
            "runner text, process text, lease interval, take_new boolean",
            "jsonb",
            "#variable_conflict use_column\n" + (crossing.SQL / "claim_turn.sql").read_text(),
        ),
        CrossingFunction("expire_leases", "runner text", "void", EXPIRE_LEASES),
    ]
