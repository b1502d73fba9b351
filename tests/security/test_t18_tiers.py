"""T18: the sandbox's parts are missing or weakened. No agent starts below what operator and tenant ask for.

Here the queue's side of it, on the real database: who is given a turn, who may warm a process up, and what is
said to those who wait. `test_t18_walls.py` has the real runners.
"""

from collections.abc import Iterator
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from claude_runner import Finding, Proof, RunnerSettings, Tier
from conversations import leases
from conversations.events import Wire
from conversations.hosts import Said, say_alive
from conversations.leases import Lease
from conversations.models import Conversation, RunnerHost
from conversations.proving import Walls
from conversations.records import conversation_record
from conversations.turns import Submitted, draft
from conversations.waiting import Reason, explain_waiting
from tenants.context import tenant_context
from tenants.models import Tenant
from tenants.roles import LeastTier
from tests.cast import House, found_house
from tests.conversations.stage import Hands, events_of, live_host, say
from tests.servers import TestServers

STRONGEST_FIRST = ["bubblewrap-uid", "bubblewrap", "landlock", "none"]


@pytest.fixture(autouse=True)
def no_host(database: None) -> Iterator[None]:
    """No host of another test, and no turn that it left behind."""
    RunnerHost.objects.all().delete()
    drain(live_host())
    RunnerHost.objects.all().delete()
    yield
    RunnerHost.objects.all().delete()


def drain(runner: str) -> list[Any]:
    """All turns that this runner is given."""
    given = []
    while claim := leases.claim_turn(runner, take_new=True):
        given.append(claim)
    return given


def asks_for(house: House, least: str) -> None:
    with tenant_context(house.id):
        Tenant.objects.update(least_tier=least)


def is_given(runner: str, submitted: Submitted) -> bool:
    return submitted.turn in {claim.turn for claim in drain(runner)}


def said(house: House, submitted: Submitted) -> list[Wire]:
    """What was said of its waiting."""
    events = events_of(house.owner.caller, submitted.conversation)
    return [event for event in events if event["type"] == "status"]


