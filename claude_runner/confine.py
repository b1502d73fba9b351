"""The first program of a sandbox without bubblewrap: `python -I -S confine.py JSON COMMAND…`.

It stays outside as the parent of all that the command starts: daemons come back to it when their parents end,
so that none is left when it ends them. The command, its child, drops to a uid of its own and, if told to,
confines itself with Landlock and a filter of system calls. Standard library only: it is read by its path.

JSON: `uid` or null; `filter`, the file with the filter, or null; `read` and `write`, paths for Landlock, or null;
`crowd`: a command that fails while more threads than that are left of what it started ends as CROWDED.
"""

import contextlib
import ctypes
import json
import os
import signal
import stat
import sys
from pathlib import Path
from types import FrameType
from typing import Any

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 22, 36, 38
SECCOMP_MODE_FILTER = 2
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
GET_VERSION, PATH_BENEATH = 1, 1
# Landlock's rights by the version that brought them, each a bit: the file system's, the network's, the scopes.
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
FILES_ONLY = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
TCP, SCOPES = 0b11, 0b11

CROWDED = 97

_libc = ctypes.CDLL(None, use_errno=True)


class Ruleset(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]


def _call(number: int, *arguments: Any) -> int:
    result = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{os.strerror(ctypes.get_errno())} (system call {number})")
    return int(result)


def _prctl(option: int, *arguments: Any) -> None:
    padded = [*arguments, *[ctypes.c_ulong(0)] * (4 - len(arguments))]
    if _libc.prctl(option, *padded) < 0:
        raise OSError(ctypes.get_errno(), f"{os.strerror(ctypes.get_errno())} (prctl {option})")


def landlock_version() -> int:
    """0 where the kernel has none, or has it switched off."""
    try:
        return _call(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(GET_VERSION))
    except OSError:
        return 0


def landlock(read: list[str], write: list[str]) -> int:
    """A ruleset, as a descriptor, under which only these paths may be read or written."""
    version = landlock_version()
    if not version:
        raise OSError("this kernel has no Landlock")
    every = (1 << max(count for since, count in FILE_RIGHTS.items() if since <= version)) - 1
    rules = Ruleset(every, TCP if version >= 4 else 0, SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _call(CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), ctypes.c_uint32(0))
    for path in read:
        _allow(ruleset, path, every & (EXECUTE | READ_FILE | READ_DIR))
    for path in write:
        _allow(ruleset, path, every)
    return ruleset


def _allow(ruleset: int, path: str, rights: int) -> None:
    with contextlib.suppress(FileNotFoundError, PermissionError):
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= FILES_ONLY
        rule = PathBeneath(rights, descriptor)
        _call(ADD_RULE, ruleset, ctypes.c_int(PATH_BENEATH), ctypes.byref(rule), ctypes.c_uint32(0))
        os.close(descriptor)


def confine(wanted: dict[str, Any]) -> None:
    """Make this process, and all that it will start, what `wanted` says. There is no way back."""
    ruleset = None if wanted["read"] is None else landlock(wanted["read"], wanted["write"])
    code = Path(wanted["filter"]).read_bytes() if wanted["filter"] else b""
    if (uid := wanted["uid"]) is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    _prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1))
    _prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if ruleset is not None:
        _call(RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
        os.close(ruleset)
    if code:
        held = ctypes.create_string_buffer(code, len(code))
        program = Filter(len(code) // 8, ctypes.addressof(held))
        _prctl(PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), ctypes.byref(program))


def descendants(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{one}/task"):
                found += map(int, Path(f"/proc/{one}/task/{thread}/children").read_text().split())
    return found[1:]


def threads_below(pid: int) -> int:
    count = 0
    for one in descendants(pid):
        with contextlib.suppress(OSError):
            count += len(os.listdir(f"/proc/{one}/task"))
    return count


def end_all() -> None:
    """Kill what is below until nothing is; what was killed is buried here, since it comes back to us."""
    while below := descendants(os.getpid()):
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _told_to_end(_number: int, _frame: FrameType | None) -> None:
    end_all()
    os._exit(128 + signal.SIGTERM)


def main() -> None:
    wanted, command = json.loads(sys.argv[1]), sys.argv[2:]
    _prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))
    signal.signal(signal.SIGTERM, _told_to_end)
    _prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGTERM))
    child = os.fork()
    if not child:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            confine(wanted)
            os.execv(command[0], command)
        except OSError as error:
            sys.stderr.write(f"{error}\n")
            os._exit(126)
    # Whoever reads the command's output, or writes its input, should see when it ends.
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    ended, status = 0, 0
    while ended != child:
        ended, status = os.waitpid(-1, 0)
    crowded = status != 0 and threads_below(os.getpid()) > wanted["crowd"]
    end_all()
    os._exit(CROWDED if crowded else os.waitstatus_to_exitcode(status) & 0xFF)


if __name__ == "__main__":
    main()
