"""A runner's places, which several tenants want."""

import json
from uuid import uuid4

from tests.client import Client
from tests.stack import Installation, eventually


def another_tenant(cluster: Installation, url: str) -> Client:
    """The owner of a new tenant, with a credential for the offline model."""
    slug = f"t-{uuid4().hex[:6]}"
    founded = json.loads(cluster.manage("create_tenant", slug, "--owner", f"{slug}@example.org"))
    client = Client(url, founded["api_key"])
    secret = {"name": "offline", "kind": "endpoint", "base_url": cluster.model_url, "secret": "x" * 20}
    client.post("/v1/credentials", secret | {"default": True})
    return client


def test_questions_without_an_answer_block_nobody_for_ever(cluster: Installation) -> None:
    (web,) = cluster.some_webs(1)
    clients = [another_tenant(cluster, web.url) for _ in range(3)]
    cluster.only_runners()
    cluster.only_runners("small", RUNNER_MAX_PROCESSES="2", QUESTION_YIELDS_SECONDS="3")
    talks = [(client, client.begin()) for client in clients]

    def state(number: int) -> str:
        client, conversation = talks[number]
        return str(client.turns(conversation)[0]["state"])

    for number in (0, 1):
        talks[number][0].submit("write a.txt: b", talks[number][1])
        eventually(lambda number=number: state(number) == "waiting", 30)  # type: ignore[misc]
    talks[2][0].submit("words 5", talks[2][1])
    eventually(lambda: state(2) == "completed", 40)
    states = sorted(state(number) for number in (0, 1))
    assert states == ["failed", "waiting"], "one of them has made room, and one was enough"
    (ended,) = (number for number in (0, 1) if state(number) == "failed")
    client, conversation = talks[ended]
    with client.stream(conversation) as events:
        last = next(event for event in events if event["type"] == "turn.failed")
    assert "Nobody answered" in last["error"]["message"]
    client.submit("words 3", conversation)
    eventually(lambda: client.turns(conversation)[-1]["state"] == "completed", 40)
    cluster.only_runners()
