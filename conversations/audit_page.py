"""The page of the audit: a tenant's admins read who did what, names looked up as they are now."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.http import HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET

from conversations.pages import TenantRequest
from conversations.surroundings import Surroundings
from tenants.acts import Act, Via
from tenants.audit import events_for
from tenants.models import ApiKey, AuditEvent, Credential, Membership

PAGE = 50


@dataclass(frozen=True, slots=True)
class Line:
    """An event in words. `refused`: it was not allowed. `more`: its details, '' if none."""

    at: datetime
    number: int
    who: str
    what: str
    about: str
    more: str
    refused: bool


@require_GET
def audit(request: TenantRequest, slug: str) -> HttpResponse:
    act = request.GET.get("act") or None
    found = events_for(request.caller, act=act, before=request.GET.get("after_id") or None)
    events = list(found.exclude(number=None)[: PAGE + 1])
    shown = events[:PAGE]
    context = {
        "page": Surroundings.of(request.caller, section="audit"),
        "lines": lines_of(shown),
        "act": act,
        "acts": Act.choices,
        "older": str(shown[-1].id) if len(events) > PAGE else "",
        "is_first": not request.GET.get("after_id"),
    }
    return render(request, "audit.html", context)


def lines_of(events: Iterable[AuditEvent]) -> list[Line]:
    """The events as a page tells them. Three queries, however many there are."""
    events = list(events)
    names = _names({id for event in events for id in (event.actor_id, event.about) if id})
    return [_line(event, names) for event in events]


def _line(event: AuditEvent, names: dict[UUID, str]) -> Line:
    act = Act(event.act)
    about = names.get(event.about, str(event.about)[:8]) if event.about else ""
    return Line(
        at=event.at,
        number=event.number or 0,
        who=_who(event, names),
        what=str(act.label),
        about="" if event.about in (event.actor_id, event.tenant_id) else about,
        more=_in_words(event.details),
        refused=act in (Act.ACCESS_REFUSED, Act.SIGN_IN_REFUSED),
    )


def _who(event: AuditEvent, names: dict[UUID, str]) -> str:
    if event.via == Via.OPERATOR:
        return _("Who operates the platform")
    if event.actor_id is None:
        return _("A command on the server")
    return names.get(event.actor_id, _("Somebody else"))


def _names(ids: set[UUID]) -> dict[UUID, str]:
    """What is called by name: people, keys, credentials. A conversation's title is its readers' alone."""
    people = Membership.objects.select_related("user").filter(id__in=ids)
    found = {row.id: row.user.get_full_name() for row in people}
    for model in (ApiKey, Credential):
        found |= dict(model._default_manager.filter(id__in=ids).values_list("id", "name"))
    return found


def _in_words(details: dict[str, Any]) -> str:
    """As in "role: viewer · scopes: read, write"."""
    return " · ".join(f"{name}: {_value(value)}" for name, value in details.items() if value is not None)


def _value(value: Any) -> str:
    match value:
        case dict():
            return ", ".join(f"{name} {_value(inner)}".strip() for name, inner in value.items())
        case list():
            return ", ".join(map(_value, value))
        case bool():
            return _("yes") if value else _("no")
        case None:
            return _("none")
    return str(value)
