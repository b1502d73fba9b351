"""How a command is walled in, per tier: the argv, the environment made from nothing, and the inner paths."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from claude_runner.errors import SandboxUnavailable
from claude_runner.folders import Place
from claude_runner.spec import Tier

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
    """A command ready to start. `walled`: its first child is the init of a process namespace of its own."""

    argv: list[str]
    env: dict[str, str]
    cwd: Path
    walled: bool


BEHIND_BUBBLEWRAP = Inside(
    home=Path("/home/agent"),
    workspace=Path("/workspace"),
    config=Path("/config"),
    socket=Path("/run/model.sock"),
    cli=Path("/run/claude"),
)


def inside(tier: Tier, place: Place, cli: Path) -> Inside:
    if tier is Tier.NONE:
        return Inside(place.home, place.workspace, place.config, place.socket, cli)
    return BEHIND_BUBBLEWRAP


def walled(tier: Tier, place: Place, cli: Path, arguments: list[str], env: dict[str, str]) -> Launch:
    """The command that runs `arguments` (the first an inner path) within the tier's walls.

    As root every tier drops to the place's own uid first: under bubblewrap root still reads root's files.
    """
    env = {**_plain_environment(tier, place), **env}
    if tier is Tier.NONE:
        argv = [*_drop(place, dies_with_parent=True), *arguments]
        return Launch(argv, env, place.workspace, walled=False)
    argv = [*_filtered(place), *_drop(place), *_bubblewrap(place, cli, env), "--", *arguments]
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
        "TMPDIR": str(place.home) if tier is Tier.NONE else "/tmp",
    }


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise SandboxUnavailable(f"{name} is missing: apt-get install bubblewrap util-linux")
    return path


def _filtered(place: Place) -> list[str]:
    """Opens the filter for bubblewrap, each time anew: who shares an open file shares how far it is read."""
    return ["/bin/sh", "-c", f'calls=$1; shift; exec "$@" {CALLS_FD}<"$calls"', "sandbox", str(place.calls)]


def _drop(place: Place, *, dies_with_parent: bool = False) -> list[str]:
    if place.uid is None:
        argv = [_tool("setpriv"), "--no-new-privs"]
    else:
        ids = [f"--reuid={place.uid}", f"--regid={place.uid}", "--clear-groups"]
        argv = [_tool("setpriv"), *ids, "--no-new-privs"]
    return [*argv, *(["--pdeathsig=KILL"] if dies_with_parent else []), "--"]


def _bubblewrap(place: Place, cli: Path, env: dict[str, str]) -> list[str]:
    argv = [
        _tool("bwrap"),
        *("--seccomp", str(CALLS_FD)),
        *("--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"),
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
