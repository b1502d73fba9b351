"""Founding a tenant: by the command, with a new account and with an old one, whole or not at all."""

import json
import os
import secrets
from io import StringIO
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from django.conf import settings
from django.contrib.auth import authenticate
from django.core.management import CommandError, call_command

from tenants.authentication import caller_for_key, memberships_of
from tenants.errors import Conflict, InvalidRequest
from tenants.founding import found_tenant
from tenants.models import User
from tenants.roles import ALL_SCOPES, Role
from tests.cast import House


def unique(text: str) -> str:
    return f"{text}-{secrets.token_hex(4)}"


def create_tenant(slug: str, owner: str, **options: str) -> dict[str, Any]:
    out = StringIO()
    call_command("create_tenant", f"--owner={owner}", "--", slug, stdout=out, **options)
    printed: dict[str, Any] = json.loads(out.getvalue())
    return printed


def test_the_command_prints_what_the_owner_has_to_know(database: None) -> None:
    slug, email = unique("acme"), unique("Boss") + "@Example.org"
    printed = create_tenant(slug, email)
    assert set(printed) == {"url", "email", "password", "api_key", "tenant"}
    assert (printed["tenant"], printed["email"]) == (slug, email.lower())
    assert printed["url"].startswith("http")
    caller = caller_for_key(printed["api_key"])
    assert (caller.tenant_slug, caller.role, caller.scopes) == (slug, Role.OWNER, ALL_SCOPES)
    user = authenticate(None, email=printed["email"], password=printed["password"])
    assert isinstance(user, User)
    assert user.id == caller.user_id


def test_an_account_whose_address_nobody_proved_gets_no_rights_by_it(house: House) -> None:
    """Whoever opened an invitation's link may have made it under anybody's address."""
    email, slug = house.owner.user.email, unique("second")
    with pytest.raises(CommandError, match="has not proved that the address is theirs"):
        create_tenant(slug, email)
    with pytest.raises(CommandError, match="has not proved"):
        call_command("create_platform_admin", email, stdout=StringIO())
    assert not User.objects.get(email=email).is_staff
    call_command("create_platform_admin", email, "--unproved", stdout=StringIO())
    assert User.objects.get(email=email).is_staff


def test_an_account_that_is_there_already_stays_as_it_is(house: House) -> None:
    EmailAddress.objects.create(
        user=house.owner.user, email=house.owner.user.email, primary=True, verified=True
    )
    before = User.objects.values().get(id=house.owner.user.id)
    slug = unique("second")
    printed = create_tenant(slug, house.owner.user.email.upper(), name="Second House")
    assert printed["password"] is None
    assert printed["email"] == house.owner.user.email
    assert User.objects.values().get(id=house.owner.user.id) == before
    assert {(one.tenant_slug, one.tenant_name) for one in memberships_of(house.owner.user)} == {
        (house.slug, "House"),
        (slug, "Second House"),
    }


@pytest.mark.parametrize(
    "slug", ["", "Acme", "acme labs", "-acme", "acme-", "acme_labs", "äcme", "a" * 41, "a/b", "../a", "a\n"]
)
def test_a_bad_slug_is_told_and_leaves_nothing(database: None, slug: str) -> None:
    email = unique("nobody") + "@example.org"
    with pytest.raises(CommandError, match="A slug has 1 to 40"):
        create_tenant(slug, email)
    assert not User.objects.filter(email=email).exists()


def test_a_taken_slug_is_told_and_leaves_nothing(house: House) -> None:
    email = unique("late") + "@example.org"
    parts = set(os.listdir(settings.TENANT_KEYS_DIR))
    assert str(house.id) in parts
    with pytest.raises(CommandError, match="is taken"):
        create_tenant(house.slug, email)
    with pytest.raises(Conflict):
        found_tenant(house.slug, email)
    assert set(os.listdir(settings.TENANT_KEYS_DIR)) == parts
    assert not User.objects.filter(email=email).exists()


@pytest.mark.parametrize("email", ["", "nobody", "two@at@example.org", "a b@example.org"])
def test_a_bad_email_is_told(database: None, email: str) -> None:
    with pytest.raises(InvalidRequest, match="no e-mail address"):
        found_tenant(unique("acme"), email)


def test_nothing_that_is_printed_by_accident_shows_the_secrets(database: None) -> None:
    founded = found_tenant(unique("acme"), unique("boss") + "@example.org")
    assert founded.password
    assert founded.password not in repr(founded)
    assert founded.api_key not in repr(founded)
