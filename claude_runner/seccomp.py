"""The system calls that nothing inside a sandbox may make, as the program that the kernel runs on each call.

A list of what is refused, because nobody can list what honest programs need. What comes after NEWEST is not
there for them, as on an older kernel, and other ABIs of the same machine (i386, x32) end the process: they
number their calls differently.
"""

import errno
import platform
import struct
from functools import cache

from claude_runner.errors import SandboxUnavailable

LD, JEQ, JGT, JSET, RET = 0x20, 0x15, 0x25, 0x45, 0x06
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000, 0x80000000
NUMBER, ARCHITECTURE = 0, 4
X32 = 0x40000000
# lsm_list_modules, of Linux 6.8; open_tree_attr and others came later.
NEWEST = 461

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Name: its number on x86_64, on aarch64; None where there is no such call.
REFUSED: dict[str, tuple[int | None, int | None]] = {
    # other ways to do what is refused here
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # the kernel's keyrings are shared by a uid, not by a sandbox
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # into other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    # into the kernel
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "create_module": (174, None),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "modify_ldt": (154, None),
    "iopl": (172, None),
    "ioperm": (173, None),
    "uselib": (134, None),
    "nfsservctl": (180, 42),
    "lookup_dcookie": (212, 18),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "memfd_secret": (447, 447),
    "syslog": (103, 116),
    # the machine
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "vhangup": (153, 58),
    # mounts and namespaces
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "setns": (308, 268),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
}
# What is refused by its arguments.
WATCHED = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "unshare": (272, 97),
    "personality": (135, 92),
    "ioctl": (16, 29),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "prlimit64": (302, 261),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
}
# Which argument names the process; 0 is the caller itself. Where the host's processes have the same uid, others
# are not an agent's to limit or to slow down. Programs that do so to threads of their own live without.
PROCESS = {
    "prlimit64": 0,
    "sched_setparam": 0,
    "sched_setscheduler": 0,
    "sched_setaffinity": 0,
    "sched_setattr": 0,
    "setpriority": 1,
    "ioprio_set": 1,
}
# What the argument before it says of it: all processes of a user, where 0 means one's own uid.
WHOLE_USER = {"setpriority": 2, "ioprio_set": 3}
# CLONE_NEW: TIME, NS, CGROUP, UTS, IPC, USER, PID, NET. In clone() the first is part of the exit signal.
NEW_NAMESPACES = 0x7E020000
NEW_TIME = 0x80
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
UNIX, INET, INET6, NETLINK = 1, 2, 10, 16

type Instruction = tuple[int, int, int, int]


@cache
def program(machine: str | None = None, *, walled: bool = True) -> bytes:
    """The filter as an array of `struct sock_filter`. Where no namespaces wall it in (`walled=False`), IP sockets
    are refused besides, and changes to other processes.

    Raises SandboxUnavailable for a `machine` (`uname -m`; None: this one) that it knows no numbers of.
    """
    machine = machine or platform.machine()
    if machine not in AUDIT_ARCH:
        raise SandboxUnavailable(f"there is no system call filter for {machine}, only for x86_64 and aarch64")
    column = list(AUDIT_ARCH).index(machine)
    called = {name: numbers[column] for name, numbers in WATCHED.items()}
    code = _of_this_machine(machine)
    for numbers in REFUSED.values():
        if (number := numbers[column]) is not None:
            code += [(JEQ, 0, 1, number), _refuse(errno.EPERM)]
    code += [
        # Its flags lie in memory, which a filter can't read: the C library then takes clone().
        *_if(called["clone3"], [_refuse(errno.ENOSYS)]),
        *_if(called["clone"], _no_bits(0, NEW_NAMESPACES)),
        *_if(called["unshare"], _no_bits(0, NEW_NAMESPACES | NEW_TIME)),
        *_if(called["personality"], _one_of(0, (0, 0xFFFFFFFF), errno.EPERM)),
        *_if(called["ioctl"], [*_not(1, TIOCSTI), *_not(1, TIOCLINUX)]),
        *_if(called["socketpair"], _one_of(0, (UNIX,), errno.EAFNOSUPPORT)),
        *_if(called["socket"], _sockets(walled)),
    ]
    if not walled:
        for name, argument in PROCESS.items():
            user = _not(0, WHOLE_USER[name]) if name in WHOLE_USER else []
            code += _if(called[name], [*user, *_one_of(argument, (0,), errno.EPERM)])
    code.append((RET, 0, 0, ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _of_this_machine(machine: str) -> list[Instruction]:
    code = [(LD, 0, 0, ARCHITECTURE), (JEQ, 1, 0, AUDIT_ARCH[machine]), (RET, 0, 0, KILL), (LD, 0, 0, NUMBER)]
    if machine == "x86_64":
        code += [(JSET, 0, 1, X32), (RET, 0, 0, KILL)]
    return [*code, (JGT, 0, 1, NEWEST), _refuse(errno.ENOSYS)]


def _sockets(walled: bool) -> list[Instruction]:
    families = (UNIX, INET, INET6, NETLINK) if walled else (UNIX, NETLINK)
    only_routes = [*_load(2), (JEQ, 1, 0, 0), _refuse(errno.EPERM)]
    return [
        *_one_of(0, families, errno.EAFNOSUPPORT),
        *_load(0),
        (JEQ, 0, len(only_routes), NETLINK),
        *only_routes,
    ]


def _if(number: int | None, body: list[Instruction]) -> list[Instruction]:
    """What a body does not refuse goes on behind it."""
    assert number is not None
    return [(LD, 0, 0, NUMBER), (JEQ, 0, len(body), number), *body]


def _load(argument: int) -> list[Instruction]:
    # The lower half, on these little-endian machines: the kernel itself takes all of these as int.
    return [(LD, 0, 0, 16 + 8 * argument)]


def _no_bits(argument: int, bits: int) -> list[Instruction]:
    return [*_load(argument), (JSET, 0, 1, bits), _refuse(errno.EPERM)]


def _not(argument: int, value: int) -> list[Instruction]:
    return [*_load(argument), (JEQ, 0, 1, value), _refuse(errno.EPERM)]


def _one_of(argument: int, values: tuple[int, ...], error: int) -> list[Instruction]:
    tests = [(JEQ, len(values) - at, 0, value) for at, value in enumerate(values)]
    return [*_load(argument), *tests, _refuse(error)]


def _refuse(error: int) -> Instruction:
    return (RET, 0, 0, REFUSE | error)
