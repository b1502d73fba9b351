"""The HTTP mouth of the audit: to read, page by page, and to see whether it is whole."""

from typing import Any

from django.http import HttpRequest
from django.utils.translation import gettext as _
from ninja import Query, Router, Schema

from tenants.access import Caller
from tenants.audit import events_for
from tenants.context import in_tenant
from tenants.errors import InvalidRequest
from tenants.models import AuditEvent

router = Router(tags=["audit"])

type Record = dict[str, Any]

PAGE = 100
MOST = 1000


class AuditQuery(Schema):
    """`act` and `actor` pick events; `after_id` is the last one of the page before."""

    act: str | None = None
    actor: str | None = None
    limit: int = PAGE
    after_id: str | None = None


@router.get("/audit", summary="What was done in the tenant, newest first")
async def list_events(request: HttpRequest, query: Query[AuditQuery]) -> Record:
    caller: Caller = request.auth  # type: ignore[attr-defined]  # set by ninja
    return await in_tenant(caller.tenant_id, _list, caller, query)


def event_record(event: AuditEvent) -> Record:
    """An event as the wire shows it. `digest` is its SHA-256 together with that of the event before it."""
    return {
        "id": str(event.id),
        "number": event.number,
        "at": event.at.isoformat(),
        "act": event.act,
        "via": event.via,
        "actor": str(event.actor_id) if event.actor_id else None,
        "api_key": str(event.key_id) if event.key_id else None,
        "about": str(event.about) if event.about else None,
        "details": event.details,
        "digest": bytes(event.digest or b"").hex(),
    }


# Inside the tenant's context ------------------------------------------------------------------------------


def _list(caller: Caller, query: AuditQuery) -> Record:
    if not 1 <= query.limit <= MOST:
        raise InvalidRequest(_("limit is a whole number from 1 to %(most)d.") % {"most": MOST})
    found = events_for(caller, act=query.act, actor=query.actor, before=query.after_id)
    rows = list(found[: query.limit + 1])
    page = [event_record(row) for row in rows[: query.limit]]
    return {
        "data": page,
        "has_more": len(rows) > query.limit,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
    }
