"""How many processes fit into this machine."""

from pathlib import Path

# What a process with its tools needs, and the share of the memory that processes may take.
BYTES_PER_PROCESS = 250 << 20
SHARE = 0.6
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def processes_that_fit() -> int:
    """By the memory of the machine, or of the cgroup that holds us where that is less. At least two."""
    return max(2, int(_memory() * SHARE / BYTES_PER_PROCESS))


def _memory() -> int:
    total = int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0]) << 10
    limits = [path.read_text().strip() for path in CGROUP_LIMITS if path.exists()]
    return min([total, *(int(limit) for limit in limits if limit.isdigit())])
