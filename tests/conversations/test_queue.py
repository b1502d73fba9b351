"""The turn's row is the queue: claims, leases, epochs and fences, on the real database as the application."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier, Thread
from typing import Any
from uuid import UUID, uuid4

from django.db import connection
from django.utils import timezone

from conversations import leases
from conversations.leases import Claim, Lease
from conversations.models import Control, Conversation, PermissionRequest, RunnerHost, Turn, TurnState
from conversations.recorder import Stored, append_events
from tenants.context import tenant_context
from tests.cast import House, Person, found_house
from tests.conversations.stage import Hands, events_of, kinds, live_host, say, turn_of
from tests.servers import TestServers


def test_a_claim_starts_the_turn_and_says_so(house: House) -> None:
    submitted = say(house.member.caller, "good morning")
    hands = Hands.claiming(submitted)
    assert turn_of(house.member.caller, submitted.turn).state == TurnState.RUNNING
    started = events_of(house.member.caller, submitted.conversation)[-1]
    assert started == hands.claim.started
    assert started["prompt"] == "good morning"


def test_a_second_message_waits_for_the_first(house: House) -> None:
    first = say(house.member.caller)
    second = say(house.member.caller, "and?", first.conversation)
    hands = Hands.claiming(first)
    assert leases.claim_turn(hands.runner, take_new=False) is None
    hands.finish()
    claim = leases.claim_turn(hands.runner, take_new=False)
    assert claim is not None
    assert claim.turn == second.turn
    assert claim.epoch == hands.claim.epoch


def test_a_live_lease_keeps_other_runners_away(house: House) -> None:
    first = say(house.member.caller)
    hands = Hands.claiming(first)
    hands.finish()
    say(house.member.caller, "again", first.conversation)
    claimed = _claim_all(live_host())
    assert first.conversation not in {claim.conversation for claim in claimed}


def test_two_runners_at_once_claim_a_turn_once(house: House) -> None:
    submitted = [say(house.member.caller).conversation for _ in range(8)]
    barrier = Barrier(4)
    claimed: list[Claim] = []

    def run(name: str) -> None:
        barrier.wait()
        claimed.extend(_claim_all(name))
        connection.close()

    threads = [Thread(target=run, args=(live_host(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ours = [claim.conversation for claim in claimed if claim.conversation in submitted]
    assert sorted(ours) == sorted(submitted)


def test_an_expired_lease_ends_the_turn_as_interrupted_and_frees_the_next(house: House) -> None:
    caller = house.member.caller
    first = say(caller)
    second = say(caller, "next", first.conversation)
    lost = Hands.claiming(first)
    lost.text("half an ans")
    leases.expire_leases(lost.runner)
    ended = [event for event in leases.end_lost_turns() if event["turn"] == str(first.turn)]
    assert ended == events_of(caller, first.conversation)[-1:]
    assert turn_of(caller, first.turn).state == TurnState.INTERRUPTED
    survivor = Hands.claiming(second)
    assert survivor.claim.epoch > lost.claim.epoch


def test_a_former_holder_writes_nothing_after_a_takeover(house: House) -> None:
    caller = house.member.caller
    submitted = say(caller)
    lost = Hands.claiming(submitted)
    leases.expire_leases(lost.runner)
    leases.end_lost_turns()
    before = events_of(caller, submitted.conversation)
    assert lost.text("too late") == [None]
    assert leases.renew_leases(lost.runner, [lost.lease]) == (set(), set())
    assert events_of(caller, submitted.conversation) == before


def test_a_write_repeated_after_an_unknown_outcome_is_stored_once(house: House) -> None:
    hands = Hands.claiming(say(house.member.caller))
    rows = [hands.row("text.delta", {"block": 0, "text": text}) for text in "abc"]
    assert hands.write(*rows) == hands.write(*rows)
    assert hands.write(*rows, hands.row("text.delta", {"block": 0, "text": "d"}))[-1] is not None
    texts = [e["text"] for e in events_of(house.member.caller, hands.claim.conversation) if "text" in e]
    assert texts == ["a", "b", "c", "d"]


def test_a_write_that_names_another_tenant_is_refused(house: House, stranger: Person) -> None:
    hands = Hands.claiming(say(house.member.caller))
    row = hands.row("text.delta", {"block": 0, "text": "x"}, tenant=str(stranger.caller.tenant_id))
    assert hands.write(row) == [None]


def test_a_write_that_names_another_conversations_turn_changes_nothing_of_it(
    house: House, stranger: Person
) -> None:
    ours, theirs = Hands.claiming(say(house.member.caller)), Hands.claiming(say(stranger.caller))
    theirs.write(theirs.row("permission.requested", {"request": str(uuid4())}))
    ended = {"stop_reason": "end_turn", "usage": {}, "cost_usd": 9.0, "timing": {}}
    ours.write(ours.row("turn.completed", ended, turn=str(theirs.claim.turn)))
    assert turn_of(stranger.caller, theirs.claim.turn).state == TurnState.WAITING
    with tenant_context(stranger.caller.tenant_id):
        assert PermissionRequest.objects.get(turn_id=theirs.claim.turn).decision == ""


def test_one_write_serves_conversations_of_two_tenants(house: House, stranger: Person) -> None:
    ours, theirs = Hands.claiming(say(house.member.caller)), Hands.claiming(say(stranger.caller))
    seqs = ours.write(
        ours.row("text.delta", {"block": 0, "text": "a"}), theirs.row("text.delta", {"block": 0, "text": "b"})
    )
    assert None not in seqs
    assert events_of(house.member.caller, ours.claim.conversation)[-1]["text"] == "a"
    assert events_of(stranger.caller, theirs.claim.conversation)[-1]["text"] == "b"


def test_the_end_of_a_turn_is_stored_with_its_figures(house: House) -> None:
    submitted = say(house.member.caller)
    Hands.claiming(submitted).finish()
    turn = turn_of(house.member.caller, submitted.turn)
    assert (turn.state, turn.stop_reason, turn.usage) == ("completed", "end_turn", {"output_tokens": 1})
    assert (float(turn.cost_usd or 0), turn.timing, turn.error) == (0.5, {"model_ms": 3}, None)


def test_a_released_conversation_can_be_taken_by_another(house: House) -> None:
    caller = house.member.caller
    first = say(caller)
    hands = Hands.claiming(first)
    assert not leases.release_lease(hands.runner, hands.lease)  # its turn still runs
    hands.finish()
    assert leases.release_lease(hands.runner, hands.lease)
    other = live_host()
    assert leases.take_lease(other, caller.tenant_id, first.conversation) == hands.claim.epoch + 1
    assert leases.take_lease(hands.runner, caller.tenant_id, first.conversation) is None


def test_a_conversation_whose_files_lie_on_a_live_host_is_left_to_it(house: House) -> None:
    caller = house.member.caller
    submitted = say(caller)
    keeper = f"test-{uuid4()}"
    with tenant_context(caller.tenant_id):
        Conversation.objects.filter(id=submitted.conversation).update(files_on=keeper)
    now = timezone.now()
    RunnerHost.objects.create(name=keeper, started_at=now, seen_at=now, tier="none")
    stranger_runner = live_host()
    assert submitted.conversation not in {claim.conversation for claim in _claim_all(stranger_runner)}
    assert leases.take_lease(stranger_runner, caller.tenant_id, submitted.conversation) is None
    RunnerHost.objects.filter(name=keeper).update(seen_at=now - timedelta(minutes=1))
    assert submitted.conversation not in {claim.conversation for claim in _claim_all(stranger_runner)}
    with tenant_context(caller.tenant_id):  # It had the time to come back.
        Turn.objects.filter(id=submitted.turn).update(created_at=now - timedelta(seconds=16))
    assert submitted.conversation in {claim.conversation for claim in _claim_all(stranger_runner)}


def test_a_lease_is_renewed_for_its_holder_only(house: House) -> None:
    hands = Hands.claiming(say(house.member.caller))
    former = Lease(hands.lease.tenant, hands.lease.conversation, hands.lease.epoch - 1)
    assert leases.renew_leases(hands.runner, [hands.lease]) == ({hands.lease.conversation}, set())
    assert leases.renew_leases(hands.runner, [former]) == (set(), set())
    assert leases.renew_leases("another", [hands.lease]) == (set(), set())


def test_a_row_that_somebody_holds_delays_its_own_lease_alone(house: House, stranger: Person) -> None:
    held_up = Hands.claiming(say(house.member.caller))
    other = Hands.claiming(say(stranger.caller), held_up.runner)
    both = [held_up.lease, other.lease]
    with ThreadPoolExecutor(1) as elsewhere, tenant_context(house.id):
        Conversation.objects.select_for_update().get(id=held_up.claim.conversation)
        renewing = elsewhere.submit(_renewed, held_up.runner, both)
        told = renewing.result(timeout=5)
    assert told == ({other.claim.conversation}, {held_up.claim.conversation})
    assert leases.renew_leases(held_up.runner, both) == ({lease.conversation for lease in both}, set())


def test_a_row_that_somebody_holds_is_busy_and_the_rest_of_a_write_is_stored(
    house: House, stranger: Person
) -> None:
    held_up, other = Hands.claiming(say(house.member.caller)), Hands.claiming(say(stranger.caller))
    said = {"block": 0, "text": "x"}
    taken = held_up.row("text.delta", said)
    assert held_up.write(taken) != [None]
    rows = [held_up.row("text.delta", said), taken, other.row("text.delta", said)]
    with ThreadPoolExecutor(1) as elsewhere, tenant_context(house.id):
        Conversation.objects.select_for_update().get(id=held_up.claim.conversation)
        told = elsewhere.submit(_appended, rows).result(timeout=5)
    assert [(one.seq is None, one.busy) for one in told] == [(True, True), (False, False), (False, False)]
    assert [(one.seq is None, one.busy) for one in append_events(json.dumps(rows))] == [(False, False)] * 3


def _appended(rows: list[dict[str, Any]]) -> list[Stored]:
    try:
        return append_events(json.dumps(rows))
    finally:
        connection.close()


def _renewed(runner: str, held: list[Lease]) -> tuple[set[UUID], set[UUID]]:
    try:
        return leases.renew_leases(runner, held)
    finally:
        connection.close()


def test_permission_questions_move_the_turn_between_waiting_and_running(house: House) -> None:
    submitted = say(house.member.caller)
    hands = Hands.claiming(submitted)
    request = {"request": str(uuid4())}
    hands.write(hands.row("permission.requested", request))
    assert turn_of(house.member.caller, submitted.turn).state == TurnState.WAITING
    hands.write(hands.row("permission.resolved", request | {"decision": "deny"}))
    # The row is decided by the person's answer; an event alone leaves an open question open.
    assert turn_of(house.member.caller, submitted.turn).state == TurnState.WAITING
    hands.finish()
    assert turn_of(house.member.caller, submitted.turn).state == TurnState.COMPLETED
    assert kinds(events_of(house.member.caller, submitted.conversation))[-1] == "turn.completed"


def _claim_all(name: str) -> list[Claim]:
    claimed = []
    while claim := leases.claim_turn(name, take_new=True):
        claimed.append(claim)
    return claimed


def test_a_control_is_given_out_until_it_is_done(house: House) -> None:
    caller = house.member.caller
    hands = Hands.claiming(say(caller))
    with tenant_context(caller.tenant_id):
        row = Control.objects.create(
            tenant_id=caller.tenant_id,
            conversation_id=hands.claim.conversation,
            turn_id=hands.claim.turn,
            kind=Control.Kind.INTERRUPT,
        )
    for _ in range(2):
        assert [control["id"] for control in leases.take_controls(hands.runner, [])] == [row.id]
    assert leases.take_controls("another", [row.id]) == []
    assert leases.take_controls(hands.runner, [row.id]) == []
    assert leases.take_controls(hands.runner, []) == []


def test_a_control_ends_with_its_turn(house: House) -> None:
    caller = house.member.caller
    hands = Hands.claiming(say(caller))
    with tenant_context(caller.tenant_id):
        Control.objects.create(
            tenant_id=caller.tenant_id,
            conversation_id=hands.claim.conversation,
            turn_id=hands.claim.turn,
            kind=Control.Kind.INTERRUPT,
        )
    hands.finish()
    assert leases.take_controls(hands.runner, []) == []


def test_a_claim_whose_answer_got_lost_ends_as_a_lost_turn(house: House) -> None:
    caller = house.member.caller
    known = Hands.claiming(say(caller))
    unheard = Hands.claiming(say(caller), known.runner)
    leases.disown_turns(known.runner, [known.claim.turn])
    leases.end_lost_turns()
    assert turn_of(caller, known.claim.turn).state == TurnState.RUNNING
    assert turn_of(caller, unheard.claim.turn).state == TurnState.INTERRUPTED
    assert leases.renew_leases(known.runner, [known.lease, unheard.lease]) == (
        {known.lease.conversation},
        set(),
    )


def test_a_conversation_with_a_turn_that_may_be_lost_is_not_warmed_up(house: House) -> None:
    caller = house.member.caller
    hands = Hands.claiming(say(caller))
    assert leases.take_lease(hands.runner, caller.tenant_id, hands.claim.conversation) is None
    hands.finish()
    assert leases.take_lease(hands.runner, caller.tenant_id, hands.claim.conversation) == hands.claim.epoch


def claims_of(name: str, *houses: House) -> list[str]:
    """Whose turns, of these houses alone, the runner is given, in this order; other tests' may wait as well."""
    slugs = {house.id: house.slug for house in houses}
    return [slugs[claim.tenant] for claim in _claim_all(name) if claim.tenant in slugs]


