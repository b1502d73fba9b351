"""What stands around every page of a tenant: the list of conversations, and the banners."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import groupby
from uuid import UUID

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _

from conversations.access import having, listed
from conversations.hosts import live_hosts
from conversations.models import Conversation
from tenants.access import Caller
from tenants.models import Credential
from tenants.roles import Action, CredentialKind

LISTED = 100
OFFLINE = "Offline model"
NO_SANDBOX = "none"


@dataclass(frozen=True, slots=True)
class Group:
    """Conversations of one day or time."""

    label: str
    conversations: list[Conversation]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """`conversation_id` is the one that is open, '' if none."""

    slug: str
    member_id: UUID
    may_write: bool
    may_manage: bool = False
    groups: list[Group] = field(default_factory=list)
    conversation_id: str = ""
    section: str = ""
    is_offline: bool = False
    no_sandbox: bool = False

    @classmethod
    def of(cls, caller: Caller, conversation_id: UUID | None = None, section: str = "") -> "Surroundings":
        return cls(
            slug=caller.tenant_slug,
            member_id=caller.member_id,
            may_write=caller.may(Action.HOLD_CONVERSATIONS),
            may_manage=caller.may(Action.MANAGE_TENANT),
            groups=grouped(caller),
            conversation_id=str(conversation_id or ""),
            section=section,
            is_offline=answers_offline(caller),
            no_sandbox=any(host.tier == NO_SANDBOX for host in live_hosts()),
        )


def grouped(caller: Caller, query: str = "", *, shared: bool = False) -> list[Group]:
    """The caller's newest conversations by day, or the shared ones; all, or with `query` in title or message."""
    found = listed(caller, shared or None)
    if shared:
        found = found.select_related("author__user")
    return by_day(having(found, query).order_by("-updated_at")[:LISTED], timezone.localdate())


def by_day(conversations: Iterable[Conversation], today: date) -> list[Group]:
    """Newest first in, newest first out."""
    days = groupby(conversations, lambda row: label_of(timezone.localdate(row.updated_at), today))
    return [Group(label, list(rows)) for label, rows in days]


def label_of(day: date, today: date) -> str:
    """When that was, the more roughly the longer ago."""
    if day >= today:
        return _("Today")
    if day == today - timedelta(days=1):
        return _("Yesterday")
    if day > today - timedelta(days=7):
        return _("Last 7 days")
    if day > today - timedelta(days=30):
        return _("Last 30 days")
    return date_format(day, "YEAR_MONTH_FORMAT")


def answers_offline(caller: Caller) -> bool:
    """Whether the caller's messages go to the scripted model that `make run` starts."""
    used = Credential.objects.all().usable_by(caller.member_id).first()
    return used is not None and used.kind == CredentialKind.ENDPOINT and used.name.startswith(OFFLINE)
