"""What requests to models came to: an entry for each, and a sum a month, which budgets are held against."""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

from django.db import connection
from django.utils.formats import date_format
from django.utils.translation import gettext as _

from claude_runner import Spending
from claude_runner.prices import DEAREST, price_of
from conversations.models import MonthSpent
from tenants.models import Tenant
from tenants.roles import CredentialKind

# Told again after an unknown outcome, an entry is there already and adds nothing to the sum.
KEEP = """
WITH kept AS (
    INSERT INTO conversations_ledgerentry
           (id, tenant_id, conversation_id, turn_id, member_id, credential_id, model, input_tokens,
            output_tokens, cache_read_tokens, cache_write_tokens, cost_usd, exact, priced, at)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, clock_timestamp())
    ON CONFLICT (id) DO NOTHING
    RETURNING tenant_id, date_trunc('month', at AT TIME ZONE 'UTC')::date AS month, cost_usd,
              input_tokens + output_tokens + cache_read_tokens + cache_write_tokens AS tokens
)
INSERT INTO conversations_monthspent AS sum (tenant_id, month, cost_usd, tokens)
SELECT tenant_id, month, cost_usd, tokens FROM kept
ON CONFLICT (tenant_id, month)
DO UPDATE SET cost_usd = sum.cost_usd + excluded.cost_usd, tokens = sum.tokens + excluded.tokens
"""


@dataclass(frozen=True, slots=True)
class Payer:
    """Whom an entry names: the turn is None for what a process did outside of one."""

    tenant: UUID
    conversation: UUID
    turn: UUID | None
    member: UUID
    credential: UUID
    credential_kind: str


def keep(payer: Payer, spending: Spending) -> None:
    """Enter what a request came to. One trip; safe to repeat. Inside the tenant's context."""
    tokens = spending.tokens
    if tokens is None:
        return
    price = price_of(spending.model)
    # Whose model it is names its price; one that Anthropic serves and we don't know must not be free.
    guess = None if payer.credential_kind == CredentialKind.ENDPOINT else DEAREST
    charged = price or guess
    entry = [
        spending.request,
        payer.tenant,
        payer.conversation,
        payer.turn,
        payer.member,
        payer.credential,
        storable_name(spending.model),
        tokens.input,
        tokens.output,
        tokens.cache_read,
        tokens.cache_write,
        charged.of(tokens) if charged else Decimal(0),
        tokens.exact,
        price is not None,
    ]
    with connection.cursor() as cursor:
        cursor.execute(KEEP, entry)


def storable_name(model: str) -> str:
    """A name as a server or an agent wrote it, fit for a column of text."""
    return "".join(sign for sign in model if sign.isprintable())[:120]


@dataclass(frozen=True, slots=True)
class Spent:
    """What a tenant's requests came to so far in the month that begins with `month`."""

    month: date
    cost_usd: Decimal = Decimal(0)
    tokens: int = 0

    @property
    def begins_anew(self) -> date:
        return month_after(self.month)


def month_after(day: date) -> date:
    """The first day of the next month."""
    return date(day.year + day.month // 12, day.month % 12 + 1, 1)


def spent(tenant: Tenant, now: datetime | None = None) -> Spent:
    """One row to look at. Inside the tenant's context."""
    month = (now or datetime.now(UTC)).date().replace(day=1)
    sums = MonthSpent.objects.filter(tenant_id=tenant.id, month=month).first()
    return Spent(month, sums.cost_usd, sums.tokens) if sums else Spent(month)


def used_up(tenant: Tenant, now: datetime | None = None) -> str | None:
    """Why the tenant may spend no more this month, or None. A trip only where there is a limit."""
    if tenant.limit_usd is None and tenant.budget_tokens is None:
        return None
    so_far = spent(tenant, now)
    usd, own, others = _("%(sum)s USD"), _("an admin of this tenant"), _("who runs this server")
    limits: list[tuple[Decimal | int | None, Decimal | int, str, str]] = [
        (tenant.ceiling_usd, so_far.cost_usd, usd, others),
        (tenant.budget_usd, so_far.cost_usd, usd, own),
        (tenant.budget_tokens, so_far.tokens, _("%(sum)s tokens"), own),
    ]
    for limit, sum_, unit, who in limits:
        if limit is not None and sum_ >= limit:
            return _(
                "This month's budget of %(limit)s is used up. It begins anew on %(day)s; %(who)s can raise it."
            ) % {
                "limit": unit % {"sum": f"{limit:,}"},
                "day": date_format(so_far.begins_anew, "j F"),
                "who": who,
            }
    return None
