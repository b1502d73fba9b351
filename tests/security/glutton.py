"""An agent that takes all it can get: `python -m tests.security.glutton FOLDER UID` prints what became of it.

Each deed is done by the real CLI's own Bash in a conversation of its own, beside a neighbour that goes on
working. Started by root it becomes UID first (0 stays root); one turn comes before, see `agent.py`.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from uuid import uuid4

from claude_agent_sdk import InMemorySessionStore

from claude_runner import (
    Answer,
    LaunchSpec,
    Limits,
    Pool,
    Question,
    RunnerSettings,
    Tier,
    ToolFinished,
    TurnEnd,
    Upstream,
    prove_tier,
)
from claude_runner.census import Census
from claude_runner.sandbox import UNWALLED
from claude_runner.scripted_model import ScriptedModel
from tests.purse import Purse
from tests.uids import become

LIMITS = Limits(
    memory=700 << 20,
    processes=250,
    cpu=5.0,
    disk=100 << 20,
    files=1_500,
    file=300 << 20,
    turn=25.0,
)
# Becomes a number of seconds that no process of anybody else sleeps, nor one of another deed.
LONG = "LONG"
# A daemon as they are made: its own session, its parent gone, deaf, its environment emptied.
DAEMON = f"(trap '' HUP TERM INT; env -i setsid /bin/sh -c '(sleep {LONG} &)' </dev/null >/dev/null 2>&1 &)"
# Perl that goes on in a thread while its main thread ends.
WITHOUT_MAIN = (
    "perl -Mthreads -MPOSIX=uname -e '"
    "threads->create(sub { select(undef, undef, undef, 0.3); THREAD; sleep LONG }); "
    "syscall((uname)[4] eq q(x86_64) ? 60 : 93, 0)'"
)
# Its youngest process shows nobody its root.
FILL_TMP = (
    f"({WITHOUT_MAIN.replace('THREAD', '1')}; true) & sleep 1; "
    f"for i in 1 2 3; do head -c 280M /dev/zero >/tmp/full$i; done; sleep {LONG}"
)
DEEDS = {
    "a turn without an end": f"sleep {LONG}",
    "fork bomb": f"bomb() {{ bomb | bomb & }}; bomb; sleep {LONG}",
    "memory": f"perl -e '$x = q(x) x (800 << 20); sleep {LONG}'",
    "memory without a main thread": WITHOUT_MAIN.replace("THREAD", "my $n = 800 << 20; my $x = q(x) x $n"),
    "memory in /tmp": FILL_TMP,
    "disk": f"head -c 130M /dev/zero >full; sleep {LONG}",
    "deleted files": (
        "perl -e 'for (1..4) { open($f[$_], q(>), q(x)); unlink q(x); syswrite $f[$_], q(y) x (40 << 20) } "
        "sleep LONG'"
    ),
    "files below any path": (
        "perl -e 'for (1..60) { mkdir q(d) x 200; chdir q(d) x 200 } "
        "for (1..4) { open(F, q(>), $_); print F q(y) x (40 << 20); close F } sleep LONG'"
    ),
    "one file": "head -c 400M /dev/zero >/tmp/full || echo refused; rm /tmp/full",
    "small files": f"seq 2500 | xargs touch; sleep {LONG}",
    "small files in /tmp": f"cd /tmp; seq 2500 | xargs touch; sleep {LONG}",
    "processor": f"while :; do :; done & while :; do :; done; sleep {LONG}",
    "a daemon": f"{DAEMON}; echo started",
    "a bomb of daemons": f"for i in 1 2 3 4 5 6 7 8; do {DAEMON}; done; echo started",
}
AT_ONCE = 3


@dataclass
class Did:
    """What became of one deed. `left`: commands of its processes a second after its turn."""

    outcome: str = ""
    error: str = ""
    output: str = ""
    seconds: float = 0.0
    left: list[str] = field(default_factory=list)
    next: str = ""


async def _allow(_question: Question) -> Answer:
    return Answer("allow")


class Glutton:
    def __init__(self, pool: Pool, purse: Purse, at_once: int) -> None:
        self._pool, self._purse = pool, purse
        self._numbers = count(10**10 + 1000 * os.getpid())
        self._lanes = asyncio.Semaphore(at_once)

    async def say(self, spec: LaunchSpec, store: InMemorySessionStore, text: str) -> Did:
        did, began = Did(), time.monotonic()
        async for event in self._pool.turn(spec, self._purse, store, text, _allow):
            if isinstance(event, ToolFinished):
                did.output += event.output[:1000]
            if isinstance(event, TurnEnd):
                did.outcome, did.error = event.outcome, (event.error or {}).get("message", "")
        did.seconds = time.monotonic() - began
        return did

    async def does(self, deed: str) -> Did:
        spec, store = LaunchSpec(str(uuid4()), "tenant-a"), InMemorySessionStore()
        async with self._lanes:
            number = next(self._numbers)
            did = await self.say(spec, store, f"run {deed.replace(LONG, str(number))}")
            await asyncio.sleep(1)
            did.left = self._left(spec, number)
            did.next = (await self.say(spec, store, "run echo still here")).output.strip()
            await self._pool.stop(spec.conversation)
        return did

    def _left(self, spec: LaunchSpec, number: int) -> list[str]:
        """What still runs of its deed, wherever it went: below the CLI, or anywhere with our number."""
        process = self._pool._processes.get(spec.conversation)
        family = Census().family(process.pid) if process is not None and process.pid else []
        below = [_command(one.pid) for one in family]
        anywhere = [_command(int(name)) for name in os.listdir("/proc") if name.isdigit()]
        tools = ("/bin/bash -c", "sleep", "perl", "head", "xargs", "touch")
        return [one for one in below if one.startswith(tools)] + [
            one for one in anywhere if _is_deed(one, number)
        ]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _is_deed(command: str, number: int) -> bool:
    return f"sleep {number}" in command and "tests.security" not in command


def _host(folder: Path) -> RunnerSettings:
    folder.chmod(0o711)  # other uids pass through, as in operation
    settings = RunnerSettings(folder / "s", limits=LIMITS)
    settings.sandbox_dir.mkdir(mode=0o711)
    return settings


async def _gorge(folder: Path, deeds: dict[str, str], tier: Tier | None = None) -> dict[str, object]:
    settings = _host(folder)
    tier = tier or prove_tier(settings).tier
    pool = Pool(settings, tier)
    async with ScriptedModel() as model:
        # Without a count of their own they would feel each other.
        at_once = 1 if tier in UNWALLED else AT_ONCE
        glutton = Glutton(pool, Purse(Upstream("api_key", model.url, "key")), at_once)
        neighbour, store = LaunchSpec(str(uuid4()), "tenant-b"), InMemorySessionStore()
        await glutton.say(neighbour, store, "write mine.txt: mine")
        before = pool._processes[neighbour.conversation].pid
        did = dict(zip(deeds, await asyncio.gather(*map(glutton.does, deeds.values())), strict=True))
        answer = await glutton.say(neighbour, store, "run cat mine.txt")
        same = pool._processes[neighbour.conversation].pid == before
    await pool.stop_all()
    neighbours = {"outcome": answer.outcome, "output": answer.output, "same": same}
    return {"tier": tier, "did": {name: vars(one) for name, one in did.items()}, "neighbour": neighbours}


def main() -> None:
    uid = int(sys.argv[2])
    tier = Tier(sys.argv[3]) if len(sys.argv) > 3 else None
    deeds = {name: DEEDS[name] for name in sys.argv[4:]} or DEEDS
    if uid != os.geteuid():
        with tempfile.TemporaryDirectory(prefix="p-", dir="/tmp") as folder:
            asyncio.run(_gorge(Path(folder), {"nothing": "true"}))
    become(uid)
    sys.stdout.write(json.dumps(asyncio.run(_gorge(Path(sys.argv[1]), deeds, tier))))


if __name__ == "__main__":
    main()