def test_a_tenant_has_at_most_half_of_a_hosts_places(house: House) -> None:
    other, host = found_house("other"), live_host(places=4)
    _claim_all(live_host())
    for _ in range(5):
        say(house.member.caller)
    say(other.owner.caller)
    assert claims_of(host, house, other).count(house.slug) == 2
    assert claims_of(host, house, other) == []
    assert claims_of(live_host(places=5), house, other).count(house.slug) == 3


def test_a_place_goes_to_the_tenant_that_has_fewest(house: House) -> None:
    other, host = found_house("other"), live_host(places=8)
    _claim_all(live_host())
    for _ in range(3):
        say(house.member.caller)
    for _ in range(3):
        say(other.owner.caller)
    assert claims_of(host, house, other) == [house.slug, other.slug] * 3


def test_room_is_wanted_by_who_has_waited_a_while_for_nothing_else(
    house: House, servers: TestServers
) -> None:
    with servers.as_admin() as admin:  # what other tests have left
        admin.execute("UPDATE conversations_turn SET created_at = clock_timestamp() WHERE state = 'queued'")
    assert not leases.is_room_wanted()
    first = say(house.member.caller)
    assert not leases.is_room_wanted(), "only just queued"
    with tenant_context(house.id):
        Turn.objects.filter(id=first.turn).update(created_at=timezone.now() - timedelta(seconds=6))
    assert leases.is_room_wanted()
    Hands.claiming(first)
    again = say(house.member.caller, "behind it", first.conversation)
    with tenant_context(house.id):
        Turn.objects.filter(id=again.turn).update(created_at=timezone.now() - timedelta(seconds=6))
    assert not leases.is_room_wanted(), "it waits for the turn before it"
