"""What was used, added up: by day, member and model; everybody's for admins, else one's own."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from asgiref.sync import sync_to_async
from django.db import connection
from django.test.utils import CaptureQueriesContext

from conversations.models import LedgerEntry
from conversations.usage import Period, Sum, used
from tenants.context import tenant_context
from tenants.errors import InvalidRequest
from tenants.members import remove
from tenants.models import Tenant
from tenants.roles import Role
from tests.cast import House, Person, found_house
from tests.conversations.test_api import Program
from tests.conversations.test_pages import page, text_of

NOVEMBER = Period(date(2026, 11, 1), date(2026, 11, 30))


def spend(
    person: Person,
    day: str,
    model: str = "claude-sonnet-5",
    cost: str = "0.5",
    turn: UUID | None = None,
    **more: Any,
) -> LedgerEntry:
    """One request as the ledger has it; of a turn of its own unless one is named."""
    given = {"exact": True, "priced": True} | more
    with tenant_context(person.caller.tenant_id):
        return LedgerEntry.objects.create(
            tenant_id=person.caller.tenant_id,
            conversation_id=uuid4(),
            turn_id=turn or uuid4(),
            member_id=person.caller.member_id,
            credential_id=uuid4(),
            model=model,
            input_tokens=100,
            output_tokens=10,
            cache_read_tokens=1000,
            cache_write_tokens=5,
            cost_usd=Decimal(cost),
            at=datetime.fromisoformat(day).replace(tzinfo=UTC),
            **given,
        )


def busy_month(house: House) -> None:
    """Two members, two models, two days; a turn of two requests; and what lies outside."""
    turn = uuid4()
    spend(house.owner, "2026-11-01T00:00:00", turn=turn)
    spend(house.owner, "2026-11-01T23:59:59", "claude-haiku-5-5", "0.25", turn=turn)
    spend(house.member, "2026-11-30T23:59:59", cost="2")
    spend(house.member, "2026-10-31T23:59:59", cost="100")
    spend(house.member, "2026-12-01T00:00:00", cost="100")
    spend(found_house("neighbours").owner, "2026-11-15T12:00:00", cost="100")


def told(sums: dict[Any, Sum]) -> dict[str, tuple[int, int, Decimal]]:
    return {str(key): (one.turns, one.requests, one.cost_usd) for key, one in sums.items()}


def test_an_admin_sees_what_everybody_used(house: House) -> None:
    busy_month(house)
    owner, member = str(house.owner.caller.member_id), str(house.member.caller.member_id)
    with tenant_context(house.id):
        found = used(house.admin.caller, NOVEMBER)
    assert told(found.by["day"]) == {
        "2026-11-01": (1, 2, Decimal("0.75")),
        "2026-11-30": (1, 1, Decimal(2)),
    }
    assert told(found.by["member"]) == {member: (1, 1, Decimal(2)), owner: (1, 2, Decimal("0.75"))}
    assert list(told(found.by["member"])) == [member, owner], "the dearest first"
    assert told(found.by["model"]) == {
        "claude-sonnet-5": (2, 2, Decimal("2.5")),
        "claude-haiku-5-5": (1, 1, Decimal("0.25")),
    }
    assert (found.total.turns, found.total.requests, found.total.cost_usd) == (2, 3, Decimal("2.75"))
    assert (found.total.tokens_in, found.total.output_tokens, found.total.tokens) == (3315, 30, 3345)


@pytest.mark.parametrize("role", ["member", "viewer"])
def test_others_see_their_own_alone(house: House, role: str) -> None:
    busy_month(house)
    person = getattr(house, role)
    with tenant_context(house.id):
        found = used(person.caller, NOVEMBER)
    spent = Decimal(2) if role == "member" else Decimal(0)
    assert found.total.cost_usd == spent
    assert set(found.by["member"]) <= {person.caller.member_id}


def test_what_is_estimated_or_has_no_price_is_said(house: House) -> None:
    spend(house.owner, "2026-11-01T10:00:00", "known")
    spend(house.owner, "2026-11-01T10:00:00", "unknown", "0", exact=False, priced=False)
    with tenant_context(house.id):
        found = used(house.owner.caller, NOVEMBER)
    models = {name: (one.exact, one.priced) for name, one in found.by["model"].items()}
    assert models == {"known": (True, True), "unknown": (False, False)}
    assert (found.total.exact, found.total.priced) == (False, False)


def test_a_month_without_anything_is_all_nought(house: House) -> None:
    with tenant_context(house.id):
        found = used(house.owner.caller, NOVEMBER)
    assert found.total == Sum()
    assert not any(found.by.values())


def test_a_period_that_can_not_be_is_refused() -> None:
    day = date(2026, 11, 2)
    for first, last in (
        (day, date(2026, 11, 1)),
        (date(2025, 11, 1), day),
        (date.max, date.max),
        (date.min, day),
    ):
        with pytest.raises(InvalidRequest):
            Period(first, last)
    assert Period(day, day).times == (datetime(2026, 11, 2, tzinfo=UTC), datetime(2026, 11, 3, tzinfo=UTC))
    assert Period.month_of(date(2028, 2, 10)) == Period(date(2028, 2, 1), date(2028, 2, 29))
    assert Period.month_of(date(2026, 12, 31)) == Period(date(2026, 12, 1), date(2026, 12, 31))


def test_it_is_one_statement_that_reads_the_tenants_days_by_their_index(house: House) -> None:
    busy_month(house)
    caller = house.admin.caller
    with tenant_context(house.id), CaptureQueriesContext(connection) as asked:
        used(caller, NOVEMBER)
    [statement] = [query["sql"] for query in asked]
    with tenant_context(house.id), connection.cursor() as cursor:
        # Where there are few rows it would read them all.
        cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        cursor.execute("EXPLAIN " + statement)
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert "Index Scan using ledger_in_order" in plan
    [condition] = [line for line in plan.splitlines() if "Index Cond" in line]
    assert "tenant_id = " in condition and "at >= " in condition and "at < " in condition


# The API ------------------------------------------------------------------------------------------------------


async def test_the_api_tells_it_by_day_member_or_model(house: House, admin: Person) -> None:
    await sync_to_async(busy_month)(house)
    program, asked = Program(admin.key), "/usage?from=2026-11-01&to=2026-11-30"
    found = await program.get(asked)
    assert (found["from"], found["to"], found["by"], found["whose"]) == (
        "2026-11-01",
        "2026-11-30",
        "day",
        "tenant",
    )
    assert found["data"][0] == {
        "day": "2026-11-01",
        "turns": 1,
        "requests": 2,
        "tokens": 2230,
        "input_tokens": 200,
        "output_tokens": 20,
        "cache_read_input_tokens": 2000,
        "cache_creation_input_tokens": 10,
        "cost_usd": 0.75,
        "exact": True,
        "priced": True,
    }
    assert (found["total"]["turns"], found["total"]["cost_usd"]) == (2, 2.75)
    by_member = await program.get(f"{asked}&by=member")
    assert [(one["member"], one["email"], one["name"], one["cost_usd"]) for one in by_member["data"]] == [
        (str(one.caller.member_id), one.user.email, one.user.name, cost)
        for one, cost in ((house.member, 2.0), (house.owner, 0.75))
    ]
    by_model = await program.get(f"{asked}&by=model")
    assert [one["model"] for one in by_model["data"]] == ["claude-sonnet-5", "claude-haiku-5-5"]
    assert by_member["total"] == by_model["total"] == found["total"]


async def test_without_days_it_tells_this_month_so_far(house: House, owner: Person) -> None:
    now = datetime.now(UTC)
    await sync_to_async(spend)(owner, now.isoformat())
    found = await Program(owner.key).get("/usage")
    assert (found["from"], found["to"]) == (now.date().replace(day=1).isoformat(), now.date().isoformat())
    assert [one["day"] for one in found["data"]] == [now.date().isoformat()]
    before = (now.date().replace(day=1) - timedelta(days=1)).isoformat()
    found = await Program(owner.key).get(f"/usage?to={before}")
    assert (found["from"], found["data"]) == (f"{before[:8]}01", [])


async def test_a_members_key_tells_their_own(house: House, member: Person) -> None:
    await sync_to_async(busy_month)(house)
    for key in (member.key, await sync_to_async(member.key_for)(frozenset({"read"}))):
        found = await Program(key).get("/usage?from=2026-11-01&to=2026-11-30&by=member")
        assert (found["whose"], found["total"]["cost_usd"]) == ("member", 2.0)
        assert [one["member"] for one in found["data"]] == [str(member.caller.member_id)]


@pytest.mark.parametrize(
    "query",
    [
        "from=yesterday",
        "to=2026-13-01",
        "from=2026-11-02&to=2026-11-01",
        "from=2020-01-01&to=2026-01-01",
        "by=hour",
        "by=",
        "from=0001-01-01",
        "from=9999-12-31&to=9999-12-31",
        "from=%00&to=2026-11-01",
    ],
)
async def test_what_makes_no_sense_is_a_clear_400(owner: Person, query: str) -> None:
    program = Program(owner.key)
    assert await program.refused("GET", f"/usage?{query}") == (400, "invalid_request_error")
    said = (await program.call("GET", f"/usage?{query}")).json()["error"]["message"]
    assert said.startswith(("from", "to", "by")), said


# The page -----------------------------------------------------------------------------------------------------


def here(house: House, query: str = "") -> str:
    return f"/t/{house.slug}/usage/{query}"


def rows_of(found: Any, head: str) -> list[list[str]]:
    [table] = found.xpath("//table[thead//th[1][normalize-space() = $head]]", head=head)
    return [[text_of(cell) for cell in row.xpath("th | td")] for row in table.xpath(".//tr")][1:]


def test_a_month_is_told_by_day_member_and_model_with_totals(house: House) -> None:
    busy_month(house)
    found = page(house.admin.client, here(house, "?month=2026-11"))
    total = ["In all", "2", "3,315", "30", "$2.75"]
    assert rows_of(found, "Day") == [
        ["1 Nov", "1", "2,210", "20", "$0.75"],
        ["30 Nov", "1", "1,105", "10", "$2.00"],
        total,
    ]
    assert [row[0] for row in rows_of(found, "Member")] == ["Member", "Owner", "In all"]
    assert [row[0] for row in rows_of(found, "Model")] == ["claude-sonnet-5", "claude-haiku-5-5", "In all"]
    links = found.xpath("//nav[@class='months']/a/@href")
    assert links[0] == "?month=2026-10"


def test_a_member_finds_their_own_and_no_budget(house: House) -> None:
    busy_month(house)
    with tenant_context(house.id):
        Tenant.objects.update(budget_usd=5)
    found = page(house.member.client, here(house, "?month=2026-11"))
    sums = ["1", "1,105", "10", "$2.00"]
    assert rows_of(found, "Day") == [["30 Nov", *sums], ["In all", *sums]]
    assert not found.xpath("//table[thead//th[1][normalize-space() = 'Member']]")
    spend(house.member, datetime.now(UTC).isoformat())
    now = page(house.member.client, here(house))
    assert "of $5.00" not in text_of(now) and not now.xpath("//progress")


def test_this_month_stands_beside_the_budget(house: House) -> None:
    now = datetime.now(UTC).isoformat()
    spend(house.owner, now, cost="1.5")
    with tenant_context(house.id):
        Tenant.objects.update(budget_usd=5, ceiling_usd=3, budget_tokens=1000)
    found = page(house.owner.client, here(house))
    [cost, tokens] = found.xpath("//dl[@class='spent']/div[dd/progress]")
    assert text_of(cost) == "Cost $1.50 of $3.00", "the operator's ceiling is the lower one"
    assert (cost.get("data-state"), tokens.get("data-state")) == (None, "over")
    assert text_of(tokens) == "Tokens 1,115 of 1,000"
    assert [float(bar.get("max")) for bar in found.xpath("//progress")] == [3, 1000]


def test_an_empty_month_says_so_and_offers_the_first_step(house: House) -> None:
    found = page(house.member.client, here(house, "?month=2026-11"))
    assert "Nothing was used in November 2026." in text_of(found)
    assert found.xpath("//main//a[@class='button']/@href") == [f"/t/{house.slug}/"]
    assert not page(house.viewer.client, here(house)).xpath("//main//a[@class='button']")


@pytest.mark.parametrize("month", ["", "2026", "2026-13", "1999-12", "9999-12", "x", "2026-11-01"])
def test_what_is_no_month_is_refused(house: House, month: str) -> None:
    assert "no such month" in text_of(page(house.owner.client, here(house, f"?month={month}"), 400))


def test_who_has_left_is_still_named(house: House) -> None:
    busy_month(house)
    with tenant_context(house.id):
        remove(house.owner.caller, house.member.membership.id)
    found = page(house.owner.client, here(house, "?month=2026-11"))
    assert [row[0] for row in rows_of(found, "Member")] == ["Member", "Owner", "In all"]


def test_names_of_models_are_text(house: House) -> None:
    spend(house.owner, "2026-11-02T10:00:00", "<img src=x>\u202e")
    answer = house.owner.client.get(here(house, "?month=2026-11")).content.decode()
    assert "<img" not in answer and "\u202e" not in answer


def test_the_page_asks_as_much_for_many_rows_as_for_few(house: House) -> None:
    busy_month(house)

    def statements() -> int:
        with CaptureQueriesContext(connection) as asked:
            page(house.owner.client, here(house, "?month=2026-11"))
        return len(asked)

    statements()  # signs in
    few = statements()
    for day in range(1, 20):
        spend(house.join(Role.MEMBER), f"2026-11-{day:02}T10:00:00", f"model-{day}")
    assert statements() == few
