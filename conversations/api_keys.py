"""The page of API keys. A key's text is in the answer that made it, and nowhere after that."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy
from django.views.decorators.http import require_http_methods, require_POST

from conversations.pages import TenantRequest
from conversations.surroundings import Surroundings
from tenants.access import Caller
from tenants.drafts import NAME_LENGTH
from tenants.errors import InvalidRequest
from tenants.models import ApiKey
from tenants.roles import Action, Scope

DAYS = [
    ("30", _lazy("In 30 days")),
    ("90", _lazy("In 90 days")),
    ("365", _lazy("In a year")),
    ("", _lazy("Never")),
]
RIGHTS = [
    ("write", _lazy("Read, and hold conversations")),
    ("read", _lazy("Read only")),
    ("admin", _lazy("Everything, also change credentials, keys and members")),
]
SCOPES = {"read": {Scope.READ}, "write": {Scope.READ, Scope.WRITE}, "admin": set(Scope)}
OVERLAPS = [
    ("3600", _lazy("one more hour")),
    ("86400", _lazy("one more day")),
    ("604800", _lazy("one more week")),
    ("0", _lazy("no longer")),
]

type Made = tuple[ApiKey, str]


class ApiKeyForm(forms.Form):
    """Making a key: what it is for, what it may, how long it lasts."""

    name = forms.CharField(
        label=_lazy("Name"),
        max_length=NAME_LENGTH,
        help_text=_lazy("What will use it, such as: nightly report."),
    )
    rights = forms.ChoiceField(label=_lazy("What it may do"), choices=RIGHTS)
    days = forms.ChoiceField(label=_lazy("When it expires"), choices=DAYS, required=False, initial="90")

    def save(self, caller: Caller) -> Made | None:
        """The new key with its text, or None and an error that says what is wrong. Needs a valid form."""
        days, scopes = self.cleaned_data["days"], SCOPES[self.cleaned_data["rights"]]
        expires_at = timezone.now() + timedelta(days=int(days)) if days else None
        try:
            return ApiKey.objects.all().issue_for(caller, self.cleaned_data["name"], scopes, expires_at)
        except InvalidRequest as error:
            self.add_error(None, error.message)
            return None


class RotateForm(forms.Form):
    overlap = forms.TypedChoiceField(choices=OVERLAPS, coerce=int)


@require_http_methods(["GET", "POST"])
def api_keys(request: TenantRequest, slug: str) -> HttpResponse:
    if request.method == "POST":
        request.caller.require(Action.KEEP_KEYS)
        form = ApiKeyForm(request.POST)
        if form.is_valid() and (made := form.save(request.caller)):
            return _page(request, ApiKeyForm(), made)
        return _page(request, form, status=400)
    return _page(request, ApiKeyForm())


@require_POST
def api_key(request: TenantRequest, slug: str, key_id: UUID) -> HttpResponse:
    """Revoke a key, or rotate one of the caller's own."""
    request.caller.require(Action.KEEP_KEYS)
    if request.POST.get("act") == "rotate":
        form = RotateForm(request.POST)
        if not form.is_valid():
            raise InvalidRequest(_("Say how long the old key still works."))
        row = ApiKey.objects.all().of(request.caller, key_id, writing=True)
        return _page(request, ApiKeyForm(), row.rotate(request.caller, form.cleaned_data["overlap"]))
    found = ApiKey.objects.all().of(request.caller, key_id)
    found.revoke(request.caller, with_made="with_made" in request.POST)
    messages.success(request, _("%(name)s was revoked. Nobody can use it any more.") % {"name": found.name})
    return redirect("api_keys", slug)


def _page(
    request: TenantRequest, form: ApiKeyForm, made: Made | None = None, status: int = 200
) -> HttpResponse:
    caller = request.caller
    keys = list(ApiKey.objects.all().seen_by(caller))
    context: dict[str, Any] = {
        "page": Surroundings.of(caller, section="api_keys"),
        "keys": [(key, key.made_with(keys)) for key in keys],
        "me": caller.member_id,
        "form": form if caller.may(Action.KEEP_KEYS) else None,
        "overlaps": OVERLAPS,
        "made": made,
    }
    answer = render(request, "api_keys.html", context, status=status)
    answer.headers["cache-control"] = "no-store"
    return answer
