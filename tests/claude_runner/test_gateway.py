"""The one way out: which requests pass, what is taken from them and what is added."""

import asyncio
import io
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic

import aiohttp
import pytest
from aiohttp import web

from claude_runner import Grant, Refused, Spending, Upstream
from claude_runner.asked import MOST_PARTS
from claude_runner.faults import upstream_fault
from claude_runner.folders import Place
from claude_runner.gateway import FRESH, MOST_CONNECTIONS, Gateway
from claude_runner.turnstile import BURST, PER_SECOND
from claude_runner.upstreams import Upstreams
from tests.purse import Purse

from .conftest import SECRET

# Bodies that are answered with fifty numbers, in a stream; the second breaks off after three.
STREAM, CUT = b"stream", b"cut"


class Recorder:
    """An upstream that answers as it is told and remembers what reached it."""

    def __init__(self) -> None:
        self.requests: list[web.BaseRequest] = []
        self.bodies: list[bytes] = []
        self.hung_up = asyncio.Event()
        self.slow = False
        self.answer: Callable[[web.BaseRequest], web.Response] = lambda _request: web.json_response({})

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append(request)
        self.bodies.append(b"".join([part async for part in request.content.iter_any()]))
        if self.bodies[-1] in (STREAM, CUT):
            return await self._stream(request)
        if self.slow:
            await asyncio.sleep(2)
        return self.answer(request)

    async def _stream(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        try:
            for number in range(50):
                await response.write(b"%d;" % number)
                await asyncio.sleep(0.05)
                if self.bodies[-1] == CUT and number == 2 and request.transport:
                    request.transport.abort()
        except (ConnectionResetError, asyncio.CancelledError):
            self.hung_up.set()
            raise
        return response


class Line:
    """A gateway between a client inside and a recorder outside."""

    def __init__(
        self, gateway: Gateway, client: aiohttp.ClientSession, upstream: Recorder, account: Purse
    ) -> None:
        self.gateway, self.client, self.upstream, self.account = gateway, client, upstream, account

    async def post(self, path: str = "/v1/messages?beta=true", **more: object) -> tuple[int, bytes]:
        async with self.client.post(f"http://model.internal{path}", **more) as answer:  # type: ignore[arg-type]
            return answer.status, await answer.read()


@pytest.fixture
async def line(new_sandbox_dir: Callable[[], Path]) -> AsyncIterator[Line]:
    folder = new_sandbox_dir()
    place = Place(folder, folder / "model.sock", None)
    recorder = Recorder()
    async with AsyncExitStack() as stack:
        server = web.ServerRunner(web.Server(recorder.handle, handler_cancellation=True), shutdown_timeout=0)
        await server.setup()
        stack.push_async_callback(server.cleanup)
        site = web.TCPSite(server, "127.0.0.1", 0)
        await site.start()
        port = server.addresses[0][1]
        upstreams = Upstreams()
        stack.push_async_callback(upstreams.close)
        account = Purse(Upstream("api_key", f"http://127.0.0.1:{port}/", SECRET))
        gateway = Gateway(upstreams, account)
        gateway.begin_turn(account)
        await gateway.start(place)
        stack.push_async_callback(gateway.close)
        connector = aiohttp.UnixConnector(str(place.socket), limit=50)
        client = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        yield Line(gateway, client, recorder, account)


def _as(line: Line, kind: str, base_url: str = "") -> None:
    line.account.upstream = Upstream(kind, base_url or line.account.upstream.base_url, SECRET)
    line.gateway.begin_turn(line.account)


@pytest.mark.parametrize(
    ("kind", "headers"),
    [
        ("api_key", {"x-api-key": SECRET}),
        ("endpoint", {"Authorization": f"Bearer {SECRET}"}),
        ("oauth_token", {"Authorization": f"Bearer {SECRET}", "anthropic-beta": "a,b,oauth-2025-04-20"}),
    ],
)
async def test_the_credential_is_swapped(line: Line, kind: str, headers: dict[str, str]) -> None:
    _as(line, kind)
    sent = {"Authorization": "Bearer inner", "x-api-key": "inner", "anthropic-beta": "a, b", "Cookie": "c=1"}
    assert (await line.post(headers=sent, data=b"{}"))[0] == 200
    [request] = line.upstream.requests
    assert "inner" not in str(request.headers)
    assert "Cookie" not in request.headers
    assert {name: request.headers[name] for name in headers} == headers
    assert ("x-api-key" in request.headers) == (kind == "api_key")
    assert request.host.startswith("127.0.0.1:")
    assert request.path_qs == "/v1/messages?beta=true"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/files",
        "/v1/messages/batches",
        "/v1/messages/../files",
        "/v1/messages/%2e%2e/files",
        "//v1/messages",
        "/v1/organizations/me",
        "/api/oauth/token",
    ],
)
async def test_other_paths_do_not_exist(line: Line, path: str) -> None:
    status, body = await line.post(path)
    assert status == 404
    assert b"not_found_error" in body
    assert line.upstream.requests == []


