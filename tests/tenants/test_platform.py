"""The platform's admin: who gets in, and that it sees one tenant at a time, and of that no secret and no text."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.hashers import make_password
from django.core.management import call_command
from django.db import connections
from django.db.models.signals import pre_save
from django.test import Client
from django.urls import URLPattern, URLResolver, reverse

from tenants.acts import Act
from tenants.authentication import caller_for_key, memberships_of
from tenants.context import tenant_context
from tenants.errors import AuthenticationError
from tenants.models import ApiKey, AuditEvent, Credential, Membership, Tenant, User
from tenants.roles import Role
from tenants.rotation import change_key
from tests.cast import House, Person, found_house
from tests.conversations.stage import say, turn_of
from tests.tenants import test_rotation as rotation_tests
from tests.tenants.test_credentials import SECRET, keep

SAID = "what only its author may read"


@pytest.fixture
def platform_admin(house: House) -> Client:
    """Who operates the platform; here a member of the house, too."""
    person = house.owner
    person.user.is_staff = True
    person.user.save()
    return person.client


def pages() -> set[str]:
    """Every page of the admin that needs no object."""
    return {
        reverse(f"admin:{pattern.name}")
        for pattern in _patterns(admin.site.urls[0])
        if pattern.name and not pattern.pattern.converters and pattern.pattern.regex.groups == 0
    }


def _patterns(urls: list[URLPattern | URLResolver]) -> list[URLPattern]:
    found: list[URLPattern] = []
    for url in urls:
        found += _patterns(url.url_patterns) if isinstance(url, URLResolver) else [url]
    return found


def look_into(client: Client, house: House) -> None:
    answer = client.post(reverse("admin:choose_tenant", args=[house.id]), follow=True)
    assert house.slug in answer.text


def test_there_are_pages() -> None:
    assert {"/admin/", "/admin/tenants/tenant/", "/admin/conversations/runnerhost/"} <= pages()


def test_who_is_not_signed_in_is_sent_to_the_one_sign_in(database: None) -> None:
    for page in pages() - {"/admin/jsi18n/"}:
        way = [url for url, _status in Client().get(page, follow=True).redirect_chain]
        assert way[-1].startswith("/accounts/login/"), page


def test_an_owner_of_a_tenant_finds_no_such_page(owner: Person) -> None:
    for page in pages() - {"/admin/jsi18n/"}:
        assert owner.client.get(page, follow=True).status_code == 404, page


def test_a_stopped_admin_is_out_at_once(house: House, platform_admin: Client) -> None:
    assert platform_admin.get("/admin/").status_code == 200
    house.owner.user.is_active = False
    house.owner.user.save()
    assert platform_admin.get("/admin/").status_code == 302


def test_no_page_adds_anything(house: House, platform_admin: Client) -> None:
    look_into(platform_admin, house)
    adding = {page for page in pages() if page.endswith("/add/")}
    assert adding
    for page in adding:
        assert platform_admin.get(page).status_code == 403, page


def test_every_other_page_opens(house: House, platform_admin: Client) -> None:
    look_into(platform_admin, house)
    elsewhere = {"/admin/login/", "/admin/logout/", "/admin/password_change/", "/admin/autocomplete/"}
    for page in pages() - elsewhere:
        if not page.endswith("/add/"):
            assert platform_admin.get(page).status_code == 200, page


def test_all_tenants_are_listed_and_found_by_name(platform_admin: Client) -> None:
    other = found_house("listed")
    answer = platform_admin.get("/admin/tenants/tenant/", {"q": other.slug.upper()})
    assert answer.text.count("Look into it") == 1
    assert other.slug in answer.text


def test_without_a_tenant_no_row_of_any_is_seen(house: House, platform_admin: Client) -> None:
    keep(house.owner, "Kept by the house")
    for page in ("/admin/tenants/membership/", "/admin/tenants/credential/", "/admin/tenants/apikey/"):
        assert platform_admin.get(page).status_code == 403, page
    assert "Kept by the house" not in platform_admin.get("/admin/", follow=True).text


def test_in_a_tenant_its_rows_are_seen_and_no_other(house: House, platform_admin: Client) -> None:
    other = found_house("other")
    keep(house.owner, "Kept by the house")
    theirs = keep(other.owner, "Kept by the other")
    look_into(platform_admin, house)
    listed = platform_admin.get("/admin/tenants/credential/").text
    assert "Kept by the house" in listed
    assert "Kept by the other" not in listed
    foreign = reverse("admin:tenants_credential_change", args=[theirs.id])
    assert "Kept by the other" not in platform_admin.get(foreign, follow=True).text
    look_into(platform_admin, other)
    assert "Kept by the other" in platform_admin.get(foreign).text


def test_a_form_of_a_tenant_changes_nothing_once_another_is_chosen(
    house: House, platform_admin: Client
) -> None:
    other = found_house("other")
    look_into(platform_admin, other)
    change = reverse("admin:tenants_tenant_change", args=[house.id])
    platform_admin.post(change, {"name": "Taken", "least_tier": ""})
    with tenant_context(house.id):
        assert Tenant.objects.get().name != "Taken"


def test_a_tenants_least_tier_and_ceiling_are_set(house: House, platform_admin: Client) -> None:
    look_into(platform_admin, house)
    change = reverse("admin:tenants_tenant_change", args=[house.id])
    given = {
        "name": "House",
        "least_tier": "bubblewrap",
        "ceiling_usd": "9",
        "slug": "taken",
        "sealed_key": "x",
    }
    assert platform_admin.post(change, given).status_code == 302
    with tenant_context(house.id):
        tenant = Tenant.objects.get()
    assert (tenant.least_tier, tenant.ceiling_usd, tenant.slug) == ("bubblewrap", Decimal(9), house.slug)


def test_a_tenant_that_is_changed_while_its_key_changes_keeps_the_new_key(
    house: House, platform_admin: Client
) -> None:
    secrets = rotation_tests.keep(house)
    look_into(platform_admin, house)

    def change_meanwhile(instance: Tenant, **_signal: object) -> None:
        pre_save.disconnect(change_meanwhile, Tenant)
        with ThreadPoolExecutor(1) as elsewhere:
            assert elsewhere.submit(in_a_thread, change_key, house.id).result(20) == []

    pre_save.connect(change_meanwhile, Tenant)
    page = reverse("admin:tenants_tenant_change", args=[house.id])
    platform_admin.post(page, {"name": "Renamed", "least_tier": "", "allowed_models": ""})
    assert rotation_tests.tenant_of(house).name == "Renamed"
    assert rotation_tests.opened(house) == secrets


def test_a_person_that_is_changed_while_they_change_their_password_keeps_the_new_one(
    house: House, platform_admin: Client
) -> None:
    person = house.member.user

    def set_password(id_: UUID) -> int:
        return User.objects.filter(id=id_).update(password=make_password("a new long one"))

    def change_meanwhile(instance: User, **_signal: object) -> None:
        pre_save.disconnect(change_meanwhile, User)
        with ThreadPoolExecutor(1) as elsewhere:
            assert elsewhere.submit(in_a_thread, set_password, person.id).result(20) == 1

    pre_save.connect(change_meanwhile, User)
    page = reverse("admin:tenants_user_change", args=[person.id])
    platform_admin.post(page, {"name": "Renamed", "is_active": "on"})
    person.refresh_from_db()
    assert person.name == "Renamed"
    assert person.check_password("a new long one")


def in_a_thread[T](work: Callable[[UUID], T], of: UUID) -> T:
    """With a connection of its own, which is closed after."""
    try:
        return work(of)
    finally:
        connections.close_all()


def test_a_tenant_is_found_by_a_text_that_no_database_holds(house: House, platform_admin: Client) -> None:
    answer = platform_admin.get("/admin/tenants/tenant/", {"q": f"{house.slug}\0"})
    assert answer.status_code == 200
    assert reverse("admin:choose_tenant", args=[house.id]) in answer.text


def test_nothing_secret_and_nothing_that_was_said_is_on_any_page(
    house: House, platform_admin: Client
) -> None:
    credential = keep(house.owner)
    key = house.owner.key
    submitted = say(house.owner.caller, SAID)
    look_into(platform_admin, house)
    conversation = reverse("admin:conversations_conversation_change", args=[submitted.conversation])
    history = reverse("admin:conversations_conversation_history", args=[submitted.conversation])
    objects = [
        reverse("admin:tenants_credential_change", args=[credential.id]),
        reverse("admin:tenants_credential_history", args=[credential.id]),
        reverse("admin:tenants_membership_change", args=[house.owner.membership.id]),
        reverse("admin:tenants_membership_delete", args=[house.owner.membership.id]),
        conversation,
        history,
    ]
    with tenant_context(house.id):
        sealed = bytes(Credential.objects.get(id=credential.id).sealed_secret)
    texts = [platform_admin.get(page, follow=True).text for page in [*pages(), *objects]]
    assert any(str(submitted.conversation) in text for text in texts)
    for text in texts:
        for secret in (SECRET, SECRET[5:], key, key.rpartition("_")[2], SAID, sealed.hex(), repr(sealed)):
            assert secret not in text
    assert platform_admin.get(conversation).status_code == 404
    assert platform_admin.get(history).status_code == 404


# Revoking and ending -------------------------------------------------------------------------------------------


def noted(house: House, act: Act) -> tuple[str, UUID | None, UUID | None]:
    with tenant_context(house.id):
        event = AuditEvent.objects.get(act=act)
    return event.via, event.actor_id, event.about


def test_a_key_is_revoked_after_a_question(house: House, platform_admin: Client) -> None:
    key = house.member.key
    look_into(platform_admin, house)
    with tenant_context(house.id):
        row = ApiKey.objects.get()
    revoke = reverse("admin:tenants_apikey_delete", args=[row.id])
    assert revoke in platform_admin.get("/admin/tenants/apikey/").text
    asked = platform_admin.get(revoke).text
    assert row.prefix in asked and house.member.user.email in asked and "cut off" in asked
    assert caller_for_key(key).member_id == house.member.membership.id
    assert platform_admin.post(revoke, {"post": "yes"})["location"] == "/admin/tenants/apikey/"
    with pytest.raises(AuthenticationError):
        caller_for_key(key)
    assert noted(house, Act.API_KEY_REVOKED) == ("operator", house.owner.user.id, row.id)
    assert not LogEntry.objects.filter(object_id=row.id).exists(), "Django's log outlives the tenant"


def test_a_membership_is_ended_as_its_own_admins_would(house: House, platform_admin: Client) -> None:
    key, member = house.member.key, house.member.membership
    kept = keep(house.member, "Their own", owner="member")
    submitted = say(house.member.caller, SAID)
    look_into(platform_admin, house)
    end = reverse("admin:tenants_membership_delete", args=[member.id])
    asked = platform_admin.get(end).text
    assert house.member.user.email in asked and "Their own" not in asked and SAID not in asked
    assert memberships_of(house.member.user)
    assert platform_admin.post(end, {"post": "yes"})["location"] == "/admin/tenants/membership/"
    assert memberships_of(house.member.user) == []
    with pytest.raises(AuthenticationError):
        caller_for_key(key)
    assert turn_of(house.owner.caller, submitted.turn).state == "interrupted"
    with tenant_context(house.id):
        assert Membership.objects.get(id=member.id).left_at
        assert not Credential.objects.filter(id=kept.id).exists()
    assert noted(house, Act.MEMBER_REMOVED) == ("operator", house.owner.user.id, member.id)
    assert platform_admin.get(end).status_code == 403, "it has ended already"
    assert end not in platform_admin.get("/admin/tenants/membership/").text


def test_the_last_owner_stays_also_for_a_platform_admin(house: House, platform_admin: Client) -> None:
    look_into(platform_admin, house)
    end = reverse("admin:tenants_membership_delete", args=[house.owner.membership.id])
    asked = platform_admin.get(end).text
    assert "A tenant needs an owner" in asked and 'type="submit" value="End' not in asked
    platform_admin.post(end, {"post": "yes"})
    assert memberships_of(house.owner.user)
    another = house.join(Role.OWNER)
    platform_admin.post(end, {"post": "yes"})
    assert memberships_of(house.owner.user) == []
    assert memberships_of(another.user)


def test_what_is_another_tenants_is_neither_revoked_nor_ended(house: House, platform_admin: Client) -> None:
    other = found_house("other")
    assert other.member.key
    look_into(platform_admin, house)
    with tenant_context(other.id):
        theirs = ApiKey.objects.get()
    for ending in (
        reverse("admin:tenants_apikey_delete", args=[theirs.id]),
        reverse("admin:tenants_membership_delete", args=[other.member.membership.id]),
    ):
        for answer in (platform_admin.get(ending), platform_admin.post(ending, {"post": "yes"})):
            assert answer.status_code == 302 and theirs.prefix not in answer.text
    assert memberships_of(other.member.user)
    with tenant_context(other.id):
        assert ApiKey.objects.filter(id=theirs.id).exists()


def test_who_is_no_platform_admin_ends_nothing(house: House) -> None:
    for ending in (
        reverse("admin:tenants_membership_delete", args=[house.member.membership.id]),
        reverse("admin:tenants_apikey_delete", args=[uuid4()]),
    ):
        assert house.owner.client.post(ending, {"post": "yes"}, follow=True).status_code == 404
    assert memberships_of(house.member.user)


def test_nothing_else_of_a_tenant_is_deleted(house: House, platform_admin: Client) -> None:
    credential = keep(house.owner)
    look_into(platform_admin, house)
    for page in (
        reverse("admin:tenants_credential_delete", args=[credential.id]),
        reverse("admin:tenants_tenant_delete", args=[house.id]),
    ):
        assert platform_admin.post(page, {"post": "yes"}).status_code == 403


def test_an_admin_can_not_lock_themselves_out(house: House, platform_admin: Client) -> None:
    own = reverse("admin:tenants_user_change", args=[house.owner.user.id])
    platform_admin.post(own, {"name": "Still here"})
    house.owner.user.refresh_from_db()
    assert house.owner.user.is_staff
    assert house.owner.user.is_active
    assert house.owner.user.name == "Still here"


def test_a_person_can_be_stopped_from_signing_in(house: House, platform_admin: Client) -> None:
    person = house.member
    platform_admin.post(reverse("admin:tenants_user_change", args=[person.user.id]), {"name": "Gone"})
    person.user.refresh_from_db()
    assert not person.user.is_active


def test_a_command_makes_a_platform_admin(database: None, capsys: pytest.CaptureFixture[str]) -> None:
    email = f"operator-{uuid4()}@example.org"
    call_command("create_platform_admin", email)
    told = json.loads(capsys.readouterr().out)
    client = Client()
    client.post("/accounts/login/", {"login": email, "password": told["password"]})
    assert client.get("/admin/").status_code == 200
    call_command("create_platform_admin", email)
    assert json.loads(capsys.readouterr().out) == {"email": email, "password": None}
