"""The socket's mouth of the line: translates frames into calls, and feeds into frames. It decides nothing.

`ChatConsumer` speaks the wire contract at /v1/chat/ws. `PageConsumer` is the same socket for the pages at
/t/<slug>/live: it sends the patches of the rendered page in place of the events.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar
from urllib.parse import urlsplit
from uuid import UUID

from channels.consumer import get_handler_name
from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.db import DatabaseError
from django.utils.translation import gettext as _

from conversations import controls
from conversations.access import conversation_for
from conversations.events import Wire, open_events
from conversations.feeds import Feed
from conversations.models import Conversation
from conversations.nudges import nudge_runners
from conversations.rendering import Thread
from conversations.turns import Submission, draft, submit_turn
from tenants.access import Caller
from tenants.authentication import caller_for_scope, has_key
from tenants.context import in_tenant
from tenants.errors import ApiError, AuthenticationError, InvalidRequest

logger = logging.getLogger("parley.socket")

type Frame = dict[str, Any]

NOT_SIGNED_IN = 4401
MOST_SUBSCRIPTIONS = 50


class ChatConsumer(AsyncWebsocketConsumer):
    """One socket. Its subscriptions each follow one conversation in a task of their own."""

    commands: ClassVar[dict[str, str]] = {
        "subscribe": "subscribe",
        "message": "message",
        "interrupt": "interrupt",
        "permission": "permission",
        "set": "set_options",
        "warm": "warm",
        "ping": "ping",
    }
    caller: Caller

    async def dispatch(self, message: Mapping[str, Any]) -> None:
        """As Channels does, without its hop into a thread before each message: our SQL has its own threads."""
        handler: Callable[[Mapping[str, Any]], Awaitable[None]] = getattr(self, get_handler_name(dict(message)))
        await handler(message)

    # Coming and going -------------------------------------------------------------------------------------

    async def connect(self) -> None:
        self.following: dict[UUID, asyncio.Task[None]] = {}
        self.drafted: UUID | None = None
        if not has_key(self.scope) and not same_origin(self.scope):
            await self.close()
            return
        try:
            self.caller = await caller_for_scope(self.scope)
        except ApiError as error:
            await self.accept()
            await self.say(error_frame(error))
            await self.close(NOT_SIGNED_IN if isinstance(error, AuthenticationError) else 4400)
            return
        await self.accept()

    async def disconnect(self, code: int) -> None:
        following = list(self.following.values())
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
        raise StopConsumer

    # Frames -----------------------------------------------------------------------------------------------

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        try:
            frame = parsed(text_data)
            await getattr(self, self.commands[frame["type"]])(frame)
        except ApiError as error:
            await self.say(error_frame(error))
        except DatabaseError:
            logger.exception("A command failed in the database")
            await self.say(error_frame(ApiError(_("The database did not answer. Try again in a moment."))))

    async def subscribe(self, frame: Frame) -> None:
        after = frame.get("after")
        if after is not None and (not isinstance(after, int) or isinstance(after, bool) or after < 0):
            raise InvalidRequest(
                _("after is the seq of the last event that you have, a whole number from 0.")
            )
        conversation = await in_tenant(
            self.caller.tenant_id, conversation_for, self.caller, frame.get("conversation")
        )
        last = conversation.last_seq
        await self.follow(conversation.id, last if after is None else min(after, last))

    async def message(self, frame: Frame) -> None:
        submission = Submission.parsed(
            frame.get("content"),
            client_id=frame.get("id"),
            conversation=frame.get("conversation") or self._draft_for(frame),
            assistant=frame.get("assistant"),
            options=frame.get("options"),
        )
        if submission.client_id is None:
            raise InvalidRequest(
                _("A message needs an id, a UUID of your choice: sent again it is the same turn.")
            )
        submitted = await submit_turn(self.caller, submission)
        if submitted.conversation == self.drafted:
            self.drafted = None
        if submitted.conversation not in self.following:
            await self.follow(submitted.conversation, submitted.first_seq)

    def _draft_for(self, frame: Frame) -> str | None:
        """The conversation that `warm` has prepared, for a first message that names none."""
        return str(self.drafted) if self.drafted and frame.get("assistant") is None else None

    async def interrupt(self, frame: Frame) -> None:
        await controls.interrupt(self.caller, frame.get("conversation"))

    async def permission(self, frame: Frame) -> None:
        await controls.answer(
            self.caller, frame.get("request"), frame.get("decision"), frame.get("message") or ""
        )

    async def set_options(self, frame: Frame) -> None:
        options = {name: frame[name] for name in ("model", "permission_mode") if frame.get(name) is not None}
        await controls.set_options(self.caller, frame.get("conversation"), options)

    async def warm(self, frame: Frame) -> None:
        """Have a process started; without a conversation, for the one that the next message begins."""
        if frame.get("conversation") is not None:
            conversation = await in_tenant(
                self.caller.tenant_id, conversation_for, self.caller, frame["conversation"]
            )
        elif self.drafted is None:
            conversation = await in_tenant(self.caller.tenant_id, draft, self.caller)
            self.drafted = conversation.id
        else:
            return
        await nudge_runners("", "warm", tenant=str(self.caller.tenant_id), conversation=str(conversation.id))

    async def ping(self, frame: Frame) -> None:
        await self.say({"type": "pong"})

    # Following --------------------------------------------------------------------------------------------

    async def follow(self, conversation: UUID, after: int) -> None:
        """Send what comes after `after`; a second subscription to the same conversation replaces the first."""
        former = self.following.pop(conversation, None)
        if former is not None:
            former.cancel()
        if len(self.following) >= MOST_SUBSCRIPTIONS:
            raise InvalidRequest(
                _("One socket follows at most %(most)d conversations.") % {"most": MOST_SUBSCRIPTIONS}
            )
        self.following[conversation] = asyncio.create_task(self._follow(conversation, after))

    async def _follow(self, conversation: UUID, after: int) -> None:
        try:
            async with Feed(self.caller.tenant_id, conversation, after) as feed:
                async for batch in feed:
                    await self.deliver(conversation, batch)
        except DatabaseError:
            # The client comes back and catches up from its cursor.
            logger.exception("A subscription failed in the database")
            await self.close(1012)

    async def deliver(self, conversation: UUID, batch: list[Wire]) -> None:
        """Send one batch of events. Waits while the reader is behind."""
        for event in batch:
            await self.say(event)

    async def say(self, frame: Frame) -> None:
        await self.send(text_data=json.dumps(frame, ensure_ascii=False))


class PageConsumer(ChatConsumer):
    """The socket of a page: the same commands, and patches of the page in place of events."""

    async def connect(self) -> None:
        self.threads: dict[UUID, Thread] = {}
        slug = self.scope["url_route"]["kwargs"]["slug"]
        self.scope["query_string"] = f"tenant={slug}".encode()
        await super().connect()

    async def follow(self, conversation: UUID, after: int) -> None:
        self.threads[conversation] = await in_tenant(self.caller.tenant_id, thread_at, conversation, after)
        await super().follow(conversation, after)

    async def deliver(self, conversation: UUID, batch: list[Wire]) -> None:
        thread = self.threads[conversation]
        patches = [patch for event in batch for patch in thread.apply(event)]
        await self.say(
            {
                "type": "patches",
                "conversation": str(conversation),
                "seq": batch[-1]["seq"],
                "patches": patches,
            }
        )


def thread_at(conversation: UUID, seq: int) -> Thread:
    """The thread behind a page that shows all events up to `seq`."""
    row = Conversation.objects.select_related("assistant").get(id=conversation)
    thread = Thread(str(conversation), assistant=row.assistant.name, model=row.effective_model)
    thread.load(open_events(conversation, seq))
    thread.seq = seq
    return thread


def parsed(text: str | None) -> Frame:
    """A frame out of untrusted text; InvalidRequest says what is wrong with it."""
    if text is None:
        raise InvalidRequest(_("Frames are text: one JSON object each."))
    try:
        frame = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidRequest(_("The frame is no JSON.")) from None
    if not isinstance(frame, dict):
        raise InvalidRequest(_("A frame is a JSON object with a type."))
    if not isinstance(frame.get("type"), str) or frame["type"] not in ChatConsumer.commands:
        raise InvalidRequest(
            _("type is one of: %(known)s.") % {"known": ", ".join(sorted(ChatConsumer.commands))}
        )
    return frame


def error_frame(error: ApiError) -> Frame:
    """An error for the sender alone."""
    return {"type": "error", "error": {"type": error.type, "message": str(error)}}


def same_origin(scope: Mapping[str, Any]) -> bool:
    """Whether a socket with a cookie was opened by a page of ours (its Origin is ours, not null, not missing)."""
    headers = dict(scope["headers"])
    origin = headers.get(b"origin", b"").decode("latin1")
    host = headers.get(b"host", b"").decode("latin1")
    if origin in settings.CSRF_TRUSTED_ORIGINS:
        return True
    parts = urlsplit(origin)
    return parts.scheme in ("http", "https") and bool(host) and parts.netloc == host


async def refuse(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
    """A socket on a path that there is not: 403 on the wire, since a socket can't say 404."""
    await send({"type": "websocket.close"})
