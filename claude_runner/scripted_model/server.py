"""The wire: an aiohttp server with the Messages API's paths, credentials, errors and request ids."""

import asyncio
import json
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any, Self

from aiohttp import web

from claude_runner.scripted_model import refusals, script, stream
from claude_runner.scripted_model.answer import MODELS, Answer, Ending, Fault, Flaky, Refusal, Silence
from claude_runner.scripted_model.request import Request

LARGEST_BODY = 32 * 1024 * 1024
WRITE_SIZE = 16 * 1024
REQUEST_ID = web.RequestKey("request_id", str)

type Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class RecordedRequest:
    """A request as it came over the wire; the names of `headers` are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    raw: bytes

    @cached_property
    def body(self) -> Any:
        """The JSON of the body, None where there is none."""
        return json.loads(self.raw) if self.raw else None


class ScriptedModel:
    """The server, in the running event loop: `async with ScriptedModel() as model` serves at `model.url`.

    `requests` keeps the last `keep` requests, also refused ones, for assertions. Port 0 takes a free one.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, keep: int = 1_000) -> None:
        self.host = host
        self.port = port
        self.requests: deque[RecordedRequest] = deque(maxlen=keep)
        self._numbers = count(1)
        self._failed: Counter[str] = Counter()
        self._runner = web.AppRunner(
            self._application(),
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=0.05,  # aiohttp takes 0 for "wait for ever"
        )

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self._runner.cleanup()

    def _application(self) -> web.Application:
        application = web.Application(
            middlewares=[self._as_the_api, self._known_caller], client_max_size=LARGEST_BODY
        )
        application.on_response_prepare.append(_name_request)
        application.router.add_get("/", _welcome)
        application.router.add_post("/v1/messages", self._messages)
        application.router.add_post("/v1/messages/count_tokens", _count_tokens)
        application.router.add_get("/v1/models", _models)
        application.router.add_get("/v1/models/{model}", _model)
        return application

    @web.middleware
    async def _as_the_api(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Numbers and records each request, and gives each error the API's shape."""
        request[REQUEST_ID] = f"req_offline_{next(self._numbers):08}"
        try:
            raw = await request.read()
            headers = {name.lower(): value for name, value in request.headers.items()}
            self.requests.append(RecordedRequest(request.method, request.path_qs, headers, raw))
            return await handler(request)
        except refusals.InvalidRequest as error:
            return _refuse(request, refusals.invalid(str(error)))
        except web.HTTPNotFound:
            return _refuse(request, refusals.NOT_FOUND)
        except web.HTTPMethodNotAllowed:
            return _refuse(request, refusals.METHOD_NOT_ALLOWED)
        except web.HTTPRequestEntityTooLarge:
            return _refuse(request, refusals.TOO_LARGE)

    @web.middleware
    async def _known_caller(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        refusal = _check_credential(request) if request.path.startswith("/v1/") else None
        return _refuse(request, refusal) if refusal else await handler(request)

    async def _messages(self, http: web.Request) -> web.StreamResponse:
        request = Request.read(await http.read())
        limit = request.max_tokens
        match self._reply(request):
            case Refusal() as refusal:
                return _refuse(http, refusal)
            case Silence():
                return await _say_nothing()
            case Answer() as answer if request.streamed:
                return await _stream(http, answer.within(limit), request)
            case Answer() as answer:
                return await _tell(http, answer.within(limit), request)

    def _reply(self, request: Request) -> Fault:
        reply = script.reply(request)
        if not isinstance(reply, Flaky):
            return reply
        if self._failed[request.thread] < reply.times:
            self._failed[request.thread] += 1
            return reply.fault
        del self._failed[request.thread]
        return reply.then


async def _stream(http: web.Request, answer: Answer, request: Request) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
    )
    await response.prepare(http)
    events = stream.events(answer, request, http[REQUEST_ID])
    try:
        for part in events if answer.delay else stream.gathered(events, WRITE_SIZE):
            await response.write(part)
            await asyncio.sleep(answer.delay)
    except ConnectionResetError:
        return response  # The client left; the API doesn't mind either.
    if answer.ending is Ending.CUT:
        _cut(http)
    if answer.ending is Ending.STALL:
        await _say_nothing()
    return response


async def _tell(http: web.Request, answer: Answer, request: Request) -> web.StreamResponse:
    await asyncio.sleep(answer.delay * answer.tokens)
    match answer.ending:
        case Ending.OVERLOADED:
            return _refuse(http, refusals.OVERLOADED)
        case Ending.STALL:
            await _say_nothing()
        case Ending.CUT:
            _cut(http)
    return web.json_response(stream.document(answer, request))


async def _say_nothing() -> web.StreamResponse:
    """Waits until the client leaves, which cancels the handler."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


def _cut(http: web.Request) -> None:
    """Drops the connection behind what was written already."""
    if http.transport is not None:
        http.transport.close()


def _check_credential(http: web.Request) -> Refusal | None:
    scheme, _, token = http.headers.get("authorization", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    given = http.headers.get("x-api-key") or bearer
    match given:
        case "":
            return refusals.MISSING_CREDENTIAL
        case "wrong":
            return refusals.WRONG_TOKEN if given == bearer else refusals.WRONG_KEY
        case "expired":
            return refusals.EXPIRED
    return None


def _refuse(http: web.Request, refusal: Refusal) -> web.Response:
    headers = {} if refusal.retry_after is None else {"retry-after": str(refusal.retry_after)}
    return web.json_response(refusal.body(http[REQUEST_ID]), status=refusal.status, headers=headers)


async def _name_request(http: web.Request, response: web.StreamResponse) -> None:
    if REQUEST_ID in http:
        response.headers["request-id"] = http[REQUEST_ID]


async def _welcome(_http: web.Request) -> web.Response:
    return web.Response(text="Parley's offline scripted model, not Claude. It speaks the Messages API.\n")


async def _count_tokens(http: web.Request) -> web.Response:
    return web.json_response({"input_tokens": Request.read(await http.read()).words})


async def _models(_http: web.Request) -> web.Response:
    names = list(MODELS)
    listed = [_described(name) for name in names]
    return web.json_response({"data": listed, "has_more": False, "first_id": names[0], "last_id": names[-1]})


async def _model(http: web.Request) -> web.Response:
    name = http.match_info["model"]
    if name not in MODELS:
        return _refuse(http, Refusal(404, "not_found_error", f"model: {name}"))
    return web.json_response(_described(name))


def _described(name: str) -> dict[str, str]:
    created = "2026-01-01T00:00:00Z"
    return {"type": "model", "id": name, "display_name": MODELS[name], "created_at": created}
