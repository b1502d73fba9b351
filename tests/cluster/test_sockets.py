"""Sockets on the wire, where the server has its say before the application."""

import json
from uuid import uuid4

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from conversations.prompts import MOST_BYTES
from tests.client import Client


def address(client: Client) -> str:
    return client.url.replace("http", "ws", 1) + "/v1/chat/ws"


@pytest.mark.parametrize("origin", [None, "null", "https://elsewhere.example", "file:///x"])
def test_a_cookie_from_elsewhere_is_http_403(client: Client, origin: str | None) -> None:
    headers, named = {"cookie": "sessionid=x"}, Origin(origin) if origin else None
    with (
        pytest.raises(InvalidStatus) as refused,
        connect(address(client), additional_headers=headers, origin=named, proxy=None),
    ):
        pass
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize("origin", ["null", "https://elsewhere.example"])
def test_a_key_needs_no_origin_of_ours(client: Client, origin: str) -> None:
    with connect(
        address(client), additional_headers=client.headers, origin=Origin(origin), proxy=None
    ) as socket:
        socket.send('{"type": "ping"}')
        assert json.loads(socket.recv(timeout=5)) == {"type": "pong"}


@pytest.mark.parametrize("characters", [300_000, 3_000_000, MOST_BYTES + 1])
def test_a_message_that_is_too_large_gets_an_answer(client: Client, characters: int) -> None:
    with client.socket() as socket:
        socket.send("message", id=str(uuid4()), content="x" * characters)
        said = socket.hear()
        assert (said["type"], said["error"]["type"]) == ("error", "request_too_large")
        socket.send("ping")
        assert socket.hear() == {"type": "pong"}
