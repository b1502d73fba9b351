"""The pages of who belongs to a tenant: members, invitations, and the page that an invitation's link leads to."""

from functools import partial
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib import auth, messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from conversations.forms import InvitationForm, NewcomerForm
from conversations.models import Conversation
from conversations.pages import TenantRequest, error_page
from conversations.surroundings import Surroundings
from tenants import invitations
from tenants.acts import Act
from tenants.errors import ApiError, Conflict, NotFound
from tenants.members import change_role, member_for, members_for, remove, right_over, right_to_remove
from tenants.models import AuditEvent, Membership, User
from tenants.origins import link_to
from tenants.roles import RIGHTS, Action, Role


@require_http_methods(["GET", "POST"])
@never_cache
def members(request: TenantRequest, slug: str) -> HttpResponse:
    """Who belongs here; a POST invites somebody, and shows the link this once."""
    caller = request.caller
    if request.method == "GET":
        return _members(request, InvitationForm(caller) if caller.may(Action.MANAGE_MEMBERS) else None)
    caller.require(Action.MANAGE_MEMBERS)
    form = InvitationForm(caller, request.POST)
    if not form.is_valid():
        return _members(request, form)
    try:
        made, token = invitations.invite(caller, form.cleaned_data["role"], form.cleaned_data["email"])
    except Conflict as error:
        form.add_error("email", error.message)
        return _members(request, form)
    link = link_to(request, reverse("invitation", args=[token]))
    if made.email:
        assert isinstance(request.user, User)
        mail = partial(invitations.send, made, _tenant_name(request), request.user.get_full_name(), link)
        transaction.on_commit(mail, robust=True)
    return _members(request, InvitationForm(caller), link=link, invited=made)


@require_POST
def member(request: TenantRequest, slug: str, member_id: UUID) -> HttpResponse:
    """Change a role; remove somebody, or leave; delete what somebody who left has left behind.

    What can't be undone asks for the person's name.
    """
    act = request.POST.get("act")
    if act == "clear":
        return _clear(request, slug, member_id)
    if act != "role":
        return _remove(request, slug, member_id)
    changed = change_role(request.caller, member_id, request.POST.get("role", ""))
    says = _("%(name)s is %(role)s now.")
    messages.success(request, says % {"name": changed.user.get_full_name(), "role": Role(changed.role).label})
    return redirect("members", slug)


@require_POST
def revoke_invitation(request: TenantRequest, slug: str, invitation_id: UUID) -> HttpResponse:
    invitations.revoke(request.caller, invitation_id)
    messages.success(request, _("The invitation was revoked: its link is good no more."))
    return redirect("members", slug)


@require_http_methods(["GET", "POST"])
@never_cache
@sensitive_post_parameters("password")
def invitation(request: HttpRequest, token: str) -> HttpResponse:
    """Where an invitation's link leads: to a yes for who is signed in, to an account for newcomers."""
    try:
        offer = invitations.offer_of(token)
        if isinstance(request.user, User):
            return _accepted_or_asked(request, token, offer)
        return _newcomer(request, token, offer)
    except ApiError as error:
        return error_page(request, error.status, error)


def _accepted_or_asked(request: HttpRequest, token: str, offer: invitations.Offer) -> HttpResponse:
    assert isinstance(request.user, User)
    if request.method == "POST":
        invitations.accept(token, request.user)
        return redirect("new_chat", offer.tenant_slug)
    return render(request, "invitation.html", {"offer": offer, "fits": offer.is_for(request.user.email)})


def _newcomer(request: HttpRequest, token: str, offer: invitations.Offer) -> HttpResponse:
    has_account = bool(offer.email) and User.objects.filter(email=offer.email).exists()
    form = None if has_account else NewcomerForm(offer, request.POST or None)
    if request.method == "POST" and form is not None and form.is_valid():
        given = form.cleaned_data
        try:
            person = invitations.accept_as_newcomer(
                token, given.get("email", ""), given["name"], given["password"]
            )
        except ApiError as error:
            form.add_error(None, error.message)
        else:
            auth.login(request, person, backend=settings.AUTHENTICATION_BACKENDS[0])
            return redirect("new_chat", offer.tenant_slug)
    context = {"offer": offer, "form": form}
    return render(request, "invitation.html", context, status=400 if form and form.errors else 200)


def _members(request: TenantRequest, form: InvitationForm | None, **more: Any) -> HttpResponse:
    caller = request.caller
    rows = members_for(caller)
    owners = [row.id for row in rows if row.role == Role.OWNER]
    manages = caller.may(Action.MANAGE_MEMBERS)
    context = {
        "page": Surroundings.of(caller, section="members"),
        "members": rows,
        "changeable": [row.id for row in rows if caller.may(right_over(Role(row.role)))],
        "last_owner": owners[0] if len(owners) == 1 else None,
        "roles": [role for role in Role if caller.may(right_over(role))],
        "rights": RIGHTS.values(),
        "invitations": invitations.invitations_for(caller) if manages else [],
        "former": _former(caller.may(Action.CLEAR_LEFT_CONVERSATIONS)),
        "form": form,
    }
    wrong = "unconfirmed" in more or (form is not None and form.errors)
    return render(request, "members.html", context | more, status=400 if wrong else 200)


def _asked_again(request: TenantRequest, member_id: UUID) -> HttpResponse:
    """The page with the dialog of that person, since what was typed is not their name."""
    form = InvitationForm(request.caller) if request.caller.may(Action.MANAGE_MEMBERS) else None
    return _members(request, form, unconfirmed=member_id, typed=request.POST.get("name", "")[:200])


def _former(wanted: bool) -> list[dict[str, Any]]:
    """Who has left and how many conversations they left behind."""
    if not wanted:
        return []
    gone = Membership.objects.exclude(left_at=None).select_related("user").order_by("-left_at")
    counted = [(row, Conversation.objects.filter(author=row, last_seq__gt=0).count()) for row in gone[:50]]
    return [{"member": row, "conversations": count} for row, count in counted if count]


def _remove(request: TenantRequest, slug: str, member_id: UUID) -> HttpResponse:
    caller = request.caller
    row = member_for(caller, member_id)
    caller.require(right_to_remove(caller, row))
    if not row.user.is_called(request.POST.get("name", "")):
        return _asked_again(request, member_id)
    remove(caller, member_id)
    if member_id == caller.member_id:
        return redirect("home")
    messages.success(request, _("They are out: their sessions here and their keys have ended."))
    return redirect("members", slug)


def _clear(request: TenantRequest, slug: str, member_id: UUID) -> HttpResponse:
    request.caller.require(Action.CLEAR_LEFT_CONVERSATIONS)
    person = Membership.objects.exclude(left_at=None).select_related("user").filter(id=member_id).first()
    if person is None:
        raise NotFound(_("There is no such member."))
    if not person.user.is_called(request.POST.get("name", "")):
        return _asked_again(request, member_id)
    gone = list(Conversation.objects.filter(author=person))
    for conversation in gone:
        conversation.delete()
    tenant_id = request.caller.tenant_id
    AuditEvent.objects.note(
        tenant_id, Act.CONVERSATIONS_CLEARED, request.caller, member_id, conversations=len(gone)
    )
    messages.success(request, _("Their conversations were deleted."))
    return redirect("members", slug)


def _tenant_name(request: TenantRequest) -> str:
    name: str = request.membership.tenant_name  # type: ignore[attr-defined]  # set by the middleware
    return name
