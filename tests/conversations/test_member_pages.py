"""The pages of who belongs to a tenant."""

from typing import Any

import pytest
from django.core.mail import EmailMessage
from django.test import Client
from lxml import html as lxml_html

from conversations.models import Conversation
from tenants.context import tenant_context
from tenants.members import remove
from tenants.models import Membership
from tenants.roles import Role
from tests.cast import House, Person, found_house
from tests.conversations.test_pages import page, talk, text_of


def role_of(person: Person) -> str:
    with tenant_context(person.caller.tenant_id):
        return Membership.objects.get(id=person.membership.id).role


def parsed(content: bytes) -> Any:
    return lxml_html.fromstring(content)


def here(house: House) -> str:
    return f"/t/{house.slug}/members/"


def test_everybody_sees_who_belongs_and_only_admins_a_form(house: House) -> None:
    for role in ("owner", "admin", "member", "viewer"):
        getattr(house, role)
    for role, may in {"owner": True, "admin": True, "member": False, "viewer": False}.items():
        person = getattr(house, role)
        found = page(person.client, here(house))
        for other in (house.owner, house.admin, house.member, house.viewer):
            assert other.user.email in text_of(found)
        assert bool(found.xpath("//form[.//*[@name='email']]")) is may
        assert ("owner" in found.xpath("//select[@id='id_role']/option/@value")) is (role == "owner")


def test_an_admin_changes_a_role_and_removes(house: House) -> None:
    path = f"{here(house)}{house.member.membership.id}/"
    assert house.admin.client.post(path, {"act": "role", "role": "viewer"}).status_code == 302
    assert role_of(house.member) == Role.VIEWER
    assert house.admin.client.post(path, {"act": "role", "role": "owner"}).status_code == 403
    given = {"act": "remove", "name": house.member.user.email}
    assert house.admin.client.post(path, given).status_code == 302
    assert house.member.client.get(here(house)).status_code == 404


@pytest.mark.parametrize("typed", ["", " ", "Memb", "owner", "on"])
def test_removing_asks_for_the_name_and_keeps_what_was_typed(house: House, typed: str) -> None:
    person = house.member
    path = f"{here(house)}{person.membership.id}/"
    answer = house.admin.client.post(path, {"act": "remove", "name": typed})
    assert answer.status_code == 400
    [dialog] = parsed(answer.content).xpath("//dialog[@data-open]")
    assert dialog.get("id") == f"remove-{person.membership.id}"
    assert "That is not their name. Nobody was removed." in text_of(dialog)
    assert dialog.xpath(".//input[@name='name']/@value") == [typed]
    assert person.client.get(here(house)).status_code == 200


@pytest.mark.parametrize("typed", ["Member", " mEMBER  ", "{email}"])
def test_a_name_is_typed_as_people_type(house: House, typed: str) -> None:
    person = house.member
    given = {"act": "remove", "name": typed.format(email=person.user.email.upper())}
    assert house.admin.client.post(f"{here(house)}{person.membership.id}/", given).status_code == 302
    assert person.client.get(here(house)).status_code == 404


def test_who_may_not_remove_is_told_so_whatever_they_type(house: House) -> None:
    path = f"{here(house)}{house.admin.membership.id}/"
    for typed in ("Admin", "wrong"):
        answer = house.member.client.post(path, {"act": "remove", "name": typed})
        assert answer.status_code == 403
    assert house.admin.client.get(here(house)).status_code == 200


def test_the_last_owner_is_offered_no_way_out(house: House) -> None:
    assert role_of(house.admin) == Role.ADMIN
    found = page(house.owner.client, here(house))
    assert found.xpath(f"//*[@id='remove-{house.owner.membership.id}']") == []
    given = {"act": "remove", "name": house.owner.user.email}
    answer = house.owner.client.post(f"{here(house)}{house.owner.membership.id}/", given)
    assert answer.status_code == 409 and b"needs an owner" in answer.content


def test_who_leaves_is_led_home(house: House) -> None:
    path, given = f"{here(house)}{house.viewer.membership.id}/", {"act": "remove", "name": "Owner"}
    answer = house.viewer.client.post(path, given)
    assert answer.status_code == 400 and b"You still belong here" in answer.content
    answer = house.viewer.client.post(path, given | {"name": house.viewer.user.email})
    assert answer["location"] == "/"
    assert b"belong to no tenant" in house.viewer.client.get("/").content


def test_an_invitation_shows_its_link_once_and_is_mailed(
    house: House, mailoutbox: list[EmailMessage]
) -> None:
    answer = house.owner.client.post(here(house), {"email": "New@example.org", "role": "member"})
    assert answer.status_code == 200
    found = parsed(answer.content)
    [link] = found.xpath("//input[@id='link']/@value")
    assert [mail.to for mail in mailoutbox] == [["new@example.org"]]
    assert link in mailoutbox[0].body
    assert Client().get(link).status_code == 200
    found = page(house.owner.client, here(house))
    assert link not in text_of(found) and "new@example.org" in text_of(found)
    [form] = found.xpath("//form[contains(@action, '/invitations/')]")
    assert house.owner.client.post(form.get("action")).status_code == 302
    assert Client().get(link).status_code == 404


@pytest.mark.parametrize("email", ["nobody", "owner"])
def test_a_wrong_address_is_said_at_its_field(house: House, email: str) -> None:
    email = house.owner.user.email if email == "owner" else email
    answer = house.owner.client.post(here(house), {"email": email, "role": "member"})
    assert answer.status_code == 400
    assert b'id="id_email_error"' in answer.content


def test_an_owner_deletes_unread_what_somebody_left_behind(house: House) -> None:
    conversation = talk(house.member, "canary-left")
    path = f"{here(house)}{house.member.membership.id}/"
    given = {"act": "clear", "name": house.member.user.email}
    assert house.owner.client.post(path, given).status_code == 404
    with tenant_context(house.id):
        assert Conversation.objects.filter(id=conversation).exists(), "they belong still"
        remove(house.owner.caller, house.member.membership.id)
    page(house.owner.client, f"/t/{house.slug}/c/{conversation}/", status=404)
    assert house.admin.client.post(path, given).status_code == 403
    found = page(house.owner.client, here(house))
    assert "1 conversation" in text_of(found) and "canary-left" not in text_of(found)
    answer = house.owner.client.post(path, given | {"name": "nobody"})
    assert answer.status_code == 400 and b"Nothing was deleted" in answer.content
    with tenant_context(house.id):
        assert Conversation.objects.filter(id=conversation).exists()
    assert house.owner.client.post(path, given).status_code == 302
    with tenant_context(house.id):
        assert not Conversation.objects.filter(id=conversation).exists()


def test_who_belongs_to_several_tenants_switches_between_them(house: House) -> None:
    found = page(house.member.client, f"/t/{house.slug}/")
    assert found.xpath("//details[@class='switcher']") == []
    second = found_house("second")
    second.join(Role.VIEWER, house.member.user)
    found = page(house.member.client, f"/t/{house.slug}/")
    [switcher] = found.xpath("//details[@class='switcher']")
    assert set(switcher.xpath(".//a/@href")) == {f"/t/{house.slug}/", f"/t/{second.slug}/"}
    assert switcher.xpath(".//a[@aria-current]/@href") == [f"/t/{house.slug}/"]
