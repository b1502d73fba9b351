"""How a page names those who act in a conversation: its reader is "You"."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from django.utils.translation import gettext as _

from conversations.models import Conversation
from tenants.access import Caller
from tenants.models import Membership


@dataclass(frozen=True, slots=True)
class People:
    """Names by a member's id. Without a `reader` everybody is the reader, as where one person is alone."""

    reader: str = ""
    names: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, caller: Caller, conversation: Conversation) -> Self:
        """Asks for the names only where others may have acted; who has left keeps theirs."""
        reader = str(caller.member_id)
        if conversation.author_id == caller.member_id and not conversation.is_shared:
            return cls(reader)
        members = Membership.objects.select_related("user")
        return cls(reader, {str(row.id): row.user.get_full_name() for row in members})

    def is_reader(self, member: object) -> bool:
        return not self.reader or str(member) == self.reader

    def name_of(self, member: object) -> str:
        """'' where nobody did it."""
        if not member:
            return ""
        return _("You") if self.is_reader(member) else self.names.get(str(member), _("Somebody else"))
