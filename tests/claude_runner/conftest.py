"""An engine to talk to: the real CLI in the real sandbox, the scripted model behind it."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import uuid4

import pytest
from claude_agent_sdk import InMemorySessionStore, SessionStore

from claude_runner import (
    Answer,
    Ask,
    Event,
    LaunchSpec,
    Pool,
    Question,
    RunnerSettings,
    TextDelta,
    Tier,
    TurnEnd,
    Upstream,
    prove_tier,
)
from claude_runner.scripted_model import ScriptedModel
from tests.purse import Purse

SECRET = "canary-credential-0123456789"


@dataclass
class Said:
    """All events of one turn."""

    events: list[Event] = field(default_factory=list)

    @property
    def end(self) -> TurnEnd:
        ends = [event for event in self.events if isinstance(event, TurnEnd)]
        assert len(ends) == 1
        assert ends[0] is self.events[-1]
        return ends[0]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))

    def of[E: Event](self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]


async def allow(_question: Question) -> Answer:
    return Answer("allow")


@dataclass
class Engine:
    """A pool with one conversation in mind; `on` another host it has folders of its own."""

    pool: Pool
    account: Purse
    spec: LaunchSpec
    store: SessionStore

    async def warm(self) -> None:
        await self.pool.warm(self.spec, self.account, self.store)

    async def say(self, text: str, ask: Ask = allow, on_text: Callable[[], None] = lambda: None) -> Said:
        said = Said()
        async for event in self.pool.turn(self.spec, self.account, self.store, text, ask):
            said.events.append(event)
            if isinstance(event, TextDelta):
                on_text()
        return said

    def process_ids(self) -> list[int]:
        """Every process of this conversation's sandbox, as the host sees them."""
        process = self.pool._processes.get(self.spec.conversation)
        child = process._transport.child if process is not None else None
        return _tree(child.pid) if child is not None else []

    def about(self, **changes: str | None) -> "Engine":
        """The same engine, asked for something else; a new conversation if nothing is named."""
        changes = changes or {"conversation": str(uuid4())}
        return replace(self, spec=replace(self.spec, **changes))  # type: ignore[arg-type]


async def eventually(condition: Callable[[], bool], within: float = 10.0) -> None:
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 (it is about other processes)
            await asyncio.sleep(0.02)


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except FileNotFoundError:
        return ""


def _tree(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [pid, *(below for child in children for below in _tree(int(child)))]


@pytest.fixture
def new_sandbox_dir() -> Iterator[Callable[[], Path]]:
    """Makes short folders that other uids may pass through, unlike pytest's own."""
    made: list[Path] = []

    def make() -> Path:
        made.append(Path(tempfile.mkdtemp(prefix="p-", dir="/tmp")))
        return made[-1]

    yield make
    for path in made:
        shutil.rmtree(path)


@pytest.fixture(scope="session")
def staged_clis() -> Iterator[Path]:
    """Where all engines of a run stage their CLIs: each copy takes 380 MB."""
    folder = Path(tempfile.mkdtemp(prefix="p-cli-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as model:
        yield model


type NewEngine = Callable[..., Awaitable[Engine]]


@pytest.fixture
async def new_engine(
    new_sandbox_dir: Callable[[], Path], staged_clis: Path, model: ScriptedModel
) -> AsyncIterator[NewEngine]:
    """Makes engines on hosts of their own: `await new_engine(tier=…, store=…, settings…)`."""
    pools: list[Pool] = []

    async def make(tier: Tier | None = None, store: SessionStore | None = None, **settings: object) -> Engine:
        chosen = RunnerSettings(**{"sandbox_dir": new_sandbox_dir(), "max_retries": 1, **settings})  # type: ignore[arg-type]
        (chosen.sandbox_dir / "cli").symlink_to(staged_clis)
        # A script in the place of the CLI is one whose memory is open: no tier is proved with it.
        proved = replace(chosen, cli_path=None)
        pools.append(Pool(chosen, tier or (await asyncio.to_thread(prove_tier, proved)).tier))
        return Engine(
            pools[-1],
            Purse(Upstream("api_key", model.url, SECRET)),
            LaunchSpec(str(uuid4()), "tenant-a"),
            store or InMemorySessionStore(),
        )

    yield make
    for pool in pools:
        await pool.stop_all()


@pytest.fixture
async def engine(new_engine: NewEngine) -> Engine:
    return await new_engine()


INITIALIZE = r"""#!/bin/sh
answer() {  # the next control request
    read -r line
    id=$(printf '%s' "$line" | sed 's/.*"request_id": *"\([^"]*\)".*/\1/')
    printf '{"type":"control_response","response":{"subtype":"success","request_id":"%s","response":{}}}\n' "$id"
}
answer  # initialize
answer  # the rehearsal, if it was warmed up
"""


@pytest.fixture
def child_that(tmp_path: Path) -> Callable[..., Path]:
    """A stand-in for the CLI: answers what a warm-up asks, if told to, and then does as the script says."""

    def make(script: str, *, initializes: bool = True) -> Path:
        path = tmp_path / "claude"
        path.write_text((INITIALIZE if initializes else "#!/bin/sh\n") + script)
        path.chmod(0o755)
        return path

    return make


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] == "Z"


@pytest.fixture
def all_gone() -> Callable[[list[int]], bool]:
    return lambda pids: bool(pids) and all(is_gone(pid) for pid in pids)
