"""Conversations that the whole tenant reads."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("conversations", "0007_queued_turns")]

    operations = [
        migrations.AddField("Conversation", "is_shared", models.BooleanField(default=False)),
        migrations.AddIndex(
            "Conversation",
            models.Index(
                fields=["tenant", "-updated_at"],
                condition=models.Q(is_shared=True),
                name="conversation_shared",
            ),
        ),
    ]
