"""The HTTP mouth of who belongs to a tenant: members and invitations."""

import asyncio
from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from ninja import Router, Schema, Status

from tenants import invitations, members
from tenants.access import Caller
from tenants.context import in_tenant
from tenants.models import Invitation, Membership, Tenant, User
from tenants.origins import link_to

router = Router(tags=["members"])

type Record = dict[str, Any]


class MemberChange(Schema):
    role: str


class NewInvitation(Schema):
    """With an `email` it is mailed there, and for that account alone."""

    role: str
    email: str = ""


def _caller(request: HttpRequest) -> Caller:
    caller: Caller = request.auth  # type: ignore[attr-defined]  # set by ninja
    return caller


@router.get("/members", summary="Who belongs to the tenant")
async def list_members(request: HttpRequest) -> Record:
    caller = _caller(request)
    return await in_tenant(caller.tenant_id, _members, caller)


@router.get("/members/{member}", summary="One member")
async def read_member(request: HttpRequest, member: str) -> Record:
    caller = _caller(request)
    return await in_tenant(caller.tenant_id, _member, caller, member)


@router.patch("/members/{member}", summary="Change a member's role")
async def change_member(request: HttpRequest, member: str, body: MemberChange) -> Record:
    caller = _caller(request)
    return await in_tenant(caller.tenant_id, _change, caller, member, body.role)


@router.delete("/members/{member}", response={204: None}, summary="Remove a member, or leave")
async def remove_member(request: HttpRequest, member: str) -> Status[None]:
    caller = _caller(request)
    await in_tenant(caller.tenant_id, members.remove, caller, member)
    return Status(204, None)


@router.get("/invitations", summary="The open invitations")
async def list_invitations(request: HttpRequest) -> Record:
    caller = _caller(request)
    return await in_tenant(caller.tenant_id, _invitations, caller)


@router.post("/invitations", response={201: Any}, summary="Invite somebody; the link is shown this once")
async def create_invitation(request: HttpRequest, body: NewInvitation) -> Status[Record]:
    caller = _caller(request)
    made, token, tenant, inviter = await in_tenant(caller.tenant_id, _invite, caller, body)
    link = link_to(request, reverse("invitation", args=[token]))
    mailed = bool(made.email) and await asyncio.to_thread(invitations.send, made, tenant, inviter, link)
    return Status(201, invitation_record(made) | {"link": link, "mailed": mailed})


@router.delete("/invitations/{invitation}", response={204: None}, summary="Revoke an invitation")
async def revoke_invitation(request: HttpRequest, invitation: str) -> Status[None]:
    caller = _caller(request)
    await in_tenant(caller.tenant_id, invitations.revoke, caller, invitation)
    return Status(204, None)


def member_record(member: Membership) -> Record:
    """A member as the wire shows them."""
    return {
        "id": str(member.id),
        "name": member.user.name,
        "email": member.user.email,
        "role": member.role,
        "created_at": member.created_at.isoformat(),
    }


def invitation_record(invitation: Invitation) -> Record:
    """An open invitation; its link came with its making only."""
    return {
        "id": str(invitation.id),
        "email": invitation.email or None,
        "role": invitation.role,
        "invited_by": str(invitation.invited_by_id),
        "created_at": invitation.created_at.isoformat(),
        "expires_at": invitation.expires_at.isoformat(),
    }


# Inside the tenant's context ------------------------------------------------------------------------------------


def _page(rows: list[Record]) -> Record:
    ends = (rows[0]["id"], rows[-1]["id"]) if rows else (None, None)
    return {"data": rows, "has_more": False, "first_id": ends[0], "last_id": ends[1]}


def _members(caller: Caller) -> Record:
    return _page([member_record(row) for row in members.members_for(caller)])


def _member(caller: Caller, member: str) -> Record:
    return member_record(members.member_for(caller, member))


def _change(caller: Caller, member: str, role: str) -> Record:
    return member_record(members.change_role(caller, member, role))


def _invitations(caller: Caller) -> Record:
    return _page([invitation_record(row) for row in invitations.invitations_for(caller)])


def _invite(caller: Caller, body: NewInvitation) -> tuple[Invitation, str, str, str]:
    made, token = invitations.invite(caller, body.role, body.email)
    inviter = User.objects.get(id=caller.user_id).get_full_name()
    return made, token, Tenant.objects.get(id=caller.tenant_id).name, inviter
