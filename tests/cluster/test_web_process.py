"""`manage.py web` as a process, while its servers fail and while it leaves."""

import json
import os
import time
from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest
from django.db import connection
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from conversations.hosts import Said, say_alive, say_gone
from tests.cast import House
from tests.cluster.processes import Process, eventually, web_process
from tests.cluster.relay import relayed
from tests.conversations.stage import say
from tests.servers import TestServers

RUNNER = f"host-{uuid4()}"


@pytest.fixture(autouse=True)
def _runner(database: None) -> Iterator[None]:
    yield
    say_gone(RUNNER)


def ready(web: Process) -> tuple[int, list[str]]:
    """What `web` says, a runner having been heard of just now."""
    say_alive(Said(RUNNER, "bubblewrap", cli_version="2.1"))
    answer = httpx.get(f"{web.url}/ready", timeout=10)
    return answer.status_code, answer.json().get("missing", [])


def test_servers_that_do_not_answer_are_named_and_a_stop_does_not_wait_for_them() -> None:
    with (
        relayed(os.environ["DATABASE_URL"]) as (database_cable, database_url),
        relayed(os.environ["REDIS_URL"]) as (redis_cable, redis_url),
        web_process(DATABASE_URL=database_url, REDIS_URL=redis_url) as web,
    ):
        assert ready(web) == (200, [])

        database_cable.pulled.set()
        asked = time.monotonic()
        assert ready(web) == (503, ["database"])
        assert time.monotonic() - asked < 4
        assert web.lives()

        redis_cable.pulled.set()
        assert ready(web) == (503, ["database", "redis"])

        database_cable.pulled.clear()
        redis_cable.pulled.clear()
        eventually(lambda: ready(web) == (200, []), seconds=10)

        database_cable.pulled.set()
        ready(web)
        web.child.terminate()
        web.child.wait(timeout=8)


def web_socket(web: Process, key: str) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{web.port}/v1/chat/ws", additional_headers={"x-api-key": key}, proxy=None)


def test_a_socket_learns_that_the_server_restarts(house: House) -> None:
    with web_process() as web:
        with web_socket(web, house.owner.key) as client:
            client.send(json.dumps({"type": "ping"}))
            assert json.loads(client.recv(timeout=5)) == {"type": "pong"}
            web.child.terminate()
            with pytest.raises(ConnectionClosed) as ended:
                client.recv(timeout=5)
        assert ended.value.rcvd is not None
        assert ended.value.rcvd.code == 1012
        assert web.child.wait(timeout=5) == 0


def test_a_statement_that_takes_too_long_ends_and_who_asked_is_told(
    house: House, servers: TestServers
) -> None:
    person = house.member
    conversation = say(person.caller).conversation
    path, key = f"/v1/conversations/{conversation}", {"x-api-key": person.key}
    with web_process(DATABASE_STATEMENT_SECONDS="0.5") as web:
        with servers.as_admin() as admin, admin.transaction():
            admin.execute("SELECT FROM conversations_conversation WHERE id = %s FOR UPDATE", [conversation])
            asked = time.monotonic()
            answer = httpx.patch(web.url + path, json={"title": "later"}, headers=key, timeout=10)
            assert time.monotonic() - asked < 3
        assert (answer.status_code, answer.json()["error"]["type"]) == (529, "overloaded_error")
        assert int(answer.headers["retry-after"]) > 0

        with servers.as_admin() as admin, admin.transaction(), web_socket(web, person.key) as client:
            admin.execute("SELECT FROM conversations_conversation WHERE id = %s FOR UPDATE", [conversation])
            message = {
                "type": "message",
                "id": str(uuid4()),
                "conversation": str(conversation),
                "content": "later",
            }
            client.send(json.dumps(message))
            told = json.loads(client.recv(timeout=3))
        assert (told["type"], told["id"]) == ("error", message["id"])
        assert told["error"]["type"] == "overloaded_error", told

        assert httpx.patch(web.url + path, json={"title": "now"}, headers=key).json()["title"] == "now"


def test_statements_of_the_application_have_half_a_minute() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == ("30s",)
