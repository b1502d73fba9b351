"""The name of a runner is one process's: who may take it from whom."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.db.models import F

from conversations import leases
from conversations.hosts import ALIVE, NameTaken, Said, say_alive, say_gone, take_name
from conversations.leases import Claim
from conversations.models import RunnerHost
from tests.cast import House
from tests.conversations.stage import Hands, say

HERE, ELSEWHERE = "here", "elsewhere"


def process(home: str, name: str = "") -> Said:
    """What a new runner process of this folder says of itself."""
    return Said(name or f"test-{uuid4()}", "bubblewrap-uid", instance=f"{home}.{uuid4().hex}")


@pytest.mark.usefixtures("database")
def test_a_name_is_taken_at_once_from_a_former_process_of_the_same_folder() -> None:
    killed = process(HERE)
    assert take_name(killed, HERE) is None
    again = process(HERE, killed.name)
    assert take_name(again, HERE) is None
    say_alive(again)
    with pytest.raises(NameTaken):
        say_alive(killed)


@pytest.mark.usefixtures("database")
def test_a_name_is_taken_from_no_other_that_was_heard_of_lately() -> None:
    ours = process(HERE)
    take_name(ours, HERE)
    other = process(ELSEWHERE, ours.name)
    assert take_name(other, ELSEWHERE) == RunnerHost.objects.get(name=ours.name).seen_at
    say_alive(ours)
    assert RunnerHost.objects.get(name=ours.name).instance == ours.instance


@pytest.mark.usefixtures("database")
def test_one_that_is_silent_or_gone_has_its_name_no_more() -> None:
    silent, left = process(HERE), process(HERE)
    for one in (silent, left):
        take_name(one, HERE)
    RunnerHost.objects.filter(name=silent.name).update(seen_at=F("seen_at") - ALIVE - timedelta(seconds=1))
    say_gone(left.name, left.instance)
    for one in (silent, left):
        other = process(ELSEWHERE, one.name)
        assert take_name(other, ELSEWHERE) is None
        with pytest.raises(NameTaken):
            say_alive(one)
        say_gone(one.name, one.instance)
        say_alive(other)


def test_who_lost_its_name_claims_renews_and_writes_nothing_under_it(house: House) -> None:
    former = process(HERE)
    take_name(former, HERE)
    running = _claim(former, house)
    hands = Hands(running, leases.Lease(running.tenant, running.conversation, running.epoch), former.name)
    assert hands.text("before") != [None]
    assert take_name(process(HERE, former.name), HERE) is None
    leases.expire_leases(former.name)
    assert leases.renew_leases(former.name, [hands.lease]) == (set(), set())
    assert hands.text("after") == [None]
    say(house.member.caller)
    assert leases.claim_turn(former.name, True, former.instance) is None


def _claim(runner: Said, house: House) -> Claim:
    submitted = say(house.member.caller)
    while claim := leases.claim_turn(runner.name, True, runner.instance):
        if claim.conversation == submitted.conversation:
            return claim
    raise AssertionError("the turn was not in the queue")
