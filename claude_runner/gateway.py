"""The one way out of a sandbox: a unix socket behind which the model's credential is added.

Each process has a gateway of its own in the runner's event loop; all share one pool of upstream connections.
Its account is asked before each request and told after it, so that what was revoked a moment ago counts no more,
and all that is spent is on the account's conversation.
"""

import asyncio
import io
import json
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from time import monotonic
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from claude_runner.asked import Asked
from claude_runner.errors import Refused
from claude_runner.folders import Place
from claude_runner.headers import inward, outward
from claude_runner.meter import Meter, Refusal
from claude_runner.spec import Account, Grant, Spending, Upstream
from claude_runner.turnstile import Turnstile
from claude_runner.upstreams import Upstreams
from claude_runner.usage import Reading

logger = logging.getLogger(__name__)
# What an agent sends that is no HTTP would be a traceback in the log each time.
SILENT = logging.getLogger(f"{__name__}.requests")
# Not `disabled`, which configuring the log sets anew.
SILENT.addFilter(lambda _record: False)

MESSAGES = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
# With the parameters that the CLI sends; others end here.
ALLOWED = {
    ("POST", MESSAGES): frozenset({"beta"}),
    ("POST", COUNT): frozenset({"beta"}),
    ("GET", "/v1/models"): frozenset({"beta", "limit", "after_id", "before_id"}),
}
LARGEST_BODY = 32 << 20
LARGEST_ANSWER = 64 << 20
LARGEST_ERROR = 64 << 10
IN_ONE_PIECE = 1 << 20
BYTES_PER_TOKEN = 4
MOST_CONNECTIONS = 24
# Seconds: between two connections, before an answer to who asks too often.
PACE, PAUSE = 0.005, 1.0
# Seconds for which leave that was asked for at a turn's begin holds for its first request.
FRESH = 0.5
SETTLE_WITHIN = 10.0


class Leave:
    """An account's grant, asked for at once and there when it is needed."""

    def __init__(self, account: Account, after: set[asyncio.Task[None]]) -> None:
        self.account = account
        self._asked = monotonic()
        self._answer = asyncio.create_task(self._ask(set(after)))
        # It may be refused without anybody who needed it.
        self._answer.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _ask(self, before: set[asyncio.Task[None]]) -> Grant:
        if before:
            await asyncio.wait(before, timeout=SETTLE_WITHIN)
        return await self.account.admit()

    @property
    def is_fresh(self) -> bool:
        return monotonic() - self._asked < FRESH

    async def granted(self) -> Grant:
        """Raises Refused."""
        return await self._answer

    def forget(self) -> None:
        self._answer.cancel()


