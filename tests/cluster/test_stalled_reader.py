"""Readers that never read, on the whole stack: what they cost `web`, and that nobody else notices (T28)."""

import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from uuid import UUID

import httpx
import pytest

from tests.cast import Person, found_house
from tests.cluster.processes import Process, eventually, web_process
from tests.conversations.stage import Hands, say

MEGABYTE = 1024 * 1024
STALLED = 5
EVENTS = 600


@pytest.fixture(scope="module")
def web(database: None) -> Iterator[Process]:
    with web_process(WEB_STALL_SECONDS="4") as web:
        yield web


@pytest.fixture(scope="module")
def reader(database: None) -> Person:
    return found_house("long").owner


@pytest.fixture(scope="module")
def conversation(reader: Person) -> UUID:
    """One whose events take 6 MB on the wire, and little in the database, which compresses them."""
    submitted = say(reader.caller)
    hands = Hands.claiming(submitted)
    for _ in range(EVENTS // 100):
        hands.text(*["word " * 2_000] * 100)
    hands.finish()
    return submitted.conversation


def stalled_stream(web: Process, reader: Person, conversation: UUID) -> socket.socket:
    return asked(web, f"/v1/conversations/{conversation}/events?after=0", f"x-api-key: {reader.key}\r\n")


def stalled_socket(web: Process, reader: Person, conversation: UUID) -> socket.socket:
    upgrade = (
        f"x-api-key: {reader.key}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    connection = asked(web, "/v1/chat/ws", upgrade)
    assert b" 101 " in connection.recv(4096)
    frame = json.dumps({"type": "subscribe", "conversation": str(conversation), "after": 0}).encode()
    length = bytes([0x80 | len(frame)]) if len(frame) < 126 else struct.pack(">BH", 0xFE, len(frame))
    connection.sendall(b"\x81" + length + bytes(4) + frame)  # masked with zeros
    return connection


def asked(web: Process, path: str, headers: str) -> socket.socket:
    """A connection that has asked, and takes little at a time."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    connection.settimeout(10)
    connection.connect(("127.0.0.1", web.port))
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{web.port}\r\n{headers}\r\n".encode())
    return connection


def gone(connection: socket.socket) -> bool:
    """Whether the other end has dropped it, told without reading."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != 1  # TCP_ESTABLISHED


def seqs(web: Process, reader: Person, conversation: UUID) -> list[int]:
    """What a reader that reads gets: the seqs of the stream, up to the turn's end."""
    found: list[int] = []
    url = f"{web.url}/v1/conversations/{conversation}/events?after=0"
    with httpx.stream("GET", url, headers={"x-api-key": reader.key}, timeout=20) as answer:
        for line in answer.iter_lines():
            if line.startswith("id: "):
                found.append(int(line.removeprefix("id: ")))
            if line == "event: turn.completed":
                return found
    return found


@pytest.mark.parametrize("stalled", [stalled_stream, stalled_socket])
def test_readers_that_never_read_cost_a_megabyte_each_and_are_dropped(
    web: Process,
    reader: Person,
    conversation: UUID,
    stalled: Callable[[Process, Person, UUID], socket.socket],
) -> None:
    # As many at once, all reading: then threads and database connections are there already.
    with ThreadPoolExecutor(STALLED) as pool:
        whole, *others = pool.map(lambda _: seqs(web, reader, conversation), range(STALLED))
    assert whole == list(range(1, len(whole) + 1))
    assert len(whole) > EVENTS
    assert others == [whole] * (STALLED - 1)
    before = web.memory()
    with ExitStack() as connections:
        readers = [connections.enter_context(stalled(web, reader, conversation)) for _ in range(STALLED)]
        most, until = 0, time.monotonic() + 3
        while time.monotonic() < until:
            most = max(most, web.memory())
            time.sleep(0.02)
        assert most - before < STALLED * MEGABYTE
        assert not any(gone(connection) for connection in readers)

        # Meanwhile others read on.
        assert seqs(web, reader, conversation) == whole
        eventually(lambda: all(gone(connection) for connection in readers), seconds=8)
