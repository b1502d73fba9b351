"""Who calls, in which tenant, with what rights: looked up once, carried along as a frozen value."""

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from django.utils.translation import gettext as _

from tenants.errors import PermissionDenied
from tenants.roles import ALL_SCOPES, Role, Scope

ADMINS = frozenset({Role.OWNER, Role.ADMIN})


@dataclass(frozen=True, slots=True)
class Caller:
    """One member of one tenant, acting through a signed-in browser or the API key `key_id`."""

    tenant_id: UUID
    tenant_slug: str
    member_id: UUID
    user_id: UUID
    role: Role
    scopes: frozenset[str] = ALL_SCOPES
    via: Literal["session", "key"] = "session"
    key_id: UUID | None = None

    @property
    def may_write(self) -> bool:
        return self.role != Role.VIEWER and Scope.WRITE in self.scopes

    @property
    def may_own(self) -> bool:
        """May keep credentials and keys of their own."""
        return self.role != Role.VIEWER and Scope.ADMIN in self.scopes

    @property
    def may_administer(self) -> bool:
        """May change what belongs to the tenant as a whole."""
        return self.role in ADMINS and Scope.ADMIN in self.scopes

    def require(self, allowed: bool) -> None:
        """PermissionDenied unless `allowed`, one of the properties above."""
        if not allowed:
            raise PermissionDenied(
                _("Your key has not the scope for that.")
                if self.via == "key" and self.scopes != ALL_SCOPES
                else _("Your role in this tenant does not allow that. Ask an admin.")
            )
