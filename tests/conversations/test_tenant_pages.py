"""The page of what a tenant asks for: its admins set it, for themselves alone."""

import pytest

from tenants.context import tenant_context
from tenants.models import Tenant
from tests.cast import House, Person
from tests.conversations.stage import live_host


def least_tier(house: House) -> str:
    with tenant_context(house.id):
        return Tenant.objects.get(id=house.id).least_tier


@pytest.mark.parametrize("who", ["owner", "admin"])
def test_admins_set_the_least_tier(house: House, who: str) -> None:
    live_host("landlock")
    client, page = getattr(house, who).client, f"/t/{house.slug}/settings/"
    shown = client.get(page)
    assert shown.status_code == 200
    assert "landlock" in shown.text
    answer = client.post(page, {"least_tier": "bubblewrap", "name": "taken", "slug": "taken"}, follow=True)
    assert "It counts from the next turn on." in answer.text
    assert least_tier(house) == "bubblewrap"
    client.post(page, {"least_tier": ""})
    assert least_tier(house) == ""


def test_what_is_no_tier_is_refused(house: House) -> None:
    answer = house.owner.client.post(f"/t/{house.slug}/settings/", {"least_tier": "chroot"})
    assert answer.status_code == 400
    assert least_tier(house) == ""


@pytest.mark.parametrize("who", ["member", "viewer"])
def test_others_may_not_and_are_not_shown_the_way(house: House, who: str) -> None:
    client, page = getattr(house, who).client, f"/t/{house.slug}/settings/"
    assert client.get(page).status_code == 403
    assert client.post(page, {"least_tier": "bubblewrap"}).status_code == 403
    assert page not in client.get(f"/t/{house.slug}/members/").text
    assert least_tier(house) == ""


def test_a_stranger_finds_no_such_page(house: House, stranger: Person) -> None:
    page = f"/t/{house.slug}/settings/"
    assert stranger.client.get(page).status_code == 404
    assert stranger.client.post(page, {"least_tier": "bubblewrap"}).status_code == 404
    assert least_tier(house) == ""
