"""The socket's mouth of the line: translates frames into calls, and feeds into frames. It decides nothing.

`ChatConsumer` speaks the wire contract at /v1/chat/ws. `PageConsumer` is the same socket for the pages at
/t/<slug>/live: it sends the patches of the rendered page in place of the events.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, ClassVar
from uuid import UUID, uuid4
from weakref import WeakValueDictionary

from channels.consumer import get_handler_name
from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.db import Error
from django.utils.translation import gettext as _

from conversations import controls
from conversations.access import conversation_for, still_readable
from conversations.events import Wire, open_events
from conversations.feeds import Feed
from conversations.history import thread_of
from conversations.nudges import nudge_runners
from conversations.parts import Patch
from conversations.people import People
from conversations.prompts import is_storable
from conversations.rendering import Thread
from conversations.turns import Submission, discard_draft, draft, submit_turn
from tenants import audit
from tenants.access import Caller
from tenants.authentication import caller_for_scope, has_key, headers_of
from tenants.context import across_tenants, in_tenant
from tenants.errors import (
    ApiError,
    AuthenticationError,
    InvalidRequest,
    NotFound,
    RateLimited,
    database_fault,
)
from tenants.origins import is_ours
from tenants.rates import Window, rates

logger = logging.getLogger("parley.socket")

type Frame = dict[str, Any]
type Delivery = Callable[[list[Wire]], Awaitable[None]]

RESTART = 1012
REFUSED = 4000  # and the status of the error, as in 4401 and 4429
ASK_AGAIN_SECONDS = 3.0
MOST_SUBSCRIPTIONS = 50
# A message is asked about where it is stored, in the same trip; a ping gets nothing.
ASKED_FIRST = frozenset({"subscribe", "interrupt", "permission", "set", "warm"})


_open: set[UUID] = set()


def open_sockets() -> int:
    """How many sockets this process holds open."""
    return len(_open)


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

    def __init__(self) -> None:
        super().__init__()
        self.id = uuid4()
        self.following: dict[UUID, asyncio.Task[None]] = {}
        self.of_others: set[UUID] = set()
        self.drafted: UUID | None = None
        self.watching: asyncio.Task[None] | None = None
        self.left = False
        self.refusals = Window(settings.KEY_FRAMES_PER_SECOND)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:  # Whatever ended it, a bug too.
            await self._let_go()

    async def dispatch(self, message: Mapping[str, Any]) -> None:
        """As Channels does, without its hop into a thread before each message: our SQL has its own threads."""
        handler: Callable[[Mapping[str, Any]], Awaitable[None]] = getattr(
            self, get_handler_name(dict(message))
        )
        await handler(message)

    # Coming and going -------------------------------------------------------------------------------------

    async def connect(self) -> None:
        if not has_key(self.scope) and not same_origin(self.scope):
            await self.close()
            return
        await self.accept()
        _open.add(self.id)
        try:
            self.caller = await caller_for_scope(self.scope)
            await rates().open_socket(self.caller, self.id)
        except ApiError as error:
            await self.leave(REFUSED + error.status, error)
        except Error:
            logger.exception("A socket's caller could not be looked up")
            await self.leave(RESTART)
        else:
            self.watching = asyncio.create_task(self._ask_again())

    async def _ask_again(self) -> None:
        """Close soon after a key was revoked, a session ended, or a member was removed."""
        while not self.left:
            await asyncio.sleep(ASK_AGAIN_SECONDS)
            try:
                if await self._is_welcome():
                    await self._drop_what_is_shared_no_more()
                    await rates().keep_socket(self.caller, self.id)
            except Error as error:
                logger.warning("A socket's caller could not be looked up: %s", error)

    async def _is_welcome(self) -> bool:
        """Look anew at who that is; who is nobody any more is shown out."""
        try:
            self.caller = await caller_for_scope(self.scope)
        except ApiError as error:
            await self.show_out(error)
        return not self.left

    async def _drop_what_is_shared_no_more(self) -> None:
        if not self.of_others:
            return
        kept = await in_tenant(self.caller.tenant_id, still_readable, self.caller, self.of_others)
        for conversation in self.of_others - kept:
            self.of_others.discard(conversation)
            if task := self.following.pop(conversation, None):
                task.cancel()
            gone = NotFound(_("This conversation is not shared any more."))
            await self.say(error_frame(gone) | {"conversation": str(conversation)})

    async def show_out(self, error: ApiError) -> None:
        await self.leave(REFUSED + AuthenticationError.default_status, error)

    async def leave(self, code: int, error: ApiError | None = None) -> None:
        """Deliver nothing more, take nothing more, close."""
        self.left = True
        for task in self.following.values():
            task.cancel()
        if error is not None:
            await self.say(error_frame(error))
        await self.close(code)

    async def disconnect(self, code: int) -> None:
        raise StopConsumer

    async def _let_go(self) -> None:
        _open.discard(self.id)
        tasks = [*self.following.values(), *([self.watching] if self.watching else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.watching:
            await rates().close_socket(self.caller, self.id)
        if self.drafted:
            await self._discard(self.drafted)

    async def _discard(self, drafted: UUID) -> None:
        """Nobody knows of the draft but this socket: its process is of no use any more."""
        try:
            discarded = await in_tenant(self.caller.tenant_id, discard_draft, self.caller, drafted)
        except Error as error:
            logger.warning("A draft stays until it is a day old: %s", error)
        else:
            if discarded:
                await nudge_runners("", "dispose")

    # Frames -----------------------------------------------------------------------------------------------

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if self.left:
            return
        frame: Frame = {}
        try:
            try:
                frame = parsed(text_data)
            finally:  # Bad ones count too.
                rates().count_frame(self.caller)
            if frame["type"] in ASKED_FIRST and not await self._is_welcome():
                return
            await getattr(self, self.commands[frame["type"]])(frame)
        except AuthenticationError as error:
            await self.show_out(error)
        except RateLimited as error:
            await self._slow_down(error, frame)
        except ApiError as error:
            await self.note_refusal(frame, error)
            await self.say(error_frame(error) | subject_of(frame))
        except Error as error:
            logger.exception("A command failed in the database")
            await self.say(error_frame(database_fault(error)) | subject_of(frame))

    async def note_refusal(self, frame: Frame, error: ApiError) -> None:
        if error.status in audit.REFUSALS:
            call, about = f"socket {frame['type']}", audit.object_of(named_by(frame))
            await across_tenants(audit.note_refusal, self.caller, call, error.status, about)

    async def _slow_down(self, error: RateLimited, frame: Frame) -> None:
        """Say so; who goes on regardless is shut out."""
        if self.refusals.hit():
            await self.say(error_frame(error) | subject_of(frame))
        else:
            await self.leave(REFUSED + error.status, error)

    async def subscribe(self, frame: Frame) -> None:
        after = frame.get("after")
        if after is not None and (not isinstance(after, int) or isinstance(after, bool) or after < 0):
            raise InvalidRequest(
                _("after is the seq of the last event that you have, a whole number from 0.")
            )
        conversation = await in_tenant(
            self.caller.tenant_id, conversation_for, self.caller, frame.get("conversation")
        )
        if conversation.author_id != self.caller.member_id:
            self.of_others.add(conversation.id)
        last = conversation.last_seq
        await self.follow(conversation.id, last if after is None else min(after, last))

    async def message(self, frame: Frame) -> None:
        submission = Submission.parsed(
            frame.get("content"),
            client_id=frame.get("id"),
            conversation=frame.get("conversation"),
            assistant=frame.get("assistant"),
            options=frame.get("options"),
            draft=self.drafted,
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
                self.caller.tenant_id, conversation_for, self.caller, frame["conversation"], "writing"
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
        deliver = await self.delivery(conversation, after)
        former = self.following.pop(conversation, None)
        if former is not None:
            former.cancel()
        if len(self.following) >= MOST_SUBSCRIPTIONS:
            raise InvalidRequest(
                _("One socket follows at most %(most)d conversations.") % {"most": MOST_SUBSCRIPTIONS}
            )
        self.following[conversation] = asyncio.create_task(self._follow(conversation, after, deliver))

    async def _follow(self, conversation: UUID, after: int, deliver: Delivery) -> None:
        try:
            async with Feed(self.caller.tenant_id, conversation, after) as feed:
                async for batch in feed:
                    await deliver(batch)
        except Exception:  # whatever it was: a reader that stops in silence would wait for ever
            logger.exception("A subscription failed")
            await self.close(RESTART)  # the client comes back and catches up from its cursor
        else:
            self.following.pop(conversation, None)
            await self.say(error_frame(NotFound(_("This conversation was deleted."))))

    async def delivery(self, conversation: UUID, after: int) -> Delivery:
        """How the batches of one subscription are sent; what it has to remember goes with the subscription."""
        return self._say_all

    async def _say_all(self, batch: list[Wire]) -> None:
        """Send one batch of events. Waits while the reader is behind."""
        for event in batch:
            await self.say(event)

    async def say(self, frame: Frame) -> None:
        await self.send(text_data=json.dumps(frame, ensure_ascii=False))


# A long answer takes a second or so: beside the loop, and one of a tenant's at a time, for the others' sake. More
# threads would make nothing sooner, and the loop wait longer for its turn between them.
_renderers = ThreadPoolExecutor(2, "render")
_one_at_a_time: "WeakValueDictionary[UUID, asyncio.Lock]" = WeakValueDictionary()


class PageConsumer(ChatConsumer):
    """The socket of a page: the same commands, and patches of the page in place of events."""

    async def connect(self) -> None:
        slug = self.scope["url_route"]["kwargs"]["slug"]
        self.scope["query_string"] = f"tenant={slug}".encode()
        await super().connect()

    async def delivery(self, conversation: UUID, after: int) -> Delivery:
        thread = await in_tenant(self.caller.tenant_id, thread_at, self.caller, conversation, after)
        return partial(self._say_patches, conversation, thread)

    async def _say_patches(self, conversation: UUID, thread: Thread, batch: list[Wire]) -> None:
        patches = await rendered(self.caller.tenant_id, thread, batch)
        await self.say(
            {
                "type": "patches",
                "conversation": str(conversation),
                "seq": batch[-1]["seq"],
                "patches": patches,
            }
        )


async def rendered(tenant: UUID, thread: Thread, batch: list[Wire]) -> list[Patch]:
    """The patches of a batch. Work that nobody waits for any more goes on, and keeps its tenant's place."""
    place = _one_at_a_time.setdefault(tenant, asyncio.Lock())
    await place.acquire()
    work = partial(copy_context().run, thread.apply_all, batch)
    job = asyncio.get_running_loop().run_in_executor(_renderers, work)
    job.add_done_callback(lambda _job: place.release())
    return await asyncio.shield(job)


