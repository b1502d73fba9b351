"""PostgreSQL and Valkey that die, or take no writes, in the middle of an answer (T26, T30)."""

import time
from collections.abc import Callable, Iterator

import pytest

from tests.client import ENDS, Client, is_exact, text_of
from tests.stack import Installation, eventually


@pytest.fixture(autouse=True)
def _runner(cluster: Installation) -> None:
    cluster.only_runners("one")


def test_a_killed_valkey_costs_nobody_an_event(cluster: Installation, client: Client) -> None:
    valkey = cluster.servers.valkey
    assert valkey and valkey.child and valkey.child.process
    with client.socket() as socket:
        socket.say("slow 60 5")
        heard = socket.until_text(5)
        valkey.child.process.kill()
        valkey.child.process.wait()
        heard += socket.until_text(5)
        valkey.restart()
        heard += socket.until_end()
        assert heard[-1]["type"] == "turn.completed"
        assert len(text_of(heard).split()) == 60
        assert is_exact(heard)

        # The wake-ups are back too: without them words would come once a second.
        def moments() -> int:
            socket.say("slow 20 1.5", heard[0]["conversation"])
            times = set()
            while (event := socket.hear())["type"] not in ENDS:
                times.add(round(time.monotonic(), 1)) if event["type"] == "text.delta" else None
            return len(times)

        eventually(lambda: moments() > 5, 10)


def test_a_killed_postgres_ends_the_turn_in_order_and_the_next_one_works(
    cluster: Installation, client: Client
) -> None:
    postgres = cluster.servers.postgres
    assert postgres and postgres.child and postgres.child.process
    with client.socket() as socket:
        socket.say("echo cherry")
        conversation = socket.until_end()[0]["conversation"]
        socket.say("slow 60 4", conversation)
        heard = socket.until_text(8)
        postgres.child.process.kill()
        postgres.child.process.wait()
        time.sleep(1)
        postgres.restart()
        # Neither the socket nor the runner has gone.
        heard += socket.until_end(seconds=30)
        *_, turn = client.turns(conversation)
        assert f"turn.{turn['state']}" == heard[-1]["type"]
        assert "".join(block["text"] for block in turn["blocks"]) == text_of(heard)
        if turn["state"] == "completed":
            assert len(text_of(heard).split()) == 60

        socket.say("recall", conversation)
        answer = socket.until_end(seconds=30)
    assert answer[-1]["type"] == "turn.completed"
    assert "echo cherry" in text_of(answer)
    assert is_exact(client.events(conversation, answer[-1]["seq"]))
    now = cluster.query("SELECT clock_timestamp()")
    heartbeat = "SELECT max(last_heartbeat) > %s FROM procrastinate_workers"
    eventually(lambda: cluster.query(heartbeat, now), 30, "background work did not begin anew")


@pytest.fixture
def read_only(cluster: Installation) -> Iterator[Callable[[bool], None]]:
    """Called with True, the database takes no writes from anybody, until called with False."""

    def switch(on: bool) -> None:
        cluster.query(f"ALTER DATABASE parley SET default_transaction_read_only = {on}")
        # Settings of a database count for new connections.
        cluster.query(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = 'parley' AND pid <> pg_backend_pid()"
        )

    yield switch
    switch(False)


def test_a_read_only_database_is_a_clear_error_and_nothing_else(
    read_only: Callable[[bool], None], client: Client
) -> None:
    with client.socket() as socket:
        socket.say("slow 300 60")
        heard = socket.until_text(5)
        conversation = heard[0]["conversation"]
        read_only(True)
        socket.say("words 3")
        heard += socket.until("error")
        error = heard.pop()["error"]
        assert error["type"] == "api_error"
        assert "database" in error["message"]
        refused = client.call("POST", f"/v1/conversations/{conversation}/turns", {"message": "words 3"})
        assert refused.status_code == 500
        assert refused.json()["error"] == error
        # What can be read is read.
        assert client.turns(conversation)
        with client.socket() as other:
            other.send("subscribe", conversation=conversation, after=0)
            assert other.hear() == heard[0]
        time.sleep(6)  # No lease is renewed: its runner gives the turn up.
        read_only(False)
        heard += socket.until_end()
        assert heard[-1]["type"] == "turn.interrupted"
        assert is_exact(heard)
        socket.say("recall", conversation)
        answer = socket.until_end()
    assert answer[-1]["type"] == "turn.completed"
    assert "slow 300 60" in text_of(answer)
