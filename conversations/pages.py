"""The pages. A view asks, chooses a template, and decides nothing else.

`tenants.middleware` has named the tenant and the caller before a view of /t/<slug>/ runs, and turns the errors
of the house into pages through `error_page`.
"""

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from conversations.access import assistant_for, conversation_for, may
from conversations.controls import Change, change_now
from conversations.forms import CredentialForm
from conversations.history import earlier, latest
from conversations.models import PermissionMode
from conversations.people import People
from conversations.prompts import MOST_CHARACTERS
from conversations.rendering import Thread
from conversations.starters import starters_for
from conversations.surroundings import Surroundings, grouped
from tenants.access import Caller
from tenants.acts import Act
from tenants.authentication import memberships_of
from tenants.context import tenant_context
from tenants.errors import ApiError, NotFound, PermissionDenied
from tenants.middleware import names_its_tenant
from tenants.models import Credential, User
from tenants.roles import Action

ERRORS = {
    400: (
        _lazy("That makes no sense"),
        _lazy("The address or the form is not as it should be. Go back and try again."),
    ),
    403: (
        _lazy("That is not yours to do"),
        _lazy("Your role in this tenant does not allow that. Ask an admin."),
    ),
    404: (
        _lazy("There is nothing here"),
        _lazy("It was deleted, it never was, or it belongs to somebody else."),
    ),
    413: (_lazy("That is too much"), _lazy("What was sent is too large. Send less, or in parts.")),
    429: (_lazy("Slower, please"), _lazy("Too many requests in a short time. Wait a moment and try again.")),
    500: (_lazy("Something broke on our side"), _lazy("It was written down. Try again in a moment.")),
    529: (_lazy("Everything is busy"), _lazy("Try again in a moment.")),
}


class TenantRequest(HttpRequest):
    """A request inside a tenant."""

    caller: Caller


@require_GET
def new_chat(request: TenantRequest, slug: str) -> HttpResponse:
    """The page on which a conversation begins; there is none until the first message."""
    around = Surroundings.of(request.caller)
    assistant = assistant_for(request.caller, None)
    thread = Thread("", assistant.name, assistant.model)
    return _chat(request, around, thread, PermissionMode.DEFAULT, starters=starters_for(around.is_offline))


@require_GET
def conversation(request: TenantRequest, slug: str, conversation_id: UUID) -> HttpResponse:
    found = conversation_for(request.caller, conversation_id)
    people = People.of(request.caller, found)
    thread, first = latest(found, people)
    around = Surroundings.of(request.caller, conversation_id)
    return _chat(
        request,
        around,
        thread,
        PermissionMode(found.permission_mode),
        earlier=_earlier(slug, found.id, first),
        conversation=found,
        shared_by="" if people.is_reader(found.author_id) else people.name_of(found.author_id),
        moderates=may(request.caller, found, "moderating"),
    )


@require_POST
def share(request: TenantRequest, slug: str, conversation_id: UUID) -> HttpResponse:
    """Share a conversation with the tenant, or stop that. Open pages see it within a second."""
    change_now(request.caller, conversation_id, Change(shared=request.POST.get("shared") == "yes"))
    try:
        conversation_for(request.caller, conversation_id)
    except NotFound:  # An admin has ended the sharing of another's.
        return redirect("new_chat", slug)
    return redirect("conversation", slug, conversation_id)


@require_GET
def earlier_turns(request: TenantRequest, slug: str, conversation_id: UUID, number: int) -> HttpResponse:
    """The turns before turn `number`, as a part of the page."""
    found = conversation_for(request.caller, conversation_id)
    thread, first = earlier(found, number, People.of(request.caller, found))
    context = {"thread": thread, "earlier": _earlier(slug, found.id, first)}
    return render(request, "conversations/earlier.html", context)


@require_GET
def conversations(request: TenantRequest, slug: str) -> HttpResponse:
    """The list at the side, as a part of the page; `q` searches it, `shared` chooses what the tenant shares."""
    query, shared = request.GET.get("q", "")[:200], request.GET.get("shared") == "yes"
    page = {"slug": slug, "conversation_id": request.GET.get("current", "")}
    context: dict[str, Any] = {"page": page, "groups": grouped(request.caller, query, shared=shared)}
    context |= {"query": query, "shared": shared}
    return render(request, "conversations/_conversations.html", context)


