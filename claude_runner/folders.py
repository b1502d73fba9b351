"""The folders of one host's sandboxes, and the uids that own them.

SANDBOX_DIR/            0711, ours
    cli/VERSION/claude  0111, ours
    sandbox-init        0111, a shell: the first process behind bubblewrap
    etc/                passwd and the like, as a sandbox shows them
    confine.py          the first program where there is no bubblewrap
    calls*.bpf          the system calls that a sandbox refuses
    s/HEX.sock          0600, the gateway's socket of one conversation
    c/UUID/             0700, of the conversation's uid
        home/  workspace/  config/
"""

import errno
import hashlib
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from claude_runner import seccomp
from claude_runner.cli import stage
from claude_runner.errors import NoRoom, SandboxUnavailable
from claude_runner.spec import RunnerSettings

LONGEST_SOCKET_PATH = 107
CONFINE = Path(__file__).with_name("confine.py")
CALLS, CALLS_OFFLINE = "calls.bpf", "calls-offline.bpf"
INIT = "sandbox-init"
ETC = {
    "passwd": "root:x:0:0:root:/root:/bin/false\nagent:x:1000:1000:agent:/home/agent:/bin/bash\n",
    "group": "root:x:0:\nagent:x:1000:\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where one conversation lives on this host. `uid` is None when we cannot give it one of its own."""

    folder: Path
    socket: Path
    uid: int | None

    @property
    def etc(self) -> Path:
        return self.folder.parent.parent / "etc"

    @property
    def calls(self) -> Path:
        """The system calls that are refused. SandboxUnavailable on a machine that we know no numbers of."""
        seccomp.program()
        return self.folder.parent.parent / CALLS

    @property
    def confine(self) -> Path:
        return self.folder.parent.parent / CONFINE.name

    @property
    def init(self) -> Path:
        return self.folder.parent.parent / INIT

    @property
    def calls_offline(self) -> Path:
        """The same, all sockets to networks, and changes to other processes."""
        seccomp.program()
        return self.folder.parent.parent / CALLS_OFFLINE

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def workspace(self) -> Path:
        return self.folder / "workspace"

    @property
    def config(self) -> Path:
        return self.folder / "config"

    def own(self, path: Path) -> None:
        """Hand a path to the conversation's uid."""
        if self.uid is not None:
            os.chown(path, self.uid, self.uid, follow_symlinks=False)

    def make(self, path: Path) -> None:
        path.mkdir(mode=0o700, exist_ok=True)
        self.own(path)

    def write(self, path: Path, parts: Iterable[str]) -> None:
        """A new file for the conversation's uid alone; never through a link, never over what is there."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.writelines(parts)
        self.own(path)

    def fresh_config(self) -> None:
        """Empty the CLI's own folder: what a process starts from is never what an agent left there.

        Blocks; OSError where anything is left.
        """
        _delete(self.config)
        self.make(self.config)


class Folders:
    """Gives each conversation its place. A uid stays with its conversation as the owner of its folder."""

    def __init__(self, settings: RunnerSettings) -> None:
        self.root = settings.sandbox_dir.resolve()
        self._drops = os.geteuid() == 0
        self._free_disk = settings.free_disk
        self._first, self._uids = _usable_uids(settings)
        if len(str(self.socket(UUID(int=0)))) > LONGEST_SOCKET_PATH:
            raise SandboxUnavailable(
                f"{self.root} is too long for unix sockets: set SANDBOX_DIR to a path of at most "
                f"{LONGEST_SOCKET_PATH - 40} characters."
            )
        self._lay_out()
        self._taken = {entry.stat().st_uid for entry in os.scandir(self.root / "c")}

    def _lay_out(self) -> None:
        self.root.mkdir(mode=0o711, parents=True, exist_ok=True)
        for folder in (self.root, self.root / "c", self.root / "s", self.root / "cli", self.root / "etc"):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o711)
        for name, text in ETC.items():
            _keep(self.root / "etc" / name, text.encode())
        _keep(self.root / CONFINE.name, CONFINE.read_bytes())
        stage(Path("/bin/sh").resolve(), self.root / INIT)
        if platform.machine() in seccomp.AUDIT_ARCH:
            _keep(self.root / CALLS, seccomp.program())
            _keep(self.root / CALLS_OFFLINE, seccomp.program(walled=False))

    def socket(self, conversation: UUID) -> Path:
        return self.root / "s" / f"{conversation.hex}.sock"

    def folder(self, conversation: UUID) -> Path:
        return self.root / "c" / str(conversation)

    def place(self, conversation: str) -> Place:
        """The conversation's place, made on first use."""
        name = UUID(conversation)
        folder = self.folder(name)
        if not folder.exists():
            folder.mkdir(mode=0o700)
            if self._drops:
                uid = self._free_uid(name)
                os.chown(folder, uid, uid)
        place = Place(folder, self.socket(name), folder.stat().st_uid if self._drops else None)
        place.make(place.home)
        place.make(place.workspace)
        return place

    def _free_uid(self, conversation: UUID) -> int:
        # Derived from the conversation, so that two runners of one machine don't give the same uid twice.
        wish = int.from_bytes(hashlib.sha256(conversation.bytes).digest()[:8]) % self._uids
        while self._first + wish in self._taken:
            wish = (wish + 1) % self._uids
        self._taken.add(self._first + wish)
        return self._first + wish

    def folder_of(self, conversation: str) -> Path:
        return self.folder(UUID(conversation))

    def has_files(self, conversation: str) -> bool:
        workspace = self.folder(UUID(conversation)) / "workspace"
        return workspace.is_dir() and any(workspace.iterdir())

    def check_room(self) -> None:
        """Raises NoRoom where the disk is as good as full: a turn there would end in the middle of something."""
        there = os.statvfs(self.root)
        if there.f_bavail * there.f_frsize < self._free_disk or (there.f_files and not there.f_favail):
            raise NoRoom(
                "The disk of this conversation's machine is nearly full. Tell who runs this server, and send the "
                "message again when there is room."
            )

    def kept(self) -> list[UUID]:
        """The conversations that have a folder here."""
        found = (
            _uuid(entry.name) for entry in os.scandir(self.root / "c") if entry.is_dir(follow_symlinks=False)
        )
        return [conversation for conversation in found if conversation]

    def forget(self, conversation: str) -> None:
        """Delete the conversation's folder, whatever its agent has done to it; nothing where there is none."""
        folder = self.folder(UUID(conversation))
        if folder.exists():
            uid = folder.stat().st_uid
            _delete(folder)
            self._taken.discard(uid)


def _delete(path: Path) -> None:
    """Whatever an agent has made of it: follows no link, and holds few files open however deep it is."""
    if not os.path.lexists(path):
        return
    _run("rm", "-rf", path)
    if os.path.lexists(path):
        # It may have closed folders even to its own user; root needs no leave.
        _run("chmod", "-R", "u+rwx", path)
        _run("rm", "-rf", path)
    if os.path.lexists(path):
        raise OSError(errno.ENOTEMPTY, "what an agent left there could not be deleted", str(path))


def _run(program: str, how: str, *rest: str | Path) -> None:
    """A program of its own, so that a large tree costs no time of the event loop's interpreter."""
    subprocess.run(
        [f"/bin/{program}", how, *rest[:-1], "--", rest[-1]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )


def _keep(path: Path, content: bytes) -> None:
    """A file that all may read. Never emptied for a moment: live sandboxes show this very one."""
    if not path.exists() or path.read_bytes() != content:
        path.write_bytes(content)
    path.chmod(0o644)


def _usable_uids(settings: RunnerSettings) -> tuple[int, int]:
    """The wanted range, or where a user namespace has no such uids, the upper half of the largest it has."""
    ranges = []
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        first, _, count = map(int, line.split())
        if first <= settings.first_uid and settings.first_uid + settings.uids <= first + count:
            return settings.first_uid, settings.uids
        ranges.append((count, first))
    count, first = max(ranges)
    return first + count // 2, max(1, count - count // 2)


def _uuid(name: str) -> UUID | None:
    """None for the name of a folder that is none of ours."""
    try:
        return UUID(name)
    except ValueError:
        return None
