"""An agent in its sandbox, to act as a hostile one: the real CLI and its tools, the scripted model behind it."""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from claude_agent_sdk import InMemorySessionStore, SessionStore

from claude_runner import (
    Answer,
    LaunchSpec,
    Pool,
    Question,
    RunnerSettings,
    TextDelta,
    ToolFinished,
    TurnEnd,
    Upstream,
    prove_tier,
)
from claude_runner.scripted_model import ScriptedModel
from tests.purse import Purse

SECRET = "canary-credential-of-the-tenant"


@dataclass
class Agent:
    """One conversation; `asked` are the questions that its tools made the CLI put to the person."""

    pool: Pool
    model: ScriptedModel
    account: Purse
    workspace: Path
    spec: LaunchSpec
    store: SessionStore = field(default_factory=InMemorySessionStore)
    asked: list[Question] = field(default_factory=list)
    answer: str = "allow"
    end: TurnEnd | None = None

    async def _ask(self, question: Question) -> Answer:
        self.asked.append(question)
        return Answer(self.answer)

    async def say(self, text: str) -> str:
        """What the agent said and what its tools gave back; `end` is how the turn ended."""
        self.asked.clear()
        heard = []
        async for event in self.pool.turn(self.spec, self.account, self.store, text, self._ask):
            if isinstance(event, ToolFinished):
                heard.append(event.output)
            elif isinstance(event, TextDelta):
                heard.append(event.text)
            elif isinstance(event, TurnEnd):
                self.end = event
        return "\n".join(heard)

    async def restart(self) -> None:
        """End its process; the next turn begins a new one, from the store."""
        await self.pool.stop(self.spec.conversation)

    def plant(self, name: str, text: str) -> None:
        """Put a file into its workspace, as a cloned repository or an upload would."""
        path = self.workspace / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        owner = self.workspace.stat()
        for made in (path, *path.parents):
            if made == self.workspace:
                break
            os.chown(made, owner.st_uid, owner.st_gid)


@asynccontextmanager
async def agents() -> AsyncIterator[Callable[..., Agent]]:
    """Makes agents of one host: `new(model=…, …)`."""
    folder = Path(tempfile.mkdtemp(prefix="p-", dir="/tmp"))
    settings = RunnerSettings(folder, max_retries=1)
    pool = Pool(settings, prove_tier(settings).tier)
    async with ScriptedModel() as model:

        def new(models: frozenset[str] = frozenset(), **spec: str) -> Agent:
            conversation = str(uuid4())
            workspace = pool._folders.place(conversation).workspace
            account = Purse(Upstream("api_key", model.url, SECRET), models)
            return Agent(pool, model, account, workspace, LaunchSpec(conversation, "tenant-a", **spec))  # type: ignore[arg-type]

        try:
            yield new
        finally:
            await pool.stop_all()
            shutil.rmtree(folder)
