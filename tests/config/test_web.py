"""The `web` process over real connections: brakes, limits, and the way out."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from config.children import free_port

MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class Web:
    """A running server process."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def memory(self) -> int:
        """Resident memory in bytes."""
        with open(f"/proc/{self.process.pid}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def open(self, path: str, **options: Any) -> ClientConnection:
        client: ClientConnection = connect(f"ws://127.0.0.1:{self.port}{path}", proxy=None, **options)
        return client

    def stalled(self, path: str, upgrade: bool = False) -> socket.socket:
        """A connection that asks and never reads."""
        reader = socket.socket()
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        reader.connect(("127.0.0.1", self.port))
        websocket = (
            "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        )
        reader.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n{websocket if upgrade else ''}\r\n".encode())
        return reader

    def seen(self) -> list[str]:
        answer: list[str] = httpx.get(f"{self.url}/seen").json()
        return answer

    def tell(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)


@contextmanager
def running(**limits: Any) -> Iterator[Web]:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "tests.config.web_app", str(port), json.dumps(limits)])
    web = Web(process, port)
    try:
        eventually(lambda: answers(web.url), 15)
        yield web
    finally:
        process.kill()
        process.wait()


def eventually(condition: Callable[[], object], seconds: float = 5) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "It did not come about in time."
        time.sleep(0.02)


def answers(url: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"{url}/seen").status_code == 200
    return False


def gone(reader: socket.socket) -> bool:
    """Whether the other end has dropped the connection, told without reading it."""
    info = reader.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    return info[0] != 1  # TCP_ESTABLISHED


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with running(body=200_000, frame=MEGABYTE) as web:
        yield web


@pytest.fixture(scope="module")
def impatient() -> Iterator[Web]:
    with running(stall_seconds=1.5) as web:
        yield web


@pytest.fixture(scope="module")
def strict() -> Iterator[Web]:
    with running(head_seconds=1, body_seconds=1, body_rate=500, idle_seconds=2) as web:
        yield web


@pytest.mark.parametrize("upgrade", [True, False], ids=["socket", "stream"])
def test_readers_that_stall_cost_less_than_a_megabyte_each_and_are_dropped(
    impatient: Web, upgrade: bool
) -> None:
    with closing(impatient.stalled("/flood", upgrade)) as warm_up:
        eventually(lambda: gone(warm_up))
    before = impatient.memory()

    readers = [impatient.stalled("/flood", upgrade) for _ in range(5)]
    most = 0
    until = time.monotonic() + 1
    while time.monotonic() < until:
        most = max(most, impatient.memory())
        time.sleep(0.05)

    assert not any(gone(reader) for reader in readers)
    assert most - before < 5 * MEGABYTE
    eventually(lambda: all(gone(reader) for reader in readers))
    for reader in readers:
        reader.close()


def test_an_application_learns_that_its_stalled_reader_was_dropped(impatient: Web) -> None:
    with closing(impatient.stalled("/asking", upgrade=True)) as reader:
        eventually(lambda: gone(reader))
    eventually(lambda: "StalledReader" in impatient.seen())

    before = impatient.seen().count("disconnect")
    with closing(impatient.stalled("/flood", upgrade=True)) as reader:
        eventually(lambda: gone(reader))
    eventually(lambda: impatient.seen().count("disconnect") == before + 1)


def test_a_slow_reader_that_goes_on_reading_is_kept(impatient: Web) -> None:
    with closing(impatient.stalled("/flood", upgrade=True)) as reader:
        until = time.monotonic() + 3
        while time.monotonic() < until:
            assert reader.recv(256 * 1024)
            time.sleep(0.05)
        assert not gone(reader)


def test_a_socket_whose_application_lags_is_not_read_from(web: Web) -> None:
    before = web.memory()
    frame = b"x" * 500_000
    with web.open("/deaf") as client:
        sender = threading.Thread(target=send_often, args=(client, frame, 40))
        sender.start()
        time.sleep(1)
        assert web.memory() - before < 8 * MEGABYTE
        total = 0
        while total < 40 * len(frame):
            total = int(client.recv(timeout=5))
        sender.join()


def test_an_oversized_frame_ends_the_socket_with_1009(web: Web) -> None:
    with web.open("/commands") as client:
        client.send("x" * (MEGABYTE + 1))
        with pytest.raises(ConnectionClosed) as ended:
            client.recv(timeout=5)
    assert ended.value.rcvd is not None
    assert ended.value.rcvd.code == 1009


