"""What the audit knows to tell: the acts, each with the words that a page shows for it."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class Act(models.TextChoices):
    """A security-relevant act. docs/audit.md lists them with their details; a test holds both together."""

    TENANT_FOUNDED = "tenant.founded", _("founded the tenant")
    TENANT_CHANGED = "tenant.changed", _("changed the tenant's settings")
    KEYS_ROTATED = "tenant.keys_rotated", _("changed the key that seals the tenant's secrets")
    OPERATOR_ENTERED = "operator.entered", _("looked into the tenant")

    MEMBER_ADDED = "member.added", _("added a member")
    MEMBER_JOINED = "member.joined", _("joined")
    MEMBER_ROLE_CHANGED = "member.role_changed", _("changed a role")
    MEMBER_REMOVED = "member.removed", _("removed a member")
    MEMBER_LEFT = "member.left", _("left")
    INVITATION_MADE = "invitation.made", _("invited somebody")
    INVITATION_REVOKED = "invitation.revoked", _("revoked an invitation")

    CREDENTIAL_MADE = "credential.made", _("added a credential")
    CREDENTIAL_CHANGED = "credential.changed", _("changed a credential")
    CREDENTIAL_DELETED = "credential.deleted", _("deleted a credential")
    API_KEY_MADE = "api_key.made", _("made an API key")
    API_KEY_CHANGED = "api_key.changed", _("changed an API key")
    API_KEY_ROTATED = "api_key.rotated", _("rotated an API key")
    API_KEY_REVOKED = "api_key.revoked", _("revoked an API key")

    CONVERSATION_SHARED = "conversation.shared", _("shared a conversation")
    CONVERSATION_UNSHARED = "conversation.unshared", _("stopped sharing a conversation")
    CONVERSATION_DELETED = "conversation.deleted", _("deleted a conversation")
    CONVERSATIONS_CLEARED = "conversations.cleared", _("deleted what a former member had left")
    PERMISSION_ANSWERED = "permission.answered", _("answered a question of an agent")

    SIGNED_IN = "session.begun", _("signed in")
    SIGNED_OUT = "session.ended", _("signed out")
    SIGN_IN_REFUSED = "session.refused", _("failed to sign in")
    PASSWORD_CHANGED = "account.password_changed", _("changed their password")
    ACCOUNT_CHANGED = "account.changed", _("changed an account")

    ACCESS_REFUSED = "access.refused", _("asked for what is not there, or not theirs")


class Via(models.TextChoices):
    """How somebody acted."""

    SESSION = "session", _("in the browser")
    KEY = "key", _("with an API key")
    OPERATOR = "operator", _("as who operates the platform")
    COMMAND = "command", _("with a command on the server")
