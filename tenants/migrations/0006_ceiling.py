import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("tenants", "0005_audit")]

    operations = [
        migrations.AddField(
            "tenant",
            "ceiling_usd",
            models.DecimalField(
                blank=True,
                decimal_places=2,
                help_text="The tenant's own admins can't change this one. The lower of it and the budget counts.",
                max_digits=12,
                null=True,
                validators=[django.core.validators.MinValueValidator(0)],
                verbose_name="ceiling a month, in USD",
            ),
        ),
    ]
