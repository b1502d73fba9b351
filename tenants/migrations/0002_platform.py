"""What platform admins need: the list of tenants, and a tenant's least sandbox tier."""

from django.db import migrations, models

from tenants.rls import CrossingFunction

LIST_TENANTS = """
BEGIN
    RETURN QUERY SELECT t.id, t.slug::text, t.name::text, t.created_at FROM tenants_tenant t
    WHERE like_text = '' OR strpos(t.slug, lower(like_text)) > 0 OR strpos(lower(t.name), lower(like_text)) > 0
    ORDER BY t.slug LIMIT most;
END
"""


class Migration(migrations.Migration):
    dependencies = [("tenants", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="tenant",
            name="least_tier",
            field=models.CharField(
                blank=True,
                choices=[
                    ("bubblewrap-uid", "bubblewrap with a user of its own"),
                    ("bubblewrap", "bubblewrap"),
                    ("landlock", "Landlock and seccomp"),
                    ("none", "none"),
                ],
                default="",
                help_text="Turns wait for a host that is good enough. Empty: whatever the operator runs.",
                max_length=20,
                verbose_name="least sandbox",
            ),
            preserve_default=False,
        ),
        CrossingFunction(
            "list_tenants",
            "like_text text, most integer",
            "TABLE (id uuid, slug text, name text, created_at timestamptz)",
            LIST_TENANTS,
        ),
    ]
