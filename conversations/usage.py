"""What was used and what it cost, added up from the ledger by day, member and model. Days are those of UTC."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal, Self
from uuid import UUID

from django.db import connection
from django.utils.translation import gettext as _

from conversations.ledger import month_after
from tenants.access import Caller
from tenants.errors import InvalidRequest
from tenants.models import Membership
from tenants.roles import Action

type By = Literal["day", "member", "model"]

COLUMNS: dict[By, str] = {"day": "day", "member": "member_id", "model": "model"}
MOST_DAYS = 366

# A turn's requests become one row first, so that what is sorted to count turns is short.
ADD_UP = """
SELECT {columns}, count(DISTINCT turn_id), coalesce(sum(requests), 0)::bigint,
       coalesce(sum(input), 0)::bigint, coalesce(sum(output), 0)::bigint,
       coalesce(sum(cache_read), 0)::bigint, coalesce(sum(cache_write), 0)::bigint,
       coalesce(sum(cost), 0), coalesce(bool_and(exact), true), coalesce(bool_and(priced), true)
FROM (
    SELECT (at AT TIME ZONE 'UTC')::date AS day, member_id, model, turn_id, count(*) AS requests,
           sum(input_tokens) AS input, sum(output_tokens) AS output, sum(cache_read_tokens) AS cache_read,
           sum(cache_write_tokens) AS cache_write, sum(cost_usd) AS cost,
           bool_and(exact) AS exact, bool_and(priced) AS priced
    FROM conversations_ledgerentry
    WHERE tenant_id = %(tenant)s AND at >= %(since)s AND at < %(until)s
      AND (%(member)s::uuid IS NULL OR member_id = %(member)s)
    GROUP BY 1, 2, 3, 4
) AS turns
GROUP BY GROUPING SETS ({sets}, ())
"""


@dataclass(frozen=True, slots=True)
class Period:
    """From the first to the last of these days. InvalidRequest for what can't be."""

    first: date
    last: date

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise InvalidRequest(_("from is after to."))
        if (self.last - self.first).days >= MOST_DAYS or self.last == date.max:
            raise InvalidRequest(_("from and to are at most %(most)d days apart.") % {"most": MOST_DAYS})

    @classmethod
    def month_of(cls, day: date) -> Self:
        return cls(day.replace(day=1), month_after(day) - timedelta(days=1))

    @property
    def times(self) -> tuple[datetime, datetime]:
        """When it begins, and when it is over."""
        after = self.last + timedelta(days=1)
        return datetime.combine(self.first, time(), UTC), datetime.combine(after, time(), UTC)


@dataclass(frozen=True, slots=True)
class Sum:
    """What requests came to. Without turns: what processes asked outside of one.

    `exact`: servers told all tokens, none is estimated. `priced`: all models have a price of their own.
    """

    turns: int = 0
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    exact: bool = True
    priced: bool = True

    @property
    def tokens_in(self) -> int:
        """All that prompts had, cached or not."""
        return self.input_tokens + self.cache_read_input_tokens + self.cache_creation_input_tokens

    @property
    def tokens(self) -> int:
        return self.tokens_in + self.output_tokens

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "tokens": self.tokens, "cost_usd": float(self.cost_usd)}


@dataclass(frozen=True, slots=True)
class Usage:
    """`by` has the sums by what they are of: days in their order, members (ids) and models the dearest first."""

    total: Sum
    by: dict[By, dict[Any, Sum]]


def _dearest(one: tuple[Any, Sum]) -> tuple[Any, ...]:
    key, sums = one
    return -sums.cost_usd, -sums.tokens_in, str(key)


ORDER: dict[By, Callable[[tuple[Any, Sum]], Any]] = {
    "day": lambda one: one[0],
    "member": _dearest,
    "model": _dearest,
}


def sees_everybodys(caller: Caller) -> bool:
    """Whether the caller sees what all members used; others see their own."""
    return caller.may(Action.SEE_USAGE)


def used(caller: Caller, period: Period, by: Sequence[By] = tuple(COLUMNS)) -> Usage:
    """What the caller may see of the period. One statement. Inside the tenant's context."""
    columns = [COLUMNS[one] for one in by]
    since, until = period.times
    asked = {
        "tenant": caller.tenant_id,
        "member": None if sees_everybodys(caller) else caller.member_id,
        "since": since,
        "until": until,
    }
    text = ADD_UP.format(columns=", ".join(columns), sets=", ".join(f"({column})" for column in columns))
    with connection.cursor() as cursor:
        cursor.execute(text, asked)
        rows = [(row[: len(by)], Sum(*row[len(by) :])) for row in cursor.fetchall()]
    # A row names one day, member or model; the one of all names none.
    [total] = [sums for keys, sums in rows if all(key is None for key in keys)]
    found = {one: [(keys[i], sums) for keys, sums in rows if keys[i] is not None] for i, one in enumerate(by)}
    return Usage(total, {one: dict(sorted(sums, key=ORDER[one])) for one, sums in found.items()})


def names_of(members: Iterable[UUID]) -> dict[UUID, Membership]:
    """The members, also those who have left. One statement."""
    return Membership.objects.select_related("user").in_bulk(list(members))
