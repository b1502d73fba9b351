"""The audit of a tenant: who may read it, what was refused, who came and went, and whether it is whole.

What was done is noted where it is done, by `AuditEvent.objects.note`, in the same transaction. Here is what has no
such place.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import Error, connection
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _

from tenants.access import Caller
from tenants.acts import Act
from tenants.context import tenant_context
from tenants.errors import InvalidRequest, NotFound
from tenants.models import AuditEvent, User, uuid_of
from tenants.roles import Action

logger = logging.getLogger("parley.audit")

REFUSALS = frozenset({403, 404})
# The first event whose number or digest is not what those before it make it.
FIRST_BREAK = """
    SELECT expected_number FROM (
        SELECT number, digest, row_number() OVER in_order AS expected_number,
               audit_digest(coalesce(lag(digest) OVER in_order, ''), e) AS expected_digest
        FROM tenants_auditevent e WINDOW in_order AS (ORDER BY number)
    ) AS chain
    WHERE number IS DISTINCT FROM expected_number OR digest IS DISTINCT FROM expected_digest
    ORDER BY expected_number LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Chain:
    """How long it is, its last digest, and where the first event stands that is not as it was written, if any."""

    length: int
    digest: str
    broken_at: int | None


# Reading, inside the tenant's context


def events_for(
    caller: Caller, *, act: str | None = None, actor: str | None = None, before: str | None = None
) -> QuerySet[AuditEvent]:
    """The tenant's events, newest first, those of one `act` or one `actor`, those older than the event `before`.

    PermissionDenied; InvalidRequest for an act, NotFound for an event that there is not.
    """
    caller.require(Action.SEE_AUDIT)
    rows = AuditEvent.objects.exclude(number=None).order_by("-number")
    if act is not None:
        if act not in Act.values:
            raise InvalidRequest(_("act is one of: %(acts)s.") % {"acts": ", ".join(Act.values)})
        rows = rows.filter(act=act)
    if actor is not None:
        rows = rows.filter(actor_id=uuid_of(actor))
    if before is not None:
        last = AuditEvent.objects.filter(id=uuid_of(before)).values_list("number", flat=True).first()
        if last is None:
            raise NotFound(_("There is no such event."))
        rows = rows.filter(number__lt=last)
    return rows


def chain() -> Chain:
    """Look at every event of the tenant; takes a second for some hundred thousand."""
    with connection.cursor() as cursor:
        cursor.execute(FIRST_BREAK)
        broken = cursor.fetchone()
    last = AuditEvent.objects.exclude(number=None).order_by("-number").first()
    if last is None:
        return Chain(0, "", broken[0] if broken else None)
    return Chain(last.number or 0, bytes(last.digest or b"").hex(), broken[0] if broken else None)


# Refusals -----------------------------------------------------------------------------------------------------


def note_refusal(caller: Caller, call: str, status: int, about: UUID | None = None) -> None:
    """Keep that the caller was refused something. For a database thread, with no tenant or the caller's named.

    So many a minute of one member only: nobody shall fill the table. Raises nothing: a refusal stays a refusal
    while the database takes no writes.
    """
    since = timezone.now() - timedelta(minutes=1)
    try:
        with tenant_context(caller.tenant_id):
            lately = AuditEvent.objects.filter(
                tenant_id=caller.tenant_id, actor_id=caller.member_id, act=Act.ACCESS_REFUSED, at__gt=since
            )
            if lately.count() < settings.AUDIT_REFUSALS_PER_MINUTE:
                AuditEvent.objects.note(
                    caller.tenant_id, Act.ACCESS_REFUSED, caller, about, call=call, status=status
                )
    except Error as error:
        logger.warning("A refusal could not be noted: %s", error)


def note_refusal_of_tenant(callers: Iterable[Caller], call: str) -> None:
    """Somebody asked for a tenant that is not theirs: it is noted where they belong."""
    for caller in callers:
        note_refusal(caller, call, 404)


def call_of(request: HttpRequest) -> str:
    """The call as the URL table has it, with nothing that the caller wrote."""
    route = request.resolver_match.route if request.resolver_match else ""
    return f"{request.method} /{route}"


def object_of(arguments: Mapping[str, Any]) -> UUID | None:
    """The first id among what a path or a frame names."""
    for value in arguments.values():
        try:
            return value if isinstance(value, UUID) else UUID(value)
        except (ValueError, TypeError, AttributeError):
            continue
    return None


# Accounts: noted in each tenant that the person belongs to ----------------------------------------------------


def note_of_account(callers: Iterable[Caller], act: Act, by: User | None = None, **details: Any) -> None:
    """An act that concerns a person's account: their own, or that of `by`, who operates the platform."""
    for caller in callers:
        try:
            with tenant_context(caller.tenant_id):
                about = caller.member_id if by is not None else None
                AuditEvent.objects.note(caller.tenant_id, act, by or caller, about, **details)
        except Error as error:
            logger.warning("%s could not be noted: %s", act, error)
