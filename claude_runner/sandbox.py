"""How a command is walled in, per tier: the argv, the environment made from nothing, and the inner paths."""

import json
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claude_runner.census import threads_of
from claude_runner.cgroup import Group
from claude_runner.confine import CROWDED
from claude_runner.errors import SandboxUnavailable
from claude_runner.folders import Place
from claude_runner.limits import crowd, kernel_walls
from claude_runner.spec import Limits, Tier

TMP_BYTES, SHM_BYTES = 1 << 30, 256 << 20
SYSTEM_FILES = (
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/pki",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
)
# What Landlock leaves to read of the host's own /etc and /proc; not what tells of other processes or sockets.
READABLE = (
    *("/etc/passwd", "/etc/group", "/etc/bash.bashrc", "/etc/hosts", "/etc/nsswitch.conf"),
    *("/proc/self/status", "/proc/meminfo", "/proc/cpuinfo", "/proc/stat", "/proc/version"),
)
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")
# Tiers that show a process the host's own paths.
UNWALLED = frozenset({Tier.LANDLOCK, Tier.NONE})
INNER_INIT = "/run/sandbox-init"
# Waits for the command, and buries whatever else comes back to the first process. Its end is the end of all. Like
# `confine.py` it tells when the command failed in a crowd, without a process more: there may be no room for one.
INIT = (
    'crowd=$1; shift; "$@"; ended=$?; set -- /proc/[0-9]*/task/*; '
    f'if [ $ended != 0 ] && [ $# -gt "$crowd" ]; then exit {CROWDED}; fi; exit $ended'
)
ENTER = 'while test "$1" != --; do echo 0 >"$1"; shift; done; shift; exec "$@"'
CALLS_FD = 9
USR_LINKS = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")


@dataclass(frozen=True, slots=True)
class Inside:
    """The paths as the process sees them."""

    home: Path
    workspace: Path
    config: Path
    socket: Path
    cli: Path


@dataclass(frozen=True, slots=True)
class Launch:
    """A command ready to start. `walled`: its first child is the init of a process namespace of its own.

    `kept`: its first process is our own `confine.py`, which ends all below it on SIGTERM.
    """

    argv: list[str]
    env: dict[str, str]
    cwd: Path
    walled: bool
    kept: bool = False


BEHIND_BUBBLEWRAP = Inside(
    home=Path("/home/agent"),
    workspace=Path("/workspace"),
    config=Path("/config"),
    socket=Path("/run/model.sock"),
    cli=Path("/run/claude"),
)


def inside(tier: Tier, place: Place, cli: Path) -> Inside:
    if tier in UNWALLED:
        return Inside(place.home, place.workspace, place.config, place.socket, cli)
    return BEHIND_BUBBLEWRAP


def walled(
    tier: Tier,
    place: Place,
    cli: Path,
    arguments: list[str],
    env: dict[str, str],
    limits: Limits | None = None,
    group: Group | None = None,
) -> Launch:
    """The command that runs `arguments` (the first an inner path) within the tier's walls.

    As root every tier drops to the place's own uid first: under bubblewrap root still reads root's files.
    """
    env = {**_plain_environment(tier, place), **env}
    if tier is Tier.LANDLOCK:
        env["GIT_CONFIG_NOSYSTEM"] = "1"  # git fails where it may not read that
    own_count = place.uid is not None or (tier not in UNWALLED and _counts_by_namespace())
    beside = 0 if own_count else threads_of(os.getuid())
    limits = limits or Limits()
    arguments = [*kernel_walls(limits, beside=beside), *arguments]
    if tier in UNWALLED:
        argv = [*_entering(group), *_confined(tier, place, cli, crowd(limits)), *arguments]
        return Launch(argv, env, place.workspace, walled=False, kept=True)
    argv = [
        *_entering(group),
        *_filtered(place),
        *_drop(place),
        *_bubblewrap(place, cli, env),
        "--",
        *(INNER_INIT, "-c", INIT, "init", str(crowd(limits))),
        *arguments,
    ]
    return Launch(argv, {}, Path("/"), walled=True)


