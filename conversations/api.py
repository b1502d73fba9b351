"""The HTTP mouth of the line: conversations, their turns and events. See the wire contract in docs/api.md."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from time import monotonic
from typing import Any, Literal
from uuid import UUID, uuid4

from django.db import Error
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.utils.translation import gettext as _
from ninja import Field, Query, Router, Schema, Status

from conversations import controls
from conversations.access import conversation_for, having, listed
from conversations.events import LAST, Wire
from conversations.feeds import Feed
from conversations.flow import flow_of
from conversations.models import Turn
from conversations.nudges import nudge_runners
from conversations.records import conversation_record, conversation_summaries, turn_record
from conversations.turns import Submission, Submitted, draft, submit_turn
from tenants.access import Caller
from tenants.acts import Act
from tenants.authentication import caller_for_request
from tenants.context import in_tenant
from tenants.errors import TYPES, ApiError, Conflict, InvalidRequest, NotFound
from tenants.models import AuditEvent, uuid_of
from tenants.rates import rates

logger = logging.getLogger("parley.api")

router = Router(tags=["conversations"])

type Record = dict[str, Any]

PAGE = 50
LONGEST_SEQ = 100
ASK_AGAIN_SECONDS = 3.0
KEEP_ALIVE_SECONDS = 15.0
STATUS_OF = {kind: status for status, kind in TYPES.items() if status != Conflict.default_status}


class ChatBody(Schema):
    """One message. Without `conversation` a new one begins, or with `continue` the latest goes on."""

    message: str | list[dict[str, Any]]
    conversation: str | None = None
    continue_: bool = Field(False, alias="continue")
    assistant: str | None = None
    id: str | None = None
    options: dict[str, Any] | None = None


class TurnBody(Schema):
    message: str | list[dict[str, Any]]
    id: str | None = None
    options: dict[str, Any] | None = None


class NewConversation(Schema):
    title: str = ""
    assistant: str | None = None


class ConversationChange(Schema):
    title: str | None = None
    archived: bool | None = None
    shared: bool | None = None


class PermissionBody(Schema):
    decision: str
    message: str = ""


class EventsQuery(Schema):
    after: int = 0


class PageQuery(Schema):
    """`shared`: true for what the tenant shares, whoever wrote it; false for what is the caller's alone."""

    q: str = ""
    shared: bool | None = None
    limit: int = PAGE
    after_id: str | None = None


def _caller(request: HttpRequest) -> Caller:
    caller: Caller = request.auth  # type: ignore[attr-defined]  # set by ninja
    return caller


@router.post("/chat/stream", summary="One turn as server-sent events")
async def chat_stream(request: HttpRequest, body: ChatBody) -> HttpResponseBase:
    caller = _caller(request)
    options = body.options or {}
    output: Literal["stream-json", "json", "text"] = options.get("output_format", "stream-json")
    if output not in ("stream-json", "json", "text"):
        raise InvalidRequest(_("options.output_format is one of: stream-json, json, text."))
    submission = Submission.parsed(
        body.message,
        client_id=body.id,
        conversation=body.conversation,
        continue_latest=body.continue_,
        assistant=body.assistant,
        options=body.options,
    )
    stream = await _counted(caller)
    try:
        submitted = await submit_turn(caller, submission)
    except BaseException:
        await rates().close_socket(caller, stream)
        raise
    headers = {"x-conversation-id": str(submitted.conversation)}
    if output == "stream-json":
        return _event_stream(
            request, stream, submitted.conversation, _turn_events(caller, submitted), headers
        )
    turn = _while_allowed(request, stream, submitted.conversation, _turn_events(caller, submitted))
    async with aclosing(turn) as events:
        async for event in events:
            if event and event["type"] == "turn.failed" and output == "text":
                raise _turn_error(event)
    record = await in_tenant(caller.tenant_id, _turn, submitted.turn)
    if output == "text":
        text = "\n\n".join(block["text"] for block in record["blocks"] if block["type"] == "text")
        return HttpResponse(text, content_type="text/plain; charset=utf-8", headers=headers)
    return HttpResponse(json.dumps(record), content_type="application/json", headers=headers)


