"""A runner that is no root: `python -m tests.claude_runner.ordinary FOLDER` prints what it saw as JSON.

Started by root it becomes another uid first. Its interpreter may lie where that uid cannot read, so it loads
all that a turn needs by taking one before.
"""

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from uuid import uuid4

from claude_agent_sdk import InMemorySessionStore

from claude_runner import (
    Answer,
    LaunchSpec,
    Pool,
    Question,
    RunnerSettings,
    ToolFinished,
    TurnEnd,
    Upstream,
    prove_tier,
)
from claude_runner.scripted_model import ScriptedModel
from tests.purse import Purse
from tests.uids import AS_ROOT, ORDINARY, become

LOOK = (
    "run (env -i setsid sleep 4715 >/dev/null 2>&1 &) ; "
    "id -u; cat /etc/shadow; ls /home; cat /proc/net/dev | tail -n +3; "
    "prlimit --pid RUNNER --core=0 && echo limited; renice -n 19 -p RUNNER && echo slowed; "
    "renice -n 19 -u $(id -u) && echo slowed; true"
)


async def _allow(_question: Question) -> Answer:
    return Answer("allow")


async def _turn(folder: Path, cli: Path | None = None) -> dict[str, object]:
    settings = RunnerSettings(folder, cli_path=cli)
    proof = prove_tier(settings)
    pool = Pool(settings, proof.tier)
    look = LOOK.replace("RUNNER", str(os.getpid()))
    output = ""
    outcome = ""
    async with ScriptedModel() as model:
        spec, account = LaunchSpec(str(uuid4()), "t"), Purse(Upstream("api_key", model.url, "key"))
        async for event in pool.turn(spec, account, InMemorySessionStore(), look, _allow):
            if isinstance(event, ToolFinished):
                output += event.output
            if isinstance(event, TurnEnd):
                outcome = event.outcome
        await pool.stop_all()
    told = {
        "uid": os.getuid(),
        "tier": proof.tier,
        "reason": proof.reason,
        "parts_tenants": proof.parts_tenants,
    }
    return told | {"output": output, "outcome": outcome, "left": _left()}


def _left() -> list[str]:
    """Children that are still there."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def main() -> None:
    if AS_ROOT:
        with tempfile.TemporaryDirectory(prefix="p-", dir="/tmp") as folder:
            asyncio.run(_turn(Path(folder)))
    become(ORDINARY)
    sys.stdout.write(json.dumps(asyncio.run(_turn(Path(sys.argv[1])))))


if __name__ == "__main__":
    main()
