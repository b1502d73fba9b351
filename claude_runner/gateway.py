"""The one way out of a sandbox: a unix socket behind which the model's credential is added.

Each process has a gateway of its own in the runner's event loop; all share one pool of upstream connections.
Its account is asked before each request, so that what was revoked a moment ago counts no more.
"""

import asyncio
import io
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from claude_runner.errors import Refused
from claude_runner.folders import Place
from claude_runner.spec import Account, Grant, Spending, Upstream

logger = logging.getLogger(__name__)

ALLOWED = frozenset({("POST", "/v1/messages"), ("POST", "/v1/messages/count_tokens"), ("GET", "/v1/models")})
LARGEST_BODY = 40 << 20
LARGEST_ERROR = 64 << 10
IN_ONE_PIECE = 1 << 20
BYTES_PER_TOKEN = 4
# Seconds for which leave that was asked for at a turn's begin holds for its first request.
FRESH = 0.5
SETTLE_WITHIN = 10.0
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=600)
OAUTH_BETA = "oauth-2025-04-20"
# The sandbox names neither its credential nor its host, and hop-by-hop headers end here (RFC 9110, 7.6.1).
DROPPED = frozenset(
    {
        *("authorization", "x-api-key", "proxy-authorization", "cookie", "host", "content-length"),
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
        *("x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "forwarded", "expect"),
    }
)
NOT_RETURNED = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "trailer", "transfer-encoding", "upgrade"),
        *("content-length", "set-cookie", "proxy-authenticate", "www-authenticate", "location"),
    }
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """How the last request was refused. `status` 0: nobody was there; `ours`: the account said it."""

    status: int
    type: str
    message: str
    ours: bool = False


class Meter:
    """What a turn waited for the model. Times in seconds; requests that overlap count once."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._busy_since = 0.0
        self.begin_turn()

    def begin_turn(self) -> None:
        self.busy = 0.0
        self.first_byte: float | None = None
        self.refusal: Refusal | None = None
        self._busy_since = monotonic()

    def start(self) -> None:
        if not self.in_flight:
            self._busy_since = monotonic()
        self.in_flight += 1

    def stop(self) -> None:
        self.in_flight -= 1
        if not self.in_flight:
            self.busy += monotonic() - self._busy_since

    def answered(self) -> None:
        if self.first_byte is None:
            self.first_byte = monotonic() - self._busy_since


def upstream_session() -> aiohttp.ClientSession:
    """The connections that all gateways of a host share. No cookies: they would cross tenants."""
    return aiohttp.ClientSession(
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=55),
        skip_auto_headers=("User-Agent", "Content-Type", "Accept", "Accept-Encoding"),
        timeout=TIMEOUT,
        trust_env=False,
    )


class Leave:
    """An account's grant, asked for at once and there when it is needed."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self._asked = monotonic()
        self._answer = asyncio.create_task(account.admit())
        # It may be refused without anybody who needed it.
        self._answer.add_done_callback(lambda task: task.cancelled() or task.exception())

    @property
    def is_fresh(self) -> bool:
        return monotonic() - self._asked < FRESH

    async def granted(self) -> Grant:
        """Raises Refused."""
        return await self._answer

    def forget(self) -> None:
        self._answer.cancel()


