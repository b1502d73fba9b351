"""Changing who belongs to a tenant, and as what. Everything here runs inside the tenant's context.

Each change locks the tenant's row first and looks at the acting member anew, so that of two changes at once the
second sees the first: there is always an owner, and nobody acts after they were removed.
"""

from dataclasses import replace
from uuid import UUID

from django.utils import timezone
from django.utils.translation import gettext as _

from tenants.access import Caller
from tenants.acts import Act
from tenants.context import tenant_context
from tenants.errors import AuthenticationError, Conflict, InvalidRequest, NotFound
from tenants.models import ApiKey, AuditEvent, Credential, Membership, Tenant, User, uuid_of
from tenants.roles import RIGHTS, Action, Role
from tenants.signals import member_halted


def members_for(caller: Caller) -> list[Membership]:
    """All who belong to the tenant, owners first, by name."""
    caller.require(Action.SEE_MEMBERS)
    rows = Membership.objects.current().select_related("user")
    ranks = list(Role)
    return sorted(rows, key=lambda row: (ranks.index(Role(row.role)), row.user.get_full_name().lower()))


def member_for(caller: Caller, member: object) -> Membership:
    """One of them, or NotFound."""
    caller.require(Action.SEE_MEMBERS)
    found = Membership.objects.current().select_related("user").filter(id=uuid_of(member)).first()
    if found is None:
        raise NotFound(_("There is no such member."))
    return found


def change_role(caller: Caller, member: object, role: str) -> Membership:
    """Give a member another role. PermissionDenied, NotFound, InvalidRequest; Conflict for the last owner."""
    caller = acting(caller)
    row, wanted = member_for(caller, member), checked_role(role)
    for touched in (Role(row.role), wanted):
        caller.require(right_over(touched))
    if wanted == row.role:
        return row
    keep_an_owner(row)
    AuditEvent.objects.note(
        row.tenant_id, Act.MEMBER_ROLE_CHANGED, caller, row.id, role=wanted.value, former=row.role
    )
    row.role = wanted
    row.save(update_fields=["role"])
    row.withdraw_invitations()
    if not wanted.reaches(RIGHTS[Action.HOLD_CONVERSATIONS].least):
        member_halted.send(Membership, member=row)
    return row


def remove(caller: Caller, member: object) -> None:
    """End a member's belonging, or the caller's own: their keys, credentials and invitations are gone at once,
    their turns are stopped, their conversations stay the tenant's.

    PermissionDenied, NotFound; Conflict for the last owner.
    """
    caller = acting(caller)
    row = member_for(caller, member)
    caller.require(right_to_remove(caller, row))
    _end(row, caller, Act.MEMBER_LEFT if row.id == caller.member_id else Act.MEMBER_REMOVED)


def dismiss(operator: User, tenant_id: UUID, member: object) -> None:
    """The same for who operates the platform, and is no member. NotFound; Conflict for the last owner."""
    Tenant.objects.for_sealing(tenant_id)
    row = Membership.objects.current().filter(id=uuid_of(member)).first()
    if row is None:
        raise NotFound(_("There is no such member."))
    _end(row, operator, Act.MEMBER_REMOVED)


def halt(tenant_id: UUID, member_id: UUID) -> None:
    """Stop what a member has running or waiting, though they still belong: their account was closed."""
    with tenant_context(tenant_id):
        member_halted.send(Membership, member=Membership.objects.get(id=member_id))


def _end(row: Membership, by: Caller | User, act: Act) -> None:
    keep_an_owner(row)
    row.left_at = timezone.now()
    row.save(update_fields=["left_at"])
    AuditEvent.objects.note(row.tenant_id, act, by, row.id, role=row.role)
    ApiKey.objects.filter(member=row).delete()
    Credential.objects.filter(member=row).delete()
    row.withdraw_invitations()
    member_halted.send(Membership, member=row)


def acting(caller: Caller) -> Caller:
    """The caller with the role that they have now, and the tenant's row locked until the transaction ends."""
    Tenant.objects.select_for_update(no_key=True).get(id=caller.tenant_id)
    row = Membership.objects.current().filter(id=caller.member_id).first()
    if row is None:
        raise AuthenticationError
    return replace(caller, role=Role(row.role))


def right_over(role: Role) -> Action:
    """What it takes to give or take this role."""
    return Action.MANAGE_OWNERS if role == Role.OWNER else Action.MANAGE_MEMBERS


def right_to_remove(caller: Caller, row: Membership) -> Action:
    """What it takes to end this belonging; the caller's own is another matter."""
    return Action.LEAVE if row.id == caller.member_id else right_over(Role(row.role))


def checked_role(role: str) -> Role:
    """InvalidRequest for what is no role."""
    if role not in Role.values:
        raise InvalidRequest(_("role is one of: %(roles)s.") % {"roles": ", ".join(Role.values)})
    return Role(role)


def keep_an_owner(row: Membership) -> None:
    """Conflict where this is the tenant's last owner."""
    if row.role != Role.OWNER:
        return
    if not Membership.objects.current().filter(role=Role.OWNER).exclude(id=row.id).exists():
        raise Conflict(_("A tenant needs an owner. Make somebody else an owner first."))
