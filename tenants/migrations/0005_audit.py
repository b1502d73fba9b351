"""The audit: the application adds events, the database numbers and chains them as their transaction commits."""

import uuid
from pathlib import Path

import django.db.models.deletion
from django.db import migrations, models

import tenants.models
from tenants.acts import Act, Via
from tenants.rls import AppendOnly, CrossingFunction, ProtectTenantTable

SQL = Path(__file__).resolve().parent.parent / "sql"
CHAIN = """
    DO $grant$ BEGIN
        EXECUTE format('SET LOCAL ROLE %I', current_database() || '_crossing');
        EXECUTE format('GRANT EXECUTE ON FUNCTION chain_audit() TO %I', current_database() || '_owner');
    END $grant$;
    RESET ROLE;
    CREATE CONSTRAINT TRIGGER chain_audit AFTER INSERT ON tenants_auditevent
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION chain_audit();
"""


class Migration(migrations.Migration):
    dependencies = [("tenants", "0004_budgets")]

    operations = [
        migrations.CreateModel(
            name="AuditEvent",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "tenant",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.DB_CASCADE, related_name="+", to="tenants.tenant"
                    ),
                ),
                ("number", models.BigIntegerField(editable=False, null=True)),
                ("at", models.DateTimeField(db_default=tenants.models.ClockTimestamp(), editable=False)),
                ("act", models.CharField(choices=Act.choices, max_length=40)),
                ("via", models.CharField(choices=Via.choices, max_length=10)),
                ("actor_id", models.UUIDField(null=True)),
                ("key_id", models.UUIDField(null=True)),
                ("about", models.UUIDField(null=True)),
                ("details", models.JSONField(default=dict)),
                ("digest", models.BinaryField(null=True)),
            ],
            options={
                "verbose_name": "audit event",
                "verbose_name_plural": "audit",
                "constraints": [
                    models.UniqueConstraint(fields=("tenant", "number"), name="audit_event_number")
                ],
                "indexes": [
                    models.Index(fields=["tenant", "actor_id", "act", "at"], name="audit_event_of_actor")
                ],
            },
        ),
        ProtectTenantTable("AuditEvent"),
        AppendOnly("AuditEvent", ["id", "tenant_id", "act", "via", "actor_id", "key_id", "about", "details"]),
        migrations.RunSQL((SQL / "audit_digest.sql").read_text()),
        CrossingFunction("chain_audit", "", "trigger", (SQL / "chain_audit.sql").read_text()),
        migrations.RunSQL(CHAIN),
    ]
