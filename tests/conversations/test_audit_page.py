"""The page of the audit."""

from uuid import uuid4

from tenants.acts import Act
from tenants.context import tenant_context
from tenants.drafts import CredentialDraft
from tenants.members import change_role
from tenants.models import AuditEvent, Credential
from tests.cast import House
from tests.conversations.test_pages import page, text_of


def test_an_admin_reads_who_did_what_with_names_as_they_are_now(house: House) -> None:
    with tenant_context(house.id):
        change_role(house.owner.caller, house.member.membership.id, "viewer")
        draft = CredentialDraft.checked(name="The bill's", kind="api_key", secret="sk-123456789")
        Credential.objects.create_for(house.admin.caller, draft)
    house.member.user.name = "Renamed Since"
    house.member.user.save()
    said = text_of(page(house.admin.client, f"/t/{house.slug}/audit/"))
    assert "Owner changed a role Renamed Since role: viewer · former: member" in said
    assert "Admin added a credential" in said
    assert "The bill's" in said
    assert "A command on the server founded the tenant" in said


def test_it_goes_page_by_page_and_shows_one_kind(house: House) -> None:
    with tenant_context(house.id):
        for number in range(60):
            AuditEvent.objects.note(
                house.id, Act.CONVERSATION_SHARED, house.owner.caller, uuid4(), number=number
            )
    first = page(house.owner.client, f"/t/{house.slug}/audit/?act=conversation.shared")
    assert len(first.xpath("//ol[@class='audit']/li[not(@class='day')]")) == 50
    (older,) = first.xpath("//a[text()='Older']/@href")
    second = page(house.owner.client, f"/t/{house.slug}/audit/{older}")
    assert len(second.xpath("//ol[@class='audit']/li[not(@class='day')]")) == 10
    assert "number: 0" in text_of(second)
    assert not second.xpath("//a[text()='Older']")
    nothing = page(house.owner.client, f"/t/{house.slug}/audit/?act=api_key.rotated")
    assert "Nothing of that kind happened." in text_of(nothing)


def test_a_refusal_is_marked_and_what_was_asked_for_is_no_name(house: House) -> None:
    house.owner.client.get(f"/t/{house.slug}/c/{uuid4()}/")
    found = page(house.owner.client, f"/t/{house.slug}/audit/?act=access.refused")
    assert len(found.xpath("//li[@class='refused']")) == 1
    assert "status: 404" in text_of(found)


def test_members_do_not_see_it_and_have_no_link_to_it(house: House) -> None:
    assert house.member.client.get(f"/t/{house.slug}/audit/").status_code == 403
    home = page(house.member.client, f"/t/{house.slug}/")
    assert not home.xpath("//a[contains(@href, '/audit/')]")
    assert page(house.admin.client, f"/t/{house.slug}/").xpath("//a[contains(@href, '/audit/')]")


def test_an_act_that_there_is_not_is_a_page_of_an_error(house: House) -> None:
    assert house.owner.client.get(f"/t/{house.slug}/audit/?act=x").status_code == 400
