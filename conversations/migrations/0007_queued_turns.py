"""How many turns wait, by what for: a figure for the operator."""

from django.db import migrations

from tenants.rls import CrossingFunction

QUEUED_TURNS = """
BEGIN
    RETURN QUERY SELECT t.waits_for::text, count(*) FROM conversations_turn t WHERE t.state = 'queued' GROUP BY 1;
END
"""


class Migration(migrations.Migration):
    dependencies = [("conversations", "0006_least_tier")]

    operations = [
        CrossingFunction("queued_turns", "", "TABLE (reason text, turns bigint)", QUEUED_TURNS),
    ]