async def test_other_methods_do_not_exist(line: Line) -> None:
    async with line.client.delete("http://model.internal/v1/messages") as answer:
        assert answer.status == 404
    assert line.upstream.requests == []


async def test_a_large_body_passes_and_a_huge_one_does_not(line: Line) -> None:
    assert (await line.post(data=io.BytesIO(b"x" * (5 << 20))))[0] == 200
    assert [len(body) for body in line.upstream.bodies] == [5 << 20]
    status, body = await line.post(data=io.BytesIO(b"x" * (33 << 20)))
    assert status == 413
    assert b"request_too_large" in body


async def test_words_pass_as_they_come(line: Line) -> None:
    async with line.client.post("http://model.internal/v1/messages", data=STREAM) as answer:
        first = await asyncio.wait_for(answer.content.readany(), 1)
    assert first.startswith(b"0;")
    assert len(first) < 20


async def test_hanging_up_inside_ends_the_request_outside(line: Line) -> None:
    async with line.client.post("http://model.internal/v1/messages", data=STREAM) as answer:
        await answer.content.readany()
        answer.close()
    await asyncio.wait_for(line.upstream.hung_up.wait(), 2)
    await asyncio.sleep(0.05)
    assert line.gateway.meter.in_flight == 0


async def test_an_answer_that_breaks_off_does_not_look_whole(line: Line) -> None:
    with pytest.raises(aiohttp.ClientPayloadError):
        await line.post(data=CUT)


async def test_a_redirect_is_not_followed(line: Line) -> None:
    line.upstream.answer = lambda _request: web.Response(
        status=307, headers={"location": "http://169.254.169.254/"}
    )
    status, body = await line.post()
    assert status == 502
    assert b"redirect" in body
    assert len(line.upstream.requests) == 1


