"""An account has one address. Who may not sign in any more invites nobody."""

from importlib import import_module

from django.db import migrations

belonging = import_module("tenants.migrations.0003_belonging")


class Migration(migrations.Migration):
    dependencies = [("account", "0009_emailaddress_unique_primary_email"), ("tenants", "0006_ceiling")]

    operations = [
        belonging._function("invitation_of"),
        migrations.RunSQL('DELETE FROM account_emailaddress WHERE NOT "primary"'),
    ]
