"""A member has so many turns queued at most, over all their conversations."""

from pathlib import Path

from django.db import migrations, models
from django.db.models import Q

SQL = Path(__file__).resolve().parent.parent / "sql"
# It takes one argument more, and the former one would go past the limit.
QUEUE_TURN = (
    "DROP FUNCTION queue_turn(uuid, uuid, uuid, uuid, uuid, text, jsonb, jsonb, integer); "
    "CREATE FUNCTION queue_turn(of_tenant uuid, of_conversation uuid, of_author uuid, new_turn uuid, client uuid, "
    "fingerprint text, content jsonb, wanted jsonb, most_waiting integer, most_of_author integer) RETURNS jsonb "
    f"LANGUAGE plpgsql AS $queue$ {(SQL / 'queue_turn.sql').read_text()} $queue$"
)


class Migration(migrations.Migration):
    dependencies = [("conversations", "0014_own_turns")]

    operations = [
        migrations.AddIndex(
            "turn", models.Index(fields=["author"], condition=Q(state="queued"), name="turn_queued_of")
        ),
        migrations.RunSQL(QUEUE_TURN),
    ]
