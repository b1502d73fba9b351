"""Which tier a real start proves on this machine."""

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from claude_runner.cli import stage_cli
from claude_runner.errors import EngineError, SandboxUnavailable
from claude_runner.folders import Folders, Place
from claude_runner.sandbox import Launch, inside, walled
from claude_runner.spec import OWN_UID, Finding, Proof, RunnerSettings, Tier

# Each line of output is a probe's name, a tab, and the hole it found or nothing. Runs inside, with a shell and
# coreutils. Arguments: a neighbour's folder and socket, a socket of the runner's user, a port that the host listens
# on, the host's namespaces, and the CLI.
LOOK_AROUND = r"""
neighbour=$1 socket=$2 users=$3 port=$4 namespaces=$5 cli=$6
found() { printf '%s\t%s\n' "$1" "$2"; }
while read -r name value; do status="$status $name$value "; done </proc/self/status
has() { case "$status" in *" $1 "*) ;; *) return 1 ;; esac; }
connects() { timeout 1 bash -c "exec 3<>/dev/tcp/$1/$2" 2>/dev/null && echo "it connects to $1:$2"; }
writes() { for path; do (true >"$path/hole") 2>/dev/null && rm "$path/hole" && echo "it writes to $path"; done; }
opens() { for path; do (exec 3<>"$path") 2>/dev/null && echo "it opens $path"; done; }
gets_into() {
    sleep 9 | "$1" -p --input-format stream-json --output-format stream-json --verbose >/dev/null 2>&1 &
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        { read -r name </proc/$!/comm; } 2>/dev/null
        test "$name" = "${1##*/}" && break
        sleep 0.01
    done
    test "${name:-${1##*/}}" = "${1##*/}" || echo 'the CLI does not start'
    opens /proc/1/mem /proc/1/fd/0 /proc/$!/mem /proc/$!/fd/0 /proc/$!/fd/1
    kill -KILL $!
    test -r "$1" && echo 'it reads the CLI'
    chmod 0111 "$1" 2>/dev/null && echo 'the CLI is its own'
}
same() {
    for ns in $namespaces; do
        own=$(readlink /proc/self/ns/${ns%%:*})
        test -n "$own" && test "$own" != "$ns" || echo "${ns%%:*}"
    done
}

interfaces=$(tail -n +3 /proc/net/dev 2>/dev/null | cut -d: -f1 | tr -d ' ' | grep -vx lo | tr '\n' ' ')
# To connect UDP sends nothing: it only asks for a way.
route=$(bash -c 'exec 3<>/dev/udp/192.0.2.1/9' 2>/dev/null && echo 'it has a way out')
found network "${interfaces:+it sees the network interfaces $interfaces}$route"
found 'loopback services' "$(connects 127.0.0.1 $port)"
found 'metadata address' "$(connects 169.254.169.254 80)"
found 'shadow file' "$(cat /etc/shadow >/dev/null 2>&1 && echo 'it reads /etc/shadow')"
found 'user namespaces' "$(unshare -U true 2>/dev/null && echo 'it can make user namespaces')"
found mount "$(mount -t tmpfs none /tmp 2>/dev/null && echo 'it can mount')"
found uid "$(test $(id -u) = 0 && echo 'it runs as root')"
privileges=$(has NoNewPrivs:1 && has CapEff:0000000000000000 || echo 'it has or may gain privileges')
found privileges "$privileges"
found 'system calls' "$(has Seccomp:2 || echo 'no filter of system calls is loaded')"
found 'read-only system' "$(echo $(writes / /usr /etc /dev /run))"
first=$(cat /proc/1/comm 2>/dev/null)
foreign=$(test "${first:-sandbox-init}" = sandbox-init || echo "it sees the host's processes")
found 'foreign processes' "$foreign"
shared=$(echo $(same))
found namespaces "${shared:+it shares the namespaces $shared with the host}"
found "the CLI's memory" "$(echo $(gets_into "$cli"))"
own=$(touch hello "$HOME/hello" 2>/dev/null && rm hello "$HOME/hello" || echo 'it cannot write to its own folders')
found 'own folders' "$own"
found 'other conversations' "$(ls "$neighbour" >/dev/null 2>&1 && echo "it opens a neighbour's folder")"
found 'gateway sockets' "$(test -w "$socket" && echo "it opens a neighbour's socket")"
known='GIT_CONFIG_NOSYSTEM|HOME|LANG|LOGNAME|OLDPWD|PATH|PWD|SHELL|SHLVL|TERM|TMPDIR|USER|_|'
variables=$({ env; cat /proc/[0-9]*/environ 2>/dev/null | tr '\0' '\n'; } | cut -d= -f1 | sort -u)
foreign=$(echo "$variables" | grep -vxE "$known" | head -5)
found 'host sockets' "$(test -w "$users" && echo "it opens the sockets of the runner's user")"
found environment "${foreign:+it reads the variables $(echo $foreign)}"
"""
# The one probe of what has to work: a full disk fails it too.
OWN_FOLDERS = "own folders"
NAMES = (
    *("network", "loopback services", "metadata address", "shadow file", "user namespaces", "mount", "uid"),
    *("privileges", "system calls", "read-only system", "foreign processes", "namespaces"),
    *(
        "the CLI's memory",
        OWN_FOLDERS,
        "other conversations",
        "gateway sockets",
        "host sockets",
        "environment",
    ),
    OWN_UID,
)
# What a tier may lack and still be proved.
LACKS: dict[Tier, frozenset[str]] = {
    Tier.BUBBLEWRAP_UID: frozenset(),
    Tier.BUBBLEWRAP: frozenset({OWN_UID}),
    # Its processes stand beside the host's; without a uid of its own, sockets and the CLI's file belong to it, and
    # it is for one tenant only (`Proof.parts_tenants`).
    Tier.LANDLOCK: frozenset({OWN_UID, "namespaces", "gateway sockets", "host sockets", "the CLI's memory"}),
    Tier.NONE: frozenset(NAMES),
}
HINTS = {
    Tier.BUBBLEWRAP_UID: "apt-get install bubblewrap, and allow user namespaces on this machine",
    Tier.BUBBLEWRAP: "apt-get install bubblewrap, and allow unprivileged user namespaces on this machine",
    Tier.LANDLOCK: "it takes Linux 5.13 with landlock among the security modules that it starts with",
    Tier.NONE: "the runner's Python has to be readable for the runner's user",
}


