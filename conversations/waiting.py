"""Why a queued turn waits that no live host may take: said in its conversation, once for each reason."""

import json
from datetime import datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models import TextChoices
from django.utils.translation import gettext_lazy as _

from conversations.events import Wire

# Runners restart: what is over by itself in a moment needs no explanation.
PATIENCE = timedelta(seconds=4)


class Reason(TextChoices):
    """What keeps a turn waiting, with the sentence for the person."""

    NO_RUNNER = "no_runner", _("No runner is up. Your message is kept, and starts as soon as one is.")
    BROKEN_SANDBOX = (
        "broken_sandbox",
        _(
            "The runners take no messages, because their sandbox does not pass its checks any more. "
            "Your message is kept, and starts when it does again."
        ),
    )
    WEAK_SANDBOX = (
        "weak_sandbox",
        _(
            "No runner that is up has a sandbox as strong as this tenant asks for. "
            "Your message is kept, and starts when one comes up."
        ),
    )
    ONE_TENANT = (
        "one_tenant",
        _(
            "The runners that are up have no sandbox, and so work for one tenant only, which is another one. "
            "Your message is kept, and starts when a runner with a sandbox comes up."
        ),
    )


def explain_waiting(patience: timedelta = PATIENCE) -> list[Wire]:
    """Write what there is to say of waiting turns, of all tenants; the events to publish."""
    sentences = json.dumps({reason.value: str(reason.label) for reason in Reason})
    with connection.cursor() as cursor:
        arguments: list[Any] = [sentences, patience]
        cursor.execute("SELECT explain_waiting(%s::jsonb, %s)", arguments)
        events = [json.loads(text) for (text,) in cursor.fetchall()]
    return [event | {"at": datetime.fromisoformat(event["at"]).isoformat()} for event in events]
