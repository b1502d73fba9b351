"""T20: an endpoint's address in every disguise, and a name that comes to mean another one, get no byte."""

import asyncio
import shutil
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic

import aiohttp
import pytest

from claude_runner import Upstream
from claude_runner.folders import Place
from claude_runner.gateway import Gateway
from claude_runner.upstreams import Upstreams
from conversations.accounts import model_addresses_of
from tests.purse import Purse
from tests.security.whole import say
from tests.stack import Installation

SECRET = "canary-of-an-endpoint"


class Listener:
    """Something of ours on this machine that nobody was to reach; what came is kept."""

    def __init__(self) -> None:
        self.connections = 0
        self.heard = b""
        self.port = 0
        self.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.heard += await reader.readuntil(b"\r\n\r\n")
        writer.write(self.answer)
        await writer.drain()
        writer.close()


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    listener = Listener()
    async with await asyncio.start_server(listener.take, "127.0.0.1", 0) as server:
        listener.port = server.sockets[0].getsockname()[1]
        async with await asyncio.start_server(listener.take, "::1", listener.port):
            yield listener


type Ask = Callable[[str], Awaitable[tuple[int, str]]]
type Approve = Callable[[str, int], list[str]]
type NewWay = Callable[..., Awaitable[Ask]]


class Way:
    """A gateway, and what an agent reaches through it when its tenant's endpoint is at `base_url`."""

    def __init__(self, resolve: Approve) -> None:
        self.upstreams = Upstreams(resolve)
        self.gateway = Gateway(self.upstreams, Purse(Upstream("endpoint", "", "")))

    async def ask(self, inner: Path, base_url: str) -> tuple[int, str]:
        self.gateway.begin_turn(Purse(Upstream("endpoint", base_url, SECRET)))
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(inner))) as client,
            client.post("http://model.internal/v1/messages", data=b'{"model":"m"}') as answer,
        ):
            return answer.status, await answer.text()


@pytest.fixture
async def new_way() -> AsyncIterator[NewWay]:
    async with AsyncExitStack() as stack:

        async def make(resolve: Approve = model_addresses_of) -> Ask:
            folder = Path(tempfile.mkdtemp(prefix="p-", dir="/tmp"))
            stack.callback(shutil.rmtree, folder)
            way = Way(resolve)
            place = Place(folder, folder / "model.sock", None)
            stack.push_async_callback(way.upstreams.close)
            await way.gateway.start(place)
            stack.push_async_callback(way.gateway.close)
            return lambda base_url: way.ask(place.socket, base_url)

        yield make


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "localhost.",
        "127.1",
        "127.0.0.1.",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "0",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::1]",
        "[fe80::1%25lo]",
        "user@127.0.0.1",
        "user:pass@127.0.0.1",
        "1.1.1.1@127.0.0.1",
        "169.254.169.254",
        "10.0.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "[fd00:ec2::254]",
        "",
    ],
)
async def test_t20_no_disguise_of_a_private_address_gets_a_byte(
    listener: Listener, new_way: NewWay, host: str
) -> None:
    ask = await new_way()
    for scheme in ("http", "https"):
        status, body = await asyncio.wait_for(ask(f"{scheme}://{host}:{listener.port}"), 5)
        assert (status, "cannot be reached" in body) == (502, True), body
    assert (listener.connections, listener.heard) == (0, b"")


@pytest.mark.parametrize("scheme", ["ftp", "file", "unix", "ws", "gopher"])
async def test_t20_no_other_scheme_is_spoken(listener: Listener, new_way: NewWay, scheme: str) -> None:
    ask = await new_way()
    status, _body = await ask(f"{scheme}://127.0.0.1:{listener.port}")
    assert (status, listener.connections) == (502, 0)


