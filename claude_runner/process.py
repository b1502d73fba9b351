"""One live CLI: its sandbox, its gateway, the SDK's client, and one turn at a time."""

import asyncio
import dataclasses
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from time import monotonic
from typing import Any, cast

from claude_agent_sdk import (
    ClaudeAgentOptions,
    ClaudeSDKClient,
    PermissionMode,
    PermissionResultAllow,
    PermissionResultDeny,
    ResultMessage,
    SessionStore,
    SystemMessage,
    ToolPermissionContext,
)

from claude_runner import faults
from claude_runner.cgroup import Groups
from claude_runner.child import Child, uncancelled
from claude_runner.command import PROMPT_FILE, arguments, environment
from claude_runner.errors import EngineError, StartFailed
from claude_runner.events import Event
from claude_runner.folders import Place
from claude_runner.frames import Bill, Frame
from claude_runner.gateway import Gateway
from claude_runner.limits import BEHIND, Watch, too_long, too_many_processes, too_much_memory
from claude_runner.sandbox import inside, walled
from claude_runner.spec import Account, Ask, Content, LaunchSpec, RunnerSettings, Tier
from claude_runner.transcript import CANONICAL_CONFIG, canonical_path, restore
from claude_runner.transport import CliTransport
from claude_runner.turn import Turn
from claude_runner.upstreams import Upstreams

logger = logging.getLogger(__name__)

# Seconds that an interrupt may take before force is used, a change of model or mode, a rehearsal.
INTERRUPT_WITHIN, ADOPT_WITHIN, REHEARSE_WITHIN = 3.0, 5.0, 5.0


@dataclasses.dataclass(frozen=True, slots=True)
class Host:
    """What all processes of one host share. `gate` limits how many start at once."""

    settings: RunnerSettings
    tier: Tier
    cli: Path
    upstreams: Upstreams
    gate: asyncio.Semaphore
    groups: Groups


