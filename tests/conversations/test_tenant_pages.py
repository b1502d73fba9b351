"""The page of what a tenant asks for: its admins set it, for themselves alone."""

import asyncio
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import sync_to_async
from lxml import html as lxml_html

from claude_runner import Refused, Spending
from conversations.ledger import Payer, keep
from conversations.tasks import delete_tenant, job_queue, retry_stalled, work_in_background
from tenants.acts import Act
from tenants.authentication import memberships_of
from tenants.context import tenant_context
from tenants.models import AuditEvent, Membership, Tenant
from tests.cast import House, Person
from tests.conversations.stage import live_host
from tests.conversations.test_api import Program
from tests.conversations.test_ledger import TOKENS, account_of
from tests.conversations.test_pages import page, talk, text_of
from tests.servers import TestServers

BUDGET = {
    "act": "budget",
    "budget_usd": "12.50",
    "budget_tokens": "1000000",
    "allowed_models": "claude-sonnet-5",
}


def tenant_of(house: House) -> Tenant:
    with tenant_context(house.id):
        return Tenant.objects.get(id=house.id)


def least_tier(house: House) -> str:
    return tenant_of(house).least_tier


@pytest.mark.parametrize("who", ["owner", "admin"])
def test_admins_set_the_least_tier(house: House, who: str) -> None:
    live_host("landlock")
    client, page = getattr(house, who).client, f"/t/{house.slug}/settings/"
    shown = client.get(page)
    assert shown.status_code == 200
    assert "landlock" in shown.text
    given = {"act": "tier", "least_tier": "bubblewrap", "name": "taken", "slug": "taken"}
    answer = client.post(page, given, follow=True)
    assert "It counts from the next turn on." in answer.text
    assert least_tier(house) == "bubblewrap"
    client.post(page, {"act": "tier", "least_tier": ""})
    assert least_tier(house) == ""


def test_what_is_no_tier_is_refused(house: House) -> None:
    answer = house.owner.client.post(f"/t/{house.slug}/settings/", {"act": "tier", "least_tier": "chroot"})
    assert answer.status_code == 400
    assert least_tier(house) == ""


@pytest.mark.parametrize("who", ["member", "viewer"])
def test_others_may_not_and_are_not_shown_the_way(house: House, who: str) -> None:
    client, page = getattr(house, who).client, f"/t/{house.slug}/settings/"
    assert client.get(page).status_code == 403
    assert client.post(page, BUDGET).status_code == 403
    assert tenant_of(house).budget_usd is None
    assert client.post(page, {"act": "tier", "least_tier": "bubblewrap"}).status_code == 403
    assert page not in client.get(f"/t/{house.slug}/members/").text
    assert least_tier(house) == ""


def test_a_stranger_finds_no_such_page(house: House, stranger: Person) -> None:
    page = f"/t/{house.slug}/settings/"
    assert stranger.client.get(page).status_code == 404
    assert stranger.client.post(page, {"act": "tier", "least_tier": "bubblewrap"}).status_code == 404
    assert least_tier(house) == ""


# The budget ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["owner", "admin"])
def test_admins_set_the_budget_and_the_allowed_models(house: House, who: str) -> None:
    client, path = getattr(house, who).client, f"/t/{house.slug}/settings/"
    client.post(path, {"act": "tier", "least_tier": "bubblewrap"})
    models = " claude-sonnet-5 \r\n\r\nclaude-haiku-5-5\nclaude-sonnet-5"
    hoped = {"ceiling_usd": "99", "name": "taken", "least_tier": "none", "sealed_key": "x"}
    answer = client.post(path, BUDGET | hoped | {"allowed_models": models}, follow=True)
    assert "It counts from the next request to a model on." in answer.text
    tenant = tenant_of(house)
    assert (tenant.budget_usd, tenant.budget_tokens) == (Decimal("12.50"), 1_000_000)
    assert tenant.allowed_models == ["claude-sonnet-5", "claude-haiku-5-5"]
    assert (tenant.ceiling_usd, tenant.name, tenant.least_tier) == (None, house.tenant.name, "bubblewrap")
    with tenant_context(house.id):
        noted = AuditEvent.objects.filter(act=Act.TENANT_CHANGED).latest("number")
    assert noted.actor_id == getattr(house, who).caller.member_id
    assert noted.details["changed"] == {
        "budget_usd": "12.50",
        "budget_tokens": 1_000_000,
        "allowed_models": tenant.allowed_models,
    }
    found = page(client, path)
    assert found.xpath("//input[@name='budget_usd']/@value") == ["12.50"]
    assert found.xpath("//textarea[@name='allowed_models']")[0].value.split() == tenant.allowed_models
    client.post(path, {"act": "budget", "budget_usd": "", "budget_tokens": "", "allowed_models": " "})
    tenant = tenant_of(house)
    assert (tenant.budget_usd, tenant.budget_tokens, tenant.allowed_models) == (None, None, [])


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("budget_usd", "much"),
        ("budget_usd", "-1"),
        ("budget_usd", "NaN"),
        ("budget_usd", "1e30"),
        ("budget_usd", "0.001"),
        ("budget_tokens", "-1"),
        ("budget_tokens", "1.5"),
        ("budget_tokens", "9" * 30),
        ("allowed_models", "two words"),
        ("allowed_models", "x" * 121),
        ("allowed_models", "\u202emodel"),
        ("allowed_models", "\n".join(f"model-{n}" for n in range(51))),
    ],
)
def test_a_wrong_budget_says_so_at_its_field_and_changes_nothing(
    house: House, field: str, wrong: str
) -> None:
    path = f"/t/{house.slug}/settings/"
    house.owner.client.post(path, BUDGET)
    answer = house.owner.client.post(path, BUDGET | {"budget_usd": "7", field: wrong})
    found: Any = lxml_html.fromstring(answer.content)
    assert answer.status_code == 400
    assert [e.get("id") for e in found.xpath("//ul[@class='errors']")] == [f"id_{field}_error"]
    [typed] = [e.value for e in found.xpath("//*[@name=$name]", name=field)]
    assert typed.replace("\r", "").strip() == wrong
    assert tenant_of(house).budget_usd == Decimal("12.50")


