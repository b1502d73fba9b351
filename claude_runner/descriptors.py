"""How many files may be open at once: by the runner, which holds the sockets of all, and by each program inside."""

import resource

# As programs are used to find it; what they may raise it to.
USUAL, MOST = 1024, 16_384


def open_as_many_as_allowed() -> None:
    """Let this process have as many open files as its machine allows: one conversation must not use them up."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def inside() -> str:
    """What a program inside may have, as `prlimit` takes it."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    return f"{min(most, USUAL)}:{most}"
