"""What a page shows is rendered beside the event loop of its web process: others notice nothing of it."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

from tests.cast import House, found_house
from tests.cluster.processes import Process, web_process
from tests.conversations.stage import Hands, say

# The dearest that there is to colour, in blocks that are just short enough.
WORST = [f"```java\nx{number}\n" + "\n" * 1_480 + "```\n\n" for number in range(40)]
QUICK = 1.0


@pytest.fixture
def web(database: None) -> Iterator[Process]:
    with web_process() as web:
        yield web


def told_the_worst(house: House) -> str:
    hands = Hands.claiming(say(house.member.caller))
    hands.text("".join(WORST))
    return str(hands.claim.conversation)


@contextmanager
def following(web: Process, house: House, conversation: str) -> Iterator[ClientConnection]:
    """The socket of a page that shows nothing of the conversation yet."""
    address, key = f"ws://127.0.0.1:{web.port}/t/{house.slug}/live", house.member.key
    with connect(address, additional_headers={"x-api-key": key}, proxy=None, max_size=None) as page:
        page.send(json.dumps({"type": "subscribe", "conversation": conversation, "after": 0}))
        yield page


@contextmanager
def asked_all_the_time(web: Process) -> Iterator[list[float]]:
    """How long /health took to answer, each time."""
    took: list[float] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            began = time.monotonic()
            assert httpx.get(f"{web.url}/health", timeout=120).status_code == 200
            took.append(time.monotonic() - began)
            time.sleep(0.02)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield took
    finally:
        done.set()
        asking.join()


def shown(page: ClientConnection, words: str) -> None:
    while words not in (said := str(page.recv(timeout=60))):
        assert '"error"' not in said


def test_t21_a_web_process_answers_others_while_it_renders_the_worst(web: Process, house: House) -> None:
    conversation = told_the_worst(house)
    began = time.monotonic()
    with asked_all_the_time(web) as health, following(web, house, conversation) as page:
        shown(page, "x39")
    assert time.monotonic() - began > 2 * QUICK, "that was not the worst"
    assert max(health) < QUICK


def test_t21_who_wants_the_worst_again_and_again_has_one_renderer(web: Process, house: House) -> None:
    conversation, other = told_the_worst(house), found_house("other")
    hands = Hands.claiming(say(other.member.caller))
    hands.text("a few words")
    with following(web, house, conversation) as greedy:
        for _ in range(8):
            time.sleep(0.1)
            greedy.send(json.dumps({"type": "subscribe", "conversation": conversation, "after": 0}))
        began = time.monotonic()
        with following(web, other, str(hands.claim.conversation)) as page:
            shown(page, "a few words")
        assert time.monotonic() - began < 2 * QUICK
        shown(greedy, "x39")
