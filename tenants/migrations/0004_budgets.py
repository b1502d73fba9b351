import django.contrib.postgres.fields
import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("tenants", "0003_belonging")]

    operations = [
        migrations.AddField(
            "tenant",
            "allowed_models",
            django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=120),
                blank=True,
                default=list,
                size=None,
                verbose_name="allowed models",
            ),
        ),
        migrations.AddField(
            "tenant",
            "budget_tokens",
            models.PositiveBigIntegerField(blank=True, null=True, verbose_name="budget a month, in tokens"),
        ),
        migrations.AddField(
            "tenant",
            "budget_usd",
            models.DecimalField(
                blank=True,
                decimal_places=2,
                max_digits=12,
                null=True,
                validators=[django.core.validators.MinValueValidator(0)],
                verbose_name="budget a month, in USD",
            ),
        ),
    ]
