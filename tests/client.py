"""A program that uses Parley: HTTP and sockets with an API key, nothing of ours imported."""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import httpx
from websockets.sync.client import ClientConnection, connect

type Event = dict[str, Any]

ENDS = ("turn.completed", "turn.failed", "turn.interrupted")


class Client:
    """One API key at one address."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self.headers = {"x-api-key": key}

    def call(self, method: str, path: str, body: object = None, **more: Any) -> httpx.Response:
        return httpx.request(
            method, self.url + path, json=body, headers=self.headers, timeout=30, trust_env=False, **more
        )

    def get(self, path: str) -> Any:
        answer = self.call("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: object = None) -> Any:
        answer = self.call("POST", path, body)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def begin(self) -> str:
        """A new conversation's id."""
        return str(self.post("/v1/conversations", {})["id"])

    def submit(self, message: str, conversation: str) -> str:
        """Submit without waiting; the turn's id."""
        return str(self.post(f"/v1/conversations/{conversation}/turns", {"message": message})["id"])

    def turns(self, conversation: str) -> list[dict[str, Any]]:
        turns: list[dict[str, Any]] = self.get(f"/v1/conversations/{conversation}")["turns"]
        return turns

    @contextmanager
    def stream(self, conversation: str, after: int = 0, seconds: float = 20) -> Iterator[Iterator[Event]]:
        """The events of a conversation from a seq on, as they come over SSE."""
        with httpx.stream(
            "GET",
            f"{self.url}/v1/conversations/{conversation}/events?after={after}",
            headers=self.headers,
            timeout=seconds,
            trust_env=False,
        ) as answer:
            assert answer.status_code == 200, answer.read()
            yield _events_of(answer.iter_lines())

    def events(self, conversation: str, until: int) -> list[Event]:
        """All events up to this seq, read anew from the first."""
        with self.stream(conversation) as events:
            found = []
            for event in events:
                found.append(event)
                if event["seq"] >= until:
                    break
            return found

    @contextmanager
    def socket(self) -> Iterator["Socket"]:
        """One socket at /v1/chat/ws."""
        address = self.url.replace("http", "ws", 1) + "/v1/chat/ws"
        with connect(
            address, additional_headers=self.headers, proxy=None, open_timeout=20, max_size=None
        ) as connection:
            yield Socket(connection)


class Socket:
    """The frames of one socket."""

    def __init__(self, connection: ClientConnection) -> None:
        self._socket = connection

    def send(self, kind: str, **fields: Any) -> None:
        self._socket.send(json.dumps({"type": kind, **fields}))

    def say(self, content: str, conversation: str | None = None, id: str | None = None) -> str:
        """Send a message; its id."""
        id = id or str(uuid4())
        where = {"conversation": conversation} if conversation else {}
        self.send("message", id=id, content=content, **where)
        return id

    def hear(self, seconds: float = 20) -> Event:
        """The next frame."""
        event: Event = json.loads(self._socket.recv(timeout=seconds))
        return event

    def until(self, *kinds: str, seconds: float = 20, count: int = 1) -> list[Event]:
        """All frames up to the `count`-th of one of these types."""
        heard: list[Event] = []
        deadline = time.monotonic() + seconds
        while count:
            heard.append(self.hear(max(0.0, deadline - time.monotonic())))
            count -= heard[-1]["type"] in kinds
        return heard

    def until_end(self, seconds: float = 20, turns: int = 1) -> list[Event]:
        """All frames up to the end of this many turns."""
        return self.until(*ENDS, seconds=seconds, count=turns)

    def until_end_allowing(self, seconds: float = 40) -> list[Event]:
        """All frames up to the turn's end, with a yes to each question on the way."""
        heard = self.until(*ENDS, "permission.requested", seconds=seconds)
        while heard[-1]["type"] not in ENDS:
            self.send("permission", request=heard[-1]["request"], decision="allow")
            heard += self.until(*ENDS, "permission.requested", seconds=seconds)
        return heard

    def until_text(self, words: int, seconds: float = 20) -> list[Event]:
        """All frames until this many words were said."""
        heard: list[Event] = []
        deadline = time.monotonic() + seconds
        while len(text_of(heard).split()) < words:
            heard.append(self.hear(max(0.0, deadline - time.monotonic())))
            assert heard[-1]["type"] not in ENDS, heard[-1]
        return heard


def _events_of(lines: Iterable[str]) -> Iterator[Event]:
    for line in lines:
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def text_of(events: Iterable[Event]) -> str:
    """What was said in these events."""
    return "".join(event["text"] for event in events if event["type"] == "text.delta")


def seqs_of(events: Iterable[Event]) -> list[int]:
    return [event["seq"] for event in events if "seq" in event]


def is_exact(events: list[Event], after: int = 0) -> bool:
    """Whether the events follow `after` without a gap, and none comes twice."""
    return seqs_of(events) == list(range(after + 1, after + 1 + len(events)))