def thread_at(caller: Caller, conversation: UUID, seq: int) -> Thread:
    """The thread behind a page that shows all events up to `seq`."""
    row = conversation_for(caller, conversation)
    thread = thread_of(row, People.of(caller, row))
    thread.load(open_events(row, seq))
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


def named_by(frame: Frame) -> Frame:
    """The objects that a frame names."""
    return {name: frame.get(name) for name in ("conversation", "request", "assistant")}


def subject_of(frame: Frame) -> Frame:
    """Which message or question an error is about, where the frame said it in letters that can be sent back."""
    named = {name: frame[name] for name in ("id", "request") if isinstance(frame.get(name), str)}
    return {name: value for name, value in named.items() if is_storable(value)}


def error_frame(error: ApiError) -> Frame:
    """An error for the sender alone."""
    return {"type": "error", "error": {"type": error.type, "message": str(error)}}


def same_origin(scope: Mapping[str, Any]) -> bool:
    """Whether a socket with a cookie was opened by a page of ours (its Origin is ours, not null, not missing)."""
    headers = headers_of(scope)
    return is_ours(headers.get("origin", ""), headers.get("host", ""))


async def refuse(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
    """A socket on a path that there is not: 403 on the wire, since a socket can't say 404."""
    await send({"type": "websocket.close"})
