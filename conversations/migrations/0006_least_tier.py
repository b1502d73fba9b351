"""Turns go to hosts that are good enough for their tenant only, and say why they wait where there is none."""

from importlib import import_module

from django.db import migrations, models

from tenants.rls import CrossingFunction

crossing = import_module("conversations.migrations.0002_crossing")

# Plain functions, which see what their caller sees. A tier that nobody knows suffices for nothing.
TIER_SUFFICES = """
CREATE FUNCTION tier_suffices(tier text, wanted text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $tier$
    SELECT coalesce(array_position(strongest_first, tier)
                    <= array_position(strongest_first, coalesce(nullif(wanted, ''), 'none')), false)
    FROM (SELECT ARRAY['bubblewrap-uid', 'bubblewrap', 'landlock', 'none'] AS strongest_first) AS tiers
$tier$
"""
HOST_TAKES = """
CREATE FUNCTION host_takes(host conversations_runnerhost, wanted text, its_tenant boolean) RETURNS boolean
LANGUAGE sql VOLATILE AS $host$
    SELECT coalesce(its_tenant AND host.refuses = '' AND tier_suffices(host.tier, wanted)
        AND host.seen_at > clock_timestamp() - interval '15 seconds'
        AND host.proved_at > clock_timestamp() - interval '25 minutes', false)
$host$
"""


class Migration(migrations.Migration):
    dependencies = [
        ("conversations", "0005_members_only"),
        ("tenants", "0002_platform"),
    ]

    operations = [
        migrations.AddField(
            "turn",
            "waits_for",
            models.CharField(max_length=20, blank=True, default="", db_default=""),
        ),
        migrations.RunSQL(TIER_SUFFICES),
        migrations.RunSQL(HOST_TAKES),
        *[crossing._function(name) for name in ("claim_turn", "take_lease", "renew_leases")],
        CrossingFunction(
            "explain_waiting",
            "sentences jsonb, patience interval",
            "SETOF jsonb",
            (crossing.SQL / "explain_waiting.sql").read_text(),
        ),
    ]
