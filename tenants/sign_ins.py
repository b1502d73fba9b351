"""Who signs in, fails to, or signs out: noted in the audit of each tenant that the account belongs to.

In the background: how long an answer takes must not tell whether there is such an account.
"""

from typing import Any

from allauth.account.signals import password_changed, password_reset
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.http import HttpRequest

from tenants.acts import Act
from tenants.audit import note_of_account
from tenants.authentication import memberships_of
from tenants.context import in_background
from tenants.models import User


def listen() -> None:
    """From now on. Called once, when the app is ready."""
    user_logged_in.connect(_signed_in, dispatch_uid="audit")
    user_logged_out.connect(_signed_out, dispatch_uid="audit")
    user_login_failed.connect(_refused, dispatch_uid="audit")
    password_changed.connect(_password_changed, dispatch_uid="audit")
    password_reset.connect(_password_changed, dispatch_uid="audit")


def _signed_in(user: User, **_signal: Any) -> None:
    in_background(_note, user, Act.SIGNED_IN)


def _signed_out(user: User | None, **_signal: Any) -> None:
    if user is not None:
        in_background(_note, user, Act.SIGNED_OUT)


def _password_changed(user: User, **_signal: Any) -> None:
    in_background(_note, user, Act.PASSWORD_CHANGED)


def _refused(credentials: dict[str, Any], request: HttpRequest | None = None, **_signal: Any) -> None:
    in_background(_note_refused, str(credentials.get("email", "")))


def _note_refused(email: str) -> None:
    if user := User.objects.filter(email=email.strip().lower()).first():
        _note(user, Act.SIGN_IN_REFUSED)


def _note(user: User, act: Act) -> None:
    note_of_account([membership.as_caller() for membership in memberships_of(user)], act)
