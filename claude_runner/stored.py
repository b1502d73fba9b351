"""What lies in a conversation's folders, and what its processes hold open after it was deleted."""

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from claude_runner.spec import Limits

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Folders above the one that is read that are held open; deeper ones are found again from below.
HELD = 64


@dataclass(frozen=True, slots=True)
class Stored:
    bytes: int
    files: int


@dataclass(slots=True)
class _Level:
    """A folder on the way down: `inner` are those below that are still to be read."""

    descriptor: int
    identity: tuple[int, int]
    inner: list[str] = field(default_factory=list)


def stored(folder: Path, limits: Limits, pids: Iterable[int] = ()) -> Stored:
    """What lies in a folder, and what these processes hold of its file system that has no name any more.

    Does not count on when a limit is passed already.
    """
    count = _Count(limits)
    with contextlib.suppress(OSError):
        device = os.stat(folder).st_dev
        count.folder(folder)
        count.nameless(pids, device)
    return Stored(count.bytes, count.files)


class _Count:
    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.bytes = self.files = 0

    @property
    def _over(self) -> bool:
        return self.bytes > self._limits.disk or self.files > self._limits.files

    def folder(self, top: Path) -> None:
        """By descriptors: a path as long as an agent can make it opens nothing. Raises OSError for the top."""
        way = [self._level(os.open(top, FOLDER))]
        try:
            while way and not self._over:
                if way[-1].inner:
                    self._down(way)
                else:
                    self._up(way)
        finally:
            for level in way:
                _close(level)

    def _down(self, way: list[_Level]) -> None:
        outer = way[-1]
        # It may have gone away, or its owner closed it: what can't be read is what the quota misses.
        with contextlib.suppress(OSError):
            way.append(self._level(os.open(outer.inner.pop(), FOLDER, dir_fd=outer.descriptor)))
            if len(way) > HELD:
                _close(outer)

    def _up(self, way: list[_Level]) -> None:
        level = way.pop()
        try:
            if way and way[-1].descriptor < 0:
                way[-1].descriptor = os.open("..", FOLDER, dir_fd=level.descriptor)
                if _identity(way[-1].descriptor) != way[-1].identity:
                    # Moved while it was read, so deep down: nobody has to, who does not hide something.
                    self.files = self._limits.files + 1
        except OSError:
            self.files = self._limits.files + 1
        finally:
            _close(level)

    def _level(self, descriptor: int) -> _Level:
        level = _Level(descriptor, _identity(descriptor))
        with contextlib.suppress(OSError), os.scandir(descriptor) as entries:
            for entry in entries:
                self.files += 1
                with contextlib.suppress(OSError):
                    self.bytes += entry.stat(follow_symlinks=False).st_blocks * 512
                if entry.is_dir(follow_symlinks=False):
                    level.inner.append(entry.name)
                if self.files > self._limits.files:
                    break
        return level

    def nameless(self, pids: Iterable[int], device: int) -> None:
        """Each such file once, however many hold it open."""
        seen = set()
        for pid in pids:
            # Not of processes that this user may not look into.
            with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        there = entry.stat()
                        if there.st_nlink == 0 and there.st_dev == device and there.st_ino not in seen:
                            seen.add(there.st_ino)
                            self.files += 1
                            self.bytes += there.st_blocks * 512


def _identity(descriptor: int) -> tuple[int, int]:
    there = os.fstat(descriptor)
    return there.st_dev, there.st_ino


def _close(level: _Level) -> None:
    if level.descriptor >= 0:
        os.close(level.descriptor)
        level.descriptor = -1
