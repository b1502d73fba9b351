"""From a request or a socket to its caller: an API key first, else the session cookie.

A key's tenant is its own; a session acts in the tenant that the request names.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from importlib import import_module
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

from django.conf import settings
from django.contrib import auth
from django.contrib.auth.models import AnonymousUser
from django.db import Error, connection
from django.http import HttpRequest
from django.utils.translation import gettext as _

from tenants.access import Caller
from tenants.audit import note_refusal_of_tenant
from tenants.context import across_tenants, tenant_context
from tenants.errors import AuthenticationError, InvalidRequest, NotFound
from tenants.models import ApiKey, User, digest_of, was_just_used
from tenants.roles import Role

logger = logging.getLogger("parley.tenants")

LONGEST_KEY = 200
# The call, in the audit, of who names a tenant that is not theirs.
NAMED = "?tenant="


@dataclass(frozen=True, slots=True)
class Membership:
    """A tenant that a person belongs to, as pages and sessions need it."""

    tenant_id: UUID
    tenant_slug: str
    tenant_name: str
    member_id: UUID
    user_id: UUID
    role: Role

    def as_caller(self) -> Caller:
        return Caller(self.tenant_id, self.tenant_slug, self.member_id, self.user_id, self.role)


# Requests and sockets -----------------------------------------------------------------------------------------


async def caller_for_request(request: HttpRequest) -> Caller:
    """The caller of an HTTP request. AuthenticationError, NotFound or InvalidRequest says why there is none."""
    tenant = request.GET.get("tenant") or request.headers.get("x-tenant")
    if (key := _key_in(request.headers)) is not None:
        return await across_tenants(caller_for_key, key, tenant)
    return await across_tenants(_caller_for_cookie, request.COOKIES.get(settings.SESSION_COOKIE_NAME), tenant)


async def caller_for_scope(scope: Mapping[str, Any]) -> Caller:
    """The caller of a socket, asked anew each time: what has ended meanwhile is an AuthenticationError."""
    headers = headers_of(scope)
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    tenant = (query.get("tenant") or [""])[0] or headers.get("x-tenant")
    if (key := _key_in(headers)) is not None:
        return await across_tenants(caller_for_key, key, tenant)
    return await across_tenants(_caller_for_cookie, _session_in(headers), tenant)


def has_key(scope: Mapping[str, Any]) -> bool:
    """Whether a socket comes with an API key, which no foreign page can send in a person's name."""
    return _key_in(headers_of(scope)) is not None


def headers_of(scope: Mapping[str, Any]) -> dict[str, str]:
    """The headers of an ASGI scope by their small names."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _key_in(headers: Mapping[str, str]) -> str | None:
    """The key that was sent, maybe an empty one, which is wrong; None where there is none."""
    if (key := headers.get("x-api-key")) is not None:
        return key.strip()
    scheme, _space, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _session_in(headers: Mapping[str, str]) -> str | None:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(settings.SESSION_COOKIE_NAME)
    except CookieError:
        return None
    return found.value if found else None


# Who that is, for a database thread -----------------------------------------------------------------------------


def caller_for_key(key: str, tenant: str | None = None) -> Caller:
    """The member that a key acts as. NotFound where another tenant than the key's was named."""
    rows = list(_rows("bearer_of", digest_of(key))) if 0 < len(key) <= LONGEST_KEY else []
    if not rows:
        raise AuthenticationError(_("This API key is not valid (any more)."))
    row = rows[0]
    caller = Caller(
        tenant_id=row["tenant_id"],
        tenant_slug=row["tenant_slug"],
        member_id=row["member_id"],
        user_id=row["user_id"],
        role=Role(row["role"]),
        scopes=frozenset(row["scopes"]),
        via="key",
        key_id=row["key_id"],
    )
    if tenant and tenant != caller.tenant_slug:
        note_refusal_of_tenant([caller], NAMED)
        raise NotFound(_("There is no such tenant."))
    if not was_just_used(row["last_used_at"]):
        _note_use(caller.tenant_id, row["key_id"])
    return caller


def _note_use(tenant: UUID, key: UUID) -> None:
    try:
        with tenant_context(tenant):
            ApiKey(id=key).mark_used()
    except Error as error:
        # A database that takes no writes is no reason to turn a reader away.
        logger.warning("When a key was used could not be noted: %s", error)


def caller_for_session(user: User | AnonymousUser, tenant: str | None = None) -> Caller:
    """The member that a signed-in person is in `tenant`, which may be left out when there is only one."""
    if not isinstance(user, User) or not user.is_active:
        raise AuthenticationError
    found = everywhere = memberships_of(user)
    if tenant:
        found = [membership for membership in found if membership.tenant_slug == tenant]
        if not found:
            note_refusal_of_tenant([membership.as_caller() for membership in everywhere], NAMED)
            raise NotFound(_("There is no such tenant."))
    if not found:
        raise InvalidRequest(_("You do not belong to any tenant yet. Ask an admin to add you."))
    if len(found) > 1:
        raise InvalidRequest(_("Say which tenant you mean: ?tenant=SLUG, or the header x-tenant."))
    return found[0].as_caller()


def memberships_of(user: User) -> list[Membership]:
    """All tenants of a person, by slug."""
    return [Membership(**row | {"role": Role(row["role"])}) for row in _rows("memberships_of", user.id)]


def _caller_for_cookie(session_key: str | None, tenant: str | None) -> Caller:
    if not session_key:
        raise AuthenticationError
    request = HttpRequest()
    # A fresh look at the session each time: a socket outlives sign-out and changes of password.
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
    user = auth.get_user(request)
    return caller_for_session(user if isinstance(user, User) else AnonymousUser(), tenant)


def _rows(function: str, argument: bytes | UUID) -> Iterator[dict[str, Any]]:
    """What a database function that crosses tenants answers."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {function}(%s)", [argument])
        names = [column.name for column in cursor.description or ()]
        yield from (dict(zip(names, row, strict=True)) for row in cursor.fetchall())
