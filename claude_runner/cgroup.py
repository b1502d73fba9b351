"""Control groups for conversations, where this runner may make them: version 2, version 1, or none at all.

Ours lie below the runner's own group, in version 1 for each controller by itself, and only where that group is ours
to divide: the root of what we see, one of our own user, or one that its maker has marked as handed over to us. They
are the kernel's walls behind the limits, count memory that no process maps, and share the processors out: all
that a conversation starts weighs as much as any other group, which is what the kernel gives to a new one.
"""

import contextlib
import hashlib
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

from claude_runner.census import contents
from claude_runner.spec import Limits

logger = logging.getLogger(__name__)

NEEDED = ("memory", "pids")
CONTROLLERS = (*NEEDED, "cpu")
# A controller of version 1 only: version 2 counts the time by itself.
COUNTS = "cpuacct"
PREFIX = "parley-"
# Where version 2 has the runner itself: a group that has groups below it may hold no process.
RUNNER = "parley-runner"
HANDED_OVER = ("user.delegate", "trusted.delegate")


@dataclass(frozen=True, slots=True)
class Group:
    """One conversation's: a folder per controller, or one for all. Who writes 0 to its `cgroup.procs` is in."""

    folders: tuple[Path, ...] = ()

    def set(self, limits: Limits, behind: float) -> None:
        """The kernel's walls, `behind` times as far as the limits."""
        memory, processes = int(limits.memory * behind), int(limits.processes * behind)
        walls = {"memory.max": memory, "memory.limit_in_bytes": memory, "pids.max": processes}
        for folder in self.folders:
            for name, wall in walls.items():
                if (folder / name).exists():
                    (folder / name).write_text(str(wall))

    def processes(self) -> list[int] | None:
        """All that are in it, main threads that have ended included. None where there is no group."""
        for folder in self.folders:
            with contextlib.suppress(OSError):
                return [int(pid) for pid in contents(f"{folder}/cgroup.procs").split()]
        return None

    def memory(self) -> int | None:
        """Bytes of processes, shared memory and file systems in memory. None where nothing counts them."""
        for folder in self.folders:
            if counted := _table(folder / "memory.stat"):
                names = ("total_rss", "total_shmem") if "total_rss" in counted else ("anon", "shmem")
                return sum(counted.get(name, 0) for name in names)
        return None

    def cpu(self) -> float | None:
        """Seconds of processor time that all have used that ever were in it. None where nothing counts them."""
        for folder in self.folders:
            with contextlib.suppress(OSError, ValueError):
                return int(contents(f"{folder}/cpuacct.usage")) / 1e9
            if (counted := _table(folder / "cpu.stat").get("usage_usec")) is not None:
                return counted / 1e6
        return None

    def killed(self) -> bool:
        """Whether the kernel has ended one of its processes for want of memory."""
        tables = [
            folder / name for folder in self.folders for name in ("memory.events", "memory.oom_control")
        ]
        return any(_table(table).get("oom_kill") for table in tables)

    def remove(self, within: float = 1.0) -> None:
        """Blocks until its last process is buried; one that stays is removed by the next runner."""
        deadline = time.monotonic() + within
        for folder in self.folders:
            while not _removed(folder) and time.monotonic() < deadline:
                time.sleep(0.01)


class Groups:
    """Where this runner makes them: `parents`, without repetition; empty where it may not.

    `folder` is this runner's own: its former process's groups are removed, and no neighbour's, of which one
    that was just made is as empty as one that was left.
    """

    def __init__(self, folder: Path, mounts: str = "", own: str = "") -> None:
        self._prefix = f"{PREFIX}{hashlib.sha256(bytes(folder)).hexdigest()[:8]}-"
        mounts = mounts or Path("/proc/self/mountinfo").read_text()
        own = own or Path("/proc/self/cgroup").read_text()
        found = [_version_2(mounts, own)] if _version_2(mounts, own) else _version_1(mounts, own)
        self.parents = tuple(dict.fromkeys(folder for folder in found if folder is not None))
        for parent in self.parents:
            for left in parent.glob(f"{self._prefix}*"):
                _removed(left)

    def make(self, conversation: str, limits: Limits, behind: float) -> Group:
        """A new group with these walls; one without folders where groups can't be made."""
        group = Group(tuple(parent / f"{self._prefix}{conversation}" for parent in self.parents))
        try:
            for folder in group.folders:
                folder.mkdir(exist_ok=True)
            group.set(limits, behind)
        except OSError as error:
            logger.warning("no control group for %s: %s", conversation, error)
            group.remove(0)
            return Group()
        return group


def _version_1(mounts: str, own: str) -> list[Path | None]:
    found = []
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in {*controllers.split(",")} & {*CONTROLLERS, COUNTS}:
            found.append(_folder(mounts, "cgroup", controller, path))
    return [folder for folder in found if folder is None or _is_ours(folder)]


def _version_2(mounts: str, own: str) -> Path | None:
    path = next((line[3:] for line in own.splitlines() if line.startswith("0::")), None)
    folder = None if path is None else _folder(mounts, "cgroup2", "", path)
    if folder is None:
        return None
    if folder.name == RUNNER:
        return folder.parent
    available = (folder / "cgroup.controllers").read_text().split()
    if not {*NEEDED} <= {*available} or not _is_ours(folder):
        return None
    try:
        (folder / RUNNER).mkdir(exist_ok=True)
        (folder / RUNNER / "cgroup.procs").write_text("0")
        wanted = [f"+{name}" for name in CONTROLLERS if name in available]
        (folder / "cgroup.subtree_control").write_text(" ".join(wanted))
    except OSError as error:
        logger.info("the control group %s is not only ours: %s", folder, error)
        return None
    return folder


def _folder(mounts: str, kind: str, controller: str, path: str) -> Path | None:
    """Where a group of that path shows, if its hierarchy is mounted to be written."""
    for line in mounts.splitlines():
        mount, _, rest = line.partition(" - ")
        _, _, _, root, point, options, *_ = mount.split()
        system, _, settings = rest.split(" ", 2)
        wanted = not controller or controller in settings.split(",")
        if system == kind and wanted and "rw" in options.split(","):
            below = os.path.relpath(path, root)
            if not below.startswith(".."):
                return Path(point, below)
    return None


def _is_ours(folder: Path) -> bool:
    if not os.access(folder, os.W_OK):
        return False
    is_root = not (folder.parent / "cgroup.procs").exists()
    return is_root or folder.stat().st_uid == os.geteuid() != 0 or _is_handed_over(folder)


def _is_handed_over(folder: Path) -> bool:
    for name in HANDED_OVER:
        with contextlib.suppress(OSError):
            if os.getxattr(folder, name) == b"1":
                return True
    return False


def _removed(folder: Path) -> bool:
    with contextlib.suppress(FileNotFoundError, OSError):
        folder.rmdir()
    return not folder.exists()


def _table(path: Path) -> dict[str, int]:
    with contextlib.suppress(OSError, ValueError):
        return {
            name: int(number) for name, number in map(str.split, contents(str(path)).decode().splitlines())
        }
    return {}
