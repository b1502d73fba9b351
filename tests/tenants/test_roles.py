"""The one table of who may do what."""

from uuid import uuid4

import pytest

from tenants.access import Caller
from tenants.errors import PermissionDenied
from tenants.roles import ALL_SCOPES, RIGHTS, Action, Role, Scope


def caller(role: Role, scopes: frozenset[str] = ALL_SCOPES) -> Caller:
    return Caller(uuid4(), "acme", uuid4(), uuid4(), role, scopes)


def allowed(role: Role, scopes: frozenset[str] = ALL_SCOPES) -> set[Action]:
    return {action for action in Action if caller(role, scopes).may(action)}


def test_every_action_has_one_right() -> None:
    assert set(RIGHTS) == set(Action)


def test_each_role_may_do_more_than_the_one_below_it() -> None:
    assert allowed(Role.OWNER) > allowed(Role.ADMIN) > allowed(Role.MEMBER) > allowed(Role.VIEWER)
    assert allowed(Role.OWNER) == set(Action)


def test_a_viewer_changes_nothing_but_their_own_belonging() -> None:
    changing = {action for action in allowed(Role.VIEWER) if RIGHTS[action].scope != Scope.READ}
    assert changing == {Action.LEAVE}


@pytest.mark.parametrize("action", Action)
def test_a_key_needs_the_scope_as_well_as_its_member_the_role(action: Action) -> None:
    scope = frozenset({RIGHTS[action].scope.value})
    assert caller(Role.OWNER, scope).may(action)
    assert not caller(Role.OWNER, ALL_SCOPES - scope).may(action)


def test_a_refusal_says_what_is_missing() -> None:
    with pytest.raises(PermissionDenied, match="scope admin"):
        caller(Role.OWNER, frozenset({"read", "write"})).require(Action.MANAGE_MEMBERS)
    with pytest.raises(PermissionDenied, match="Ask an admin"):
        caller(Role.MEMBER).require(Action.MANAGE_MEMBERS)
    caller(Role.ADMIN).require(Action.MANAGE_MEMBERS)
