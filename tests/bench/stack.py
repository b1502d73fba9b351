"""The stack under test: `manage.py up` as real processes on data of its own, and what its parts use."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

from tests.bench.answer import BenchFailed

PROJECT = Path(__file__).resolve().parent.parent.parent
START_SECONDS, STOP_SECONDS = 90.0, 60.0
# What the shell has set for another Parley must not reach this one.
KEPT_VARIABLES = ("PATH", "HOME", "LANG", "VIRTUAL_ENV")


class Stack:
    """`async with Stack(folder) as stack`: ready inside, gone afterwards."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self._sandboxes = folder / "s"
        self._log = folder / "up.log"
        self.url = f"http://127.0.0.1:{_free_port()}"
        self._up: asyncio.subprocess.Process

    async def __aenter__(self) -> Self:
        environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        with self._log.open("wb") as log:
            self._up = await asyncio.create_subprocess_exec(
                *(sys.executable, "manage.py", "up"),
                cwd=PROJECT,
                env=environment
                | {
                    "DATA_DIR": str(self.data),
                    "SANDBOX_DIR": str(self._sandboxes),
                    "PORT": self.url.rpartition(":")[2],
                    # What a key may do in a second is not what is measured.
                    "KEY_SOCKETS_PER_SECOND": "1000",
                    "KEY_MESSAGES_PER_SECOND": "1000",
                },
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self.sandbox = (await self._ready())["sandbox"]
        except BaseException:
            await self.__aexit__()
            raise
        first_run = json.loads((self.data / "first-run.json").read_text())
        self.api_key: str = first_run["api_key"]
        self.tenant: str = first_run["tenant"]
        self.model_url: str = json.loads((self.data / "servers.json").read_text())["model_url"]
        return self

    async def __aexit__(self, *_exception: object) -> None:
        if self._up.returncode is None:
            self._up.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._up.wait()
        except TimeoutError:
            self._up.kill()

    async def restart_runner(self) -> None:
        """All live processes end in order; conversations have to be resumed from Postgres afterwards."""
        (runner,) = self._ours("runner")
        runner.send_signal(signal.SIGTERM)
        while runner.is_running() and runner.status() != psutil.STATUS_ZOMBIE:  # noqa: ASYNC110 (not our child)
            await asyncio.sleep(0.1)
        await self._ready()

    async def _ready(self) -> dict[str, Any]:
        """What `/ready` says, once it does."""
        async with httpx.AsyncClient(timeout=5) as client:
            for _ in range(int(START_SECONDS / 0.25)):
                await asyncio.sleep(0.25)
                if self._up.returncode is not None:
                    break
                try:
                    answer = await client.get(f"{self.url}/ready")
                except httpx.TransportError:
                    continue
                if answer.status_code == 200:
                    body: dict[str, Any] = answer.json()
                    return body
        raise BenchFailed(f"the stack did not come up:\n{self._log.read_text()[-3000:]}")

    async def queries(self, conversation: str) -> dict[str, int]:
        """How many statements each page takes, see `queries`."""
        asked = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.bench.queries", self.tenant, conversation),
            cwd=PROJECT,
            env={"PATH": os.environ["PATH"], "DATA_DIR": str(self.data)},
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await asked.communicate()
        if asked.returncode:
            raise BenchFailed("the statements of the pages could not be counted")
        counted: dict[str, int] = json.loads(said)
        return counted

    # Its processes

    def parts(self) -> dict[str, list[psutil.Process]]:
        """The processes by what they are; `cli` is all that runs in sandboxes, walls included."""
        (runner,) = self._ours("runner")
        return {
            "cli": runner.children(recursive=True),
            "runner": [runner],
            "web": self._ours("web"),
            "postgres": list(self._server("postgres")),
            "valkey": list(self._server("valkey")),
            "model": self._ours("model"),
        }

    def _ours(self, name: str) -> list[psutil.Process]:
        says = {"model": "claude_runner.scripted_model"}.get(name, name)
        return [child for child in psutil.Process(self._up.pid).children() if says in child.cmdline()]

    def _server(self, name: str) -> Iterator[psutil.Process]:
        for child in psutil.Process(self._up.pid).children():
            if name in child.name():
                yield child
                yield from child.children(recursive=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
