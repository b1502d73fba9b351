"""A member who leaves stays known, so that what they wrote stays the tenant's, and all their doors close.
Invitations, found by their token before their tenant is known."""

import uuid
from pathlib import Path

import django.db.models.deletion
from django.db import migrations, models

from tenants.rls import CompositeForeignKey, CrossingFunction, GrantToCrossing, ProtectTenantTable

SQL = Path(__file__).resolve().parent.parent / "sql"
FUNCTIONS = {
    "bearer_of": (
        "key_digest bytea",
        "TABLE (key_id uuid, last_used_at timestamptz, scopes text[],"
        " tenant_id uuid, tenant_slug text, member_id uuid, user_id uuid, role text)",
    ),
    "memberships_of": (
        "person uuid",
        "TABLE (tenant_id uuid, tenant_slug text, tenant_name text, member_id uuid, user_id uuid, role text)",
    ),
    "invitation_of": (
        "token_digest bytea",
        "TABLE (id uuid, tenant_id uuid, tenant_slug text, tenant_name text, email text, role text, inviter text)",
    ),
}


def _function(name: str) -> CrossingFunction:
    arguments, returns = FUNCTIONS[name]
    return CrossingFunction(name, arguments, returns, (SQL / f"{name}.sql").read_text())


class Migration(migrations.Migration):
    dependencies = [("tenants", "0002_platform")]

    operations = [
        migrations.AddField("Membership", "left_at", models.DateTimeField(blank=True, null=True)),
        migrations.CreateModel(
            name="Invitation",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                ("email", models.EmailField(blank=True, max_length=254)),
                (
                    "role",
                    models.CharField(
                        choices=[
                            ("owner", "owner"),
                            ("admin", "admin"),
                            ("member", "member"),
                            ("viewer", "viewer"),
                        ],
                        max_length=10,
                    ),
                ),
                ("digest", models.BinaryField(max_length=32)),
                ("expires_at", models.DateTimeField()),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "invited_by",
                    models.ForeignKey(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="tenants.membership",
                    ),
                ),
                (
                    "tenant",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="+", to="tenants.tenant"
                    ),
                ),
            ],
        ),
        migrations.AddConstraint(
            "Invitation", models.UniqueConstraint(fields=("tenant", "id"), name="invitation_of_tenant")
        ),
        migrations.AddConstraint(
            "Invitation", models.UniqueConstraint(fields=("digest",), name="invitation_digest")
        ),
        ProtectTenantTable("Invitation"),
        CompositeForeignKey("Invitation", "invited_by", "Membership"),
        GrantToCrossing("User", "SELECT (email)"),
        *[_function(name) for name in FUNCTIONS],
    ]