def prove_tier(settings: RunnerSettings) -> Proof:
    """Start each tier's sandbox from the strongest down and look around in it. Blocks for about 0.1 s.

    With `settings.tier` named, nothing weaker is tried: raises `SandboxUnavailable` with the reason.
    May be called at any time, beside live sandboxes, in a thread that lives as long as the call.
    """
    reasons = []
    for tier in Tier:
        try:
            findings = _prove(tier, settings)
        except SandboxUnavailable as error:
            reasons.append(f"{tier}: {error}")
        else:
            return Proof(tier, "; ".join(reasons), findings)
        if tier is settings.tier:
            break
    raise SandboxUnavailable("; ".join(reasons))


def prove_again(settings: RunnerSettings, tier: Tier) -> tuple[str, tuple[Finding, ...]]:
    """Whether a tier that was proved once still holds: ("", findings), or its holes in words, and findings.

    SandboxUnavailable where nobody could look: a full disk, a machine too busy to start anything. That says nothing
    of sandboxes that stand. Blocks as `prove_tier` does.
    """
    try:
        findings = findings_of(tier, settings)
    except OSError as error:
        raise SandboxUnavailable(f"{tier}: it could not be looked into: {error}") from error
    except EngineError as error:
        raise SandboxUnavailable(f"{tier}: {error}") from error
    holes = _holes(tier, findings)
    if [hole.name for hole in holes] == [OWN_FOLDERS]:
        raise SandboxUnavailable(f"{tier}: {holes[0].detail}")
    return "; ".join(f"{hole.name}: {hole.detail}" for hole in holes), findings


