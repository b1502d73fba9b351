"""What requests came to: entered once, summed up by month, and held against the tenant's budget."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from django.test.utils import CaptureQueriesContext

from claude_runner import Refused, Spending, Tokens
from conversations.accounts import TurnAccount
from conversations.ledger import used_up
from conversations.models import LedgerEntry, MonthSpent
from tenants.context import across_tenants, in_tenant, tenant_context
from tenants.drafts import CredentialDraft
from tenants.models import Credential, Tenant
from tests.cast import House, Person

TOKENS = Tokens(input=100_000, output=10_000)
PRICE = Decimal("0.30") + Decimal("0.15")  # of claude-sonnet-4-5


def account_of(person: Person, kind: str = "api_key") -> TurnAccount:
    draft = CredentialDraft.checked(name="Ours", kind="api_key", secret="sk-0123456789")
    with tenant_context(person.caller.tenant_id):
        kept = Credential.objects.create_for(person.caller, draft, default=True)
        Credential.objects.filter(id=kept.id).update(kind=kind)
    return TurnAccount(person.caller.tenant_id, uuid4(), person.caller.member_id, uuid4())


async def spend(account: TurnAccount, model: str = "claude-sonnet-4-5", **other: Any) -> Spending:
    spending = Spending(uuid4(), 200, model, other.pop("tokens", TOKENS))
    await account.settle(await account.admit(), spending)
    return spending


def ledger(house: House) -> list[LedgerEntry]:
    with tenant_context(house.id):
        return list(LedgerEntry.objects.order_by("at"))


def month(house: House) -> tuple[Decimal, int]:
    with tenant_context(house.id):
        sums = list(MonthSpent.objects.all())
    assert len(sums) <= 1
    return (sums[0].cost_usd, sums[0].tokens) if sums else (Decimal(0), 0)


def set_budget(house: House, **budget: Any) -> None:
    with tenant_context(house.id):
        Tenant.objects.filter(id=house.id).update(**budget)


async def asked(function: Any, *args: Any, **named: Any) -> Any:
    """On a database thread, where the functions above name their tenant themselves."""
    return await across_tenants(function, *args, **named)


async def test_an_entry_says_who_for_what_and_how_much(house: House, member: Person) -> None:
    account = await asked(account_of, member)
    spending = await spend(account)
    [entry] = await asked(ledger, house)
    assert (entry.id, entry.conversation_id, entry.turn_id) == (
        spending.request,
        account.conversation,
        account.turn,
    )
    assert entry.member_id == member.caller.member_id
    assert (entry.model, entry.input_tokens, entry.output_tokens) == ("claude-sonnet-4-5", 100_000, 10_000)
    assert (entry.cost_usd, entry.exact, entry.priced) == (PRICE, True, True)
    assert await asked(month, house) == (PRICE, 110_000)


async def test_told_twice_it_counts_once(house: House) -> None:
    account = await asked(account_of, house.owner)
    spending = await spend(account)
    await account.settle(await account.admit(), spending)
    await spend(account)
    assert len(await asked(ledger, house)) == 2
    assert await asked(month, house) == (2 * PRICE, 220_000)


async def test_a_model_of_an_endpoint_that_has_no_price_costs_nothing_and_says_so(house: House) -> None:
    account = await asked(account_of, house.owner, "endpoint")
    await spend(account, "offline-scripted")
    [entry] = await asked(ledger, house)
    assert (entry.cost_usd, entry.priced) == (0, False)
    assert await asked(month, house) == (0, 110_000)


async def test_an_unknown_model_of_anthropic_is_never_free(house: House) -> None:
    account = await asked(account_of, house.owner)
    await spend(account, "claude-of-tomorrow\x00\u202e")
    [entry] = await asked(ledger, house)
    assert (entry.cost_usd, entry.priced) == (Decimal("1.5") + Decimal("0.75"), False)
    assert entry.model == "claude-of-tomorrow"


async def test_what_used_nothing_is_no_entry(house: House) -> None:
    account = await asked(account_of, house.owner)
    await account.settle(await account.admit(), Spending(uuid4(), 429))
    assert await asked(ledger, house) == []


async def test_an_unused_budget_lets_pass_and_a_used_one_does_not(house: House) -> None:
    account = await asked(account_of, house.owner)
    await asked(set_budget, house, budget_usd=Decimal("0.50"))
    await spend(account)
    await spend(account)
    with pytest.raises(
        Refused, match=r"This month's budget of 0.50 USD is used up. It begins anew on 1 "
    ) as why:
        await account.admit()
    assert (why.value.type, why.value.status) == ("billing_error", 402)
    await asked(set_budget, house, budget_usd=Decimal(5), budget_tokens=200_000)
    with pytest.raises(Refused, match="200,000 tokens is used up"):
        await account.admit()
    await asked(set_budget, house, budget_tokens=None)
    await account.admit()


@pytest.mark.parametrize("own", [None, Decimal(100)])
async def test_the_operators_ceiling_holds_whatever_budget_a_tenant_sets_itself(
    house: House, own: Decimal | None
) -> None:
    account = await asked(account_of, house.owner)
    await asked(set_budget, house, budget_usd=own, ceiling_usd=Decimal("0.40"))
    await spend(account)
    with pytest.raises(Refused, match=r"budget of 0.40 USD is used up.* who runs this server can raise it"):
        await account.admit()
    await asked(set_budget, house, ceiling_usd=Decimal(1))
    await account.admit()
    await asked(set_budget, house, budget_usd=Decimal("0.10"))
    with pytest.raises(
        Refused, match=r"budget of 0.10 USD is used up.* an admin of this tenant can raise it"
    ):
        await account.admit()


async def test_a_budget_of_nothing_allows_nothing(house: House) -> None:
    account = await asked(account_of, house.owner)
    await asked(set_budget, house, budget_usd=0)
    with pytest.raises(Refused, match="used up"):
        await account.admit()


async def test_a_budget_begins_anew_with_the_month(house: House) -> None:
    account = await asked(account_of, house.owner)
    await asked(set_budget, house, budget_usd=Decimal("0.10"))
    await spend(account)
    tenant = await in_tenant(house.id, Tenant.objects.get, id=house.id)
    this = (await in_tenant(house.id, MonthSpent.objects.get)).month

    async def at(year: int, number: int) -> str | None:
        return await in_tenant(house.id, used_up, tenant, datetime(year, number, 3, tzinfo=UTC))

    assert "used up" in str(await at(this.year, this.month))
    assert await at(this.year + 1, this.month) is None
    await in_tenant(house.id, MonthSpent.objects.update, month=this.replace(month=12))
    assert "1 January" in str(await at(this.year, 12))


async def test_another_tenants_spending_is_not_ours(house: House, stranger: Person) -> None:
    theirs = await asked(account_of, stranger)
    await spend(theirs)
    assert await asked(ledger, house) == []
    assert await asked(month, house) == (0, 0)


async def test_the_allowed_models_go_with_the_grant(house: House) -> None:
    account = await asked(account_of, house.owner)
    assert (await account.admit()).models == frozenset()
    await asked(set_budget, house, allowed_models=["claude-sonnet-5"])
    assert (await account.admit()).models == {"claude-sonnet-5"}


def test_the_command_sets_and_lifts_a_budget(house: House) -> None:
    def budgets() -> tuple[Decimal | None, int | None, Decimal | None]:
        with tenant_context(house.id):
            tenant = Tenant.objects.get(id=house.id)
            return tenant.budget_usd, tenant.budget_tokens, tenant.ceiling_usd

    call_command("set_budget", house.slug, "12.5", "--tokens", "1000")
    assert budgets() == (Decimal("12.50"), 1000, None)
    call_command("set_budget", house.slug, "none", "--ceiling", "20")
    assert budgets() == (None, 1000, Decimal(20))
    call_command("set_budget", house.slug, "none", "--ceiling", "none")
    for wrong in ("much", "-1", "NaN", "1e30"):
        with pytest.raises(CommandError):
            call_command("set_budget", house.slug, wrong)
    with pytest.raises(CommandError, match="no tenant"):
        call_command("set_budget", house.slug[:-1], "1")
    assert budgets() == (None, 1000, None)


def test_asking_and_telling_cost_one_statement_each(house: House) -> None:
    account = account_of(house.owner)
    with tenant_context(house.id):
        account._admit()  # notes that the credential is used, once a minute
        with CaptureQueriesContext(connection) as asked:
            grant = account._admit()
        opened = account._opened[grant]
        with CaptureQueriesContext(connection) as told:
            account._settle(opened, Spending(uuid4(), 200, "claude-sonnet-5", TOKENS), None)
    assert (len(asked), len(told)) == (1, 1)