async def test_errors_pass_with_their_reason(line: Line) -> None:
    error = {"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}}
    line.upstream.answer = lambda _request: web.json_response(
        error, status=429, headers={"retry-after": "7", "set-cookie": "a=b"}
    )
    async with line.client.post("http://model.internal/v1/messages") as answer:
        assert (answer.status, answer.headers["retry-after"]) == (429, "7")
        assert "set-cookie" not in answer.headers
        assert await answer.json() == error
    refusal = line.gateway.meter.refusal
    assert refusal is not None
    assert (refusal.status, refusal.type, refusal.message) == (429, "rate_limit_error", "slow down")


async def test_an_upstream_that_echoes_the_secret_does_not_hand_it_in(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    line.upstream.answer = lambda request: web.Response(status=500, text=str(request.headers))
    _status, body = await line.post()
    assert SECRET.encode() not in body
    assert SECRET not in caplog.text
    assert SECRET not in repr(line.gateway.meter.refusal)


async def test_nobody_there(line: Line) -> None:
    _as(line, "endpoint", "http://127.0.0.1:9")
    status, body = await line.post()
    assert status == 502
    assert b"127.0.0.1:9 cannot be reached" in body


async def test_the_next_request_uses_what_the_account_then_gives(line: Line) -> None:
    await line.post()
    line.account.upstream = Upstream("endpoint", line.account.upstream.base_url, SECRET)
    await line.post()
    assert [("x-api-key" in request.headers) for request in line.upstream.requests] == [True, False]


async def test_what_the_account_refuses_reaches_nobody(line: Line) -> None:
    await line.post()
    line.account.refuses = Refused("That key is gone.", "authentication_error", 401)
    async with line.client.post("http://model.internal/v1/messages") as answer:
        assert (answer.status, answer.headers["x-should-retry"]) == (401, "false")
        assert (await answer.json())["error"] == {
            "type": "authentication_error",
            "message": "That key is gone.",
        }
    assert len(line.upstream.requests) == 1
    assert upstream_fault(401, "it said no", line.gateway.meter.refusal) == {
        "type": "authentication_error",
        "message": "That key is gone.",
    }


async def test_leave_is_asked_for_when_a_turn_begins_and_used_once(line: Line) -> None:
    before = line.account.admitted
    line.gateway.begin_turn(line.account)
    await asyncio.sleep(0.05)
    assert line.account.admitted == before + 1
    line.account.refuses = Refused("That key is gone.")
    assert [(await line.post())[0] for _ in range(2)] == [200, 403]


async def test_leave_that_was_not_used_at_once_is_asked_for_anew(line: Line) -> None:
    line.gateway.begin_turn(line.account)
    await asyncio.sleep(0.05)
    line.account.refuses = Refused("That key is gone.")
    await asyncio.sleep(FRESH)
    assert (await line.post())[0] == 403


async def test_the_account_hears_what_the_server_said(line: Line) -> None:
    await line.post()
    line.upstream.answer = lambda _request: web.json_response({}, status=401)
    await line.post()
    await line.gateway.close()
    assert [spending.status for spending in line.account.settled] == [200, 401]


async def test_the_socket_is_only_the_owners(line: Line, new_sandbox_dir: Callable[[], Path]) -> None:
    place = line.gateway._place
    assert place is not None
    assert place.socket.stat().st_mode & 0o777 == 0o600
    await line.gateway.close()
    assert not place.socket.exists()


async def test_the_meter_counts_the_wait(line: Line) -> None:
    line.gateway.meter.begin_turn()
    await asyncio.gather(*(line.post(data=STREAM) for _ in range(2)))
    meter = line.gateway.meter
    assert 2.4 < meter.busy < 4
    assert meter.first_byte is not None
    assert meter.first_byte < 1


async def test_headers_pass_by_name_only_in_both_directions(line: Line) -> None:
    passing = {"User-Agent": "claude-cli/2", "X-App": "cli", "X-Stainless-OS": "Linux", "Accept": "a/b"}
    sent = passing | {"X-Made-Up": "1", "X-Forwarded-For": "2", "X-Claude-Code-Session-Id": "3"}
    line.upstream.answer = lambda _request: web.json_response(
        {},
        headers={
            "request-id": "r",
            "anthropic-ratelimit-unified-status": "ok",
            "anthropic-organization-id": "o",
        },
    )
    async with line.client.post("http://model.internal/v1/messages", headers=sent) as answer:
        assert answer.headers["request-id"] == "r"
        assert answer.headers["anthropic-ratelimit-unified-status"] == "ok"
        assert "anthropic-organization-id" not in answer.headers
    [request] = line.upstream.requests
    assert {name: request.headers[name] for name in passing} == passing
    assert not {"X-Made-Up", "X-Forwarded-For", "X-Claude-Code-Session-Id"} & set(request.headers)
    assert request.headers["Accept-Encoding"] == "identity", "or its counts could not be read"


async def test_what_the_server_itself_would_fetch_or_run_is_not_asked_for(line: Line) -> None:
    betas = "mcp-client-2025-11-20, interleaved-thinking-2025-05-14,files-api-2025-04-14"
    await line.post(headers={"anthropic-beta": betas})
    assert line.upstream.requests[0].headers["anthropic-beta"] == "interleaved-thinking-2025-05-14"


async def test_only_known_parameters_pass(line: Line) -> None:
    await line.post("/v1/messages?beta=true&api_key=x&beta2=1")
    assert line.upstream.requests[0].path_qs == "/v1/messages?beta=true"


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "dear"}',
        b'{"model": "cheap", "model": "dear"}',
        b'{"model": "dear", "model": "cheap"}',
        b'{"Model": "cheap"}',
        b'{"model": "cheap", "MODEL": "dear"}',
        b'{"model": ["cheap"]}',
        b'{"model": 5}',
        b'{"a": {"model": "cheap"}}',
        b'["model", "cheap"]',
        b'[["model", "cheap"]]',
        b"{",
        b"{}",
        b"\xff",
        b"[" * 100_000,
    ],
)
async def test_a_model_that_is_not_allowed_reaches_nobody(line: Line, body: bytes) -> None:
    line.account.models = frozenset({"cheap"})
    line.gateway.begin_turn(line.account)
    status, said = await line.post(data=body)
    assert status == 403
    assert b"is not allowed here. Choose one of: cheap." in said
    assert line.upstream.requests == []
    assert (await line.post(data=b'{"model": "cheap", "input": {"Model": "dear"}}'))[0] == 200


async def test_a_body_with_too_many_parts_is_not_read(line: Line) -> None:
    many = b'{"model": "cheap", "x": [' + b"1," * MOST_PARTS + b"1]}"
    status, said = await line.post(data=many)
    assert (status, b"too many parts" in said) == (413, True)
    assert line.upstream.requests == []
    assert (await line.post(data=many.replace(b"1," * 1000, b"")))[0] == 200


