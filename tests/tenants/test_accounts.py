"""Accounts: whose address is whose, and what ends with one."""

import re
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from allauth.account.models import EmailAddress
from django.core.mail import EmailMessage
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from conversations.models import TurnState
from tenants import invitations
from tenants.context import tenant_context
from tenants.drafts import CredentialDraft
from tenants.errors import AuthenticationError, Conflict, NotFound, RateLimited
from tenants.members import change_role, remove
from tenants.models import ApiKey, Credential, User, latest_expiry
from tests.cast import House, Person
from tests.conversations.stage import say, turn_of
from tests.stack import eventually

PASSWORD = "correct horse battery"


@pytest.fixture
def operator(house: House) -> Client:
    person = house.join(house.owner.caller.role)
    person.user.is_staff = True
    person.user.save()
    return person.client


@pytest.mark.parametrize("path", ["email/", "confirm-email/", "confirm-email/abc/", "login/code/confirm/"])
def test_nobody_takes_an_address_by_themselves(house: House, path: str) -> None:
    """An address that nobody has proved must not become an account's."""
    client = house.viewer.client
    assert client.get(f"/accounts/{path}").status_code == 404
    taken = {"email": f"ceo-{uuid4().hex}@example.org", "action_add": ""}
    assert client.post(f"/accounts/{path}", taken).status_code == 404
    assert not EmailAddress.objects.filter(email=taken["email"]).exists()


def test_resetting_a_password_proves_the_address(house: House, mailoutbox: list[EmailMessage]) -> None:
    user = house.member.user
    EmailAddress.objects.create(user=user, email=user.email, primary=True, verified=False)
    EmailAddress.objects.create(user=user, email=f"old-{user.email}", primary=False, verified=False)
    client = Client()
    client.post(reverse("account_reset_password"), {"email": user.email})
    (mail,) = eventually(lambda: mailoutbox)
    path = re.search(r"http://testserver(/accounts/password/reset/key/\S+)", str(mail.body))
    assert path
    form = client.get(path[1], follow=True)
    client.post(form.request["PATH_INFO"], {"password1": PASSWORD, "password2": PASSWORD})
    assert list(EmailAddress.objects.filter(user=user).values_list("email", "verified")) == [
        (user.email, True)
    ]


def test_no_mail_goes_to_who_has_no_account(
    database: None, mailoutbox: list[EmailMessage], house: House
) -> None:
    client = Client()
    client.post(reverse("account_reset_password"), {"email": f"{uuid4().hex}@example.org"})
    client.post(reverse("account_reset_password"), {"email": house.owner.user.email})
    eventually(lambda: mailoutbox)
    assert [mail.to for mail in mailoutbox] == [[house.owner.user.email]]


def test_links_that_leave_name_the_public_address(
    owner: Person, settings: Settings, mailoutbox: list[EmailMessage]
) -> None:
    settings.GIVEN_PUBLIC_URL, settings.ALLOWED_HOSTS = "https://parley.example", ["localhost"]
    body: Any = {"role": "viewer"}
    answer = Client().post(
        "/v1/invitations", body, content_type="application/json",
        headers={"x-api-key": owner.key, "host": "localhost:9"},
    )  # fmt: skip
    assert answer.json()["link"].startswith("https://parley.example/invitation/")
    Client().post(
        reverse("account_reset_password"), {"email": owner.user.email}, headers={"host": "localhost:9"}
    )
    (mail,) = eventually(lambda: mailoutbox)
    assert "https://parley.example/accounts/password/reset/key/" in str(mail.body)
    assert "localhost:9" not in str(mail.body)


def test_what_an_account_has_under_way_ends_when_it_is_closed(house: House, operator: Client) -> None:
    submitted = say(house.member.caller)
    change = reverse("admin:tenants_user_change", args=[house.member.user.id])
    assert operator.post(change, {"name": ""}).status_code == 302
    assert not User.objects.get(id=house.member.user.id).is_active
    assert turn_of(house.member.caller, submitted.turn).state == TurnState.INTERRUPTED


def test_what_a_member_has_under_way_ends_when_they_may_only_read(house: House) -> None:
    submitted = say(house.member.caller)
    with tenant_context(house.id):
        change_role(house.owner.caller, house.member.membership.id, "admin")
    assert turn_of(house.member.caller, submitted.turn).state == TurnState.QUEUED
    with tenant_context(house.id):
        change_role(house.owner.caller, house.member.membership.id, "viewer")
    assert turn_of(house.member.caller, submitted.turn).state == TurnState.INTERRUPTED


