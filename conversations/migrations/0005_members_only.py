"""A message is taken from somebody who is a member at that moment, whatever its mouth still believes."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"
QUEUE_TURN = (
    "CREATE OR REPLACE FUNCTION queue_turn(of_tenant uuid, of_conversation uuid, of_author uuid, new_turn uuid, "
    "client uuid, fingerprint text, content jsonb, wanted jsonb, most_waiting integer) RETURNS jsonb "
    f"LANGUAGE plpgsql AS $queue$ {(SQL / 'queue_turn.sql').read_text()} $queue$"
)


class Migration(migrations.Migration):
    dependencies = [("conversations", "0004_proofs"), ("tenants", "0003_belonging")]

    operations = [migrations.RunSQL(QUEUE_TURN)]
