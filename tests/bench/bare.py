"""The bare side: the real CLI over its pipes, straight to the model, with nothing around it."""

import asyncio
import contextlib
import itertools
import json
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import claude_agent_sdk

from tests.bench.answer import Answer, BenchFailed

CLI = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"
FLAGS = (
    *("-p", "--verbose", "--input-format", "stream-json", "--output-format", "stream-json"),
    *("--include-partial-messages", "--permission-prompt-tool", "stdio"),
)
LONGEST_LINE = 32 << 20
_numbers = itertools.count()


class BareCli:
    """One process. `start` returns when it runs, `initialize` when it is ready."""

    def __init__(self, process: asyncio.subprocess.Process, session: str, home: Path) -> None:
        self._process, self.session, self.home = process, session, home
        self.pid = process.pid

    @classmethod
    async def start(cls, folder: Path, model_url: str) -> Self:
        """A new session with a home of its own below `folder`."""
        session = str(uuid4())
        return await cls._spawn(session, folder / str(next(_numbers)), model_url, f"--session-id={session}")

    @classmethod
    async def resume(cls, former: "BareCli", model_url: str) -> Self:
        return await cls._spawn(former.session, former.home, model_url, f"--resume={former.session}")

    @classmethod
    async def _spawn(cls, session: str, home: Path, model_url: str, which: str) -> Self:
        for inner in ("config", "work"):
            (home / inner).mkdir(parents=True, exist_ok=True)
        process = await asyncio.create_subprocess_exec(
            *(str(CLI), *FLAGS, which),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=home / "work",
            env={
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "HOME": str(home),
                "CLAUDE_CONFIG_DIR": str(home / "config"),
                "ANTHROPIC_BASE_URL": model_url,
                "ANTHROPIC_API_KEY": "bench",
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                "DISABLE_AUTOUPDATER": "1",
            },
            limit=LONGEST_LINE,
        )
        return cls(process, session, home)

    async def initialize(self) -> None:
        request = {"subtype": "initialize", "hooks": None}
        self._write({"type": "control_request", "request_id": "bench", "request": request})
        while (await self._frame())["type"] != "control_response":
            pass

    async def say(self, prompt: str) -> Answer:
        answer = Answer()
        self._write(
            {"type": "user", "message": {"role": "user", "content": prompt}, "parent_tool_use_id": None}
        )
        while (frame := await self._frame())["type"] != "result":
            event = frame.get("event", {}) if frame["type"] == "stream_event" else {}
            if event.get("type") == "content_block_delta" and event["delta"]["type"] == "text_delta":
                answer.heard(event["delta"]["text"])
        if frame.get("is_error"):
            raise BenchFailed(f"the bare CLI failed: {frame.get('result')}")
        return answer.over()

    def _write(self, frame: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(frame).encode() + b"\n")

    async def _frame(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise BenchFailed("the bare CLI ended by itself")
        frame: dict[str, Any] = json.loads(line)
        return frame

    async def close(self) -> None:
        """Let it end in order, so that its transcript is whole; what does not is killed."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
