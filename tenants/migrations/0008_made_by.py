"""A key knows the key that it was made with."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("tenants", "0007_proved_addresses")]

    operations = [
        migrations.AddField("apikey", "made_by", models.UUIDField(blank=True, editable=False, null=True)),
    ]