async def test_parts_count_like_requests(line: Line) -> None:
    line.account.models = frozenset({"cheap"})
    line.gateway.begin_turn(line.account)
    many = b'{"model": "cheap", "x": [' + b"[]," * (MOST_PARTS // 2 - 10) + b"1]}"
    began = monotonic()
    answers = await asyncio.gather(*(line.post(data=many) for _ in range(8)))
    statuses = [status for status, _said in answers]
    assert set(statuses) == {200, 429}
    # Each counts as ten requests and one for itself.
    assert 2 <= statuses.count(200) <= 1 + (BURST + PER_SECOND * (monotonic() - began)) / 11
    assert (await line.post(data=b'{"model": "cheap"}'))[0] == 200


async def test_nothing_passes_between_turns(line: Line) -> None:
    line.gateway.end_turn()
    status, said = await line.post()
    assert (status, b"while a turn runs" in said) == (403, True)
    assert line.upstream.requests == []


async def test_what_was_spent_is_told_before_leave_is_asked_again(line: Line) -> None:
    order = []

    class Slow(Purse):
        async def admit(self) -> Grant:
            order.append("admit")
            return await super().admit()

        async def settle(self, grant: Grant, spending: Spending) -> None:
            await asyncio.sleep(0.2)
            order.append("settle")

    line.gateway.begin_turn(Slow(line.account.upstream))
    await line.post()
    await line.post()
    assert order == ["admit", "settle", "admit"]


async def test_an_answer_that_is_hung_up_on_is_counted(line: Line) -> None:
    async with line.client.post("http://model.internal/v1/messages", data=STREAM) as answer:
        await answer.content.readany()
        answer.close()
    await asyncio.wait_for(line.upstream.hung_up.wait(), 2)
    await asyncio.sleep(0.1)
    [spending] = line.account.settled
    assert (spending.status, spending.tokens is not None and spending.tokens.exact) == (200, False)


@pytest.mark.parametrize(
    ("asked", "counted"),
    [
        (b'{"max_tokens": 32000, "stream": false}', 32000),
        (b'{"max_tokens": 32000}', 32000),
        (b'{"max_tokens": 7, "max_tokens": 32000, "stream": true, "stream": false}', 32000),
        (b'{"max_tokens": 32000, "stream": true}', 0),
    ],
)
async def test_a_document_that_is_hung_up_on_counts_all_that_was_allowed(
    line: Line, asked: bytes, counted: int
) -> None:
    line.upstream.slow = True
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await line.post(data=asked)
    await asyncio.sleep(0.1)
    [spending] = line.account.settled
    assert spending.tokens is not None
    assert (spending.tokens.output, spending.tokens.exact) == (counted, False)


async def test_a_document_that_came_whole_counts_what_it_says(line: Line) -> None:
    line.upstream.answer = lambda _request: web.json_response({"usage": {"output_tokens": 5}})
    await line.post(data=b'{"max_tokens": 32000}')
    line.upstream.answer = lambda _request: web.json_response({"text": "x" * 200})
    await line.post(data=b'{"max_tokens": 32000}')
    await asyncio.sleep(0.1)
    outputs = [spending.tokens.output for spending in line.account.settled if spending.tokens]
    assert outputs[0] == 5
    assert 10 <= outputs[1] < 20


async def test_an_answer_without_an_end_is_broken_off(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("claude_runner.gateway.LARGEST_ANSWER", 1 << 20)
    line.upstream.answer = lambda _request: web.Response(body=b"x" * (4 << 20))
    with pytest.raises(aiohttp.ClientPayloadError):
        await line.post()


async def test_who_asks_too_often_is_slowed_down_and_then_refused(line: Line) -> None:
    began = monotonic()
    statuses = [status for status, _body in await asyncio.gather(*(line.post() for _ in range(150)))]
    assert set(statuses) == {200, 429}
    assert 16 <= statuses.count(200) <= BURST + PER_SECOND * (monotonic() - began)
    assert len(line.upstream.requests) == statuses.count(200)
    await asyncio.sleep(1)
    assert (await line.post())[0] == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01garbage\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n",
        b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\nxx",
        b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 20\r\n\r\nx",
    ],
)
async def test_what_is_no_request_is_refused_and_fills_no_log(
    line: Line, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    place = line.gateway._place
    assert place is not None
    reader, writer = await asyncio.open_unix_connection(str(place.socket))
    writer.write(sent)
    writer.write_eof()
    said = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    assert said == b"" or b" 400 " in said.split(b"\r\n")[0]
    assert line.upstream.requests == []
    assert caplog.text == ""


async def test_silent_connections_wait_outside(line: Line) -> None:
    place = line.gateway._place
    assert place is not None
    ways = [socket.socket(socket.AF_UNIX) for _ in range(60)]
    try:
        for way in ways:
            way.connect(str(place.socket))
        await asyncio.sleep(0.5)
        assert 16 <= len(line.gateway._server.connections) <= MOST_CONNECTIONS <= 24
    finally:
        for way in ways:
            way.close()
    assert (await line.post())[0] == 200


async def test_bodies_that_are_held_back_together_take_no_more_than_their_share(line: Line) -> None:
    async def slow(size: int) -> AsyncIterator[bytes]:
        for _ in range(size):
            yield b"x" * (1 << 20)
        await asyncio.sleep(1)

    statuses = [
        status for status, _body in await asyncio.gather(*(line.post(data=slow(20)) for _ in range(5)))
    ]
    assert sorted(statuses) == [200, 200, 200, 413, 413]