def suffices(tier: str, least: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT tier_suffices(%s, %s)", [tier, least])
        return bool(cursor.fetchone()[0])


def test_t18_engine_tenants_and_database_mean_the_same_tiers(database: None) -> None:
    assert LeastTier.values == STRONGEST_FIRST
    assert [tier for tier in STRONGEST_FIRST if tier in list(Tier)] == list(Tier)
    for (strength, tier), (wanted, least) in product(enumerate(STRONGEST_FIRST), repeat=2):
        assert suffices(tier, least) == (strength <= wanted), (tier, least)
    assert all(suffices(tier, "") for tier in STRONGEST_FIRST)
    assert not suffices("chroot", "")
    assert not suffices("", "none")


@pytest.mark.parametrize("least", STRONGEST_FIRST)
@pytest.mark.parametrize("tier", STRONGEST_FIRST)
def test_t18_a_turn_goes_to_no_host_below_its_tenants_least_tier(house: House, tier: str, least: str) -> None:
    asks_for(house, least)
    submitted = say(house.owner.caller)
    good = STRONGEST_FIRST.index(tier) <= STRONGEST_FIRST.index(least)
    runner = live_host(tier)
    assert is_given(runner, submitted) is good
    assert is_given(live_host("bubblewrap-uid"), submitted) is not good


@pytest.mark.parametrize("least", ["", "bubblewrap"])
def test_t18_no_process_is_warmed_up_below_it_either(house: House, least: str) -> None:
    asks_for(house, least)
    with tenant_context(house.id):
        conversation = draft(house.owner.caller).id
    assert (leases.take_lease(live_host("landlock"), house.id, conversation) is None) == bool(least)
    assert leases.take_lease(live_host("bubblewrap"), house.id, conversation) is not None or not least


@pytest.mark.parametrize(
    "flaw",
    [
        {"refuses": "network: it sees the network interfaces eth0"},
        {"proof_age": timedelta(minutes=26)},
        {"any_tenant": False, "tier": "none"},
    ],
    ids=["a probe fails", "its proof is old", "no sandbox, another tenant"],
)
def test_t18_a_host_that_can_not_vouch_for_its_sandbox_gets_nothing(
    house: House, flaw: dict[str, Any]
) -> None:
    submitted = say(house.owner.caller)
    runner = live_host(**{"tier": "bubblewrap-uid"} | flaw)
    assert drain(runner) == []
    assert leases.take_lease(runner, house.id, submitted.conversation) is None
    assert is_given(live_host(), submitted)


def test_t18_a_host_that_published_nothing_gets_nothing(house: House) -> None:
    submitted = say(house.owner.caller)
    assert drain("never-heard-of") == []
    silent = live_host()
    RunnerHost.objects.filter(name=silent).update(seen_at=timezone.now() - timedelta(minutes=1))
    assert drain(silent) == []
    assert is_given(live_host(), submitted)


def test_t18_a_turn_for_a_warm_process_is_held_back_as_well(house: House) -> None:
    hands = Hands.claiming(say(house.owner.caller), live_host("landlock"))
    hands.finish()
    asks_for(house, "bubblewrap")
    say(house.owner.caller, "more", hands.claim.conversation)
    assert leases.claim_turn(hands.runner, take_new=False) is None


def test_t18_a_host_lets_go_of_what_became_too_good_for_it_once_the_turn_has_ended(house: House) -> None:
    hands = Hands.claiming(say(house.owner.caller), live_host("landlock"))
    asks_for(house, "bubblewrap")
    held = [Lease(hands.lease.tenant, hands.lease.conversation, hands.lease.epoch)]
    assert leases.renew_leases(hands.runner, held) == ({hands.claim.conversation}, set())
    hands.finish()
    assert leases.renew_leases(hands.runner, held) == (set(), set())


def test_t18_without_a_sandbox_a_host_works_for_the_oldest_tenant_alone(
    house: House, servers: TestServers
) -> None:
    with servers.as_admin() as admin:
        row = admin.execute("SELECT id FROM tenants_tenant ORDER BY created_at, id LIMIT 1").fetchone()
    assert row and row[0] != house.id
    submitted = say(house.owner.caller)
    alone = live_host("none", any_tenant=False)
    assert leases.take_lease(alone, house.id, submitted.conversation) is None
    assert not is_given(alone, submitted)
    assert [event["reason"] for event in _explained(house, submitted)] == ["one_tenant"]
    assert is_given(live_host("none"), submitted)  # the operator says that it works for all


@pytest.mark.parametrize(
    ("tier", "own_uid", "for_all"),
    [
        (Tier.BUBBLEWRAP_UID, True, True),
        (Tier.BUBBLEWRAP, False, True),
        (Tier.LANDLOCK, True, True),
        (Tier.LANDLOCK, False, False),
        (Tier.NONE, True, False),
    ],
)
def test_t18_landlock_takes_a_uid_of_its_own_to_be_a_wall_between_tenants(
    tier: Tier, own_uid: bool, for_all: bool
) -> None:
    proof = Proof(tier, findings=(Finding("own uid", holds=own_uid, detail=""),))
    settings = RunnerSettings(Path("/nowhere"))
    assert Walls(settings, proof, any_tenant=False).any_tenant is for_all
    assert Walls(settings, proof, any_tenant=True).any_tenant, "the operator says so"


# What is said -----------------------------------------------------------------------------------------------


def _explained(house: House, submitted: Submitted) -> list[Wire]:
    explain_waiting(patience=timedelta())
    return said(house, submitted)


def _waits_for(house: House, submitted: Submitted) -> Any:
    with tenant_context(house.id):
        record = conversation_record(Conversation.objects.get(id=submitted.conversation))
    return record["turns"][0]["waits_for"]


def test_t18_who_waits_is_told_why_once_for_each_reason(house: House) -> None:
    asks_for(house, "bubblewrap")
    submitted = say(house.owner.caller)
    assert _waits_for(house, submitted) is None

    first = explain_waiting(patience=timedelta())
    mine = [event for event in first if event["turn"] == str(submitted.turn)]
    assert mine == said(house, submitted)  # what is published is what is stored
    for _ in range(3):
        told = _explained(house, submitted)
    assert [(event["state"], event["reason"]) for event in told] == [("waiting_for_host", "no_runner")]
    assert told[0]["detail"] == Reason.NO_RUNNER.label
    assert _waits_for(house, submitted) == {"reason": "no_runner", "message": Reason.NO_RUNNER.label}

    weak = live_host("landlock")
    assert [event["reason"] for event in _explained(house, submitted)] == ["no_runner", "weak_sandbox"]
    say_alive(Said(weak, "bubblewrap", refuses="network"))
    assert _explained(house, submitted)[-1]["reason"] == "broken_sandbox"
    say_alive(Said(weak, "bubblewrap"))
    assert _explained(house, submitted)[-1]["state"] == "queued"
    assert _waits_for(house, submitted) is None
    assert is_given(weak, submitted)
    events = events_of(house.owner.caller, submitted.conversation)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["type"] == "turn.started"


def test_t18_only_the_first_of_a_conversations_turns_explains_itself(house: House) -> None:
    submitted = say(house.owner.caller)
    second = say(house.owner.caller, "more", submitted.conversation)
    explain_waiting(patience=timedelta())
    assert {event["turn"] for event in said(house, submitted)} == {str(submitted.turn)}
    assert second.turn != submitted.turn


def test_t18_a_moment_needs_no_explanation(house: House) -> None:
    submitted = say(house.owner.caller)
    explain_waiting()
    assert said(house, submitted) == []


def test_t18_a_stranger_hears_nothing_of_it(house: House) -> None:
    submitted = say(house.owner.caller)
    other = found_house("other")
    explain_waiting(patience=timedelta())
    assert events_of(other.owner.caller, submitted.conversation) == []
