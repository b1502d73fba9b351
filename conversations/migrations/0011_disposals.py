"""Orders to delete the folders of deleted conversations, written by the deleting transaction itself.

The application may neither read nor write the orders: one tenant's code could else order another's files away.
"""

from django.db import migrations, models

from tenants.rls import CrossingFunction, GrantToCrossing

FUNCTIONS = {
    "order_disposal": (
        "",
        "trigger",
        "BEGIN INSERT INTO conversations_disposal (conversation, runner, ordered_at) "
        "VALUES (OLD.id, coalesce(nullif(OLD.files_on, ''), OLD.holder), clock_timestamp()) "
        "ON CONFLICT (conversation) DO NOTHING; RETURN NULL; END",
    ),
    "disposals_among": (
        "folders uuid[]",
        "SETOF uuid",
        "BEGIN RETURN QUERY SELECT d.conversation FROM conversations_disposal d WHERE d.conversation = ANY(folders) "
        "AND NOT EXISTS (SELECT 1 FROM conversations_conversation c WHERE c.id = d.conversation); END",
    ),
    "note_disposals": (
        "by_runner text, gone uuid[]",
        "void",
        "BEGIN UPDATE conversations_disposal d SET done_at = clock_timestamp() "
        "WHERE d.conversation = ANY(gone) AND d.runner IN ('', by_runner) AND d.done_at IS NULL; END",
    ),
    "open_disposals": (
        "ids uuid[]",
        "TABLE (runner text, folders bigint)",
        "BEGIN RETURN QUERY SELECT d.runner::text, count(*) FROM conversations_disposal d "
        "WHERE d.conversation = ANY(ids) AND d.runner <> '' AND d.done_at IS NULL GROUP BY 1; END",
    ),
}
ORDER = """
    REVOKE ALL ON conversations_disposal FROM PUBLIC;
    DO $grant$ BEGIN
        EXECUTE format('REVOKE ALL ON conversations_disposal FROM %I', current_database() || '_app');
        EXECUTE format('SET LOCAL ROLE %I', current_database() || '_crossing');
        EXECUTE format('GRANT EXECUTE ON FUNCTION order_disposal() TO %I', current_database() || '_owner');
    END $grant$;
    RESET ROLE;
    CREATE TRIGGER order_disposal AFTER DELETE ON conversations_conversation
        FOR EACH ROW WHEN (OLD.epoch > 0) EXECUTE FUNCTION order_disposal();
"""


class Migration(migrations.Migration):
    dependencies = [("conversations", "0010_ledger")]

    operations = [
        migrations.CreateModel(
            name="Disposal",
            fields=[
                ("conversation", models.UUIDField(primary_key=True, serialize=False)),
                ("runner", models.CharField(blank=True, max_length=120)),
                ("ordered_at", models.DateTimeField()),
                ("done_at", models.DateTimeField(blank=True, null=True)),
            ],
        ),
        GrantToCrossing("Disposal", "SELECT, INSERT, UPDATE"),
        *[CrossingFunction(name, *parts) for name, parts in FUNCTIONS.items()],
        migrations.RunSQL(ORDER),
    ]
