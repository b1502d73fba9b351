"""The cast of the tests: people in tenants of their own, made when they are first asked for."""

import secrets
from dataclasses import dataclass
from functools import cached_property
from uuid import UUID

from django.test import AsyncClient, Client

from tenants.access import Caller
from tenants.context import tenant_context
from tenants.models import ApiKey, Membership, Tenant, User
from tenants.roles import ALL_SCOPES, Role


@dataclass(frozen=True, eq=False)
class Person:
    """A member of one tenant, with all the ways to act as them."""

    user: User
    membership: Membership

    @cached_property
    def caller(self) -> Caller:
        return self.membership.as_caller()

    @cached_property
    def key(self) -> str:
        """An API key of all scopes."""
        return self.key_for(ALL_SCOPES)

    def key_for(self, scopes: frozenset[str]) -> str:
        """An API key of these scopes only."""
        with tenant_context(self.membership.tenant_id):
            _key, plain = ApiKey.objects.issue(self.membership, "A test's", scopes)
        return plain

    @cached_property
    def client(self) -> Client:
        """A browser that is signed in, without pages' scripts."""
        client = Client()
        client.force_login(self.user, backend="allauth.account.auth_backends.AuthenticationBackend")
        return client

    @cached_property
    def cookie(self) -> str:
        """The header `cookie` of that browser."""
        return "; ".join(f"{name}={morsel.value}" for name, morsel in self.client.cookies.items())

    @cached_property
    def async_client(self) -> AsyncClient:
        client = AsyncClient()
        client.cookies = self.client.cookies
        return client

    @cached_property
    def password(self) -> str:
        """Made on first use: hashing one takes half a second."""
        password = secrets.token_urlsafe(12)
        self.user.set_password(password)
        self.user.save()
        return password


@dataclass(frozen=True, eq=False)
class House:
    """A tenant and its people."""

    tenant: Tenant
    owner: Person

    @property
    def id(self) -> UUID:
        return self.tenant.id

    @property
    def slug(self) -> str:
        return self.tenant.slug

    @cached_property
    def admin(self) -> Person:
        return self.join(Role.ADMIN)

    @cached_property
    def member(self) -> Person:
        return self.join(Role.MEMBER)

    @cached_property
    def viewer(self) -> Person:
        return self.join(Role.VIEWER)

    def join(self, role: Role, user: User | None = None) -> Person:
        """Another person in this tenant."""
        user = user or someone(role)
        with tenant_context(self.id):
            return Person(user, self.tenant.enroll(user, role))


def found_house(name: str) -> House:
    """A new tenant with its owner; its slug is `name` and something unique."""
    owner = someone("owner")
    membership = Tenant.objects.found(f"{name}-{secrets.token_hex(4)}", name.title(), owner)
    return House(membership.tenant, Person(owner, membership))


def someone(name: str) -> User:
    """A new person who can't sign in with a password yet."""
    return User.objects.create_user(f"{name}-{secrets.token_hex(4)}@example.org", name=name.title())
