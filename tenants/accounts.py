"""Sign-in as django-allauth does it, with this house's rules."""

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from django.http import HttpRequest


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]  # allauth is untyped
    """Nobody signs up alone: who founds a tenant makes its owner, and admins add members."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False

    def _get_login_attempts_cache_key(self, request: HttpRequest, **credentials: Any) -> str:
        """What failed sign-ins of an account count on. allauth's has `Host`, whose port a client chooses."""
        return f"sign-in:{str(credentials.get('email', '')).strip().casefold()}"
