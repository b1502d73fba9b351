"""Who pays: the claim's choice is the account's choice, and what is revoked counts no more."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from claude_runner import Grant, Refused, Spending
from conversations.accounts import TurnAccount
from conversations.launch import launch_of
from tenants.context import in_tenant, tenant_context
from tenants.credentials import credential_for
from tenants.drafts import CredentialDraft
from tenants.errors import InvalidRequest
from tenants.models import Credential
from tests.cast import House, Person
from tests.conversations.stage import Hands, say

KINDS = ("api_key", "oauth_token")


def keep(person: Person, kind: str, **options: Any) -> Credential:
    draft = CredentialDraft.checked(name=kind, kind=kind, secret=f"sk-{kind}-0123456789")
    with tenant_context(person.caller.tenant_id):
        return Credential.objects.create_for(person.caller, draft, **options)


def account_of(person: Person) -> TurnAccount:
    return TurnAccount(person.caller.tenant_id, UUID(int=1), person.caller.member_id)


def claimed_kind(person: Person) -> str | None:
    return Hands.claiming(say(person.caller)).claim.credential_kind


# Each of these is one credential of whose, of which kind, and whether it is a default; oldest first.
@pytest.mark.parametrize(
    "kept",
    [
        [],
        [("owner", "api_key", False)],
        [("owner", "api_key", False), ("owner", "oauth_token", False)],
        [("owner", "api_key", False), ("owner", "oauth_token", True)],
        [("owner", "api_key", True), ("member", "oauth_token", False)],
        [("owner", "api_key", True), ("member", "oauth_token", True)],
        [("owner", "api_key", False), ("member", "oauth_token", False)],
        [("member", "oauth_token", True), ("owner", "api_key", True)],
        [("admin", "oauth_token", True)],
        [("admin", "oauth_token", True), ("owner", "api_key", False)],
    ],
)
def test_a_claim_names_the_kind_of_the_credential_that_the_account_then_opens(
    house: House, kept: list[tuple[str, str, bool]]
) -> None:
    for whose, kind, default in kept:
        keep(getattr(house, whose), kind, default=default, owner="tenant" if whose == "owner" else "member")
    with tenant_context(house.id):
        try:
            opened = credential_for(house.id, house.member.caller.member_id).kind
        except InvalidRequest:
            opened = None
    assert claimed_kind(house.member) == opened


def test_a_strangers_credential_is_no_ones_kind(house: House, stranger: Person) -> None:
    keep(stranger, "api_key", default=True)
    assert claimed_kind(house.member) is None


def test_without_a_credential_there_is_no_launch(house: House) -> None:
    claim = Hands.claiming(say(house.member.caller)).claim
    with pytest.raises(InvalidRequest, match=r"no credential yet. Enter one under Credentials"):
        launch_of(claim)


async def test_a_revoked_credential_is_refused_at_the_next_request(house: House) -> None:
    kept = await in_tenant(house.id, keep, house.owner, "api_key")
    account = account_of(house.owner)
    grant = await account.admit()
    assert (grant.upstream.kind, grant.upstream.secret) == ("api_key", "sk-api_key-0123456789")
    await in_tenant(house.id, kept.delete)
    with pytest.raises(Refused, match="no credential yet") as refused:
        await account.admit()
    assert (refused.value.type, refused.value.status) == ("invalid_request_error", 403)


async def test_what_the_server_says_to_a_credential_is_kept_when_it_is_news(house: House) -> None:
    kept = await in_tenant(house.id, keep, house.owner, "api_key")
    account = account_of(house.owner)
    grant = await account.admit()
    states = []
    for status in (500, 429, 200, 200, 401, 200, 403):
        await account.settle(grant, Spending(UUID(int=status), status))
        states.append((await in_tenant(house.id, Credential.objects.get, id=kept.id)).state)
    assert states == ["untried", "untried", "working", "working", "refused", "working", "refused"]


def replace_secret(credential: Credential, secret: str) -> None:
    credential.secret = secret
    credential.save(update_fields=["sealed_secret", "last4", "state"])


async def test_what_the_server_says_too_late_is_not_said_of_the_secret_in_its_place(house: House) -> None:
    kept = await in_tenant(house.id, keep, house.owner, "api_key")
    account = account_of(house.owner)

    async def heard(grant: Grant, status: int) -> str:
        await account.settle(grant, Spending(uuid4(), status))
        return (await in_tenant(house.id, Credential.objects.get, id=kept.id)).state

    late = await account.admit()
    await in_tenant(house.id, replace_secret, kept, "sk-better")
    assert await heard(late, 401) == "untried"
    assert await heard(late, 200) == "untried"
    fresh = await account.admit()
    assert (
        (late.credential, late.upstream.secret)
        != (fresh.credential, fresh.upstream.secret)
        == (
            str(kept.id),
            "sk-better",
        )
    )
    assert await heard(late, 401) == "untried"
    assert await heard(fresh, 200) == "working"
    assert await heard(late, 401) == "working"
    assert await heard(fresh, 403) == "refused"