def test_an_invitation_is_good_no_more_when_its_maker_may_not_sign_in(house: House) -> None:
    with tenant_context(house.id):
        _made, token = invitations.invite(house.admin.caller, "admin")
    assert invitations.offer_of(token).role == "admin"
    house.admin.user.is_active = False
    house.admin.user.save()
    with pytest.raises(NotFound):
        invitations.offer_of(token)


def test_an_open_invitation_can_be_tried_a_few_times_only(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would tell of any address whether it has an account."""
    with tenant_context(house.id):
        _made, token = invitations.invite(house.owner.caller, "viewer")
    hashed = []
    monkeypatch.setattr(User, "set_password", lambda self, password: hashed.append(password))
    for _ in range(invitations.MOST_TRIES):
        with pytest.raises(Conflict):
            invitations.accept_as_newcomer(token, house.owner.user.email, "", PASSWORD)
    with pytest.raises(RateLimited):
        invitations.accept_as_newcomer(token, f"{uuid4().hex}@example.org", "", PASSWORD)
    assert hashed == [], "nothing is hashed for who is refused"


@pytest.mark.parametrize("time", ["9999-12-31T23:59:59-12:00", "2050-01-01T00:00:00Z"])
def test_no_key_outlives_what_anybody_can_plan_for(owner: Person, time: str) -> None:
    """The first one is a time that PostgreSQL keeps and Python can't read."""
    by_key: Any = {"content_type": "application/json", "headers": {"x-api-key": owner.key}}
    answer = Client().post("/v1/api-keys", {"name": "x", "expires_at": time}, **by_key)
    assert answer.status_code == 400
    assert "ten years" in answer.json()["error"]["message"]
    assert Client().get("/v1/api-keys", headers={"x-api-key": owner.key}).status_code == 200


def test_a_rotated_key_ends_within_ten_years_too(house: House) -> None:
    with tenant_context(house.id):
        key, _text = ApiKey.objects.issue(house.owner.membership, "x", expires_at=latest_expiry())
        ApiKey.objects.filter(id=key.id).update(created_at=timezone.now() - timedelta(days=400))
        made, _text = ApiKey.objects.get(id=key.id).rotate(house.owner.caller, 0)
        assert made.expires_at
        assert made.expires_at <= latest_expiry()


def test_who_was_removed_meanwhile_makes_and_changes_nothing(house: House) -> None:
    """The caller was looked up before; a name of theirs may have taken long to resolve."""
    caller = house.admin.caller
    draft = CredentialDraft.checked(name="planted", kind="api_key", secret="sk-12345678")
    with tenant_context(house.id):
        there = Credential.objects.create_for(caller, draft, owner="tenant")
        remove(house.owner.caller, house.admin.membership.id)
        for write in (
            lambda: ApiKey.objects.issue_for(caller, "x", {"read"}),
            lambda: Credential.objects.create_for(caller, draft, default=True, owner="tenant"),
            lambda: Credential.objects.all().of(caller, there.id, writing=True),
        ):
            with pytest.raises(AuthenticationError):
                write()
        assert list(Credential.objects.all()) == [there]


@pytest.mark.parametrize(
    "query",
    [
        "tenants/user/?password__startswith=a",
        "tenants/user/?password__regex=a",
        "conversations/conversation/?title__startswith=h",
        "tenants/apikey/?digest__gt=0",
        "tenants/credential/?sealed_secret__contains=a",
        "tenants/membership/?user__password__startswith=a",
    ],
)
def test_an_address_of_the_admin_asks_no_other_column(house: House, operator: Client, query: str) -> None:
    """Sign by sign, the length of a list would tell what stands there."""
    operator.post(reverse("admin:choose_tenant", args=[house.id]))
    assert operator.get(f"/admin/{query}").status_code in (302, 400)
    assert "e=1" in operator.get(f"/admin/{query}", follow=True).request["QUERY_STRING"] or (
        operator.get(f"/admin/{query}").status_code == 400
    )
    assert operator.get("/admin/tenants/user/?is_active__exact=1").status_code == 200
    assert operator.get("/admin/tenants/membership/?role__exact=owner").status_code == 200
