"""Runners that are killed, paused and told to leave, in the middle of answers (T26, T29)."""

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psutil

from conversations.leases import FENCE_SECONDS
from tests.client import Client, Event, is_exact, text_of
from tests.cluster.relay import relayed
from tests.stack import Installation, Process, eventually

DRAINED = 30  # The processes themselves give what runs 25 s.


def gone(family: list[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)


@contextmanager
def paused(runner: Process) -> Iterator[None]:
    runner.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        runner.signal(signal.SIGCONT)


def holder_of(cluster: Installation, conversation: str) -> str:
    return str(cluster.query("SELECT holder FROM conversations_conversation WHERE id = %s", conversation))


def said_in(turn: dict[str, Any]) -> str:
    return "".join(block["text"] for block in turn["blocks"] if block["type"] == "text")


def memory(heard: list[Event]) -> list[str]:
    """What the model says that people wrote before."""
    return [line.partition(". ")[2] for line in text_of(heard).splitlines() if line[:1].isdigit()]


def test_a_killed_runner_that_comes_back_ends_its_turn_and_remembers(
    cluster: Installation, client: Client
) -> None:
    runner = cluster.only_runners("one")["one"]
    with client.socket() as socket:
        socket.say("echo apricot")
        conversation = socket.until_end()[0]["conversation"]
        socket.say("slow 100 20", conversation)
        shown = socket.until_text(8)
        family = runner.family()
        assert any(process.name() == "claude" for process in family)
        runner.kill()
        eventually(lambda: gone(family), 3, "processes outlived their runner")

        cluster.only_runners("one")
        shown += socket.until_end(seconds=8)
        assert shown[-1]["type"] == "turn.interrupted"
        _, interrupted = client.turns(conversation)
        assert interrupted["state"] == "interrupted"
        assert said_in(interrupted) == text_of(shown)

        socket.say("recall", conversation)
        answer = socket.until_end()
    assert answer[-1]["type"] == "turn.completed"
    assert memory(answer) == ["echo apricot", "slow 100 20"]
    assert is_exact(client.events(conversation, answer[-1]["seq"]))


def test_the_survivor_of_two_runners_answers_what_was_queued_with_full_memory(
    cluster: Installation, client: Client
) -> None:
    cluster.only_runners("one", "two")
    with client.socket() as socket:
        socket.say("echo plum")
        conversation = socket.until_end()[0]["conversation"]
        socket.say("slow 100 20", conversation)
        shown = socket.until_text(8)
        socket.say("recall", conversation)
        shown += socket.until("turn.queued")
        holder = holder_of(cluster, conversation)
        cluster.runners[holder].kill()
        shown += socket.until("turn.interrupted", seconds=25)
        answer = socket.until_end(seconds=25)
    assert answer[-1]["type"] == "turn.completed"
    assert memory(answer) == ["echo plum", "slow 100 20"]
    assert holder_of(cluster, conversation) == ({"one", "two"} - {holder}).pop()
    _, lost, _ = client.turns(conversation)
    assert lost["state"] == "interrupted"
    assert said_in(lost) == text_of(shown)
    assert is_exact(client.events(conversation, answer[-1]["seq"]))


def test_a_paused_runner_is_overtaken_and_writes_nothing_more(cluster: Installation, client: Client) -> None:
    cluster.only_runners("one", "two")
    with client.socket() as socket:
        socket.say("slow 200 40")
        shown = socket.until_text(5)
        conversation = shown[0]["conversation"]
        socket.say("recall", conversation)
        overtaken = cluster.runners[holder_of(cluster, conversation)]
        family = overtaken.family()
        with paused(overtaken):
            shown += socket.until("turn.interrupted", seconds=25)
            answer = socket.until_end(seconds=25)
        eventually(lambda: gone(family), 8, "the processes of a runner that was overtaken live on")
        assert answer[-1]["type"] == "turn.completed"
        assert memory(answer) == ["slow 200 40"]
        assert is_exact(shown + answer)
        socket.say("words 2", conversation)
        after = socket.until_end()
        assert is_exact(shown + answer + after)
    assert overtaken.alive
    lost, *_ = client.turns(conversation)
    assert said_in(lost) == text_of(shown)


def test_a_runner_that_stalled_for_a_moment_keeps_what_it_holds(
    cluster: Installation, client: Client
) -> None:
    runner = cluster.only_runners("one")["one"]
    with client.socket() as socket:
        socket.say("slow 120 10")
        heard = socket.until_text(5)
        with paused(runner):
            time.sleep(FENCE_SECONDS + 0.3)
        heard += socket.until_end(seconds=30)
    assert heard[-1]["type"] == "turn.completed"
    assert is_exact(heard)


def test_a_runner_cut_off_from_the_database_stops_its_processes_in_time(
    cluster: Installation, client: Client
) -> None:
    with relayed(cluster.environment["DATABASE_URL"]) as (cable, url), client.socket() as socket:
        lonely = cluster.only_runners("lonely", DATABASE_URL=url)["lonely"]
        socket.say("slow 300 60")
        heard = socket.until_text(5)
        conversation = heard[0]["conversation"]
        socket.say("recall", conversation)
        family = lonely.family()
        cable.pulled.set()
        # Half of the lease, and a look or two: well before anybody else may have it.
        within = FENCE_SECONDS + 1.5
        eventually(lambda: gone(family), within, "it did not stop its processes by itself")
        # Nobody has ended the turn yet, so nobody has taken the conversation over.
        assert client.turns(conversation)[0]["state"] == "running"
        cable.pulled.clear()
        heard += socket.until("turn.interrupted", seconds=25)
        answer = socket.until_end(seconds=25)
        assert memory(answer) == ["slow 300 60"]
        assert is_exact(heard + answer)
        cluster.only_runners()


def test_a_runner_that_leaves_finishes_its_turn_and_hands_the_rest_over(
    cluster: Installation, client: Client
) -> None:
    leaving, other = cluster.only_runners("one", "two").values()
    with client.socket() as busy, client.socket() as idle:
        with paused(other):
            idle.say("echo pear")
            idle_conversation = idle.until_end()[0]["conversation"]
            busy.say("slow 40 5")
            heard = busy.until_text(5)
            conversation = heard[0]["conversation"]
        busy.say("recall", conversation)
        leaving.child.terminate()

        # Its idle conversation does not have to wait for the running one.
        idle.say("recall", idle_conversation)
        answer = idle.until_end(seconds=8)
        assert memory(answer) == ["echo pear"]
        assert holder_of(cluster, idle_conversation) == "two"

        heard += busy.until_end(turns=2, seconds=20)
    ends = [event["type"] for event in heard if event["type"].startswith("turn.")]
    assert ends[-3:] == ["turn.completed", "turn.started", "turn.completed"]
    assert holder_of(cluster, conversation) == "two"
    assert memory(heard) == ["slow 40 5"]
    assert is_exact(heard)
    assert leaving.child.wait(DRAINED) == 0


def test_a_deploy_during_running_turns_loses_none(cluster: Installation, clients: list[Client]) -> None:
    cluster.only_runners("one", "two")
    old = next(web for web in cluster.webs if web.url == clients[0].url)
    with ExitStack() as sockets:
        tabs = [sockets.enter_context(clients[0].socket()) for _ in range(4)]
        for tab in tabs:
            tab.say("slow 60 5")
        heard = [tab.until_text(3) for tab in tabs]
        old.child.terminate()
        leaving = cluster.runners["one"]
        leaving.child.terminate()
        assert old.child.wait(DRAINED) == 0
    with ExitStack() as sockets:
        for events in heard:
            tab = sockets.enter_context(clients[1].socket())
            tab.send("subscribe", conversation=events[0]["conversation"], after=events[-1]["seq"])
            events += tab.until_end()
            assert events[-1]["type"] == "turn.completed"
            assert len(text_of(events).split()) == 60
            assert is_exact(events)
    assert leaving.child.wait(DRAINED) == 0


def test_a_turn_that_outlasts_the_drain_is_interrupted_with_what_was_said(
    cluster: Installation, client: Client
) -> None:
    cluster.only_runners()
    leaving = cluster.only_runners("one", RUNNER_DRAIN_SECONDS="1")["one"]
    with client.socket() as socket:
        socket.say("slow 300 60")
        heard = socket.until_text(5)
        began = time.monotonic()
        assert leaving.leave() == 0
        assert time.monotonic() - began < 8
        heard += socket.until_end()
    assert heard[-1]["type"] == "turn.interrupted"
    assert said_in(client.turns(heard[0]["conversation"])[0]) == text_of(heard)


def test_a_second_runner_of_a_name_on_another_machine_does_not_start(
    cluster: Installation, client: Client
) -> None:
    first = cluster.only_runners("one")["one"]
    with client.socket() as socket:
        socket.say("slow 100 20")
        heard = socket.until_text(5)
        second = _elsewhere(cluster, "one")
        assert second.child.wait(15) != 0
        assert "A runner named one works elsewhere already" in second.said()
        heard += socket.until_end(seconds=30)
    assert heard[-1]["type"] == "turn.completed"
    assert first.alive


def test_a_runner_whose_name_was_taken_while_it_was_silent_leaves(
    cluster: Installation, client: Client
) -> None:
    first = cluster.only_runners("one")["one"]
    family = []
    with client.socket() as socket:
        socket.say("slow 300 60")
        heard = socket.until_text(5)
        family = first.family()
        with paused(first):
            second = _elsewhere(cluster, "one")
            heard += socket.until("turn.interrupted", seconds=40)
        assert first.child.wait(15) != 0
        assert gone(family)
        assert "A runner named one works elsewhere already" in first.said()
        socket.say("words 3")
        answer = socket.until_end(seconds=20)
    assert answer[-1]["type"] == "turn.completed"
    assert is_exact(heard)
    second.leave()


def _elsewhere(cluster: Installation, name: str) -> Process:
    """A runner of this name as on another machine: with folders of its own."""
    environment = cluster.environment | {"SANDBOX_DIR": str(cluster.folder / "e")}
    return Process(["manage.py", "runner", "--name", name], environment, cluster.folder / "elsewhere.log")
