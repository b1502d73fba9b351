"""Turns that are stopped, whose CLI dies, whose model refuses, whose disk is full (T26, T30)."""

import hashlib
import json
import signal
import time
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from tests.client import Client, Event, Socket, is_exact, text_of
from tests.stack import Installation
from tests.uids import AS_ROOT


@pytest.fixture(autouse=True)
def _runner(cluster: Installation) -> None:
    cluster.only_runners("one")


def ends_within(seconds: float, socket: Socket) -> list[Event]:
    """The frames up to the turn's end, which has to come in time."""
    asked = time.monotonic()
    heard = socket.until_end()
    assert time.monotonic() - asked < seconds
    return heard


def test_an_interrupt_ends_the_turn_soon_however_far_it_has_come(client: Client) -> None:
    with client.socket() as socket:
        socket.say("slow 300 60")
        heard = socket.until_text(3)
        conversation = heard[0]["conversation"]
        socket.send("interrupt", conversation=conversation)
        heard += ends_within(3, socket)
        assert heard[-1]["type"] == "turn.interrupted"
        for pause in (0.0, 0.01, 0.05, 0.1):
            socket.say("slow 300 60", conversation)
            heard += socket.until("turn.queued")
            time.sleep(pause)
            socket.send("interrupt", conversation=conversation)
            heard += ends_within(5, socket)
            assert heard[-1]["type"] == "turn.interrupted"
        socket.say("words 5", conversation)
        heard += socket.until_end()
    assert heard[-1]["type"] == "turn.completed"
    assert is_exact(heard)


def test_an_interrupt_needs_no_nudge(cluster: Installation, client: Client) -> None:
    valkey = cluster.servers.valkey
    assert valkey and valkey.child and valkey.child.process
    with client.socket() as socket:
        socket.say("slow 300 60")
        conversation = socket.until_text(3)[0]["conversation"]
        valkey.child.process.send_signal(signal.SIGSTOP)
        try:
            socket.send("interrupt", conversation=conversation)
            assert ends_within(6, socket)[-1]["type"] == "turn.interrupted"
        finally:
            valkey.child.process.send_signal(signal.SIGCONT)


def test_a_killed_cli_fails_its_turn_and_the_next_one_remembers(
    cluster: Installation, client: Client
) -> None:
    with client.socket() as socket:
        socket.say("echo quince")
        conversation = socket.until_end()[0]["conversation"]
        (cli,) = [process for process in cluster.runners["one"].family() if talks_in(process, conversation)]
        socket.say("slow 300 60", conversation)
        heard = socket.until_text(8)
        cli.kill()
        heard += ends_within(5, socket)
        assert heard[-1]["type"] == "turn.failed"
        assert "again" in heard[-1]["error"]["message"]
        turn = client.turns(conversation)[-1]
        assert "".join(block["text"] for block in turn["blocks"]) == text_of(heard)
        socket.say("recall", conversation)
        answer = socket.until_end()
    assert answer[-1]["type"] == "turn.completed"
    assert "echo quince" in text_of(answer)
    assert "slow 300 60" in text_of(answer)


def talks_in(process: psutil.Process, conversation: str) -> bool:
    """Whether it is the CLI of this conversation."""
    with suppress(psutil.NoSuchProcess):
        return process.name() == "claude" and conversation in " ".join(process.cmdline())
    return False


def test_a_refused_credential_says_what_to_do_and_a_new_one_works_at_once(
    cluster: Installation, client: Client
) -> None:
    made = json.loads(
        cluster.manage("create_tenant", f"poor-{uuid4().hex[:6]}", "--owner", "poor@example.org")
    )
    poor = Client(client.url, made["api_key"])
    with poor.socket() as socket:
        socket.say("words 3")
        heard = socket.until_end()
        assert heard[-1]["type"] == "turn.failed"
        assert "credential" in heard[-1]["error"]["message"]
        conversation = heard[0]["conversation"]
        for secret, ending in (("expired", "turn.failed"), ("good", "turn.completed")):
            poor.post(
                "/v1/credentials",
                {
                    "name": secret,
                    "kind": "endpoint",
                    "base_url": cluster.model_url,
                    "secret": secret,
                    "default": True,
                },
            )
            socket.say("words 3", conversation)
            heard = socket.until_end()
            assert heard[-1]["type"] == ending
            if ending == "turn.failed":
                assert heard[-1]["error"]["type"] == "authentication_error"
                assert "credential" in heard[-1]["error"]["message"]


def test_an_overloaded_model_is_waited_for_visibly(client: Client) -> None:
    with client.socket() as socket:
        socket.say("error 529 twice")
        heard = socket.until_end()
        assert heard[-1]["type"] == "turn.completed"
        assert "retrying" in [event["state"] for event in heard if event["type"] == "status"]
        socket.say("error 402", heard[0]["conversation"])
        heard = socket.until_end()
        assert heard[-1]["type"] == "turn.failed"
        socket.say("words 3", heard[0]["conversation"])
        assert socket.until_end()[-1]["type"] == "turn.completed"


# Mounts that nobody else sees, which an ordinary user may make as the owner of a namespace. What that takes is laid
# down again before the runner begins.
OWN_MOUNTS = (
    ["unshare", "--mount"]
    if AS_ROOT
    else ["unshare", "--user", "--map-current-user", "--keep-caps", "--mount"]
)
SMALL_DISK = """
mount -t tmpfs -o size=4m,mode=711 none "$1"; shift
exec setpriv --inh-caps=-all --ambient-caps=-all "$@"
"""


@pytest.fixture
def small_disk(cluster: Installation) -> Path:
    """All conversations of the runner `small` share a disk of a few megabytes, which lies here."""
    folder = cluster.folder / "s" / hashlib.sha256(b"small").hexdigest()[:6] / "c"
    folder.mkdir(parents=True, exist_ok=True)
    for above in (folder.parent, folder.parent.parent):
        above.chmod(0o711)
    within = [*OWN_MOUNTS, "/bin/sh", "-ec", SMALL_DISK, "small", str(folder)]
    runner = cluster.only_runners("small", within=within)["small"]
    return Path(f"/proc/{runner.child.pid}/root", *folder.parts[1:])


def test_a_full_disk_is_told_and_the_line_lives_on(
    cluster: Installation, client: Client, small_disk: Path
) -> None:
    with client.socket() as socket:
        socket.say("run head -c 9000000 /dev/zero > big; echo ended with $?")
        heard = socket.until("permission.requested")
        socket.send("permission", request=heard[-1]["request"], decision="allow")
        heard += socket.until_end()
        conversation = heard[0]["conversation"]
        assert "No space left" in json.dumps(heard), heard

        # The disk stays full; conversations begin and go on all the same.
        socket.say("words 3", conversation)
        assert socket.until_end()[-1]["type"] == "turn.completed"
        socket.say("words 4")
        assert socket.until_end()[-1]["type"] == "turn.completed"

        next(small_disk.glob(f"{conversation}/workspace/big")).unlink()
        socket.say("recall", conversation)
        answer = socket.until_end()
        assert answer[-1]["type"] == "turn.completed"
        assert "head -c 9000000" in text_of(answer)
    cluster.only_runners()
