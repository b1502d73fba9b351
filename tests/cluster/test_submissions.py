"""The same submission twice, at once, from two hosts, with another body (T25)."""

from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from tests.client import Client, is_exact, text_of
from tests.stack import Installation


@pytest.fixture(autouse=True)
def _runner(cluster: Installation) -> None:
    cluster.only_runners("one")


def test_the_same_message_at_once_over_two_hosts_is_one_turn(clients: list[Client]) -> None:
    before = {one["id"] for one in clients[0].get("/v1/conversations")["data"]}
    with clients[0].socket() as here, clients[1].socket() as there:
        for _ in range(3):
            name = str(uuid4())
            here.say("words 3", id=name)
            there.say("words 3", id=name)
            heard, heard_there = here.until_end(), there.until_end()
            assert heard == heard_there
            assert is_exact(heard)
            assert heard[0]["client_id"] == name
    fresh = [one for one in clients[0].get("/v1/conversations")["data"] if one["id"] not in before]
    assert len(fresh) == 3
    assert all(len(clients[0].turns(one["id"])) == 1 for one in fresh)


def test_the_same_message_to_one_conversation_over_two_hosts_is_one_turn(clients: list[Client]) -> None:
    conversation, name = clients[0].begin(), str(uuid4())
    body = {"message": "words 3", "id": name}
    path = f"/v1/conversations/{conversation}/turns"
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda number: clients[number % 2].call("POST", path, body), range(6)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(clients[0].turns(conversation)) == 1


def test_the_same_id_with_another_body_is_an_error_on_any_host(clients: list[Client]) -> None:
    with clients[0].socket() as here, clients[1].socket() as there:
        name = here.say("words 3")
        heard = here.until_end()
        there.say("words 4", id=name)
        refused = there.hear()
        assert refused["type"] == "error"
        assert refused["error"]["type"] == "invalid_request_error"
        there.say("words 3", id=name)
        assert text_of(there.until_end()) == text_of(heard)
    body = {"message": "words 5", "id": name}
    refusal = clients[1].call("POST", f"/v1/conversations/{heard[0]['conversation']}/turns", body)
    assert refusal.status_code == 409
    assert len(clients[0].turns(heard[0]["conversation"])) == 1
