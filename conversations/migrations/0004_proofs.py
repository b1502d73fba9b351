"""What runner hosts publish of themselves: each probe, why they refuse turns, for whom they work."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("conversations", "0003_claim_kind")]

    operations = [
        migrations.AlterModelOptions(
            name="runnerhost",
            options={"verbose_name": "runner host", "verbose_name_plural": "Isolation of runner hosts"},
        ),
        migrations.AddField("runnerhost", "findings", models.JSONField(default=list)),
        migrations.AddField("runnerhost", "proved_at", models.DateTimeField(blank=True, null=True)),
        migrations.AddField("runnerhost", "refuses", models.TextField(blank=True, default=""), False),
        migrations.AddField("runnerhost", "any_tenant", models.BooleanField(default=True)),
        migrations.AddField("runnerhost", "turns_ended", models.JSONField(default=dict)),
    ]
