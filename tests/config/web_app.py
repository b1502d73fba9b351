"""A small ASGI application behind the real server, as a process: what the tests of `config/web.py` talk to.

`python -m tests.config.web_app PORT '{"stall_seconds": 1}'`: the JSON object names limits that differ.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from config.web import Limits, Message, Server
from conversations.flow import StalledReader, flow_of

type Receive = Callable[[], Awaitable[Message]]
type Send = Callable[[Message], Awaitable[None]]

seen: list[str] = []


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    talk = SOCKETS[scope["path"]] if scope["type"] == "websocket" else REQUESTS[scope["path"]]
    if scope["type"] == "websocket":
        await receive()
        if scope["path"] == "/hesitant":
            await asyncio.sleep(2)
        await send({"type": "websocket.accept"})
    await talk(scope, receive, send)


async def answer(send: Send, content: Any, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})


# Sockets --------------------------------------------------------------------------------------------------


async def socket_flood(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Sends without end, until it hears that the client has gone."""

    async def flood() -> None:
        while True:
            await send({"type": "websocket.send", "text": "x" * 10_000})

    flooding = asyncio.create_task(flood())
    while (await receive())["type"] != "websocket.disconnect":
        pass
    flooding.cancel()
    seen.append("disconnect")


async def socket_asking(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Asks its flow before it fetches more, as a reader of the database would."""
    flow = flow_of(scope)
    try:
        while True:
            await send({"type": "websocket.send", "text": "x" * 10_000})
            await flow.drained()
    except StalledReader:
        seen.append("StalledReader")


async def socket_deaf(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Takes no message for a while, then counts what had come."""
    await asyncio.sleep(2)
    received = 0
    while (message := await receive())["type"] == "websocket.receive":
        received += len(message["bytes"])
        await send({"type": "websocket.send", "text": str(received)})


async def socket_commands(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Does what each frame says: `{"close": code}` or `{"send": size}`."""
    while (message := await receive())["type"] == "websocket.receive":
        command = json.loads(message["text"])
        if "close" in command:
            await send({"type": "websocket.close", "code": command["close"]})
        if "send" in command:
            await send({"type": "websocket.send", "text": "x" * command["send"]})


# Requests -------------------------------------------------------------------------------------------------


async def request_flood(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while not flow_of(scope).closing.is_set():
        await send(
            {"type": "http.response.body", "body": b"data: " + b"x" * 10_000 + b"\n\n", "more_body": True}
        )


async def request_endless(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    flow_of(scope).endless = True
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"data: hello\n\n", "more_body": True})
    await receive()
    await receive()
    seen.append("disconnect")


async def request_slow(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(int(scope["query_string"])):
        await send({"type": "http.response.body", "body": b".", "more_body": True})
        await asyncio.sleep(0.1)
    await send({"type": "http.response.body", "body": b"done"})


async def request_body(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message["body"]), message["more_body"]
    await answer(send, {"size": size, "root_path": scope["root_path"]})


async def request_seen(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await answer(send, seen)


async def request_ready(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await answer(send, "ready", status=503 if flow_of(scope).closing.is_set() else 200)


async def request_crash(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    raise RuntimeError("a bug")


async def request_crash_late(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"so far", "more_body": True})
    raise RuntimeError("a bug in the middle")


SOCKETS = {
    "/flood": socket_flood,
    "/asking": socket_asking,
    "/deaf": socket_deaf,
    "/hesitant": socket_commands,
    "/commands": socket_commands,
}
REQUESTS = {
    "/flood": request_flood,
    "/endless": request_endless,
    "/slow": request_slow,
    "/body": request_body,
    "/seen": request_seen,
    "/ready": request_ready,
    "/crash": request_crash,
    "/crash-late": request_crash_late,
}

if __name__ == "__main__":
    Server(app, "127.0.0.1", int(sys.argv[1]), Limits(**json.loads(sys.argv[2]))).run()
