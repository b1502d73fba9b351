"""Credentials: entered, chosen for a turn, changed, and seen by nobody else."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import Settings

from tenants.access import Caller
from tenants.api import credential_record
from tenants.context import in_tenant, tenant_context
from tenants.credentials import credential_for, mark_credential
from tenants.drafts import CredentialDraft
from tenants.errors import InvalidRequest, NotFound, PermissionDenied
from tenants.models import Credential
from tenants.roles import CredentialState
from tests.cast import House, Person
from tests.servers import TestServers

SECRET = "sk-ant-api03-abcdefgh"


def draft(name: str = "Ours", **given: str) -> CredentialDraft:
    return CredentialDraft.checked(**{"name": name, "kind": "api_key", "secret": SECRET} | given)


def keep(person: Person, name: str = "Ours", **options: Any) -> Credential:
    with tenant_context(person.caller.tenant_id):
        return Credential.objects.create_for(person.caller, draft(name), **options)


def chosen(person: Person) -> str:
    """The name of the credential that the person's next turn would use."""
    with tenant_context(person.caller.tenant_id):
        return Credential.objects.get(
            id=credential_for(person.caller.tenant_id, person.caller.member_id).id
        ).name


# Entering ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"kind": "password"}, "kind is one of"),
        ({"kind": ""}, "kind is one of"),
        ({"name": ""}, "A name has 1 to"),
        ({"name": "   "}, "A name has 1 to"),
        ({"name": "x" * 81}, "A name has 1 to"),
        ({"name": "two\nlines"}, "A name has 1 to"),
        ({"name": "bell\x07"}, "A name has 1 to"),
        ({"name": "right\u202eto left"}, "A name has 1 to"),
        ({"secret": ""}, "secret is empty"),
        ({"secret": "  \n "}, "secret is empty"),
        ({"secret": "sk\r\nx-evil: 1"}, "no key has"),
        ({"secret": "sk schlüssel"}, "no key has"),
        ({"secret": "schlüssel"}, "no key has"),
        ({"secret": "x" * 4001}, "too long"),
        ({"base_url": "https://1.1.1.1"}, "for endpoints only"),
        ({"kind": "endpoint"}, "needs a base_url"),
        ({"kind": "endpoint", "base_url": " "}, "needs a base_url"),
        ({"kind": "endpoint", "base_url": "https://127.0.0.1"}, "private network"),
        ({"kind": "endpoint", "base_url": "http://1.1.1.1"}, "https"),
    ],
)
def test_a_bad_one_is_refused_with_a_sentence(wrong: dict[str, str], told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        draft(**wrong)


def test_outer_spaces_of_what_was_pasted_fall_away() -> None:
    entered = draft(" Ours ", secret=f" {SECRET}\n")
    assert (entered.name, entered.secret) == ("Ours", SECRET)


def test_the_operator_can_turn_tokens_of_subscriptions_off(settings: Settings) -> None:
    assert draft(kind="oauth_token").kind == "oauth_token"
    settings.ALLOW_OAUTH_TOKENS = False
    with pytest.raises(InvalidRequest, match="does not allow subscription tokens"):
        draft(kind="oauth_token")


def test_its_owner_is_the_tenant_for_admins_and_oneself_for_members(house: House) -> None:
    assert keep(house.owner).owner == "tenant"
    assert keep(house.admin).owner == "tenant"
    assert keep(house.admin, owner="member").member_id == house.admin.caller.member_id
    assert keep(house.member).member_id == house.member.caller.member_id
    with pytest.raises(PermissionDenied):
        keep(house.member, owner="tenant")
    for owner in (None, "tenant", "member"):
        with pytest.raises(PermissionDenied):
            keep(house.viewer, owner=owner)


def test_only_the_last_four_signs_come_back(house: House) -> None:
    record = credential_record(keep(house.owner))
    assert record["last4"] == "efgh"
    assert SECRET not in str(record)
    with tenant_context(house.id):
        short = Credential.objects.create_for(house.owner.caller, draft(secret="abcd"))
    assert short.last4 == ""


# Choosing ---------------------------------------------------------------------------------------------------


def test_without_any_the_person_is_told_what_to_do(house: House) -> None:
    with pytest.raises(InvalidRequest, match="no credential yet"):
        chosen(house.member)


def test_a_members_default_precedes_the_tenants(house: House) -> None:
    keep(house.owner, "tenant's first")
    assert chosen(house.member) == "tenant's first"
    keep(house.owner, "tenant's default", default=True)
    assert chosen(house.member) == "tenant's default"
    keep(house.member, "own, no default")
    assert chosen(house.member) == "tenant's default"
    keep(house.member, "own default", default=True)
    assert chosen(house.member) == "own default"
    assert chosen(house.owner) == "tenant's default"


def test_a_new_default_takes_the_place_of_its_owners_former_one(house: House) -> None:
    first, own = keep(house.owner, "first", default=True), keep(house.member, "own", default=True)
    second = keep(house.owner, "second", default=True)
    with tenant_context(house.id):
        defaults = set(Credential.objects.filter(is_default=True).values_list("id", flat=True))
        assert defaults == {second.id, own.id}
        first.make_default()
        defaults = set(Credential.objects.filter(is_default=True).values_list("id", flat=True))
    assert defaults == {first.id, own.id}


async def test_of_many_defaults_at_once_one_is_left(house: House) -> None:
    caller = house.owner.caller

    def make(number: int) -> None:
        Credential.objects.create_for(caller, draft(f"No. {number}"), default=True)

    await asyncio.gather(*(in_tenant(house.id, make, number) for number in range(12)))
    assert await in_tenant(house.id, Credential.objects.filter(is_default=True).count) == 1
    assert await in_tenant(house.id, Credential.objects.count) == 12


def test_where_it_goes(house: House, settings: Settings) -> None:
    settings.MODEL_UPSTREAM_ALLOWLIST = frozenset({"127.0.0.1:9"})
    with tenant_context(house.id):
        Credential.objects.create_for(house.owner.caller, draft(), default=True)
        found = credential_for(house.id, house.owner.caller.member_id)
        assert (found.kind, found.base_url, found.secret) == ("api_key", "https://api.anthropic.com", SECRET)
        assert SECRET not in repr(found)
        entered = draft(kind="endpoint", base_url="http://127.0.0.1:9/")
        Credential.objects.create_for(house.owner.caller, entered, default=True)
        assert credential_for(house.id, house.owner.caller.member_id).base_url == "http://127.0.0.1:9"


def test_its_use_is_noted_once_a_minute(house: House) -> None:
    kept = keep(house.owner)
    assert kept.last_used_at is None
    chosen(house.owner)
    with tenant_context(house.id):
        first = Credential.objects.get().last_used_at
        assert first is not None
    chosen(house.owner)
    with tenant_context(house.id):
        assert Credential.objects.get().last_used_at == first
        Credential.objects.update(last_used_at=timezone.now() - timedelta(minutes=2))
    chosen(house.owner)
    with tenant_context(house.id):
        later = Credential.objects.get().last_used_at
        assert later is not None
        assert later > first


def test_what_the_server_said_is_kept_until_the_secret_changes(house: House) -> None:
    kept = keep(house.owner)
    with tenant_context(house.id):
        mark_credential(credential_for(house.id, house.owner.caller.member_id), CredentialState.REFUSED)
        kept = Credential.objects.of(house.owner.caller, kept.id)
        assert kept.state == "refused"
        kept.secret = "sk-another"
        assert kept.state == "untried"
        assert kept.last4 == "ther"


def test_one_that_does_not_open_says_so(house: House, servers: TestServers) -> None:
    kept = keep(house.owner, "Broken")
    with servers.as_admin() as admin:
        admin.execute("UPDATE tenants_credential SET sealed_secret = 'x' WHERE id = %s", [kept.id])
    with pytest.raises(InvalidRequest, match=r"Broken can't be opened .* Enter it again"):
        chosen(house.owner)


# Others -----------------------------------------------------------------------------------------------------


def test_a_strangers_credential_is_not_there(house: House, stranger: Person) -> None:
    kept = keep(house.owner)
    with tenant_context(stranger.caller.tenant_id):
        for credential in (kept.id, str(kept.id), "no-uuid", None):
            with pytest.raises(NotFound):
                Credential.objects.of(stranger.caller, credential)


def test_another_members_credential_is_not_there_and_the_tenants_is_only_to_look_at(house: House) -> None:
    own, common = keep(house.admin, owner="member"), keep(house.owner)
    with tenant_context(house.id):
        with pytest.raises(NotFound):
            Credential.objects.of(house.member.caller, own.id)
        assert Credential.objects.of(house.member.caller, common.id) == common
        with pytest.raises(PermissionDenied):
            Credential.objects.of(house.member.caller, common.id, writing=True)
        assert Credential.objects.of(house.admin.caller, common.id, writing=True) == common


def test_a_key_without_the_scope_changes_nothing(house: House) -> None:
    mine = house.owner.caller
    weak = Caller(
        mine.tenant_id,
        mine.tenant_slug,
        mine.member_id,
        mine.user_id,
        mine.role,
        frozenset({"read", "write"}),
        "key",
    )
    with tenant_context(house.id), pytest.raises(PermissionDenied, match="key needs the scope"):
        Credential.objects.create_for(weak, draft())
