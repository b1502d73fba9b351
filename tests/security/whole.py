"""A person in a whole installation, who answers every question with yes."""

from uuid import uuid4

from tests.client import ENDS, Event, Socket


def say(socket: Socket, model: str, text: str, conversation: str | None = None) -> list[Event]:
    """All events of the turn, whose questions are answered with yes."""
    where = {"conversation": conversation} if conversation else {}
    socket.send("message", id=str(uuid4()), content=text, options={"model": model}, **where)
    heard: list[Event] = []
    while not heard or heard[-1]["type"] not in ENDS:
        heard.append(socket.hear())
        if heard[-1]["type"] == "permission.requested":
            socket.send("permission", request=heard[-1]["request"], decision="allow")
    return heard
