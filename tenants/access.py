"""Who calls, in which tenant, with what rights: looked up once, carried along as a frozen value."""

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from django.utils.translation import gettext as _

from tenants.errors import PermissionDenied
from tenants.roles import ALL_SCOPES, RIGHTS, Action, Role


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

    def may(self, action: Action) -> bool:
        """Whether the role, and the key if there is one, reaches that far."""
        right = RIGHTS[action]
        return self.role.reaches(right.least) and right.scope in self.scopes

    def require(self, action: Action) -> None:
        """PermissionDenied, with what stands in the way, unless the caller `may`."""
        if self.may(action):
            return
        right = RIGHTS[action]
        if self.role.reaches(right.least):
            raise PermissionDenied(_("Your key needs the scope %(scope)s for that.") % {"scope": right.scope})
        raise PermissionDenied(_("Your role in this tenant does not allow that. Ask an admin."))
