"""The CLI's transcripts in Postgres, as the SDK's SessionStore: a conversation resumes on any host."""

import json
from uuid import UUID

from claude_agent_sdk import SessionKey, SessionStore, SessionStoreEntry, fold_session_summary
from claude_agent_sdk.types import SessionListSubkeysKey, SessionStoreListEntry, SessionSummaryEntry
from django.db import connection
from django.db.models import Func, IntegerField, Max, Sum
from django.utils.translation import gettext as _

from claude_runner import StartFailed
from conversations.models import TranscriptEntry
from tenants.context import in_tenant

# Bytes of one session, or of one subagent's: all of it is read when a process starts.
LARGEST = 256 << 20
# The shared lock holds off a takeover until this is stored; the epoch tells whether one came before.
APPEND = """
WITH held AS (
    SELECT id, tenant_id FROM conversations_conversation WHERE id = %s AND epoch = %s FOR SHARE
), written AS (
    INSERT INTO conversations_transcriptentry
           (tenant_id, conversation_id, project_key, session_id, subpath, entry_uuid, entry, written_at)
    SELECT held.tenant_id, held.id, %s, %s, %s, line.uuid, line.entry, clock_timestamp()
    FROM held, unnest(%s::text[], %s::text[]) WITH ORDINALITY AS line(uuid, entry, place)
    ORDER BY line.place
    ON CONFLICT DO NOTHING
)
SELECT EXISTS (SELECT 1 FROM held)
"""


class Fenced(Exception):
    """Another runner has taken the conversation over; this one writes no more."""


class TranscriptStore(SessionStore):
    """The transcript of one conversation, written under one epoch. An entry with a uuid is kept once."""

    def __init__(self, tenant: UUID, conversation: UUID, epoch: int) -> None:
        self.tenant = tenant
        self.conversation = conversation
        self.epoch = epoch

    async def append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        """Raises Fenced when the epoch is a former one."""
        if entries:
            await in_tenant(self.tenant, self._append, key, entries)

    async def load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        return await in_tenant(self.tenant, self._load, key)

    async def list_sessions(self, project_key: str) -> list[SessionStoreListEntry]:
        return await in_tenant(self.tenant, self._list_sessions, project_key)

    async def list_session_summaries(self, project_key: str) -> list[SessionSummaryEntry]:
        """Folded anew each time: nothing on the way of a turn asks for them."""
        summaries = []
        for listed in await self.list_sessions(project_key):
            key: SessionKey = {"project_key": project_key, "session_id": listed["session_id"]}
            summary = fold_session_summary(None, key, await self.load(key) or [])
            summaries.append(summary | {"mtime": listed["mtime"]})
        return summaries

    async def delete(self, key: SessionKey) -> None:
        await in_tenant(self.tenant, self._delete, key)

    async def list_subkeys(self, key: SessionListSubkeysKey) -> list[str]:
        return await in_tenant(self.tenant, self._list_subkeys, key)

    def _append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        named = [key["project_key"], key["session_id"], key.get("subpath") or ""]
        uuids = [entry.get("uuid") or "" for entry in entries]
        lines = [json.dumps(entry) for entry in entries]
        with connection.cursor() as cursor:
            cursor.execute(APPEND, [self.conversation, self.epoch, *named, uuids, lines])
            (is_held,) = cursor.fetchone() or (False,)
        if not is_held:
            raise Fenced(
                _("The conversation %(id)s has moved to another runner.") % {"id": self.conversation}
            )

    def _load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        entries = TranscriptEntry.objects.filter(
            conversation=self.conversation,
            project_key=key["project_key"],
            session_id=key["session_id"],
            subpath=key.get("subpath") or "",
        )
        size = (
            entries.aggregate(size=Sum(Func("entry", function="octet_length", output_field=IntegerField())))[
                "size"
            ]
            or 0
        )
        if size > LARGEST:
            raise StartFailed(
                _("The memory of this conversation has grown too large to be read. Start a new conversation.")
            )
        rows = entries.order_by("id").values_list("entry", flat=True)
        return [json.loads(entry) for entry in rows] or None

    def _list_sessions(self, project_key: str) -> list[SessionStoreListEntry]:
        rows = (
            TranscriptEntry.objects.filter(
                conversation=self.conversation, project_key=project_key, subpath=""
            )
            .values_list("session_id")
            .annotate(written=Max("written_at"))
        )
        return [{"session_id": session, "mtime": int(at.timestamp() * 1000)} for session, at in rows]

    def _delete(self, key: SessionKey) -> None:
        rows = TranscriptEntry.objects.filter(
            conversation=self.conversation, project_key=key["project_key"], session_id=key["session_id"]
        )
        if subpath := key.get("subpath"):
            rows = rows.filter(subpath=subpath)
        rows.delete()

    def _list_subkeys(self, key: SessionListSubkeysKey) -> list[str]:
        rows = TranscriptEntry.objects.filter(
            conversation=self.conversation, project_key=key["project_key"], session_id=key["session_id"]
        ).exclude(subpath="")
        return list(rows.values_list("subpath", flat=True).distinct())