def test_an_answer_may_be_larger_than_a_frame_that_comes_in(web: Web) -> None:
    with web.open("/commands", max_size=None) as client:
        client.send('{"send": 3000000}')
        assert len(client.recv(timeout=5)) == 3_000_000


@pytest.mark.parametrize("code", [1000, 1012, 4401])
def test_the_application_chooses_the_close_code(web: Web, code: int) -> None:
    with web.open("/commands") as client:
        client.send(json.dumps({"close": code}))
        with pytest.raises(ConnectionClosed) as ended:
            client.recv(timeout=5)
    assert ended.value.rcvd is not None
    assert ended.value.rcvd.code == code


@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "with a length"])
def test_an_oversized_body_is_refused_in_the_apis_shape(web: Web, chunked: bool) -> None:
    body = b"x" * 700_000
    answer = httpx.post(f"{web.url}/body", content=iter([body]) if chunked else body)
    assert answer.status_code == 413
    error = answer.json()
    assert error["error"]["type"] == "request_too_large"
    assert error["request_id"] == answer.headers["request-id"]

    allowed = httpx.post(f"{web.url}/body", content=b"x" * 200_000)
    assert allowed.json()["size"] == 200_000


def test_a_body_without_end_is_cut_off(web: Web) -> None:
    endless = iter(lambda: b"x" * 65_536, b"")
    with pytest.raises(httpx.TransportError):
        httpx.post(f"{web.url}/body", content=endless)