async def test_t20_a_name_that_comes_to_mean_a_private_address_gets_no_further_byte(
    listener: Listener, new_way: NewWay
) -> None:
    """The approver is ours; the name server behind it is stood in for, and changes its mind."""
    means = ["127.0.0.1"]

    def approve(host: str, port: int) -> list[str]:
        assert host == "rebinding.example"
        if means == ["127.0.0.1"]:
            return means
        raise OSError(f"{host} is an address of a private network.")

    ask = await new_way(approve)
    url = f"http://rebinding.example:{listener.port}"
    assert (await ask(url))[0] == 200
    heard = listener.heard
    assert SECRET.encode() in heard, "while it meant the approved address"
    means[:] = ["10.0.0.1"]
    status, body = await ask(url)
    assert status == 502
    assert "rebinding.example is an address of a private network" in body
    assert (listener.connections, listener.heard) == (1, heard)


async def test_t20_what_was_approved_is_what_is_connected_to(listener: Listener, new_way: NewWay) -> None:
    """Nobody asks the name server again between the check and the connection."""
    asked: list[tuple[str, int]] = []

    def approve(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return ["127.0.0.1"]

    ask = await new_way(approve)
    assert (await ask(f"http://nobody.has.this.name.invalid:{listener.port}"))[0] == 200
    assert asked == [("nobody.has.this.name.invalid", listener.port)]
    assert listener.connections == 1


async def test_t20_a_name_server_that_does_not_answer_holds_up_nobody_else(
    listener: Listener, new_way: NewWay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("claude_runner.upstreams.RESOLVE_WITHIN", 2.0)
    answers = threading.Event()
    asked: list[str] = []

    def addresses_of(host: str, _port: int) -> list[str]:
        asked.append(host)
        if host.endswith(".slow.example"):
            answers.wait(30)
        return ["127.0.0.1"]

    ask = await new_way(addresses_of)
    slow = [asyncio.ensure_future(ask(f"http://{n % 9}.slow.example:{listener.port}")) for n in range(14)]
    try:
        await asyncio.sleep(0.3)
        began = monotonic()
        assert (await ask(f"http://quick.example:{listener.port}"))[0] == 200
        await asyncio.to_thread(lambda: None)
        assert monotonic() - began < 1, "others' names, and all else that needs a thread"
        statuses = [status for status, _said in await asyncio.gather(*slow)]
        assert monotonic() - began < 6
        assert set(statuses) == {502}
        assert len(asked) == len(set(asked)), "each name once, however many want it"
    finally:
        answers.set()


async def test_t20_a_redirect_leads_nowhere(listener: Listener, new_way: NewWay) -> None:
    listener.answer = (
        f"HTTP/1.1 307 Go\r\nlocation: http://127.0.0.1:{listener.port}/inner\r\ncontent-length: 0\r\n"
        "connection: close\r\n\r\n"
    ).encode()
    ask = await new_way(lambda host, port: ["127.0.0.1"])
    status, body = await ask(f"http://outside.example:{listener.port}")
    assert status == 502
    assert "redirect" in body
    assert str(listener.port) not in body
    assert listener.connections == 1


async def test_t20_no_proxy_of_the_environment_is_asked(
    listener: Listener, new_way: NewWay, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{listener.port}")
    ask = await new_way(lambda host, port: ["127.0.0.1"])
    assert (await ask("http://outside.example:9"))[0] == 502
    assert listener.connections == 0


@pytest.mark.needs_bubblewrap
def test_t20_a_runner_connects_to_nothing_private_that_its_operator_has_not_allowed(
    whole: Installation,
) -> None:
    """As if the name that was entered for an endpoint had come to mean this machine since."""
    client = whole.client(whole.some_webs(1)[0])
    allowed = whole.query("SELECT base_url FROM tenants_credential")
    with socket.create_server(("127.0.0.1", 0)) as inner, client.socket() as talk:
        inner.setblocking(False)
        port = inner.getsockname()[1]
        whole.query("UPDATE tenants_credential SET base_url = %s", f"http://127.0.0.1:{port}")
        try:
            heard = say(talk, "offline-scripted", "echo to whom")
        finally:
            whole.query("UPDATE tenants_credential SET base_url = %s", allowed)
        assert heard[-1]["type"] == "turn.failed"
        assert "127.0.0.1 is an address of a private network." in heard[-1]["error"]["message"]
        with pytest.raises(BlockingIOError):
            inner.accept()
        heard = say(talk, "offline-scripted", "echo to the model", heard[0]["conversation"])
        assert heard[-1]["type"] == "turn.completed"
