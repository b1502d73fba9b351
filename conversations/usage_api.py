"""The HTTP mouth of usage."""

from datetime import UTC, date, datetime
from typing import Any

from django.http import HttpRequest
from django.utils.translation import gettext as _
from ninja import Field, Query, Router, Schema

from conversations.usage import By, Period, Sum, names_of, sees_everybodys, used
from tenants.access import Caller
from tenants.context import in_tenant
from tenants.errors import InvalidRequest

router = Router(tags=["usage"])

type Record = dict[str, Any]


class UsageQuery(Schema):
    """Days of UTC, both included; without them this month so far."""

    from_: str = Field("", alias="from")
    to: str = ""
    by: By = "day"


@router.get(
    "/usage", summary="Tokens, cost and turns by day, member or model; who is no admin sees their own"
)
async def usage(request: HttpRequest, query: Query[UsageQuery]) -> Record:
    caller: Caller = request.auth  # type: ignore[attr-defined]  # set by ninja
    last = _day("to", query.to) or datetime.now(UTC).date()
    period = Period(_day("from", query.from_) or last.replace(day=1), last)
    return await in_tenant(caller.tenant_id, _usage, caller, period, query.by)


def _day(name: str, text: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise InvalidRequest(_("%(name)s is a day, as in 2026-11-23.") % {"name": name}) from None


def _usage(caller: Caller, period: Period, by: By) -> Record:
    found = used(caller, period, [by])
    return {
        "from": period.first.isoformat(),
        "to": period.last.isoformat(),
        "by": by,
        "whose": "tenant" if sees_everybodys(caller) else "member",
        "data": _records(by, found.by[by]),
        "total": found.total.as_json(),
    }


def _records(by: By, sums: dict[Any, Sum]) -> list[Record]:
    """Each sum with what it is of; a member by their id, name and e-mail."""
    known = names_of(sums) if by == "member" else {}
    records = []
    for key, one in sums.items():
        named = known.get(key)
        person = {"name": named.user.name, "email": named.user.email} if named else {}
        records.append({by: str(key), **person, **one.as_json()})
    return records