@router.get("/conversations/{conversation}/events", summary="The events of a conversation, from any seq on")
async def events(request: HttpRequest, conversation: str, query: Query[EventsQuery]) -> HttpResponseBase:
    caller = _caller(request)
    found = await in_tenant(caller.tenant_id, conversation_for, caller, conversation)
    after = query.after
    if last_id := request.headers.get("last-event-id"):
        if not last_id.isdecimal() or len(last_id) > LONGEST_SEQ:
            raise InvalidRequest(_("Last-Event-ID is the seq of an event, a whole number."))
        after = int(last_id)
    if after < 0:
        raise InvalidRequest(_("after is the seq of an event, a whole number from 0."))
    flow_of(request.scope).endless = True  # type: ignore[attr-defined]  # an ASGI request
    live = _live_events(caller, found.id, min(after, found.last_seq))
    return _event_stream(request, await _counted(caller), found.id, live, {})


@router.get("/conversations", summary="Conversations, newest first: the caller's, or the shared ones")
async def list_conversations(request: HttpRequest, query: Query[PageQuery]) -> Record:
    caller = _caller(request)
    return await in_tenant(caller.tenant_id, _list, caller, query)


@router.post(
    "/conversations", response={201: dict[str, Any]}, summary="Begin a conversation without a message"
)
async def create_conversation(request: HttpRequest, body: NewConversation) -> Status[Record]:
    caller = _caller(request)
    return Status(201, await in_tenant(caller.tenant_id, _create, caller, body))


@router.get("/conversations/{conversation}", summary="A conversation with its turns")
async def read_conversation(request: HttpRequest, conversation: str) -> Record:
    caller = _caller(request)
    return await in_tenant(caller.tenant_id, _read, caller, conversation)


@router.patch("/conversations/{conversation}", summary="Rename, archive, share with the tenant")
async def change_conversation(request: HttpRequest, conversation: str, body: ConversationChange) -> Record:
    caller = _caller(request)
    await controls.change(caller, conversation, controls.Change(**body.dict()))
    return await in_tenant(caller.tenant_id, _read, caller, conversation)


@router.delete("/conversations/{conversation}", response={204: None}, summary="Delete, with all its events")
async def delete_conversation(request: HttpRequest, conversation: str) -> Status[None]:
    caller = _caller(request)
    await controls.interrupt(caller, conversation)
    await in_tenant(caller.tenant_id, _delete, caller, conversation)
    await nudge_runners("", "dispose")
    return Status(204, None)


@router.post(
    "/conversations/{conversation}/turns", response={202: dict[str, Any]}, summary="Submit, don't wait"
)
async def submit(request: HttpRequest, conversation: str, body: TurnBody) -> Status[Record]:
    caller = _caller(request)
    submission = Submission.parsed(
        body.message, client_id=body.id, conversation=str(uuid_of(conversation)), options=body.options
    )
    submitted = await submit_turn(caller, submission)
    return Status(202, await in_tenant(caller.tenant_id, _turn, submitted.turn))


@router.post(
    "/conversations/{conversation}/interrupt", response={202: dict[str, Any]}, summary="Stop the turn"
)
async def interrupt(request: HttpRequest, conversation: str) -> Status[Record]:
    await controls.interrupt(_caller(request), conversation)
    return Status(202, {"id": conversation})


@router.post("/permissions/{permission}", summary="Answer a question about a tool call")
async def answer(request: HttpRequest, permission: str, body: PermissionBody) -> Record:
    await controls.answer(_caller(request), permission, body.decision, body.message)
    return {"id": permission, "decision": body.decision}


# Streams --------------------------------------------------------------------------------------------------


async def _counted(caller: Caller) -> UUID:
    """The name of a new stream, which counts as a socket until it ends; RateLimited where there are too many."""
    stream = uuid4()
    await rates().open_stream(caller, stream)
    return stream


def _event_stream(
    request: HttpRequest,
    stream: UUID,
    conversation: UUID,
    events: AsyncGenerator[Wire],
    headers: dict[str, str],
) -> StreamingHttpResponse:
    async def lines() -> AsyncIterator[str]:
        # The headers leave with the first bytes: nobody shall wait for them until something happens.
        yield ": events follow\n\n"
        async with aclosing(_while_allowed(request, stream, conversation, events)) as allowed:
            with suppress(ApiError):  # Who is not allowed any more hears nothing more, not even why.
                async for event in allowed:
                    yield _lines_of(event) if event else ": still here\n\n"

    return StreamingHttpResponse(
        lines(),
        content_type="text/event-stream",
        headers={"cache-control": "no-cache", "x-accel-buffering": "no"} | headers,
    )


