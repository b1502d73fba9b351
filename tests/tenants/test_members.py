"""Who belongs to a tenant: roles given and taken, people removed, and always an owner."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tenants.authentication import memberships_of
from tenants.context import in_tenant, tenant_context
from tenants.credentials import credential_for
from tenants.drafts import CredentialDraft
from tenants.errors import ApiError, AuthenticationError, Conflict, InvalidRequest, NotFound, PermissionDenied
from tenants.members import change_role, members_for, remove
from tenants.models import Credential, Membership
from tenants.roles import Role
from tests.cast import House, Person


def role_of(person: Person) -> str:
    with tenant_context(person.caller.tenant_id):
        return Membership.objects.get(id=person.membership.id).role


def test_everybody_sees_who_belongs_owners_first(house: House) -> None:
    people = [house.owner, house.admin, house.member, house.viewer]
    for person in people:
        with tenant_context(house.id):
            assert [row.id for row in members_for(person.caller)] == [one.membership.id for one in people]


def test_an_admin_changes_roles_below_owner(house: House) -> None:
    with tenant_context(house.id):
        change_role(house.admin.caller, house.viewer.membership.id, "member")
    assert role_of(house.viewer) == Role.MEMBER


@pytest.mark.parametrize("role", ["member", "viewer"])
def test_who_is_no_admin_changes_nobody(house: House, role: str) -> None:
    person = getattr(house, role)
    with tenant_context(house.id):
        for change in (
            lambda: change_role(person.caller, house.admin.membership.id, "viewer"),
            lambda: change_role(person.caller, person.membership.id, "admin"),
            lambda: remove(person.caller, house.admin.membership.id),
        ):
            with pytest.raises(PermissionDenied):
                change()
    assert (role_of(house.admin), role_of(person)) == (Role.ADMIN, role)


def test_an_admin_makes_demotes_and_removes_no_owner(house: House) -> None:
    with tenant_context(house.id):
        for change in (
            lambda: change_role(house.admin.caller, house.member.membership.id, "owner"),
            lambda: change_role(house.admin.caller, house.admin.membership.id, "owner"),
            lambda: change_role(house.admin.caller, house.owner.membership.id, "member"),
            lambda: remove(house.admin.caller, house.owner.membership.id),
        ):
            with pytest.raises(PermissionDenied):
                change()
    assert role_of(house.owner) == Role.OWNER


def test_the_last_owner_stays_an_owner(house: House) -> None:
    with tenant_context(house.id):
        with pytest.raises(Conflict, match="needs an owner"):
            change_role(house.owner.caller, house.owner.membership.id, "admin")
        with pytest.raises(Conflict, match="needs an owner"):
            remove(house.owner.caller, house.owner.membership.id)
        change_role(house.owner.caller, house.admin.membership.id, "owner")
        remove(house.owner.caller, house.owner.membership.id)
    assert role_of(house.admin) == Role.OWNER
    assert memberships_of(house.owner.user) == []


def test_nobody_unknown_and_no_unknown_role(house: House, stranger: Person) -> None:
    with tenant_context(house.id):
        with pytest.raises(NotFound):
            change_role(house.owner.caller, stranger.membership.id, "viewer")
        with pytest.raises(NotFound):
            remove(house.owner.caller, "nobody")
        with pytest.raises(InvalidRequest, match="role is one of"):
            change_role(house.owner.caller, house.member.membership.id, "king")


def test_anybody_may_leave_and_is_gone_from_the_list(house: House) -> None:
    with tenant_context(house.id):
        remove(house.viewer.caller, house.viewer.membership.id)
        assert house.viewer.membership.id not in [row.id for row in members_for(house.owner.caller)]
        with pytest.raises(NotFound):
            remove(house.owner.caller, house.viewer.membership.id)
        with pytest.raises(AuthenticationError):
            remove(house.viewer.caller, house.member.membership.id)


def test_who_comes_back_is_the_same_member(house: House) -> None:
    with tenant_context(house.id):
        remove(house.owner.caller, house.member.membership.id)
        again = house.tenant.enroll(house.member.user, Role.VIEWER)
    assert again.id == house.member.membership.id
    assert [here.role for here in memberships_of(house.member.user)] == [Role.VIEWER]


type Change = Callable[[Any, Any], object]


@pytest.mark.parametrize("change", [remove, lambda caller, member: change_role(caller, member, "member")])
@pytest.mark.parametrize("whom", ["each other", "themselves"])
async def test_two_owners_at_once_do_not_leave_none(house: House, change: Change, whom: str) -> None:
    def two() -> tuple[Person, Person]:
        return house.owner, house.join(Role.OWNER)

    one, other = await asyncio.to_thread(two)
    targets = (other, one) if whom == "each other" else (one, other)
    outcomes = await asyncio.gather(
        *(
            in_tenant(house.id, change, person.caller, target.membership.id)
            for person, target in zip((one, other), targets, strict=True)
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, ApiError) for outcome in outcomes) == 1, outcomes

    def owners() -> int:
        return Membership.objects.current().filter(role=Role.OWNER).count()

    assert await in_tenant(house.id, owners) == 1


def test_who_has_left_has_nobody_pay_for_them(house: House) -> None:
    """Not even the tenant, whose credential everybody else uses."""
    draft = CredentialDraft.checked(name="Ours", kind="api_key", secret="sk-ours-1234")
    with tenant_context(house.id):
        Credential.objects.all().create_for(house.owner.caller, draft, default=True)
        assert credential_for(house.id, house.member.membership.id).secret == "sk-ours-1234"
        remove(house.owner.caller, house.member.membership.id)
        with pytest.raises(AuthenticationError, match="any more"):
            credential_for(house.id, house.member.membership.id)