def _holes(tier: Tier, findings: tuple[Finding, ...]) -> list[Finding]:
    """What fails although the tier promises it."""
    return [finding for finding in findings if not finding.holds and finding.name not in LACKS[tier]]


def _prove(tier: Tier, settings: RunnerSettings) -> tuple[Finding, ...]:
    as_root = os.geteuid() == 0
    if tier is Tier.BUBBLEWRAP_UID and not as_root:
        raise SandboxUnavailable("a uid of its own for each conversation needs a runner started as root")
    if tier is Tier.BUBBLEWRAP and as_root:
        raise SandboxUnavailable("root always drops, so this is the tier above or none")
    findings = findings_of(tier, settings)
    if holes := _holes(tier, findings):
        raise SandboxUnavailable("; ".join(f"{hole.name}: {hole.detail}" for hole in holes))
    if tier is Tier.NONE:
        return findings
    return tuple(finding for finding in findings if finding.holds or finding.name not in LACKS[tier])


def findings_of(tier: Tier, settings: RunnerSettings) -> tuple[Finding, ...]:
    """What each probe finds in a sandbox of that tier. SandboxUnavailable if it does not start."""
    folders, cli = Folders(settings), stage_cli(settings)
    with _visit(folders) as place, _visit(folders) as neighbour, _listening(neighbour) as (users, port):
        return _look_around(tier, place, neighbour, users, port, cli)


@contextlib.contextmanager
def _visit(folders: Folders) -> Iterator[Place]:
    conversation = str(uuid4())
    place = folders.place(conversation)
    place.fresh_config()
    try:
        yield place
    finally:
        folders.forget(conversation)


@contextlib.contextmanager
def _listening(neighbour: Place) -> Iterator[tuple[Path, int]]:
    """What a neighbour and the host have: a gateway's socket, one of the runner's user, a service on loopback."""
    own = neighbour.socket.with_suffix(".own")
    with (
        socket.socket(socket.AF_UNIX) as gateway,
        socket.socket(socket.AF_UNIX) as users,
        socket.socket(socket.AF_INET) as service,
    ):
        try:
            gateway.bind(str(neighbour.socket))
            users.bind(str(own))
            neighbour.own(neighbour.socket)
            neighbour.socket.chmod(0o600)
            own.chmod(0o600)
            service.bind(("127.0.0.1", 0))
            gateway.listen()
            users.listen()
            service.listen()
            yield own, service.getsockname()[1]
        finally:
            neighbour.socket.unlink(missing_ok=True)
            own.unlink(missing_ok=True)


def _look_around(
    tier: Tier, place: Place, neighbour: Place, users: Path, port: int, cli: Path
) -> tuple[Finding, ...]:
    namespaces = " ".join(
        os.readlink(f"/proc/self/ns/{kind}") for kind in ("ipc", "mnt", "net", "pid", "user", "uts")
    )
    script = ["/bin/sh", "-c", LOOK_AROUND, "probe"]
    seen = (neighbour.folder, neighbour.socket, users, port, namespaces, inside(tier, place, cli).cli)
    said = _run(walled(tier, place, cli, [*script, *map(str, seen)], {}), HINTS[tier])
    holes = dict(line.split("\t", 1) for line in said.splitlines() if "\t" in line)
    holes[OWN_UID] = "" if place.uid is not None else "it runs under the runner's own uid"
    return tuple(
        Finding(name, holes.get(name) == "", holes.get(name, "the probe gave no answer")) for name in NAMES
    )


def _run(launch: Launch, hint: str) -> str:
    try:
        done = subprocess.run(
            launch.argv,
            env=launch.env,
            cwd=launch.cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SandboxUnavailable(f"it does not start ({error}): {hint}") from error
    if done.returncode:
        raise SandboxUnavailable(f"it does not start ({done.stderr.strip()[:200]}): {hint}")
    return done.stdout
