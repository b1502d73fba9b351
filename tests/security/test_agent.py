"""T10, T14, T15, T17: an agent looks for credentials, other files, a network and holes, with the CLI's own tools.

As root asked of both tiers of bubblewrap: the runner's root drops to a uid of its own, an ordinary user's does not.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from claude_runner import Tier
from tests.security.agent import CANARY, CREDENTIAL, ENVIRONMENT, LOOKS, OPEN_THE_CLI, OUTLAWED, calls
from tests.uids import RUNNERS

pytestmark = pytest.mark.needs_bubblewrap

PROJECT = Path(__file__).resolve().parents[2]
REFUSED = ("Permission denied", "Operation not permitted")


@dataclass(frozen=True)
class Looked:
    """What the agent saw, by what it asked."""

    tier: str
    offered: list[str]
    sent: list[str]
    ends: list[str]
    seen: dict[str, str]

    def saw(self, beginning: str) -> str:
        return "\n".join(output for look, output in self.seen.items() if look.startswith(beginning))


def looked(uid: int) -> Looked:
    folder = tempfile.mkdtemp(prefix="p-", dir="/tmp")
    try:
        os.chown(folder, uid, -1)
        done = subprocess.run(
            [sys.executable, "-m", "tests.security.agent", folder, str(uid)],
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
            cwd=PROJECT,
            env=os.environ | {"MASTER_KEY": ENVIRONMENT, "DATABASE_URL": f"postgres://u:{ENVIRONMENT}@h/d"},
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert told["uid"] == uid
    return Looked(told["tier"], told["offered"], told["sent"], told["ends"], told["seen"])


@pytest.fixture(scope="module", params=RUNNERS.values(), ids=[*RUNNERS])
def agent(request: pytest.FixtureRequest) -> Looked:
    return looked(request.param)


def test_t10_the_tier_is_the_one_that_is_promised(agent: Looked) -> None:
    assert agent.tier in (Tier.BUBBLEWRAP_UID, Tier.BUBBLEWRAP)
    assert {"Bash", "Read", "Grep"} <= set(agent.offered)


def test_t10_the_credential_reached_the_model_and_nothing_inside(agent: Looked) -> None:
    assert set(agent.sent) == {CREDENTIAL}
    assert "ANTHROPIC_API_KEY=ssh-placeholder" in agent.saw("run env")
    assert all(output for output in agent.seen.values()), "each look answered something"
    assert set(agent.seen) == set(LOOKS)


def test_t10_no_canary_in_environment_proc_files_links_or_other_processes(agent: Looked) -> None:
    found = {look: output for look, output in agent.seen.items() if f"{CANARY}-" in output}
    assert found == {}


def test_t14_links_and_paths_that_leave_show_nothing_of_the_host(agent: Looked) -> None:
    assert "searched" in agent.saw("run grep")
    assert "root:" not in agent.saw("read")
    assert "does not exist" in agent.saw("read /etc/shadow")
    assert "does not exist" in agent.saw("read {host_file}")
    assert "own.txt" in agent.saw("run find")
    assert "mine.txt" not in str(agent.seen)


def test_t15_there_is_no_network_but_an_empty_loopback(agent: Looked) -> None:
    assert agent.saw("run cat /proc/net/dev").split()[0] == "lo"
    assert "eth0" not in agent.saw("run cat /proc/net/dev")
    refused = agent.saw("run for a in 127")
    assert refused.count("connect: Network is unreachable") == 3
    assert refused.count("connect: Connection refused") == 1


def test_t14_no_socket_of_the_host_is_in_reach(agent: Looked) -> None:
    sockets = [line for line in agent.saw("run find").splitlines() if line.endswith(".sock")]
    assert len(sockets) == 1, "the gateway's own"
    assert "postgres" not in agent.saw("run id")


def test_t14_no_shared_memory_and_no_queue_of_others(agent: Looked) -> None:
    shared = agent.saw("run ls /run")
    assert "model.sock" in shared
    assert shared.splitlines()[-1] == "1", "the heading of a list of shared memory that is empty"
    assert CANARY not in shared


def test_t15_a_service_that_listens_on_the_hosts_loopback_is_not_there(agent: Looked) -> None:
    """The model's own server, which the gateway reaches at this very address."""
    asked = agent.saw("run (exec 3<>")
    assert "127.0.0.1" in asked
    assert "connect: Connection refused" in asked
    assert "asked the service" in asked


def test_t15_no_name_resolves_and_no_other_network_is_reached(agent: Looked) -> None:
    assert "unresolved" in agent.saw("run getent")
    reached = agent.saw("run for a in ::1")
    assert (
        len(re.findall("connect: (Connection refused|Network is unreachable|Invalid argument)", reached)) >= 3
    )
    assert "eth0" not in agent.saw("run python3 -c 1")


def test_t17_system_calls_into_the_kernel_and_other_processes_are_refused(agent: Looked) -> None:
    answers = dict(re.findall(r"(\w+): ([^;]+);", agent.saw(f"run {calls(*OUTLAWED)}")))
    assert set(answers) == set(OUTLAWED)
    assert set(answers.values()) == {"Operation not permitted"}
    unfiltered = subprocess.run(
        ["/bin/bash", "-c", calls("keyctl", "add_key", "kcmp", "process_vm_readv")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Operation not permitted" not in unfiltered.stdout, (
        "outside the same calls get as far as the kernel"
    )


def test_t17_the_memory_and_the_descriptors_of_the_cli_and_of_pid_1_are_closed(agent: Looked) -> None:
    """Who writes there becomes the CLI: forges what it says and remembers, and outlives the turn."""
    answers = dict(re.findall(r"(\w+ [\w/]+): ([^;]+);", agent.saw(OPEN_THE_CLI)))
    opened = ("mem", "fd/0", "fd/1", "fd/2", "syscall", "environ")
    assert set(answers) == {f"{who} {what}" for who in ("cli", "init") for what in opened}
    assert {what: why for what, why in answers.items() if why not in REFUSED} == {}
    assert agent.ends == ["completed"]


def test_t17_no_namespace_within_a_namespace(agent: Looked) -> None:
    asked = agent.saw("run perl")
    assert "unshare: Operation not permitted;" in asked
    assert "clone: Operation not permitted;" in asked
    assert "clone3: Function not implemented;" in asked
    nested = agent.saw("run unshare")
    assert nested.count("unshare: unshare failed") == 2
    assert "nested" in nested


def test_t17_nothing_is_typed_into_a_terminal(agent: Looked) -> None:
    assert "ioctl: Operation not permitted;" in agent.saw("run perl")


def test_t17_no_raw_kernel_or_host_sockets(agent: Looked) -> None:
    answers = agent.saw("run for f in 17")
    assert answers.count("socket: Address family not supported by protocol;") == 4


def test_t17_setuid_programs_give_nothing(agent: Looked) -> None:
    lines = agent.saw("run cp /bin/sh").splitlines()
    assert lines[0] == "1000"
    status = dict(line.split(":\t") for line in lines[1:])
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert {status[name].strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {""}
    tried = agent.saw("run su").splitlines()
    assert tried[-1] == "tried"
    assert "0" not in tried