POST = b"POST /body HTTP/1.1\r\nHost: test\r\n"
UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n"
)
# How a request begins, and what then comes of it, ten times a second.
TRICKLES = {
    "nothing": (b"", b""),
    "a first line": (b"GE", b"T"),
    "headers": (POST, b"x: y\r\n"),
    "a body": (POST + b"Content-Length: 100000\r\n\r\n", b"x"),
    "chunks": (POST + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x\r\n", b"x\r\n1\r\n"),
    "a chunk's length": (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "a handshake": (b"GET /commands HTTP/1.1\r\nContent-Length: 9999\r\n" + UPGRADE + b"\r\n", b"x"),
    "a second request": (POST + b"Content-Length: 1\r\n\r\nxGET /seen HTTP/1.1\r\n", b"x: y\r\n"),
}


def seconds_until_closed(web: Web, begin: bytes, then: bytes, most: float = 5) -> float:
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", web.port)) as client, suppress(ConnectionError):
        client.settimeout(0.1)
        client.sendall(begin)
        while time.monotonic() - began < most:
            with suppress(TimeoutError):
                if not client.recv(65_536):
                    break
                time.sleep(0.1)
            client.sendall(then)
    return time.monotonic() - began


@pytest.mark.parametrize("trickle", TRICKLES)
def test_t22_a_request_that_trickles_in_is_not_waited_for(strict: Web, trickle: str) -> None:
    assert 0.9 < seconds_until_closed(strict, *TRICKLES[trickle]) < 3


def test_a_slow_upload_that_comes_along_is_taken(strict: Web) -> None:
    def slowly() -> Iterator[bytes]:
        for _ in range(30):
            yield b"x" * 100
            time.sleep(0.1)

    assert httpx.post(f"{strict.url}/body", content=slowly()).json()["size"] == 3000


def test_a_connection_rests_for_a_while_between_two_requests(strict: Web) -> None:
    with socket.create_connection(("127.0.0.1", strict.port)) as client:
        for _ in range(2):
            client.sendall(b"GET /seen HTTP/1.1\r\nHost: test\r\n\r\n")
            assert client.recv(65_536).startswith(b"HTTP/1.1 200")
            time.sleep(1.3)  # longer than a head may take
        client.settimeout(3)
        assert client.recv(65_536) == b""


def test_what_is_answered_or_talked_about_has_its_time(strict: Web) -> None:
    slow = Streamed(strict, "/slow?30")
    with strict.open("/commands") as client:
        time.sleep(2.5)
        client.send('{"send": 3}')
        assert client.recv(timeout=5) == "xxx"
    slow.join(timeout=5)
    assert slow.content.endswith(b"done")


def test_by_default_a_slow_line_has_its_time(web: Web) -> None:
    for trickle in ("headers", "a body"):
        assert seconds_until_closed(web, *TRICKLES[trickle], most=4) >= 4


def test_a_form_reaches_the_application_whole(web: Web) -> None:
    answer = httpx.post(f"{web.url}/body", data={"name": "x" * 1000})
    assert answer.json()["size"] == 1005


def test_a_bug_is_answered_in_the_apis_shape(web: Web) -> None:
    answer = httpx.get(f"{web.url}/crash")
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "api_error"


def test_a_bug_in_the_middle_of_an_answer_breaks_it_off(web: Web) -> None:
    for _ in range(2):  # Daphne's own way out of this ended its housekeeping for good
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"{web.url}/crash-late")


def test_a_client_learns_and_chooses_nothing_of_the_server(web: Web) -> None:
    answer = httpx.post(f"{web.url}/body", headers={"daphne-root-path": "/evil"}, content=b"")
    assert answer.json()["root_path"] == ""
    assert "server" not in answer.headers
    with web.open("/commands") as client:
        assert client.response is not None
        assert "server" not in client.response.headers


def test_sigterm_lets_requests_finish_and_sends_everyone_else_away() -> None:
    with running() as web, httpx.Client(base_url=web.url) as client:
        slow, endless = Streamed(web, "/slow?20"), Streamed(web, "/endless")
        refusals: list[int] = []
        hesitant = threading.Thread(target=lambda: refusals.append(refusal(web, "/hesitant")))
        hesitant.start()
        eventually(lambda: slow.content and endless.content)
        with web.open("/commands") as sitting:
            web.tell()
            with pytest.raises(ConnectionClosed) as ended:
                sitting.recv(timeout=5)
            assert ended.value.rcvd is not None
            assert ended.value.rcvd.code == 1012
        endless.join(timeout=1)
        assert not endless.is_alive()
        assert endless.error is None
        assert "disconnect" in client.get("/seen").json()

        answer = client.get("/ready")
        assert answer.status_code == 503
        assert answer.headers["connection"] == "close"
        assert refusal(web, "/commands") == 503
        hesitant.join(timeout=3)
        assert refusals == [503]

        assert slow.is_alive()
        slow.join(timeout=5)
        assert slow.content.endswith(b"done")
        assert web.process.wait(timeout=2) == 0


def test_what_does_not_finish_in_time_is_cut_off() -> None:
    with running(drain_seconds=0.5) as web:
        slow = Streamed(web, "/slow?100")
        eventually(lambda: slow.content)
        web.tell()
        assert web.process.wait(timeout=3) == 0
        slow.join(timeout=1)
        assert slow.error is not None


def test_a_second_signal_stops_at_once() -> None:
    with running() as web:
        slow = Streamed(web, "/slow?100")
        eventually(lambda: slow.content)
        web.tell(signal.SIGINT)
        eventually(lambda: httpx.get(f"{web.url}/ready").status_code == 503)
        web.tell()
        assert web.process.wait(timeout=2) == 0


def test_an_idle_server_leaves_at_once() -> None:
    with running() as web, httpx.Client(base_url=web.url) as kept_alive:
        kept_alive.get("/seen")
        web.tell()
        assert web.process.wait(timeout=2) == 0


def test_a_taken_port_is_said_in_one_sentence(web: Web) -> None:
    again = subprocess.run(
        [sys.executable, "-m", "tests.config.web_app", str(web.port), "{}"],
        stderr=subprocess.PIPE,
        text=True,
        timeout=15,
    )
    assert again.returncode == 1
    assert again.stderr.startswith(f"Cannot listen on 127.0.0.1:{web.port}: ")
    assert "Traceback" not in again.stderr


def refusal(web: Web, path: str) -> int:
    with pytest.raises(InvalidStatus) as refused:
        web.open(path)
    return refused.value.response.status_code


def send_often(client: ClientConnection, frame: bytes, times: int) -> None:
    for _ in range(times):
        client.send(frame)


class Streamed(threading.Thread):
    """A request whose answer is read as it comes."""

    def __init__(self, web: Web, path: str) -> None:
        super().__init__(daemon=True)
        self.url = web.url + path
        self.content = b""
        self.error: httpx.HTTPError | None = None
        self.start()

    def run(self) -> None:
        try:
            with httpx.stream("GET", self.url, timeout=20) as answer:
                for piece in answer.iter_raw():
                    self.content += piece
        except httpx.HTTPError as error:
            self.error = error
