"""The fixed words of tenants: what a member is, what a key may, what a credential is."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class Role(models.TextChoices):
    """Of a member. Each may do what those below it may."""

    OWNER = "owner", _("owner")
    ADMIN = "admin", _("admin")
    MEMBER = "member", _("member")
    VIEWER = "viewer", _("viewer")


class Scope(models.TextChoices):
    """Of an API key: what it may do of all that its member may."""

    READ = "read", _("read")
    WRITE = "write", _("hold conversations")
    ADMIN = "admin", _("change credentials, keys and members")


ALL_SCOPES = frozenset(Scope.values)


class CredentialKind(models.TextChoices):
    """What a secret is, and so how it goes to the model's server."""

    API_KEY = "api_key", _("Anthropic API key")
    OAUTH_TOKEN = "oauth_token", _("Claude subscription token")
    ENDPOINT = "endpoint", _("another server that speaks the Messages API")


class CredentialState(models.TextChoices):
    """What the model's server last said to it."""

    UNTRIED = "untried", _("not tried yet")
    WORKING = "working", _("working")
    REFUSED = "refused", _("refused by the server")
