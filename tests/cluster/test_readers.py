"""Readers come back at any point, with any cursor, to any host, and get the rest: all of it, once (T26, T27)."""

import signal
import time
from typing import Any

import pytest

from tests.client import Client, is_exact, seqs_of, text_of
from tests.stack import Installation


@pytest.fixture(autouse=True)
def _runner(cluster: Installation) -> None:
    cluster.only_runners("one")


def test_a_killed_web_process_loses_nothing(cluster: Installation, clients: list[Client]) -> None:
    with clients[0].socket() as socket:
        socket.say("slow 40 3")
        heard = socket.until_text(8)
        conversation = heard[0]["conversation"]
        cluster.webs[[web.url for web in cluster.webs].index(clients[0].url)].kill()
    with clients[1].socket() as socket:
        socket.send("subscribe", conversation=conversation, after=heard[-1]["seq"])
        rest = socket.until_end()
    assert is_exact(heard + rest)
    assert rest[-1]["type"] == "turn.completed"
    assert len(text_of(heard + rest).split()) == 40
    assert clients[1].events(conversation, rest[-1]["seq"]) == heard + rest


def test_two_tabs_on_two_hosts_see_the_same(clients: list[Client]) -> None:
    with clients[0].socket() as here, clients[1].socket() as there:
        here.say("slow 20 1")
        first = here.hear()
        there.send("subscribe", conversation=first["conversation"], after=0)
        assert [first, *here.until_end()] == there.until_end()


def test_any_cursor_gives_what_comes_after_it(client: Client) -> None:
    with client.socket() as socket:
        socket.say("words 30")
        whole = socket.until_end()
        conversation = whole[0]["conversation"]
    for after in (0, 1, len(whole) // 2, len(whole) - 1):
        with client.socket() as socket:
            socket.send("subscribe", conversation=conversation, after=after)
            assert socket.until_end() == whole[after:]
    last = len(whole)
    cursors: list[dict[str, Any]] = [{"after": last}, {"after": last + 1000}, {}]
    for cursor in cursors:
        with client.socket() as socket:
            socket.send("subscribe", conversation=conversation, **cursor)
            socket.send("ping")
            assert socket.hear() == {"type": "pong"}
            client.submit("words 2", conversation)
            fresh = socket.until_end()
            assert is_exact(fresh, last)
            last = seqs_of(fresh)[-1]
    with client.stream(conversation, after=last + 1000) as events:
        client.submit("words 2", conversation)
        assert next(events)["seq"] == last + 1


def test_lost_wake_ups_cost_seconds_and_no_event(cluster: Installation, client: Client) -> None:
    valkey = cluster.servers.valkey
    assert valkey and valkey.child and valkey.child.process
    with client.socket() as socket:
        socket.say("words 1")
        conversation = socket.until_end()[0]["conversation"]
        # It takes every message and passes none on.
        valkey.child.process.send_signal(signal.SIGSTOP)
        try:
            asked = time.monotonic()
            socket.say("words 20", conversation)
            heard = socket.until_end()
            assert time.monotonic() - asked < 6
        finally:
            valkey.child.process.send_signal(signal.SIGCONT)
        assert len(text_of(heard).split()) == 20
        assert is_exact(heard, heard[0]["seq"] - 1)
