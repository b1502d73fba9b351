"""/metrics: whom it answers, and that what it says is true."""

from collections.abc import Iterator

import pytest
from django.test import Client
from prometheus_client.parser import text_string_to_metric_families
from pytest_django import Settings

from conversations.models import RunnerHost
from tests.cast import House, Person
from tests.conversations.stage import live_host, say

HOLDS = {"name": "network", "holds": True, "lacked": False, "detail": ""}
FAILS = {"name": "mount", "holds": False, "lacked": False, "detail": "it can mount"}


@pytest.fixture(autouse=True)
def no_host(database: None) -> Iterator[None]:
    RunnerHost.objects.all().delete()
    yield
    RunnerHost.objects.all().delete()


def measured() -> dict[tuple[str, ...], float]:
    """Each sample by its name and the values of its labels."""
    answer = Client().get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_it_says_what_hosts_have_published(house: House) -> None:
    name = live_host(
        "bubblewrap",
        findings=(HOLDS, FAILS),
        processes=3,
        refuses="mount: it can mount",
        turns_ended={"completed": 7, "failed": 1},
    )
    seen = measured()
    assert seen["parley_runner_hosts", "bubblewrap"] == 1
    assert seen["parley_processes", name] == 3
    assert seen["parley_runner_takes_turns", name] == 0
    assert seen["parley_isolation_probe", name, "network", "holds"] == 1
    assert seen["parley_isolation_probe", name, "mount", "fails"] == 1
    assert 0 <= seen["parley_isolation_proof_age_seconds", name] < 60
    assert seen["parley_isolation_red",] == 1
    assert seen["parley_turns_ended_total", name, "completed"] == 7
    assert seen["parley_web_sockets",] >= 0


def test_it_counts_the_queue_of_all_tenants(house: House) -> None:
    before = measured().get(("parley_turns_queued", "place"), 0)
    say(house.owner.caller)
    assert measured()["parley_turns_queued", "place"] == before + 1


def test_it_names_no_tenant_person_or_text(house: House) -> None:
    say(house.owner.caller, "canary text")
    text = Client().get("/metrics").text
    for word in ("canary", house.slug, house.owner.user.email, str(house.id)):
        assert word not in text


@pytest.mark.parametrize("address", ["192.0.2.7", "10.0.0.1", "::ffff:192.0.2.7", "", "unknown"])
def test_without_a_token_it_answers_this_machine_alone(database: None, address: str) -> None:
    assert Client().get("/metrics", REMOTE_ADDR=address).status_code == 404
    assert Client().get("/metrics", REMOTE_ADDR="::1").status_code == 200


def test_with_a_token_it_answers_whoever_has_it(owner: Person, settings: Settings) -> None:
    settings.METRICS_TOKEN = "canary-token"
    right = {"authorization": "Bearer canary-token"}
    assert Client().get("/metrics", headers=right, REMOTE_ADDR="192.0.2.7").status_code == 200
    for wrong in ("Bearer canary-toke", "Bearer ", "canary-token", "", f"Bearer {owner.key}", "Bearer ü"):
        assert Client().get("/metrics", headers={"authorization": wrong}).status_code == 404, wrong
    assert owner.client.get("/metrics").status_code == 404