def test_what_was_spent_this_month_stands_beside_it(house: House) -> None:
    payer = Payer(house.id, uuid4(), None, house.owner.caller.member_id, uuid4(), "api_key")
    with tenant_context(house.id):
        keep(payer, Spending(uuid4(), 200, "claude-sonnet-4-5", TOKENS))
    path = f"/t/{house.slug}/settings/"
    assert "Cost $0.45 Tokens 110,000" in text_of(page(house.owner.client, path))
    house.owner.client.post(path, BUDGET)
    found = page(house.owner.client, path)
    assert "Cost $0.45 of $12.50 Tokens 110,000 of 1,000,000" in text_of(found)
    with tenant_context(house.id):
        Tenant.objects.update(ceiling_usd=Decimal("0.40"))
    found = page(house.owner.client, path)
    assert "Who runs this server allows at most $0.40 a month." in text_of(found)
    [over] = found.xpath("//*[@data-state='over']")
    assert text_of(over) == "Cost $0.45 of $0.40"


async def test_a_budget_counts_from_the_next_request_on(house: House) -> None:
    path = f"/t/{house.slug}/settings/"
    account = await sync_to_async(account_of)(house.owner)
    client = await sync_to_async(lambda: house.owner.async_client)()
    await account.admit()
    await client.post(path, {"act": "budget", "budget_usd": "0"})
    with pytest.raises(Refused, match=r"used up.* an admin of this tenant can raise it"):
        await account.admit()
    await client.post(path, BUDGET)
    assert (await account.admit()).models == {"claude-sonnet-5"}


# The end ------------------------------------------------------------------------------------------------------


def end_of(house: House) -> str:
    return f"/t/{house.slug}/settings/delete"


async def is_gone(house: House) -> bool:
    def rows() -> bool:
        with tenant_context(house.id):
            return not Tenant.objects.exists() and not Membership.objects.exists()

    return await sync_to_async(rows)()


async def test_an_owner_deletes_the_tenant_by_its_slug(house: House) -> None:
    def closed() -> str:
        talk(house.member)
        key, client = house.owner.key, house.owner.client
        [form] = page(client, f"/t/{house.slug}/settings/").xpath("//form[@action=$end]", end=end_of(house))
        answer = client.post(form.get("action"), {"name": f" {house.slug} "})
        assert answer.status_code == 200 and "Nobody belongs to it any more" in answer.text
        for person in (house.owner, house.member):
            assert memberships_of(person.user) == []
            assert person.client.get(f"/t/{house.slug}/").status_code == 404
        assert "belong to no tenant" in client.get("/").text
        return key

    key = await sync_to_async(closed)()
    assert (await Program(key).call("GET", "/members")).status_code == 401
    assert not await is_gone(house), "a runner does that"
    async with work_in_background():
        for _moment in range(200):
            if await is_gone(house):
                break
            await asyncio.sleep(0.1)
    assert await is_gone(house)


@pytest.mark.parametrize("typed", ["", "house", "House", "{slug}x"])
def test_another_name_deletes_nothing_and_is_kept(house: House, typed: str) -> None:
    typed = typed.format(slug=house.slug)
    answer = house.owner.client.post(end_of(house), {"name": typed})
    found: Any = lxml_html.fromstring(answer.content)
    assert answer.status_code == 400
    [dialog] = found.xpath("//dialog[@data-open]")
    assert "Nothing was deleted" in text_of(dialog)
    assert dialog.xpath(".//input[@name='name']/@value") == [typed]
    assert memberships_of(house.owner.user)


@pytest.mark.parametrize("who", ["admin", "member", "viewer"])
def test_nobody_but_an_owner_deletes_it(house: House, who: str) -> None:
    client = getattr(house, who).client
    assert client.post(end_of(house), {"name": house.slug}).status_code == 403
    assert memberships_of(house.owner.user)
    if who == "admin":
        assert end_of(house) not in client.get(f"/t/{house.slug}/settings/").text


async def test_a_deletion_that_was_cut_off_is_taken_up_again(house: House, servers: TestServers) -> None:
    async def state() -> Any:
        with servers.as_admin() as admin:
            asked = "SELECT status FROM procrastinate_jobs WHERE args ->> 'tenant' = %s"
            return admin.execute(asked, [str(house.id)]).fetchone()

    given = {"name": house.slug}
    await sync_to_async(lambda: house.owner.client.post(end_of(house), given))()
    assert await state() == ("todo",)
    with servers.as_admin() as admin:  # as a runner leaves it that is killed
        cut_off = "UPDATE procrastinate_jobs SET status = 'doing' WHERE args ->> 'tenant' = %s"
        admin.execute(cut_off, [str(house.id)])
    async with job_queue() as app:
        await retry_stalled(app.job_manager)
    assert await state() == ("todo",)
    await delete_tenant(tenant=str(house.id))
    assert await is_gone(house)
    await delete_tenant(tenant=str(house.id))  # by another runner once more
