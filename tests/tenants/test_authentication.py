"""From a key, a cookie or a socket to its caller: whose, in which tenant, and for how long."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.http import HttpRequest
from django.test import RequestFactory
from django.utils import timezone

from tenants.authentication import (
    caller_for_key,
    caller_for_request,
    caller_for_scope,
    caller_for_session,
    has_key,
    memberships_of,
)
from tenants.context import across_tenants, in_tenant, tenant_context
from tenants.errors import ApiError, AuthenticationError, InvalidRequest, NotFound
from tenants.models import ApiKey, digest_of
from tenants.roles import ALL_SCOPES, Action, Role
from tests.cast import House, Person, someone
from tests.servers import TestServers


def scope_of(query: str = "", **headers: str) -> dict[str, Any]:
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "websocket", "headers": named, "query_string": query.encode()}


def request_of(query: str = "", **headers: str) -> HttpRequest:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return RequestFactory().get(f"/v1/models?{query}", headers=named)


# Keys -------------------------------------------------------------------------------------------------------


def test_a_key_acts_as_its_member(house: House) -> None:
    caller = caller_for_key(house.member.key)
    assert (caller.tenant_id, caller.tenant_slug) == (house.id, house.slug)
    assert (caller.member_id, caller.user_id) == (house.member.membership.id, house.member.user.id)
    assert (caller.role, caller.via, caller.scopes) == (Role.MEMBER, "key", ALL_SCOPES)


def test_a_key_opens_what_can_be_read_while_the_database_takes_no_writes(house: House) -> None:
    key = house.member.key
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")
        try:
            assert caller_for_key(key).member_id == house.member.membership.id
        finally:
            cursor.execute("SET default_transaction_read_only = off")


def test_a_keys_scopes_narrow_what_its_member_may(house: House) -> None:
    caller = caller_for_key(house.owner.key_for(frozenset({"read"})))
    assert not caller.may(Action.HOLD_CONVERSATIONS) and not caller.may(Action.KEEP_CREDENTIALS)
    caller = caller_for_key(house.owner.key_for(frozenset({"write"})))
    assert caller.may(Action.HOLD_CONVERSATIONS) and not caller.may(Action.KEEP_CREDENTIALS)
    caller = caller_for_key(house.viewer.key)
    assert not caller.may(Action.HOLD_CONVERSATIONS) and not caller.may(Action.KEEP_CREDENTIALS)
    caller = caller_for_key(house.admin.key)
    assert caller.may(Action.HOLD_CONVERSATIONS) and caller.may(Action.MANAGE_CREDENTIALS)


def test_only_a_hash_of_the_key_is_kept(house: House, servers: TestServers) -> None:
    key = house.owner.key
    assert key.startswith("parley_")
    assert len(key) > 50
    with servers.as_admin() as admin:
        row = admin.execute(
            "SELECT k::text FROM tenants_apikey k WHERE digest = %s", [digest_of(key)]
        ).fetchone()
    assert row
    assert key not in row[0]
    assert key.rsplit("_", 1)[1] not in row[0]


@pytest.mark.parametrize("key", ["", "parley_", "parley_00000000_nonsense", "x" * 300, "ключ", "\x00"])
def test_what_is_no_key_opens_nothing(database: None, key: str) -> None:
    with pytest.raises(AuthenticationError):
        caller_for_key(key)


def test_an_expired_key_a_deleted_one_and_one_of_a_former_person_are_refused(house: House) -> None:
    for end in (
        lambda: ApiKey.objects.update(expires_at=timezone.now() - timedelta(seconds=1)),
        lambda: ApiKey.objects.all().delete(),
    ):
        key = house.owner.key_for(ALL_SCOPES)
        assert caller_for_key(key).role == Role.OWNER
        with tenant_context(house.id):
            end()
        with pytest.raises(AuthenticationError):
            caller_for_key(key)
    key = house.member.key
    house.member.user.is_active = False
    house.member.user.save()
    with pytest.raises(AuthenticationError):
        caller_for_key(key)


def test_a_removed_members_key_is_refused(house: House) -> None:
    key = house.member.key
    with tenant_context(house.id):
        house.member.membership.delete()
    with pytest.raises(AuthenticationError):
        caller_for_key(key)


def test_a_key_may_be_bound_to_a_time_to_come_only(house: House) -> None:
    with tenant_context(house.id):
        for wrong in ({"scopes": ["everything"]}, {"expires_at": timezone.now() - timedelta(days=1)}):
            with pytest.raises(InvalidRequest):
                ApiKey.objects.issue(house.owner.membership, "Wrong", **wrong)
        _key, plain = ApiKey.objects.issue(
            house.owner.membership, "Soon", expires_at=timezone.now() + timedelta(days=1)
        )
    assert caller_for_key(plain).role == Role.OWNER


def test_a_keys_use_is_noted_once_a_minute(house: House) -> None:
    def used() -> Any:
        with tenant_context(house.id):
            return ApiKey.objects.get(digest=digest_of(house.owner.key)).last_used_at

    assert used() is None
    caller_for_key(house.owner.key)
    first = used()
    assert first
    caller_for_key(house.owner.key)
    assert used() == first


# Requests and sockets -----------------------------------------------------------------------------------------


async def test_a_key_comes_in_either_header(house: House) -> None:
    key = await across_tenants(lambda: house.owner.key)
    for headers in (
        {"x_api_key": key},
        {"authorization": f"Bearer {key}"},
        {"authorization": f"bearer  {key} "},
    ):
        assert (await caller_for_request(request_of(**headers))).tenant_id == house.id
        assert (await caller_for_scope(scope_of(**headers))).tenant_id == house.id
        assert has_key(scope_of(**headers))


async def test_a_cookie_alone_is_no_key(house: House) -> None:
    cookie = await across_tenants(lambda: house.owner.cookie)
    assert not has_key(scope_of(cookie=cookie))
    assert not has_key(scope_of(authorization="Basic dXNlcjpwYXNz"))


async def test_a_keys_tenant_wins_and_another_is_not_there(house: House, stranger: Person) -> None:
    key = await across_tenants(lambda: house.owner.key)
    other = stranger.membership.tenant.slug
    for named in (scope_of(f"tenant={other}", x_api_key=key), scope_of(x_api_key=key, x_tenant=other)):
        with pytest.raises(NotFound):
            await caller_for_scope(named)
    with pytest.raises(NotFound):
        await caller_for_request(request_of(f"tenant={other}", x_api_key=key))
    assert (await caller_for_request(request_of(f"tenant={house.slug}", x_api_key=key))).tenant_id == house.id


async def test_a_wrong_key_is_refused_even_beside_a_good_cookie(house: House) -> None:
    cookie = await across_tenants(lambda: house.owner.cookie)
    for key in ("wrong", ""):
        with pytest.raises(AuthenticationError):
            await caller_for_scope(scope_of(cookie=cookie, x_api_key=key))


async def test_nobody_is_nobody() -> None:
    for headers in ({}, {"cookie": "sessionid=unknown"}, {"cookie": "a=b; ;;=,"}, {"cookie": "\x7f"}):
        with pytest.raises(AuthenticationError):
            await caller_for_scope(scope_of(**headers))
    with pytest.raises(AuthenticationError):
        await caller_for_request(request_of())


async def test_a_cookie_acts_in_the_only_tenant_or_in_the_one_named(house: House, stranger: Person) -> None:
    cookie = await across_tenants(lambda: house.member.cookie)
    caller = await caller_for_scope(scope_of(cookie=cookie))
    assert (caller.tenant_id, caller.role, caller.via) == (house.id, Role.MEMBER, "session")
    with pytest.raises(NotFound):
        await caller_for_scope(scope_of(f"tenant={stranger.membership.tenant.slug}", cookie=cookie))
    with pytest.raises(NotFound):
        await caller_for_request(request_of("tenant=nowhere", cookie=cookie))

    def join_the_other() -> None:
        with tenant_context(stranger.caller.tenant_id):
            stranger.membership.tenant.enroll(house.member.user, Role.VIEWER)

    await across_tenants(join_the_other)
    with pytest.raises(InvalidRequest, match="which tenant"):
        await caller_for_request(request_of(cookie=cookie))
    for named in (
        request_of(f"tenant={stranger.membership.tenant.slug}", cookie=cookie),
        request_of(cookie=cookie, x_tenant=stranger.membership.tenant.slug),
    ):
        caller = await caller_for_request(named)
        assert (caller.tenant_id, caller.role) == (stranger.caller.tenant_id, Role.VIEWER)


async def test_an_ended_session_a_changed_password_and_a_removed_member_are_noticed(house: House) -> None:
    def sign_out(person: Person) -> None:
        person.client.logout()

    def change_password(person: Person) -> None:
        assert person.password

    for end in (sign_out, change_password):
        person = await across_tenants(house.join, Role.MEMBER)
        scope = scope_of(cookie=await across_tenants(getattr, person, "cookie"))
        assert (await caller_for_scope(scope)).member_id == person.membership.id
        await across_tenants(end, person)
        with pytest.raises(AuthenticationError):
            await caller_for_scope(scope)
    scope = scope_of(f"tenant={house.slug}", cookie=await across_tenants(lambda: house.member.cookie))
    assert (await caller_for_scope(scope)).role == Role.MEMBER
    await in_tenant(house.id, house.member.membership.delete)
    with pytest.raises(ApiError):
        await caller_for_scope(scope)


def test_a_person_without_a_tenant_is_told(database: None) -> None:
    with pytest.raises(InvalidRequest, match="do not belong to any tenant"):
        caller_for_session(someone("alone"))


def test_a_person_sees_their_own_memberships(house: House, stranger: Person) -> None:
    found = memberships_of(house.owner.user)
    assert [(one.tenant_slug, one.tenant_name, one.role) for one in found] == [
        (house.slug, "House", Role.OWNER)
    ]
