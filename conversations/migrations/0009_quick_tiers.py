"""What a host may take is found once a claim, not once a queued turn; tiers are compared within the query."""

from importlib import import_module

from django.db import migrations

crossing = import_module("conversations.migrations.0002_crossing")

STRONGEST_FIRST = "ARRAY['bubblewrap-uid', 'bubblewrap', 'landlock', 'none']"
# One expression, so that PostgreSQL puts it into the query that calls it.
TIER_SUFFICES = f"""
CREATE OR REPLACE FUNCTION tier_suffices(tier text, wanted text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $tier$
    SELECT coalesce(array_position({STRONGEST_FIRST}, tier)
                    <= array_position({STRONGEST_FIRST}, coalesce(nullif(wanted, ''), 'none')), false)
$tier$
"""


class Migration(migrations.Migration):
    dependencies = [("conversations", "0008_shared")]

    operations = [migrations.RunSQL(TIER_SUFFICES), crossing._function("claim_turn")]