def _plain_environment(tier: Tier, place: Place) -> dict[str, str]:
    paths = inside(tier, place, Path())
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(paths.home),
        "PWD": str(paths.workspace),
        "USER": "agent",
        "LOGNAME": "agent",
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "TMPDIR": str(place.home) if tier in UNWALLED else "/tmp",
    }


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise SandboxUnavailable(f"{name} is missing: apt-get install bubblewrap util-linux")
    return path


def _counts_by_namespace() -> bool:
    """Since Linux 5.14 a uid's processes are counted for each user namespace by itself."""
    major, minor = platform.release().split(".")[:2]
    return (int(major), int(minor)) >= (5, 14)


def _entering(group: Group | None) -> list[str]:
    """Enters the group before anything is started, so that nothing is ever outside."""
    if group is None or not group.folders:
        return []
    doors = [str(folder / "cgroup.procs") for folder in group.folders]
    return ["/bin/sh", "-ec", ENTER, "sandbox", *doors, "--"]


def _filtered(place: Place) -> list[str]:
    """Opens the filter for bubblewrap, each time anew: who shares an open file shares how far it is read."""
    return ["/bin/sh", "-c", f'calls=$1; shift; exec "$@" {CALLS_FD}<"$calls"', "sandbox", str(place.calls)]


def _drop(place: Place) -> list[str]:
    uid = place.uid
    ids = [] if uid is None else [f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    return [_tool("setpriv"), *ids, "--no-new-privs", "--"]


def _confined(tier: Tier, place: Place, cli: Path, crowd: int) -> list[str]:
    wanted: dict[str, Any] = {"uid": place.uid, "filter": None, "read": None, "write": None, "crowd": crowd}
    if tier is Tier.LANDLOCK:
        own = (place.home, place.workspace, place.config, place.socket)
        wanted["filter"] = str(place.calls_offline)
        wanted["read"] = ["/usr", *(f"/{name}" for name in USR_LINKS), *SYSTEM_FILES, *READABLE, str(cli)]
        wanted["write"] = [*DEVICES, *map(str, own)]
    return [sys.executable, "-I", "-S", str(place.confine), json.dumps(wanted)]


def _bubblewrap(place: Place, cli: Path, env: dict[str, str]) -> list[str]:
    argv = [
        _tool("bwrap"),
        *("--seccomp", str(CALLS_FD)),
        *("--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"),
        # bubblewrap's own first process lets others into its memory.
        "--as-pid-1",
        *("--uid", "1000", "--gid", "1000", "--hostname", "sandbox", "--clearenv"),
        *("--ro-bind", "/usr", "/usr"),
        *_usr_links(),
        *(part for path in SYSTEM_FILES for part in ("--ro-bind-try", path, path)),
        *(
            part
            for path in sorted(place.etc.iterdir())
            for part in ("--ro-bind", str(path), f"/etc/{path.name}")
        ),
        *("--proc", "/proc", "--size", str(TMP_BYTES), "--tmpfs", "/tmp"),
        # bubblewrap's own /dev is a file system to write to, as large as half of the memory.
        *("--dev", "/dev", "--size", str(SHM_BYTES), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"),
        *("--bind", str(place.home), str(BEHIND_BUBBLEWRAP.home)),
        *("--bind", str(place.workspace), str(BEHIND_BUBBLEWRAP.workspace)),
        *("--bind", str(place.config), str(BEHIND_BUBBLEWRAP.config)),
        *("--ro-bind-try", str(place.socket), str(BEHIND_BUBBLEWRAP.socket)),
        *("--ro-bind", str(cli), str(BEHIND_BUBBLEWRAP.cli)),
        *("--ro-bind", str(place.init), INNER_INIT),
        *("--remount-ro", "/", "--chdir", str(BEHIND_BUBBLEWRAP.workspace)),
    ]
    return [*argv, *(part for name, value in env.items() for part in ("--setenv", name, value))]


def _usr_links() -> list[str]:
    """The links /bin, /lib … of a merged /usr; where one is a folder of its own, that folder."""
    argv: list[str] = []
    for name in USR_LINKS:
        path = Path("/", name)
        if path.is_symlink():
            argv += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            argv += ["--ro-bind", str(path), str(path)]
    return argv
