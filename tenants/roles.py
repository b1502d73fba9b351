"""What a member is to a tenant, and what a key is for."""

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