class Gateway:
    """Listens on `place.socket`; requests pass while a turn runs, each on the account of that turn.

    `account` is whose it is before the first turn.
    """

    def __init__(self, upstreams: Upstreams, account: Account) -> None:
        self._upstreams = upstreams
        self._account = account
        self._open = False
        self._leave: Leave | None = None
        self._settling: set[asyncio.Task[None]] = set()
        self._turnstile = Turnstile()
        self.meter = Meter()
        # While true, token counts are estimated here instead of being asked for upstream.
        self.estimates = False
        self._server = web.Server(
            # A CLI that hangs up (an interrupt) ends the request upstream too.
            self._handle,
            request_factory=_request,
            handler_cancellation=True,
            access_log=None,
            logger=SILENT,
        )
        self._listening: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._place: Place | None = None

    # Its life

    async def start(self, place: Place) -> None:
        self._place = place
        place.socket.unlink(missing_ok=True)
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.setblocking(False)
        self._listening.bind(str(place.socket))
        place.socket.chmod(0o600)
        place.own(place.socket)
        self._listening.listen()
        self._accepting = asyncio.create_task(self._accept(self._listening))

    async def _accept(self, listening: socket.socket) -> None:
        """One after another: whoever opens connections as fast as they can waits in the kernel's queue."""
        loop = asyncio.get_running_loop()
        while True:
            while len(self._server.connections) >= MOST_CONNECTIONS:  # noqa: ASYNC110 (aiohttp tells nobody)
                await asyncio.sleep(PACE * 10)
            # Out of files, or gone again: the next one may fare better.
            with suppress(OSError):
                connection, _peer = await loop.sock_accept(listening)
                await loop.connect_accepted_socket(self._server, connection)
            await asyncio.sleep(PACE)

    async def close(self) -> None:
        self.end_turn()
        if self._accepting is not None and self._listening is not None:
            self._accepting.cancel()
            await asyncio.wait([self._accepting])
            self._listening.close()
            await self._server.shutdown(1.0)
        if self._settling:
            await asyncio.wait(self._settling, timeout=SETTLE_WITHIN)
        if self._place is not None:
            self._place.socket.unlink(missing_ok=True)

    def begin_turn(self, account: Account) -> None:
        """The CLI is about to get a message: ask for leave while it thinks."""
        self.end_turn()
        self._account = account
        self._open = True
        self._leave = Leave(account, self._settling)
        self.meter.begin_turn()

    def end_turn(self) -> None:
        """Nothing spends between turns: what the agent left running finds the gateway shut."""
        self._open = False
        if self._leave is not None:
            self._leave.forget()
            self._leave = None

    @contextmanager
    def opened(self, account: Account | None) -> Iterator[None]:
        """Let requests pass for what the CLI itself is told to do, on this account; None: on the running turn's."""
        former = self._open, self._account
        self._open, self._account = True, account or self._account
        try:
            yield
        finally:
            self._open, self._account = former

    # A request

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if not self._turnstile.enter():
            await asyncio.sleep(PAUSE)
            if not self._turnstile.enter():
                return _too_often()
        self.meter.start()
        try:
            return await self._answer(request)
        except Refused as refused:
            self.meter.refusal = Refusal(refused.status, refused.type, str(refused), ours=True)
            return _error(refused.status, refused.type, str(refused))
        except (web.RequestPayloadError, HttpProcessingError, OSError):
            return _error(400, "invalid_request_error", "The request broke off, or is none.")
        except Exception:
            # A border: a mistake of ours is told here, since what aiohttp says of requests is not.
            logger.exception("a request broke")
            return _error(500, "api_error", "Something went wrong in the runner; its log has more.")
        finally:
            self.meter.stop()
            self._turnstile.leave()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        parameters = ALLOWED.get((request.method, request.path))
        if parameters is None:
            return _error(404, "not_found_error", f"{request.method} {request.path} does not exist here.")
        if self.estimates and request.path == COUNT:
            return web.json_response({"input_tokens": (request.content_length or 0) // BYTES_PER_TOKEN})
        query = {name: value for name, value in request.query.items() if name in parameters}
        async with self._body(request) as body:
            if body is None:
                return _error(
                    413, "request_too_large", "The request is larger than the model's server takes."
                )
            asked = Asked(body)
            if not asked.can_be_read:
                return _error(
                    413, "request_too_large", "The request has too many parts to be looked through."
                )
            if not self._turnstile.look_through(asked.parts):
                return _too_often()
            account, grant = await self._admitted()
            _check_model(grant, asked)
            return await _Exchange(self, account, grant).run(request, query, asked)

    @asynccontextmanager
    async def _body(self, request: web.BaseRequest) -> AsyncIterator[bytes | None]:
        """What was sent; None where it is larger than one may be, or than all of them may be together."""
        parts: list[bytes] = []
        held = 0
        try:
            async for part in request.content.iter_any():
                if held + len(part) > LARGEST_BODY or not self._turnstile.hold(len(part)):
                    parts.clear()
                    yield None
                    return
                held += len(part)
                parts.append(part)
            yield parts[0] if len(parts) == 1 else b"".join(parts)
        finally:
            self._turnstile.let_go(held)

    async def _admitted(self) -> tuple[Account, Grant]:
        leave, self._leave = self._leave, None
        if leave is None or not leave.is_fresh:
            if not self._open:
                raise Refused("Nobody has asked for anything: the model answers while a turn runs.")
            leave = Leave(self._account, self._settling)
        return leave.account, await leave.granted()

    # What an exchange needs of it

    @property
    def upstreams(self) -> Upstreams:
        return self._upstreams

    def settle(self, account: Account, grant: Grant, spending: Spending) -> None:
        """Tell the account, in the background; its next leave waits for that."""
        task = asyncio.create_task(account.settle(grant, spending))
        self._settling.add(task)
        task.add_done_callback(self._settled)

    def _settled(self, task: asyncio.Task[None]) -> None:
        self._settling.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("an account did not take what was spent: %r", error)


class _Exchange:
    """One admitted request and its answer, counted whatever becomes of them."""

    def __init__(self, gateway: Gateway, account: Account, grant: Grant) -> None:
        self._gateway, self._account, self._grant = gateway, account, grant
        self._meter = gateway.meter
        self._status = 0
        self._reading: Reading | None = None

    async def run(self, request: web.BaseRequest, query: dict[str, str], asked: Asked) -> web.StreamResponse:
        body = asked.body
        upstream, upstreams = self._grant.upstream, self._gateway.upstreams
        sent = False
        try:
            url = upstreams.url_of(upstream.base_url, request.path)
            headers, data = outward(request.headers, upstream), _as_data(body)
            sent = True
            async with upstreams.session.request(
                request.method, url, params=query, data=data, headers=headers, allow_redirects=False
            ) as answer:
                self._status = answer.status
                if answer.status >= 300:
                    return await self._refused(answer, upstream)
                self._read_along(request, answer, asked)
                return await self._stream(request, answer)
        except asyncio.CancelledError:
            if sent and self._status == 0 and request.path == MESSAGES:
                # Its server works on it, whether or not anybody waits for the answer.
                self._reading = Reading(len(body), unseen=asked.unseen)
            raise
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return self._unreachable(upstream, error)
        finally:
            self._settle(asked)

    def _read_along(self, request: web.BaseRequest, answer: aiohttp.ClientResponse, asked: Asked) -> None:
        if request.path == MESSAGES:
            streamed = answer.content_type == "text/event-stream"
            unseen = 0 if streamed else asked.unseen
            self._reading = Reading(len(asked.body), streamed=streamed, unseen=unseen)

    def _settle(self, asked: Asked) -> None:
        model, tokens = self._reading.result() if self._reading is not None else ("", None)
        if tokens is not None or self._status:
            told = Spending(uuid4(), self._status, model or (asked.model if tokens else ""), tokens)
            self._gateway.settle(self._account, self._grant, told)

    async def _stream(self, request: web.BaseRequest, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        self._meter.refusal = None
        response = web.StreamResponse(status=answer.status, headers=inward(answer.headers))
        await response.prepare(request)
        reading = self._reading or Reading(0)
        try:
            async for chunk in answer.content.iter_any():
                self._meter.answered()
                reading.read(chunk)
                if reading.passed > LARGEST_ANSWER:
                    raise aiohttp.ClientPayloadError("it has no end")
                await response.write(chunk)
            reading.whole()
            await response.write_eof()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # The answer broke off; a clean end here would pass it off as whole.
            logger.info("model answer broke off: %s", type(error).__name__)
            if request.transport is not None:
                request.transport.close()
        return response

    async def _refused(self, answer: aiohttp.ClientResponse, upstream: Upstream) -> web.StreamResponse:
        """Pass an error on, with the reason kept for the turn's own error. A redirect counts as one."""
        body = await answer.content.read(LARGEST_ERROR)
        # An endpoint that echoes its request must not hand the secret to the agent.
        body = body.replace(upstream.secret.encode(), b"[secret]") if upstream.secret else body
        self._meter.refusal = _refusal(answer.status, body)
        if answer.status < 400:
            return _error(502, "api_error", "The model's server answered with a redirect: check its address.")
        headers = inward(answer.headers)
        if answer.status in (401, 403):
            # Trying again with the same credential only makes the person wait.
            headers["x-should-retry"] = "false"
        return web.Response(status=answer.status, body=body, headers=headers)

    def _unreachable(self, upstream: Upstream, error: Exception) -> web.Response:
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorDNSError) else error
        # Only an approver's own words are passed on; the system's have a number and say little.
        why = f" {cause}" if type(cause) is OSError and cause.errno is None else ""
        place = urlsplit(upstream.base_url).netloc.rpartition("@")[2]
        logger.warning("model upstream %s: %s%s", place, type(error).__name__, why)
        message = f"The model's server at {place} cannot be reached.{why}"
        self._meter.refusal = Refusal(0, "api_error", message)
        return _error(502, "api_error", message, final=bool(why))


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    """What aiohttp makes by itself, but for its own limit of a body: ours is read part by part."""
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=LARGEST_BODY)


def _as_data(body: bytes) -> bytes | io.BytesIO | None:
    """A large body is written in pieces: in one it would hold up the event loop."""
    return io.BytesIO(body) if len(body) > IN_ONE_PIECE else body or None


def _check_model(grant: Grant, asked: Asked) -> None:
    """Refused unless the request names one of the models that the grant allows, so that no reader sees another."""
    if not grant.models or not asked.body:
        return
    if asked.model not in grant.models:
        allowed = ", ".join(sorted(grant.models))
        named = asked.model[:80] or "(none)"
        raise Refused(f"The model {named} is not allowed here. Choose one of: {allowed}.")


def _refusal(status: int, body: bytes) -> Refusal:
    try:
        error = json.loads(body)["error"]
        return Refusal(status, str(error["type"]), str(error["message"])[:500])
    except (ValueError, KeyError, TypeError):
        return Refusal(status, "api_error", "")


def _too_often() -> web.Response:
    return _error(429, "rate_limit_error", "This conversation asks its model too often.")


def _error(status: int, kind: str, message: str, *, final: bool = False) -> web.Response:
    """`final`: asking again changes nothing, as with all that the request itself is at fault for."""
    headers = {"retry-after": "1"} if status == 429 else {}
    if final or status < 429:
        headers = {"x-should-retry": "false"}
    error = {"type": "error", "error": {"type": kind, "message": message}}
    return web.json_response(error, status=status, headers=headers)