def _lines_of(event: Wire) -> str:
    data = json.dumps(event, ensure_ascii=False)
    return f"id: {event['seq']}\nevent: {event['type']}\ndata: {data}\n\n"


async def _while_allowed(
    request: HttpRequest, stream: UUID, conversation: UUID, events: AsyncGenerator[Wire]
) -> AsyncGenerator[Wire | None]:
    """The events, and None now and then while there are none: a silent connection is cut on its way.

    ApiError soon after the caller's key was revoked, their session ended, they were removed, or the conversation is
    not shared any more.
    """
    asked = spoke = monotonic()
    following = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            await asyncio.wait({following}, timeout=asked + ASK_AGAIN_SECONDS - monotonic())
            if monotonic() - asked >= ASK_AGAIN_SECONDS:
                await _assert_welcome(request, conversation)
                await rates().keep_socket(_caller(request), stream)
                asked = monotonic()
            if following.done():
                event = following.result()
                if event is None:
                    return
                yield event
                following = asyncio.ensure_future(anext(events, None))
            elif monotonic() - spoke >= KEEP_ALIVE_SECONDS:
                yield None
            else:
                continue
            spoke = monotonic()
    finally:
        following.cancel()
        await asyncio.wait({following})
        await events.aclose()
        await rates().close_socket(_caller(request), stream)


async def _assert_welcome(request: HttpRequest, conversation: UUID) -> None:
    """ApiError where the request would be refused by now. Without a database there is nothing to hear either."""
    try:
        caller = await caller_for_request(request)
        await in_tenant(caller.tenant_id, conversation_for, caller, conversation)
    except Error as error:
        logger.warning("A stream's caller could not be looked up: %s", error)


async def _live_events(caller: Caller, conversation: UUID, after: int) -> AsyncGenerator[Wire]:
    async with Feed(caller.tenant_id, conversation, after) as feed:
        async for batch in feed:
            for event in batch:
                yield event


async def _turn_events(caller: Caller, submitted: Submitted) -> AsyncGenerator[Wire]:
    """The events of one turn, and what changed of its conversation meanwhile, up to the turn's last."""
    turn = str(submitted.turn)
    async with aclosing(_live_events(caller, submitted.conversation, submitted.first_seq)) as events:
        async for event in events:
            if event.get("turn", turn) == turn:
                yield event
                if event["type"] in LAST:
                    return


def _turn_error(event: Wire) -> ApiError:
    error = event["error"]
    return ApiError(error["message"], type=error["type"], status=STATUS_OF.get(error["type"], 500))


# Inside the tenant's context ------------------------------------------------------------------------------


def _turn(turn: UUID) -> Record:
    found = Turn.objects.filter(id=turn).first()
    if found is None:
        raise NotFound(_("This conversation was deleted."))
    return turn_record(found)


def _list(caller: Caller, query: PageQuery) -> Record:
    if not 1 <= query.limit <= 200:
        raise InvalidRequest(_("limit is a whole number from 1 to 200."))
    found = having(listed(caller, query.shared), query.q)
    if query.after_id:
        last = conversation_for(caller, query.after_id)
        found = found.filter(
            Q(updated_at__lt=last.updated_at) | Q(updated_at=last.updated_at, id__lt=last.id)
        )
    rows = list(found.select_related("assistant").order_by("-updated_at", "-id")[: query.limit + 1])
    page = conversation_summaries(rows[: query.limit])
    return {
        "data": page,
        "has_more": len(rows) > query.limit,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
    }


def _create(caller: Caller, body: NewConversation) -> Record:
    title = controls.checked_title(body.title) if body.title else ""
    conversation = draft(caller, body.assistant)
    if title:
        conversation.title = title
        conversation.save(update_fields=["title"])
    return conversation_record(conversation)


def _read(caller: Caller, conversation: str) -> Record:
    return conversation_record(conversation_for(caller, conversation))


def _delete(caller: Caller, conversation: str) -> None:
    row = conversation_for(caller, conversation, "moderating", lock=True)
    AuditEvent.objects.note(caller.tenant_id, Act.CONVERSATION_DELETED, caller, row.id, shared=row.is_shared)
    row.delete()
