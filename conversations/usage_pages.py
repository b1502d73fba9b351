"""The page of what was used: a month's sums against the budget, by day, member and model."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.http import HttpResponse
from django.shortcuts import render
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET

from conversations.ledger import month_after
from conversations.pages import TenantRequest
from conversations.surroundings import Surroundings
from conversations.usage import Period, Sum, Usage, names_of, sees_everybodys, used
from tenants.errors import InvalidRequest
from tenants.models import Tenant

FIRST_YEAR, LAST_YEAR = 2000, 2999


@require_GET
def usage(request: TenantRequest, slug: str) -> HttpResponse:
    """Of everybody for who may see that, else the caller's own. `month` is one as in 2026-11, else this one."""
    caller = request.caller
    this = datetime.now(UTC).date().replace(day=1)
    month = _month(request.GET["month"]) if "month" in request.GET else this
    found = used(caller, Period.month_of(month))
    everybodys = sees_everybodys(caller)
    context = {
        "page": Surroundings.of(caller, section="usage"),
        "month": month,
        "before": month - timedelta(days=1),
        "after": month_after(month) if month < this else None,
        "everybodys": everybodys,
        "total": found.total,
        "tenant": Tenant.objects.get(id=caller.tenant_id) if everybodys and month == this else None,
        "tables": _tables(found, everybodys),
    }
    return render(request, "usage.html", context)


def _month(text: str) -> date:
    try:
        month = date.fromisoformat(f"{text}-01")
    except ValueError:
        month = date.min
    if not FIRST_YEAR <= month.year <= LAST_YEAR:
        raise InvalidRequest(_("There is no such month. One is written as in 2026-11."))
    return month


def _tables(found: Usage, everybodys: bool) -> list[dict[str, Any]]:
    """What the tables have: a heading, rows of a name and a sum, and whether models without a price are marked."""
    people = (
        {id: row.user.get_full_name() for id, row in names_of(found.by["member"]).items()}
        if everybodys
        else {}
    )
    days: list[tuple[str, Sum]] = [(date_format(day, "j M"), sums) for day, sums in found.by["day"].items()]
    members = [(people.get(id, _("Somebody else")), sums) for id, sums in found.by["member"].items()]
    models = [(name or _("not told"), sums) for name, sums in found.by["model"].items()]
    tables = [(_("Day"), days), (_("Member"), members if everybodys else []), (_("Model"), models)]
    return [{"head": head, "rows": rows, "marks": rows is models} for head, rows in tables if rows]
