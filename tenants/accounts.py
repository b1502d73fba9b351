"""Sign-in as django-allauth does it, with this house's rules."""

from allauth.account.adapter import DefaultAccountAdapter
from django.http import HttpRequest


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]  # allauth is untyped
    """Nobody signs up alone: who founds a tenant makes its owner, and admins add members."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False
