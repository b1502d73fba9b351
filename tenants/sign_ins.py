"""Who signs in, fails to, or signs out, for the audit.

A sign-in is noted in a tenant when the session first acts there, and the end of the session there too: what a
person does for one tenant is no other's to know. What concerns the account itself (a wrong password, a new one) is
noted in each that it belongs to; in the background, since how long an answer takes must not tell whether there is
such an account.
"""

from typing import Any

from allauth.account.models import EmailAddress
from allauth.account.signals import password_changed, password_reset
from django.contrib.auth.signals import user_logged_out, user_login_failed
from django.http import HttpRequest

from tenants.access import Caller
from tenants.acts import Act
from tenants.audit import note_of_account
from tenants.authentication import memberships_of
from tenants.context import in_background
from tenants.models import User

ACTED_IN = "acted_in"


def listen() -> None:
    """From now on. Called once, when the app is ready."""
    user_logged_out.connect(_signed_out, dispatch_uid="audit")
    user_login_failed.connect(_refused, dispatch_uid="audit")
    password_changed.connect(_password_changed, dispatch_uid="audit")
    password_reset.connect(_password_changed, dispatch_uid="audit")
    password_reset.connect(_address_proved, dispatch_uid="address")


def note_first_act(request: HttpRequest, caller: Caller) -> None:
    """Note a sign-in, with the first page of this tenant that the session opens."""
    acted: dict[str, str] = request.session.get(ACTED_IN, {})
    if str(caller.tenant_id) not in acted:
        request.session[ACTED_IN] = acted | {str(caller.tenant_id): str(caller.member_id)}
        note_of_account([caller], Act.SIGNED_IN)


def _signed_out(user: User | None, request: HttpRequest, **_signal: Any) -> None:
    if user is None:
        return
    acted: dict[str, str] = request.session.get(ACTED_IN, {})
    everywhere = [membership.as_caller() for membership in memberships_of(user)]
    note_of_account([caller for caller in everywhere if str(caller.tenant_id) in acted], Act.SIGNED_OUT)


def _password_changed(user: User, **_signal: Any) -> None:
    in_background(_note, user, Act.PASSWORD_CHANGED)


def _address_proved(user: User, **_signal: Any) -> None:
    """Who resets a password reads the mail of the account's address."""
    EmailAddress.objects.filter(user=user).exclude(email=user.email).delete()
    EmailAddress.objects.update_or_create(
        user=user, email=user.email, defaults={"primary": True, "verified": True}
    )


def _refused(credentials: dict[str, Any], request: HttpRequest | None = None, **_signal: Any) -> None:
    in_background(_note_refused, str(credentials.get("email", "")))


def _note_refused(email: str) -> None:
    if user := User.objects.filter(email=email.strip().lower()).first():
        _note(user, Act.SIGN_IN_REFUSED)


def _note(user: User, act: Act) -> None:
    note_of_account([membership.as_caller() for membership in memberships_of(user)], act)
