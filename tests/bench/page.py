"""Our side: a conversation through a WebSocket, as an opened page has it."""

import asyncio
import json
from datetime import datetime
from typing import Any, Self
from uuid import uuid4

from websockets.asyncio.client import ClientConnection, connect

from tests.bench.answer import Answer, BenchFailed
from tests.bench.stack import Stack

PATIENCE = 60.0


class Page:
    """One socket with one conversation, which its first message begins."""

    def __init__(self, socket: ClientConnection, conversation: str | None = None) -> None:
        self._socket = socket
        self.conversation = conversation

    @classmethod
    async def open(cls, stack: Stack, conversation: str | None = None) -> Self:
        url = stack.url.replace("http", "ws", 1) + "/v1/chat/ws"
        socket = await connect(url, additional_headers={"x-api-key": stack.api_key}, compression=None)
        return cls(socket, conversation)

    async def warm(self) -> None:
        """As a page does when it is opened; nothing tells when it is done."""
        await self._send({"type": "warm"})

    async def say(self, prompt: str) -> Answer:
        answer = Answer()
        mine = await self.send(prompt)
        while True:
            event = await self.event()
            if event.get("client_id") == mine:
                turn = event["turn"]
            if event["type"] == "text.delta":
                answer.heard(event["text"])
            elif event["type"] == "turn.completed" and event["turn"] == turn:
                return answer.over(event["timing"])

    async def gap(self, first: str, second: str) -> float:
        """Seconds from the end of one turn to the start of the one that waits behind it, by the database."""
        await self.send(first)
        await self._until("turn.started")
        await self.send(second)
        ended = await self._until("turn.completed")
        started = await self._until("turn.started")
        await self._until("turn.completed")
        at = [datetime.fromisoformat(event["at"]) for event in (ended, started)]
        return (at[1] - at[0]).total_seconds()

    async def send(self, prompt: str) -> str:
        """The id that the message went out under."""
        frame = {"type": "message", "id": str(uuid4()), "content": prompt}
        await self._send(frame | ({"conversation": self.conversation} if self.conversation else {}))
        return frame["id"]

    async def event(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE):
            event: dict[str, Any] = json.loads(await self._socket.recv())
        if event["type"] in ("error", "turn.failed", "turn.interrupted"):
            raise BenchFailed(f"our side failed: {event.get('error', event)}")
        self.conversation = event.get("conversation", self.conversation)
        return event

    async def _until(self, kind: str) -> dict[str, Any]:
        while (event := await self.event())["type"] != kind:
            pass
        return event

    async def _send(self, frame: dict[str, Any]) -> None:
        await self._socket.send(json.dumps(frame))

    async def close(self) -> None:
        await self._socket.close()
