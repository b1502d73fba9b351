"""The filter as the kernel reads it: a small machine that runs the program on one call."""

import errno
import struct

import pytest

from claude_runner import SandboxUnavailable
from claude_runner.seccomp import ALLOW, AUDIT_ARCH, KILL, NEWEST, PROCESS, REFUSE, REFUSED, WATCHED, program

MACHINES = list(AUDIT_ARCH)


def verdict(code: bytes, number: int, *arguments: int, arch: int) -> int:
    """What the kernel would do with this call."""
    call = struct.pack("=iIQ6Q", number, arch, 0, *arguments, *[0] * (6 - len(arguments)))
    instructions = list(struct.iter_unpack("=HBBI", code))
    at = loaded = 0
    while True:
        kind, if_true, if_false, value = instructions[at]
        at += 1
        match kind:
            case 0x06:
                return int(value)
            case 0x20:
                loaded = struct.unpack_from("=I", call, value)[0]
            case 0x15:
                at += if_true if loaded == value else if_false
            case 0x25:
                at += if_true if loaded > value else if_false
            case 0x45:
                at += if_true if loaded & value else if_false


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def asked(machine: str, name: str, *arguments: int, walled: bool = True) -> int:
    numbers = REFUSED.get(name) or WATCHED[name]
    number = numbers[MACHINES.index(machine)]
    assert number is not None
    code = program(machine, walled=walled)
    return verdict(code, number, *arguments, arch=AUDIT_ARCH[machine])


def test_each_refused_call_is_refused(machine: str) -> None:
    here = [name for name, numbers in REFUSED.items() if numbers[MACHINES.index(machine)] is not None]
    assert len(here) > 50
    assert {asked(machine, name) for name in here} == {REFUSE | errno.EPERM}


@pytest.mark.parametrize("number", [0, 1, 9, 59, 60, 63, 64, 93, 221, 257, 281])
def test_ordinary_calls_pass(machine: str, number: int) -> None:
    """read, write, mmap, execve, exit, openat, memfd_create … of either machine."""
    refused = {numbers[MACHINES.index(machine)] for numbers in REFUSED.values()}
    if number not in refused:
        assert verdict(program(machine), number, arch=AUDIT_ARCH[machine]) == ALLOW


def test_processes_and_threads_pass_and_namespaces_do_not(machine: str) -> None:
    assert asked(machine, "clone", 0x003D0F00) == ALLOW  # a thread, as the C library asks for it
    assert asked(machine, "clone", 17) == ALLOW  # SIGCHLD: a process
    for namespace in (0x10000000, 0x00020000, 0x40000000, 0x20000000, 0x02000000):
        assert asked(machine, "clone", 17 | namespace) == REFUSE | errno.EPERM
        assert asked(machine, "unshare", namespace) == REFUSE | errno.EPERM
    assert asked(machine, "unshare", 0x80) == REFUSE | errno.EPERM  # a clock of its own
    assert asked(machine, "unshare", 0x400) == ALLOW  # its own table of files
    assert asked(machine, "clone3") == REFUSE | errno.ENOSYS


def test_nothing_is_typed_into_a_terminal(machine: str) -> None:
    assert asked(machine, "ioctl", 0, 0x5412) == REFUSE | errno.EPERM
    assert asked(machine, "ioctl", 0, 0x541C) == REFUSE | errno.EPERM
    assert asked(machine, "ioctl", 0, 0x1_0000_5412) == REFUSE | errno.EPERM, (
        "the kernel drops the upper half"
    )
    assert asked(machine, "ioctl", 0, 0x5401) == ALLOW


def test_sockets_are_of_the_families_that_a_run_needs(machine: str) -> None:
    assert [asked(machine, "socket", family) for family in (1, 2, 10, 16)] == [ALLOW] * 4
    refused = REFUSE | errno.EAFNOSUPPORT
    assert {asked(machine, "socket", family) for family in (0, 3, 17, 29, 38, 40, 44)} == {refused}
    assert asked(machine, "socket", 16, 3, 9) == REFUSE | errno.EPERM  # netlink to the audit
    assert asked(machine, "socketpair", 1) == ALLOW
    assert asked(machine, "socketpair", 40) == refused
    assert asked(machine, "socket", 2, walled=False) == refused
    assert asked(machine, "socket", 10, walled=False) == refused
    assert asked(machine, "socket", 1, walled=False) == ALLOW


def test_without_walls_other_processes_are_not_changed(machine: str) -> None:
    refused = REFUSE | errno.EPERM
    for name, argument in PROCESS.items():
        others, oneself = [0] * argument + [4711], [0] * argument + [0]
        assert asked(machine, name, *others) == ALLOW, "a process namespace has no others"
        assert asked(machine, name, *oneself, walled=False) == ALLOW
        assert asked(machine, name, *others, walled=False) == refused
    assert asked(machine, "setpriority", 2, 0, walled=False) == refused, "0 is the runner's user"
    assert asked(machine, "ioprio_set", 3, 0, walled=False) == refused


def test_the_personality_may_only_be_asked_for(machine: str) -> None:
    assert asked(machine, "personality", 0xFFFFFFFF) == ALLOW
    assert asked(machine, "personality", 0x0400000) == REFUSE | errno.EPERM


def test_what_is_newer_than_the_list_is_not_there(machine: str) -> None:
    assert verdict(program(machine), NEWEST, arch=AUDIT_ARCH[machine]) == ALLOW
    assert verdict(program(machine), NEWEST + 1, arch=AUDIT_ARCH[machine]) == REFUSE | errno.ENOSYS


def test_other_ways_to_number_calls_end_the_process() -> None:
    assert verdict(program("x86_64"), 1, arch=0x40000003) == KILL  # i386
    assert verdict(program("x86_64"), 1 | 0x40000000, arch=AUDIT_ARCH["x86_64"]) == KILL  # x32
    assert verdict(program("aarch64"), 1, arch=0x40000028) == KILL  # arm


def test_a_machine_without_numbers_has_no_filter() -> None:
    with pytest.raises(SandboxUnavailable, match="no system call filter for riscv64"):
        program("riscv64")