class Gateway:
    """Listens on `place.socket`. Every request is `account`'s, which `begin_turn` may change."""

    def __init__(self, session: aiohttp.ClientSession, account: Account) -> None:
        self._session = session
        self._account = account
        self._leave: Leave | None = None
        self._settling: set[asyncio.Task[None]] = set()
        self.meter = Meter()
        # While true, token counts are estimated here instead of being asked for upstream.
        self.estimates = False
        self._server = web.Server(
            # A CLI that hangs up (an interrupt) ends the request upstream too.
            self._handle,
            request_factory=_request,
            handler_cancellation=True,
            access_log=None,
        )
        self._listener: asyncio.Server | None = None
        self._place: Place | None = None

    def begin_turn(self, account: Account) -> None:
        """The CLI is about to get a message: ask for leave while it thinks."""
        self._forget_leave()
        self._account = account
        self._leave = Leave(account)
        self.meter.begin_turn()

    async def start(self, place: Place) -> None:
        self._place = place
        place.socket.unlink(missing_ok=True)
        self._listener = await asyncio.get_running_loop().create_unix_server(self._server, place.socket)
        place.socket.chmod(0o600)
        place.own(place.socket)

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
            await self._server.shutdown(1.0)
        self._forget_leave()
        if self._settling:
            await asyncio.wait(self._settling, timeout=SETTLE_WITHIN)
        if self._place is not None:
            self._place.socket.unlink(missing_ok=True)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if (request.method, request.path) not in ALLOWED:
            return _error(404, "not_found_error", f"{request.method} {request.path} does not exist here.")
        if self.estimates and request.path.endswith("/count_tokens"):
            return web.json_response({"input_tokens": (request.content_length or 0) // BYTES_PER_TOKEN})
        self.meter.start()
        try:
            return await self._forward(request)
        finally:
            self.meter.stop()

    async def _forward(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            body = await request.read()
            account, grant = await self._admitted()
        except web.HTTPRequestEntityTooLarge:
            return _error(413, "request_too_large", "The request is larger than the model's server takes.")
        except Refused as refused:
            self.meter.refusal = Refusal(refused.status, refused.type, str(refused), ours=True)
            return _error(refused.status, refused.type, str(refused))
        return await self._send(request, body, account, grant)

    async def _admitted(self) -> tuple[Account, Grant]:
        leave, self._leave = self._leave, None
        if leave is None or not leave.is_fresh:
            leave = Leave(self._account)
        return leave.account, await leave.granted()

    def _forget_leave(self) -> None:
        if self._leave is not None:
            self._leave.forget()
            self._leave = None

    def _settle(self, account: Account, grant: Grant, spending: Spending) -> None:
        task = asyncio.create_task(account.settle(grant, spending))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _send(
        self, request: web.BaseRequest, body: bytes, account: Account, grant: Grant
    ) -> web.StreamResponse:
        upstream = grant.upstream
        url = upstream.base_url.rstrip("/") + request.path_qs
        try:
            headers = _outward(request.headers, upstream)
            async with self._session.request(
                request.method, url, data=_as_data(body), headers=headers, allow_redirects=False
            ) as answer:
                self._settle(account, grant, Spending(uuid4(), answer.status))
                if answer.status >= 300:
                    return await self._refused(answer, upstream)
                return await self._stream(request, answer)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            host = urlsplit(url).netloc
            logger.warning("model upstream %s: %s", host, type(error).__name__)
            self.meter.refusal = Refusal(0, "api_error", f"The model's server at {host} cannot be reached.")
            return _error(502, "api_error", self.meter.refusal.message)

    async def _stream(self, request: web.BaseRequest, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        self.meter.refusal = None
        response = web.StreamResponse(status=answer.status, headers=_inward(answer.headers))
        await response.prepare(request)
        try:
            async for chunk in answer.content.iter_any():
                self.meter.answered()
                await response.write(chunk)
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
        self.meter.refusal = _refusal(answer.status, body)
        if answer.status < 400:
            return _error(502, "api_error", "The model's server answered with a redirect: check its address.")
        headers = _inward(answer.headers)
        if answer.status in (401, 403):
            # Trying again with the same credential only makes the person wait.
            headers["x-should-retry"] = "false"
        return web.Response(status=answer.status, body=body, headers=headers)


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    """What aiohttp makes by itself, with our limit."""
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=LARGEST_BODY)


def _as_data(body: bytes) -> bytes | io.BytesIO | None:
    """A large body is written in pieces: in one it would hold up the event loop."""
    return io.BytesIO(body) if len(body) > IN_ONE_PIECE else body or None


def _outward(headers: Mapping[str, str], upstream: Upstream) -> CIMultiDict[str]:
    out = CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in DROPPED)
    match upstream.kind:
        case "api_key":
            out["x-api-key"] = upstream.secret
        case "oauth_token":
            out["Authorization"] = f"Bearer {upstream.secret}"
            betas = [beta.strip() for beta in out.get("anthropic-beta", "").split(",") if beta.strip()]
            out["anthropic-beta"] = ",".join(dict.fromkeys([*betas, OAUTH_BETA]))
        case _:
            out["Authorization"] = f"Bearer {upstream.secret}"
    return out


def _inward(headers: Mapping[str, str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in NOT_RETURNED)


def _refusal(status: int, body: bytes) -> Refusal:
    try:
        error = json.loads(body)["error"]
        return Refusal(status, str(error["type"]), str(error["message"])[:500])
    except (ValueError, KeyError, TypeError):
        return Refusal(status, "api_error", "")


def _error(status: int, kind: str, message: str) -> web.Response:
    headers = {"x-should-retry": "false"} if status < 429 else {}
    error = {"type": "error", "error": {"type": kind, "message": message}}
    return web.json_response(error, status=status, headers=headers)
