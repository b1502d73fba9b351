"""This app's database functions; what each does stands in conversations/sql/. All but one cross tenants."""

from pathlib import Path

from django.db import migrations

from tenants.rls import CrossingFunction

SQL = Path(__file__).resolve().parent.parent / "sql"
FUNCTIONS = {
    "append_events": (
        "batch jsonb",
        "TABLE (conversation uuid, ordinal bigint, seq bigint, at timestamptz)",
    ),
    "claim_turn": ("runner text, lease interval, take_new boolean", "jsonb"),
    "take_lease": ("runner text, lease interval, of_tenant uuid, of_conversation uuid", "bigint"),
    "renew_leases": ("runner text, lease interval, ids uuid[], epochs bigint[]", "SETOF uuid"),
    "release_lease": ("runner text, of_conversation uuid, of_epoch bigint", "boolean"),
    "end_lost_turns": ("", "SETOF jsonb"),
    "disown_turns": ("runner text, known uuid[]", "void"),
    "take_controls": ("runner text, done bigint[]", "SETOF jsonb"),
}
SMALL_FUNCTIONS = {
    "expire_leases": (
        "runner text",
        "void",
        "BEGIN UPDATE conversations_conversation c SET lease_until = clock_timestamp() WHERE c.holder = runner; END",
    ),
    "last_seqs": (
        "ids uuid[]",
        "TABLE (id uuid, last_seq bigint)",
        "BEGIN RETURN QUERY SELECT c.id, c.last_seq FROM conversations_conversation c WHERE c.id = ANY(ids); END",
    ),
    "delete_old_drafts": (
        "older_than interval",
        "SETOF uuid",
        "BEGIN RETURN QUERY DELETE FROM conversations_conversation c "
        "WHERE c.last_seq = 0 AND c.holder = '' AND c.created_at < clock_timestamp() - older_than "
        "AND NOT EXISTS (SELECT 1 FROM conversations_turn t WHERE t.conversation_id = c.id) RETURNING c.id; END",
    ),
    "packable_conversations": (
        "older_than interval, most integer",
        "TABLE (tenant_id uuid, conversation_id uuid)",
        "BEGIN RETURN QUERY SELECT DISTINCT e.tenant_id, e.conversation_id FROM conversations_event e "
        "WHERE e.at < clock_timestamp() - older_than LIMIT most; END",
    ),
}


def _function(name: str) -> CrossingFunction:
    arguments, returns = FUNCTIONS[name]
    # The columns of a function that answers a table have the names of what it reads.
    body = "#variable_conflict use_column\n" + (SQL / f"{name}.sql").read_text()
    return CrossingFunction(name, arguments, returns, body)


# Runs as whoever calls it, under row-level security like any statement of theirs.
QUEUE_TURN = (
    "CREATE FUNCTION queue_turn(of_tenant uuid, of_conversation uuid, of_author uuid, new_turn uuid, client uuid, "
    "fingerprint text, content jsonb, wanted jsonb, most_waiting integer) RETURNS jsonb LANGUAGE plpgsql "
    f"AS $queue$ {(SQL / 'queue_turn.sql').read_text()} $queue$"
)


class Migration(migrations.Migration):
    dependencies = [("conversations", "0001_initial")]

    operations = [
        *[_function(name) for name in FUNCTIONS],
        *[CrossingFunction(name, *parts) for name, parts in SMALL_FUNCTIONS.items()],
        migrations.RunSQL(QUEUE_TURN),
    ]
