"""The fixed words of tenants, and the one table of who may do what.

Whatever asks for a right names an `Action`; docs/api.md shows the same table, and a test holds both together.
"""

from dataclasses import dataclass
from enum import Enum, auto

from django.db import models
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _


class Role(models.TextChoices):
    """Of a member. Each may do what those below it may."""

    OWNER = "owner", _("owner")
    ADMIN = "admin", _("admin")
    MEMBER = "member", _("member")
    VIEWER = "viewer", _("viewer")

    def reaches(self, least: "Role") -> bool:
        """Whether this role may do what `least` may."""
        ranks = list(Role)
        return ranks.index(self) <= ranks.index(least)


class Scope(models.TextChoices):
    """Of an API key: what it may do of all that its member may."""

    READ = "read", _("read")
    WRITE = "write", _("hold conversations")
    ADMIN = "admin", _("change credentials, keys and members")


ALL_SCOPES = frozenset(Scope.values)


class Action(Enum):
    """Something that not everybody may do. What belongs to whom is decided where it is looked up, in `access`."""

    READ_CONVERSATIONS = auto()
    HOLD_CONVERSATIONS = auto()
    MODERATE_CONVERSATIONS = auto()
    CLEAR_LEFT_CONVERSATIONS = auto()
    SEE_CREDENTIALS = auto()
    KEEP_CREDENTIALS = auto()
    MANAGE_CREDENTIALS = auto()
    KEEP_KEYS = auto()
    MANAGE_KEYS = auto()
    SEE_MEMBERS = auto()
    LEAVE = auto()
    MANAGE_MEMBERS = auto()
    MANAGE_OWNERS = auto()
    SEE_USAGE = auto()
    SEE_AUDIT = auto()
    MANAGE_TENANT = auto()
    DELETE_TENANT = auto()


@dataclass(frozen=True, slots=True)
class Right:
    """Who has it: members from `least` upwards; of their API keys those with `scope`."""

    least: Role
    scope: Scope
    says: Promise


RIGHTS: dict[Action, Right] = {
    Action.READ_CONVERSATIONS: Right(
        Role.VIEWER, Scope.READ, _("read their own conversations and those shared with the tenant")
    ),
    Action.HOLD_CONVERSATIONS: Right(
        Role.MEMBER,
        Scope.WRITE,
        _("begin conversations; in their own: write, stop, answer questions, rename, share, archive, delete"),
    ),
    Action.MODERATE_CONVERSATIONS: Right(
        Role.ADMIN,
        Scope.ADMIN,
        _("in shared ones of others: stop, answer questions, rename, stop sharing, archive, delete"),
    ),
    Action.CLEAR_LEFT_CONVERSATIONS: Right(
        Role.OWNER, Scope.ADMIN, _("delete, unread, the conversations of people who were removed")
    ),
    Action.SEE_CREDENTIALS: Right(
        Role.VIEWER,
        Scope.READ,
        _("see the credentials that they may use, of secrets the last four characters"),
    ),
    Action.KEEP_CREDENTIALS: Right(Role.MEMBER, Scope.ADMIN, _("keep credentials of their own")),
    Action.MANAGE_CREDENTIALS: Right(Role.ADMIN, Scope.ADMIN, _("keep the tenant's credentials")),
    Action.KEEP_KEYS: Right(Role.MEMBER, Scope.ADMIN, _("make and revoke API keys of their own")),
    Action.MANAGE_KEYS: Right(Role.ADMIN, Scope.ADMIN, _("see and revoke everybody's API keys")),
    Action.SEE_MEMBERS: Right(Role.VIEWER, Scope.READ, _("see who belongs to the tenant")),
    Action.LEAVE: Right(Role.VIEWER, Scope.ADMIN, _("leave the tenant, unless they are its last owner")),
    Action.MANAGE_MEMBERS: Right(
        Role.ADMIN, Scope.ADMIN, _("invite people, change roles below owner, remove members")
    ),
    Action.MANAGE_OWNERS: Right(Role.OWNER, Scope.ADMIN, _("make, demote and remove owners, but the last")),
    Action.SEE_USAGE: Right(Role.ADMIN, Scope.READ, _("see what everybody used and what it cost")),
    Action.SEE_AUDIT: Right(Role.ADMIN, Scope.ADMIN, _("read the audit")),
    Action.MANAGE_TENANT: Right(
        Role.ADMIN, Scope.ADMIN, _("set the tenant's budget, allowed models and least tier")
    ),
    Action.DELETE_TENANT: Right(Role.OWNER, Scope.ADMIN, _("delete the tenant")),
}


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


class LeastTier(models.TextChoices):
    """The weakest sandbox that a tenant's turns may run in, strongest first. '' takes what the operator runs."""

    BUBBLEWRAP_UID = "bubblewrap-uid", _("bubblewrap with a user of its own")
    BUBBLEWRAP = "bubblewrap", _("bubblewrap")
    LANDLOCK = "landlock", _("Landlock and seccomp")
    NONE = "none", _("none")