@names_its_tenant
@require_http_methods(["GET", "POST"])
def credentials(request: TenantRequest, slug: str) -> HttpResponse:
    """What the tenant and the caller keep; a POST adds one."""
    caller = request.caller
    form = CredentialForm(caller, request.POST or None) if caller.may(Action.KEEP_CREDENTIALS) else None
    draft = None
    if request.method == "POST":
        caller.require(Action.KEEP_CREDENTIALS)
        # Others shall not wait for a connection while somebody's name server takes its time.
        connection.close()
        draft = form.draft() if form is not None else None
    with tenant_context(caller.tenant_id):
        if form is None or draft is None:
            return _credentials(request, form)
        added = form.keep(draft)
    messages.success(request, _("%(name)s was added.") % {"name": added.name})
    return redirect("credentials", slug)


@require_POST
def credential(request: TenantRequest, slug: str, credential_id: UUID) -> HttpResponse:
    """Make one the default, or delete it; deleting asks for its name."""
    found = Credential.objects.all().of(request.caller, credential_id, writing=True)
    if request.POST.get("act") == "default":
        found.make_default()
        found.note(Act.CREDENTIAL_CHANGED, request.caller, changed=["default"])
        messages.success(request, _("%(name)s is used from the next message on.") % {"name": found.name})
    elif request.POST.get("name", "").strip() != found.name:
        typed = request.POST.get("name", "")[:200]
        return _credentials(request, CredentialForm(request.caller), unconfirmed=found.id, typed=typed)
    else:
        found.forget(request.caller)
        messages.success(request, _("%(name)s was deleted.") % {"name": found.name})
    return redirect("credentials", slug)


def _chat(
    request: TenantRequest, around: Surroundings, thread: Thread, mode: PermissionMode, **more: Any
) -> HttpResponse:
    context = {"page": around, "thread": thread, "mode": mode.label, "most_characters": MOST_CHARACTERS}
    return render(request, "conversations/chat.html", context | more)


def _earlier(slug: str, conversation_id: UUID, first: int) -> str:
    return reverse("earlier_turns", args=[slug, conversation_id, first]) if first else ""


def _credentials(
    request: TenantRequest, form: CredentialForm | None, unconfirmed: UUID | None = None, typed: str = ""
) -> HttpResponse:
    caller = request.caller
    rows = list(Credential.objects.all().usable_by(caller.member_id))
    changeable = [row.id for row in rows if caller.may(row.right_to_change)]
    context = {
        "page": Surroundings.of(caller, section="credentials"),
        "credentials": rows,
        "changeable": changeable,
        "form": form,
        "unconfirmed": unconfirmed,
        "typed": typed,
    }
    wrong = unconfirmed is not None or (form is not None and form.is_bound)
    return render(request, "credentials.html", context, status=400 if wrong else 200)


# Outside of any tenant ------------------------------------------------------------------------------------


@login_required
@require_GET
def home(request: HttpRequest) -> HttpResponse:
    """To the person's tenant, or to the choice between several."""
    assert isinstance(request.user, User)
    found = memberships_of(request.user)
    if len(found) == 1:
        return redirect("new_chat", found[0].tenant_slug)
    return render(request, "choose_tenant.html", {"memberships": found})


def error_page(request: HttpRequest, status: int, error: Exception | None = None) -> HttpResponse:
    """An error as a page: what happened, what to do, and an id to quote."""
    title, usual = ERRORS.get(status) or ERRORS[400]
    context = {
        "title": title,
        "message": error.message if isinstance(error, ApiError) else usual,
        "request_id": getattr(request, "request_id", ""),
    }
    return render(request, "error.html", context, status=status)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Also for the house's errors that have no handler of their own, such as 409."""
    return error_page(request, exception.status if isinstance(exception, ApiError) else 400, exception)


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    return error_page(request, 403, exception)


def stale_form(request: HttpRequest, reason: str = "") -> HttpResponse:
    """The check against forged requests failed; `reason` is for developers."""
    return error_page(
        request, 403, PermissionDenied(_("The form was too old. Go back, reload the page, send it again."))
    )


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return error_page(request, 404, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    return error_page(request, 500)
