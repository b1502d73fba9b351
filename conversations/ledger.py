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


def used_up(tenant: Tenant, now: datetime | None = None) -> str | None:
    """Why the tenant may spend no more this month, or None. A trip only where there is a budget."""
    if tenant.budget_usd is None and tenant.budget_tokens is None:
        return None
    month = (now or datetime.now(UTC)).date().replace(day=1)
    spent = MonthSpent.objects.filter(tenant_id=tenant.id, month=month).first()
    usd, tokens = (spent.cost_usd, spent.tokens) if spent else (Decimal(0), 0)
    limits = []
    if tenant.budget_usd is not None and usd >= tenant.budget_usd:
        limits.append(_("%(sum)s USD") % {"sum": tenant.budget_usd})
    if tenant.budget_tokens is not None and tokens >= tenant.budget_tokens:
        limits.append(_("%(sum)s tokens") % {"sum": f"{tenant.budget_tokens:,}"})
    if not limits:
        return None
    return _(
        "This month's budget of %(limit)s is used up. It begins anew on %(day)s; who runs this server can raise it."
    ) % {"limit": limits[0], "day": date_format(_month_after(month), "j F")}


def _month_after(month: date) -> date:
    return date(month.year + month.month // 12, month.month % 12 + 1, 1)
