"""The processes of an installation, as an operator starts them, on the servers of this test run."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import httpx

from config.children import free_port


@dataclass(frozen=True)
class Process:
    """A process of ours that listens on a port of 127.0.0.1."""

    child: subprocess.Popen[bytes]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def memory(self) -> int:
        """Resident memory in bytes."""
        with open(f"/proc/{self.child.pid}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def lives(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health", timeout=2).status_code == 200
        return False


@contextmanager
def web_process(**environment: str) -> Iterator[Process]:
    """`manage.py web` with these settings beside the ones of the test run, once it answers; killed at the end."""
    port = free_port()
    child = subprocess.Popen(
        [sys.executable, "manage.py", "web", "--port", str(port)], env=os.environ | environment
    )
    web = Process(child, port)
    try:
        eventually(lambda: web.lives() or child.poll() is not None, seconds=30)
        assert child.poll() is None, f"web ended with {child.returncode}"
        yield web
    finally:
        child.kill()
        child.wait()


def eventually(condition: Callable[[], object], seconds: float = 5) -> None:
    """Wait until the condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "It did not come about in time."
        time.sleep(0.02)
