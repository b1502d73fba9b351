"""Which tier a real start proves on this machine."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from uuid import uuid4

from claude_runner.errors import SandboxUnavailable
from claude_runner.folders import Folders, Place
from claude_runner.sandbox import walled
from claude_runner.spec import Proof, RunnerSettings, Tier

# Each line of output names a hole. Runs inside, with nothing but a shell and coreutils.
LOOK_AROUND = """
interfaces=$(tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' | grep -vx lo)
test -z "$interfaces" || echo "it sees the network interfaces $interfaces"
cat /etc/shadow >/dev/null 2>&1 && echo "it reads /etc/shadow"
unshare -U true 2>/dev/null && echo "it can make user namespaces"
test "$(id -u)" = 1000 || echo "it runs as uid $(id -u)"
test "$(grep -c NoNewPrivs:.1 /proc/self/status)" = 1 || echo "it may gain privileges"
touch /usr/hole 2>/dev/null && echo "it writes to /usr"
test "$(cat /proc/1/comm)" = bwrap || echo "it sees the host's processes"
touch /workspace/hello && touch "$HOME/hello" || echo "it cannot write to its own folders"
rm -f /workspace/hello "$HOME/hello"
echo looked
"""
HINT = "apt-get install bubblewrap, and allow unprivileged user namespaces on this machine"


def prove_tier(settings: RunnerSettings) -> Proof:
    """Start each tier's sandbox from the strongest down and look around in it. Blocks for about 0.1 s.

    With `settings.tier` named, nothing weaker is tried: raises `SandboxUnavailable` with the reason.
    """
    folders = Folders(settings)
    reasons = []
    for tier in Tier:
        try:
            _prove(tier, folders)
        except SandboxUnavailable as error:
            reasons.append(f"{tier}: {error}")
        else:
            return Proof(tier, "; ".join(reasons))
        if tier is settings.tier:
            break
    raise SandboxUnavailable("; ".join(reasons))


def _prove(tier: Tier, folders: Folders) -> None:
    as_root = os.geteuid() == 0
    if tier is Tier.BUBBLEWRAP_UID and not as_root:
        raise SandboxUnavailable("a uid of its own for each conversation needs a runner started as root")
    if tier is Tier.BUBBLEWRAP and as_root:
        raise SandboxUnavailable("root always drops, so this is the tier above or none")
    with _visit(folders) as place:
        if tier is Tier.NONE:
            return
        holes = _look_around(tier, place)
    if holes != ["looked"]:
        raise SandboxUnavailable("; ".join(holes[:-1] or holes))


@contextlib.contextmanager
def _visit(folders: Folders) -> Iterator[Place]:
    conversation = str(uuid4())
    place = folders.place(conversation)
    place.fresh_config()
    try:
        yield place
    finally:
        folders.forget(conversation)


def _look_around(tier: Tier, place: Place) -> list[str]:
    launch = walled(
        tier, place, place.folder.parent.parent / "etc" / "hosts", ["/bin/sh", "-c", LOOK_AROUND], {}
    )
    try:
        done = subprocess.run(
            launch.argv,
            env=launch.env,
            cwd=launch.cwd,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SandboxUnavailable(f"it does not start ({error}): {HINT}") from error
    if done.returncode:
        raise SandboxUnavailable(f"it does not start ({done.stderr.strip()[:200]}): {HINT}")
    return done.stdout.splitlines()
