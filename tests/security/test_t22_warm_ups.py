"""T22: a flood of warm-ups. Each starts a process, and the turns of all tenants wait for the same processors."""

import json
from uuid import uuid4

from tests.client import Client
from tests.stack import Installation, eventually

MANY = 40
LEASED = "SELECT count(*) FROM conversations_conversation WHERE tenant_id = %s AND epoch > 0"


def test_t22_a_flood_of_warm_ups_holds_up_no_other_tenant(whole: Installation) -> None:
    [web] = whole.some_webs(1)
    greedy = founded(whole, "greedy")
    tenant = str(whole.query("SELECT tenant_id FROM tenants_apikey WHERE prefix = %s", prefix_of(greedy)))
    program, modest = Client(web.url, greedy), whole.client(web)
    wanted = [program.begin() for _ in range(MANY)]
    with program.socket() as flood, modest.socket() as socket:
        for conversation in wanted:
            flood.send("warm", conversation=conversation)
        eventually(lambda: whole.query(LEASED, tenant))
        socket.say("words 3")
        socket.until_text(3)
        begun = whole.query(LEASED, tenant)
    # What the flood asked for goes on, one after another.
    assert begun <= MANY / 4
    eventually(lambda: whole.query(LEASED, tenant) > begun, 20)


def founded(whole: Installation, name: str) -> str:
    """The API key of a new tenant that has the offline model."""
    slug = f"{name}-{uuid4().hex[:6]}"
    key = str(json.loads(whole.manage("create_tenant", slug, "--owner", f"{slug}@example.org"))["api_key"])
    [web] = whole.some_webs(1)
    endpoint = {"kind": "endpoint", "base_url": whole.model_url, "secret": "x", "name": "Offline"}
    Client(web.url, key).post("/v1/credentials", endpoint | {"default": True})
    return key


def prefix_of(key: str) -> str:
    return key.split("_")[1]