class Process:
    """Await `start()` first, then `turn()` any number of times, one after another; `stop()` ends it.

    `on_gone` is called once, when the process and all in its sandbox have ended, for whatever reason.
    """

    def __init__(
        self,
        host: Host,
        spec: LaunchSpec,
        place: Place,
        store: SessionStore,
        account: Account,
        on_gone: Callable[["Process"], None],
    ) -> None:
        self.spec, self.place = spec, place
        self.idle_since = monotonic()
        self._host, self._store, self._on_gone = host, store, on_gone
        self._paths = inside(host.tier, place, host.cli)
        self._gateway = Gateway(host.upstreams, account)
        self.watch = Watch(host.settings.limits, place.folder)
        self._transport = CliTransport(
            self._spawn, self._frames, self.fail, self._mirrored, host.settings.limits
        )
        self._client = ClaudeSDKClient(
            ClaudeAgentOptions(
                can_use_tool=self._can_use_tool,
                # Not the prompt that the session first had: a changed one counts from the next process.
                system_prompt={"type": "preset", "preset": "claude_code", "snapshot": False},
                session_store=store,
                # Stored while the answer is still coming: what a killed runner loses is the rest.
                session_store_flush="eager",
                env={"CLAUDE_CONFIG_DIR": CANONICAL_CONFIG},
            ),
            transport=self._transport,
        )
        self._resume = self._rehearsed = False
        self._bill = Bill()
        self._turn: Turn | None = None
        self._starting: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._counting: asyncio.Task[str] | None = None

    # State

    @property
    def ready(self) -> bool:
        return self._following is not None and self.alive

    @property
    def alive(self) -> bool:
        """Starting counts, stopping does not."""
        child = self._transport.child
        return self._stopping is None and not (child is not None and child.exited.is_set())

    @property
    def busy(self) -> bool:
        return self._turn is not None

    @property
    def pid(self) -> int | None:
        """Of the outermost process, while there is one that nobody ends yet."""
        return self._transport.child.pid if self.alive and self._transport.child is not None else None

    # Starting

    async def start(self) -> None:
        """Returns when the CLI has answered `initialize`, at once if it has. Raises an EngineError."""
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())
        try:
            await asyncio.shield(self._starting)
        except asyncio.CancelledError:
            if self._starting.cancelled():
                raise StartFailed("Claude Code was stopped while it started.") from None
            raise

    async def _start(self) -> None:
        try:
            async with self._host.gate, asyncio.timeout(self._host.settings.start_within):
                await self._connect()
        except Exception as error:
            # A border: the SDK raises bare Exceptions for a CLI that does not come up.
            complaint = self._transport.child.complaint if self._transport.child is not None else ""
            logger.warning("start of %s failed: %r %s", self.spec.conversation, error, complaint)
            self._end(gently=False)
            raise _start_failure(error, complaint) from error
        self._following = asyncio.create_task(self._follow_the_sdk())
        self.idle_since = monotonic()

    async def rehearse(self) -> None:
        """Have the CLI build its prompt and tools once, before the first message, and without the model.

        It halves the time to the first words of the first message (0.15 s of CPU move to here): the CLI
        builds and counts all that it would send, and the gateway answers the counting by itself.
        """
        if self._rehearsed or not self.ready or self.busy:
            return
        self._rehearsed = self._gateway.estimates = True
        try:
            async with asyncio.timeout(REHEARSE_WITHIN):
                await self._client.get_context_usage()
        except Exception as error:  # noqa: BLE001
            # A border: the SDK raises bare Exceptions. The first message is slower, nothing else.
            logger.info("%s was not rehearsed: %r", self.spec.conversation, error)
        finally:
            self._gateway.estimates = False

    async def _connect(self) -> None:
        await self._gateway.start(self.place)
        memory = await restore(self._store, self.spec.conversation, self.place, self._paths.workspace)
        if self.spec.system_prompt:
            self.place.write(self.place.config / PROMPT_FILE, [self.spec.system_prompt])
        self._resume = memory.found
        self._bill.start_from(memory.cost, memory.model_usage)
        await self._client.connect()

    async def _spawn(self, *callbacks: Any) -> Child:
        argv = arguments(self.spec, self._paths, resume=self._resume)
        env = environment(self.spec, self._paths, self._host.settings)
        limits = self._host.settings.limits
        self.watch.group = self._host.groups.make(self.spec.conversation, limits, BEHIND)
        launch = walled(self._host.tier, self.place, self._host.cli, argv, env, limits, self.watch.group)
        # What lies there at the first count is let pass: it begins before the agent can write.
        self._counting = asyncio.create_task(asyncio.to_thread(self.watch.overfull))
        return await Child.start(launch, *callbacks)

    # What comes in

    def _frames(self, frames: list[Frame]) -> None:
        if any(frame.get("type") == "conversation_reset" for frame in frames):
            # It goes on as another session, which the store would not have under this conversation.
            self.fail(faults.CLEARED)
        elif self._turn is not None:
            self._turn.frames(frames)

    def _mirrored(self, path: str) -> str | None:
        return canonical_path(path, self._paths.config, self.spec.conversation)

    def fail(self, sentence: str) -> None:
        """End the process and, if one is running, the turn with this error."""
        if self._stopping is None:
            logger.warning("%s: %s", self.spec.conversation, sentence)
            if self._turn is not None:
                self._turn.fail(faults.fault(sentence))
        self._end(gently=False)

    async def _follow_the_sdk(self) -> None:
        """Results come through the SDK: by then the transcript is stored, or a `mirror_error` came first."""
        try:
            async for message in self._client.receive_messages():
                if isinstance(message, ResultMessage):
                    frame = self._transport.results.pop(0)
                    if self._turn is not None:
                        self._turn.result(frame)
                elif isinstance(message, SystemMessage) and message.subtype == "mirror_error":
                    self.fail(faults.MEMORY)
        except Exception as error:  # noqa: BLE001
            # A border: whatever the SDK makes of a broken stream, the process is of no more use.
            logger.warning("%s: its stream broke: %r", self.spec.conversation, error)
        finally:
            self._end(gently=False)

    async def _can_use_tool(
        self, name: str, tool_input: dict[str, Any], context: ToolPermissionContext
    ) -> PermissionResultAllow | PermissionResultDeny:
        if self._turn is None:
            return PermissionResultDeny(message="Nobody is there to answer.")
        return await self._turn.ask(name, tool_input, context)

    # A turn

    async def turn(self, account: Account, content: Content, ask: Ask, began: float) -> AsyncGenerator[Event]:
        """`began`: monotonic time at which the turn was asked for. Ends with one TurnEnd.

        Left early by its reader, it is interrupted before this returns.
        """
        self._gateway.begin_turn(account)
        self._transport.begin_turn()
        self.watch.begin_turn()
        turn = self._turn = Turn(ask, began, self._transport.pause)
        watch = asyncio.create_task(self._watch(turn))
        complete = False
        try:
            await self._client.query(_user_message(content), session_id=self.spec.conversation)
            while isinstance(item := await turn.next(), list):
                for event in item:
                    yield event
            complete = True
            try:
                await uncancelled(self._end_strays())
            finally:
                self._over(turn)
            for event in turn.closing(item, self._bill, self._gateway.meter):
                yield event
        finally:
            watch.cancel()
            if not complete:
                await uncancelled(self._abandon(turn))

    def _over(self, turn: Turn) -> None:
        self._gateway.end_turn()
        self._turn = None
        self.idle_since = monotonic()
        turn.over.set()

    async def _abandon(self, turn: Turn) -> None:
        """Nobody reads any more: interrupt, and read to the end so that the next turn starts clean."""
        interrupting = asyncio.create_task(self.interrupt())
        while isinstance(await turn.next(), list):
            pass
        await self._end_strays()
        self._over(turn)
        await interrupting

    async def _end_strays(self) -> None:
        """Nothing goes on behind a turn: what outran this goes with the whole process."""
        if self._transport.child is not None and not await self._transport.child.end_strays():
            self.fail(faults.STRAYS)

    async def _watch(self, turn: Turn) -> None:
        limit, longest = self._host.settings.hung_after, self._host.settings.limits.turn
        while turn.silence(self._gateway.meter) < limit and turn.ran < longest:  # noqa: ASYNC110
            await asyncio.sleep(min(limit, longest) / 10)
        self.fail(faults.HUNG if turn.ran < longest else too_long(self._host.settings.limits))

    # Control

    async def interrupt(self) -> None:
        """Returns when the turn has ended. What does not obey within seconds is killed."""
        turn = self._turn
        if turn is None:
            return
        turn.interrupted = True
        try:
            async with asyncio.timeout(INTERRUPT_WITHIN):
                await self._client.interrupt()
                await turn.over.wait()
        except Exception as error:  # noqa: BLE001
            # A border: a deaf CLI shows as a timeout, a dead one as whatever the SDK raises.
            logger.warning("%s did not obey an interrupt: %r", self.spec.conversation, error)
            await self.stop(gently=False)

    async def adopt(self, spec: LaunchSpec, account: Account | None = None) -> bool:
        """Become what `spec` asks for without a restart; False when that takes a new process.

        What the CLI asks its model for it is on `account`, or on the running turn's.
        """
        if dataclasses.replace(self.spec, model=spec.model, permission_mode=spec.permission_mode) != spec:
            return False
        try:
            # The CLI asks its model's server whether it takes a new model.
            with self._gateway.opened(account):
                async with asyncio.timeout(ADOPT_WITHIN):
                    if self.spec.model != spec.model:
                        await self._client.set_model(spec.model)
                    if self.spec.permission_mode != spec.permission_mode:
                        await self._client.set_permission_mode(cast(PermissionMode, spec.permission_mode))
        except Exception as error:  # noqa: BLE001
            # A border: the SDK raises bare Exceptions for a control request that is refused.
            logger.warning("%s did not take a change: %r", self.spec.conversation, error)
            return False
        self.spec = spec
        return True

    # Stopping

    async def stop(self, *, gently: bool = True) -> None:
        """Returns when every process of the sandbox is gone and its transcript is handed to the store.

        Not to be cancelled: a cancellation is delivered when it is done.
        """
        await uncancelled(self._end(gently))

    def _end(self, gently: bool) -> asyncio.Task[None]:
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(gently))
        elif not gently and self._transport.child is not None:
            self._transport.child.kill()
        return self._stopping

    async def _stop(self, gently: bool) -> None:
        try:
            if self._starting is not None and not self._starting.done():
                self._starting.cancel()
                await asyncio.wait([self._starting])
            if self._transport.child is not None:
                await self._transport.child.stop(gently=gently)
            # Flushes what is left of the transcript; an own deadline because a store may hang.
            await asyncio.wait([asyncio.create_task(self._client.disconnect())], timeout=70)
            await self._gateway.close()
        finally:
            if self._turn is not None and (reason := self._killed_by()):
                self._turn.fail(faults.fault(reason))
            await asyncio.to_thread(self.watch.group.remove)
            if self._turn is not None:
                self._turn.gone()
            self._on_gone(self)

    def _killed_by(self) -> str:
        """The limit at whose wall in the kernel it died before anybody had looked, or ""."""
        limits, child = self._host.settings.limits, self._transport.child
        if self.watch.group.killed():
            return too_much_memory(limits)
        return too_many_processes(limits) if child is not None and child.crowded else ""


async def _user_message(content: Content) -> AsyncIterator[dict[str, Any]]:
    yield {"type": "user", "message": {"role": "user", "content": content}, "parent_tool_use_id": None}


def _start_failure(error: Exception, complaint: str) -> EngineError:
    if isinstance(error, EngineError):
        return error
    if isinstance(error, TimeoutError):
        return StartFailed("Claude Code did not start in time. Send the message again.")
    if isinstance(error, OSError) and error.strerror:
        return StartFailed(f"Claude Code could not be started: {error.strerror}. Tell who runs this server.")
    detail = complaint.splitlines()[-1][:300] if complaint else ""
    return StartFailed(f"Claude Code could not be started. {detail}".strip())
