import uuid

import django.db.models.deletion
from django.db import migrations, models

from tenants.rls import ProtectTenantTable

TENANT = models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name="+", to="tenants.tenant")


class Migration(migrations.Migration):
    dependencies = [
        ("conversations", "0009_quick_tiers"),
        ("tenants", "0001_initial"),
    ]

    operations = [
        migrations.CreateModel(
            name="LedgerEntry",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                ("conversation_id", models.UUIDField()),
                ("turn_id", models.UUIDField(blank=True, null=True)),
                ("member_id", models.UUIDField()),
                ("credential_id", models.UUIDField()),
                ("model", models.CharField(blank=True, max_length=120)),
                ("input_tokens", models.BigIntegerField()),
                ("output_tokens", models.BigIntegerField()),
                ("cache_read_tokens", models.BigIntegerField()),
                ("cache_write_tokens", models.BigIntegerField()),
                ("cost_usd", models.DecimalField(decimal_places=8, max_digits=20)),
                ("exact", models.BooleanField()),
                ("priced", models.BooleanField()),
                ("at", models.DateTimeField()),
                ("tenant", TENANT),
            ],
            options={
                "indexes": [
                    models.Index(fields=["tenant", "at"], name="ledger_in_order"),
                    models.Index(fields=["conversation_id"], name="ledger_of_conversation"),
                ]
            },
        ),
        migrations.CreateModel(
            name="MonthSpent",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "tenant_id", "month", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("month", models.DateField()),
                ("cost_usd", models.DecimalField(decimal_places=8, max_digits=20)),
                ("tokens", models.BigIntegerField()),
                ("tenant", TENANT.clone()),
            ],
        ),
        ProtectTenantTable("LedgerEntry"),
        ProtectTenantTable("MonthSpent"),
    ]
