"""What processes use: CPU from the kernel's counters, memory as each one's own share."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

type Parts = dict[str, list[psutil.Process]]

QUIET_PERCENT = 20.0
MEGABYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Memory:
    """In megabytes: what is a process's own, and its own with its part of what it shares (PSS)."""

    private: float
    share: float


def memory(processes: Iterable[psutil.Process]) -> Memory:
    infos = [process.memory_full_info() for process in processes if process.is_running()]
    return Memory(sum(info.uss for info in infos) / MEGABYTE, sum(info.pss for info in infos) / MEGABYTE)


def cpu_seconds(parts: Parts) -> dict[str, float]:
    """What the parts have used since they started."""
    return {name: sum(map(_cpu, processes)) for name, processes in parts.items()}


def _cpu(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system


async def quiet(at_most: float) -> None:
    """Wait until the machine rests, but no longer than `at_most` seconds."""
    loop = asyncio.get_running_loop()
    until = loop.time() + at_most
    psutil.cpu_percent()
    await asyncio.sleep(0.5)
    while psutil.cpu_percent() > QUIET_PERCENT and loop.time() < until:  # noqa: ASYNC110 (no event tells)
        await asyncio.sleep(0.5)
