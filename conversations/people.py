"""How a page names those who act in a conversation: its reader is "You". And whom its questions wait for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from django.utils.translation import gettext as _

from conversations.access import may
from conversations.models import Conversation
from tenants.access import Caller
from tenants.models import Membership


@dataclass(frozen=True, slots=True)
class People:
    """Names by a member's id. Without a `reader` everybody is the reader, as where one person is alone.

    `deciders` is who answers questions there, in words; '' where the reader may.
    """

    reader: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    deciders: str = ""

    @classmethod
    def of(cls, caller: Caller, conversation: Conversation) -> Self:
        """Asks for the names only where others may have acted; who has left keeps theirs."""
        reader = str(caller.member_id)
        if conversation.author_id == caller.member_id and not conversation.is_shared:
            return cls(reader)
        members = Membership.objects.select_related("user")
        names = {str(row.id): row.user.get_full_name() for row in members}
        if may(caller, conversation, "moderating"):
            return cls(reader, names)
        if conversation.author_id == caller.member_id:
            return cls(reader, names, _("an admin"))
        author = names.get(str(conversation.author_id), _("Somebody else"))
        return cls(reader, names, _("%(author)s or an admin") % {"author": author})

    def is_reader(self, member: object) -> bool:
        return not self.reader or str(member) == self.reader

    def name_of(self, member: object) -> str:
        """'' where nobody did it."""
        if not member:
            return ""
        return _("You") if self.is_reader(member) else self.names.get(str(member), _("Somebody else"))
