"""Sign-in as django-allauth does it, with this house's rules."""

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from django.http import HttpRequest
from django.urls import reverse

from tenants.context import in_background
from tenants.origins import link_to


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]  # allauth is untyped
    """Nobody signs up alone: who founds a tenant makes its owner, and admins add members."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False

    def get_reset_password_from_key_url(self, key: str) -> str:
        """Never at a place that the request itself named."""
        uid, _hyphen, token = key.partition("-")
        return link_to(self.request, reverse("account_reset_password_from_key", args=[uid, token]))

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        """In the background: how long an answer takes must not tell whether there is such an account."""
        message = self.render_mail(
            template_prefix, email, {"request": self.request, "email": email, **context}
        )
        in_background(message.send)

    def _get_login_attempts_cache_key(self, request: HttpRequest, **credentials: Any) -> str:
        """What failed sign-ins of an account count on. allauth's has `Host`, whose port a client chooses."""
        return f"sign-in:{str(credentials.get('email', '')).strip().casefold()}"
