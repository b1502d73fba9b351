"""Inviting: links that are good once, for a while, for one role, maybe for one address."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import environ
import pytest
from django.core.mail import EmailMessage
from django.db import connection
from django.test import Client
from django.utils import timezone

from config.readers import mailer
from conversations.ending import shut_out
from tenants import invitations
from tenants.authentication import memberships_of
from tenants.context import across_tenants, tenant_context
from tenants.errors import ApiError, Conflict, InvalidRequest, NotFound, PermissionDenied
from tenants.invitations import accept, accept_as_newcomer, invitations_for, invite, offer_of, revoke
from tenants.members import change_role, remove
from tenants.models import Invitation, User
from tenants.roles import Role
from tests.cast import House, Person, someone
from tests.conversations.test_api import Program
from tests.servers import TestServers

PASSWORD = "correct horse battery"


def invited(person: Person, role: str = "member", email: str = "") -> str:
    with tenant_context(person.caller.tenant_id):
        return invite(person.caller, role, email)[1]


def fresh_email() -> str:
    return f"fresh-{someone('x').id}@example.org"


def role_in(house: House, user: User) -> str:
    return next(here.role for here in memberships_of(user) if here.tenant_id == house.id)


def test_a_link_makes_a_member_once(house: House, stranger: Person) -> None:
    token = invited(house.admin, "viewer")
    accept(token, stranger.user)
    assert role_in(house, stranger.user) == Role.VIEWER
    for user in (stranger.user, someone("late")):
        with pytest.raises(NotFound):
            accept(token, user)


def test_who_accepts_while_the_tenant_is_deleted_is_shut_out_too(house: House, stranger: Person) -> None:
    token = invited(house.admin, "viewer")
    with ThreadPoolExecutor(1) as elsewhere:
        with tenant_context(house.id):
            accept(token, stranger.user)
            shutting = elsewhere.submit(shut_out, house.id)
            with pytest.raises(TimeoutError):
                shutting.result(0.5)
        shutting.result(5)
        elsewhere.submit(connection.close)
    assert house.id not in {here.tenant_id for here in memberships_of(stranger.user)}


def test_only_a_hash_of_the_token_is_kept(house: House, servers: TestServers) -> None:
    token = invited(house.owner)
    with servers.as_admin() as admin:
        rows = admin.execute("SELECT i::text FROM tenants_invitation i").fetchall()
    assert rows and token not in str(rows)


def test_a_link_expires(house: House) -> None:
    token = invited(house.owner)
    with tenant_context(house.id):
        Invitation.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
        assert invitations_for(house.owner.caller) == []
    with pytest.raises(NotFound, match="expired"):
        offer_of(token)
    with pytest.raises(NotFound, match="expired"):
        accept(token, someone("late"))


def test_an_invitation_lasts_a_week_and_can_be_revoked(house: House) -> None:
    token = invited(house.admin, email="some@example.org")
    with tenant_context(house.id):
        [row] = invitations_for(house.owner.caller)
        assert timedelta(days=6, hours=23) < row.expires_at - timezone.now() <= timedelta(days=7)
        revoke(house.owner.caller, row.id)
    with pytest.raises(NotFound):
        offer_of(token)


def test_an_address_binds_it_to_its_account(house: House, stranger: Person) -> None:
    other = someone("other")
    token = invited(house.owner, email=other.email.upper())
    with pytest.raises(PermissionDenied, match="is for"):
        accept(token, stranger.user)
    accept(token, other)
    assert role_in(house, other) == Role.MEMBER


def test_a_new_invitation_to_an_address_takes_the_place_of_the_former(house: House) -> None:
    first, second = invited(house.owner, email="a@example.org"), invited(house.owner, email="a@example.org")
    with pytest.raises(NotFound):
        offer_of(first)
    assert offer_of(second).email == "a@example.org"


@pytest.mark.parametrize("role", ["member", "viewer"])
def test_who_is_no_admin_invites_sees_and_revokes_nothing(house: House, role: str) -> None:
    invited(house.owner)
    caller = getattr(house, role).caller
    with tenant_context(house.id):
        row = Invitation.objects.get()
        acts: list[Callable[[], object]] = [
            lambda: invite(caller, "viewer"),
            lambda: invitations_for(caller),
            lambda: revoke(caller, row.id),
        ]
        for act in acts:
            with pytest.raises(PermissionDenied):
                act()


def test_admins_invite_no_owners(house: House) -> None:
    with pytest.raises(PermissionDenied):
        invited(house.admin, "owner")
    invited(house.owner, "owner")


def test_what_makes_no_sense_is_refused(house: House) -> None:
    with pytest.raises(InvalidRequest, match="role is one of"):
        invited(house.owner, "king")
    with pytest.raises(InvalidRequest, match="no e-mail"):
        invited(house.owner, email="nobody")
    with pytest.raises(Conflict, match="member already"):
        invited(house.owner, email=house.member.user.email)
    with pytest.raises(Conflict, match="belong to"):
        accept(invited(house.owner), house.member.user)
    for token in ("", "x", "x" * 1000, "\x00"):
        with pytest.raises(NotFound):
            offer_of(token)


def test_what_somebody_invited_to_goes_with_their_right_to(house: House) -> None:
    removed = invited(house.admin)
    with tenant_context(house.id):
        remove(house.owner.caller, house.admin.membership.id)
    owner = house.join(Role.OWNER)
    demoted = invited(owner, "owner")
    with tenant_context(house.id):
        change_role(house.owner.caller, owner.membership.id, "member")
    for token in (removed, demoted):
        with pytest.raises(NotFound):
            offer_of(token)


async def test_a_link_that_is_used_twice_at_once_makes_one_member(house: House) -> None:
    def prepare() -> tuple[str, list[User]]:
        return invited(house.owner), [someone("quick") for _ in range(4)]

    token, people = await asyncio.to_thread(prepare)
    outcomes = await asyncio.gather(
        *(across_tenants(accept, token, person) for person in people), return_exceptions=True
    )
    assert sum(not isinstance(outcome, ApiError) for outcome in outcomes) == 1, outcomes


def test_a_newcomer_gets_an_account_with_it_and_nothing_when_it_fails(house: House) -> None:
    token, email = invited(house.owner), fresh_email()
    with pytest.raises(InvalidRequest, match="too short"):
        accept_as_newcomer(token, email, "New", "short")
    with pytest.raises(Conflict, match="Sign in"):
        accept_as_newcomer(token, house.member.user.email, "New", PASSWORD)
    person = accept_as_newcomer(token, email.upper(), "New", PASSWORD)
    assert (person.email, role_in(house, person)) == (email, Role.MEMBER)
    with pytest.raises(NotFound):
        accept_as_newcomer(token, fresh_email(), "New", PASSWORD)
    bound = invited(house.owner, email="bound@example.org")
    with pytest.raises(PermissionDenied):
        accept_as_newcomer(bound, fresh_email(), "New", PASSWORD)
    assert not User.objects.filter(email="bound@example.org").exists()


# The link's page ------------------------------------------------------------------------------------------------


def test_a_newcomer_comes_in_by_the_page(house: House) -> None:
    client, email = Client(), fresh_email()
    path = f"/invitation/{invited(house.owner, 'viewer', email)}/"
    found = client.get(path)
    assert found.status_code == 200 and email in found.content.decode()
    assert found["cache-control"].startswith("max-age=0")
    assert client.post(path, {"name": "New", "password": "short"}).status_code == 400
    answer = client.post(path, {"name": "New", "password": PASSWORD})
    assert (answer.status_code, answer["location"]) == (302, f"/t/{house.slug}/")
    assert client.get(f"/t/{house.slug}/").status_code == 200
    assert client.get(path).status_code == 404
    again = Client()
    assert again.post("/accounts/login/", {"login": email, "password": PASSWORD}).status_code == 302


def test_who_is_signed_in_says_yes(house: House, stranger: Person) -> None:
    path = f"/invitation/{invited(house.owner)}/"
    assert b"Accept invitation" in stranger.client.get(path).content
    assert stranger.client.get(f"/t/{house.slug}/").status_code == 404
    assert stranger.client.post(path)["location"] == f"/t/{house.slug}/"
    assert stranger.client.get(f"/t/{house.slug}/").status_code == 200


def test_another_accounts_invitation_is_not_to_be_taken(house: House, stranger: Person) -> None:
    path = f"/invitation/{invited(house.owner, email=someone('other').email)}/"
    assert b"Accept invitation" not in stranger.client.get(path).content
    assert stranger.client.post(path).status_code == 403
    # Who has an account already signs in; no second one is made.
    assert b"password" not in Client().get(path).content
    assert Client().post(path, {"name": "New", "password": PASSWORD}).status_code == 200


# The API --------------------------------------------------------------------------------------------------------


async def test_members_and_invitations_over_the_api(
    owner: Person, admin: Person, member: Person, mailoutbox: list[EmailMessage]
) -> None:
    api = Program(owner.key)
    listed = (await api.get("/members"))["data"]
    assert [row["role"] for row in listed] == ["owner", "admin", "member"]
    assert listed[2].keys() == {"id", "name", "email", "role", "created_at"}
    path = f"/members/{member.membership.id}"
    assert (await api.get(path))["email"] == member.user.email
    answer = await api.call("PATCH", path, {"role": "viewer"})
    assert answer.json()["role"] == "viewer"
    made: dict[str, Any] = await api.post("/invitations", {"role": "member", "email": "new@example.org"}, 201)
    assert made["mailed"] is True and made["link"].startswith("http://testserver/invitation/")
    [mail] = mailoutbox
    assert mail.to == ["new@example.org"] and made["link"] in mail.body
    [open_] = (await api.get("/invitations"))["data"]
    assert open_ == {name: made[name] for name in open_} and "link" not in open_
    assert (await api.call("DELETE", f"/invitations/{made['id']}")).status_code == 204
    assert await api.refused("DELETE", f"/invitations/{made['id']}") == (404, "not_found_error")
    assert await Program(member.key).refused("GET", "/invitations") == (403, "permission_error")
    assert (await api.call("DELETE", path)).status_code == 204
    assert await Program(member.key).refused("GET", "/members") == (401, "authentication_error")
    last = f"/members/{owner.membership.id}"
    assert await api.refused("DELETE", last) == (409, "invalid_request_error")


def test_a_tenant_mails_so_many_an_hour(
    house: House, stranger: Person, mailoutbox: list[EmailMessage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invitations, "MOST_MAILS", 2)

    def mailed(person: Person) -> bool:
        with tenant_context(person.caller.tenant_id):
            made, _token = invite(person.caller, "viewer", fresh_email())
        return invitations.send(made, "Acme", "Ada", "https://example.org")

    assert [mailed(house.owner) for _ in range(3)] == [True, True, False]
    assert mailed(stranger)
    assert len(mailoutbox) == 3


async def test_a_mail_that_does_not_go_out_leaves_the_link(owner: Person, settings: Any) -> None:
    url = environ.Env.email_url_config("smtp+tls://somebody:secret@127.0.0.1:1")
    settings.MAILERS = {"default": mailer(url)}
    made = await Program(owner.key).post("/invitations", {"role": "member", "email": "new@example.org"}, 201)
    assert made["mailed"] is False and made["link"]
