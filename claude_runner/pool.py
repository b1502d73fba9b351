"""One live process per conversation, kept while it is used, within the limits of the machine."""

import asyncio
import contextlib
import logging
import os
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from functools import cache
from time import monotonic
from uuid import UUID

from claude_agent_sdk import SessionStore

from claude_runner import faults
from claude_runner.census import Census
from claude_runner.cgroup import Groups
from claude_runner.child import uncancelled
from claude_runner.cli import stage_cli
from claude_runner.errors import Busy, EngineError, NoRoom
from claude_runner.events import Event, Status, TurnEnd
from claude_runner.folders import Folders
from claude_runner.memory import processes_that_fit
from claude_runner.process import Host, Process
from claude_runner.sandbox import UNWALLED
from claude_runner.spec import Account, Ask, Content, LaunchSpec, RunnerSettings, Tier
from claude_runner.upstreams import AddressesOf, Upstreams, any_address_of

logger = logging.getLogger(__name__)

WATCH_EVERY = 1.0


class Pool:
    """All live processes of this host. Make and use it inside the event loop, in that loop's thread.

    `on_evict` is called with a conversation whose idle process is stopped, for room or for being idle long.
    `addresses_of` says where a model's server may be connected to.
    """

    def __init__(
        self,
        settings: RunnerSettings,
        tier: Tier,
        on_evict: Callable[[str], None] | None = None,
        addresses_of: AddressesOf = any_address_of,
    ) -> None:
        self.on_evict = on_evict
        self._settings = settings
        self._folders = Folders(settings)
        # A cold start takes 0.7 s of CPU: more at once only makes each of them later.
        gate = asyncio.Semaphore(max(2, os.cpu_count() or 2))
        groups = Groups(self._folders.root)
        self._host = Host(settings, tier, stage_cli(settings), Upstreams(addresses_of), gate, groups)
        self._limit = settings.max_processes or processes_that_fit()
        self._processes: dict[str, Process] = {}
        self._interrupted: set[str] = set()
        self._changed = asyncio.Condition()
        self._sweeper = asyncio.create_task(self._sweep())
        self._watcher = asyncio.create_task(self._watch())
        self._counting: set[asyncio.Task[None]] = set()

    # Use

    async def warm(self, spec: LaunchSpec, account: Account, store: SessionStore) -> None:
        """Start (or keep) the conversation's process, so that a first message finds it ready.

        Leaves a busy conversation alone. Raises an EngineError: NoRoom, StartFailed.
        """
        process = self._processes.get(spec.conversation)
        if process is None or not process.busy:
            process = await self._process(spec, account, store)
            await process.start()
            await process.rehearse()

    async def turn(
        self, spec: LaunchSpec, account: Account, store: SessionStore, content: Content, ask: Ask
    ) -> AsyncGenerator[Event]:
        """One turn. Ends with exactly one TurnEnd and raises nothing for faults of the engine.

        A turn that its reader abandons (`aclose`, cancellation) is interrupted. `account` is asked before each of
        its requests to the model.
        """
        ended = False
        try:
            async with contextlib.aclosing(self._turn(spec, account, store, content, ask)) as events:
                async for event in events:
                    ended = isinstance(event, TurnEnd)
                    yield event
        except Exception:
            # A border: a turn ends with a sentence, whatever broke (a store, a full disk, our own mistake).
            logger.exception("the turn of %s broke", spec.conversation)
            if not ended:
                yield TurnEnd("failed", error=faults.fault(faults.BROKEN))
        await self._notify()

    async def _turn(
        self, spec: LaunchSpec, account: Account, store: SessionStore, content: Content, ask: Ask
    ) -> AsyncGenerator[Event]:
        began = monotonic()
        self._interrupted.discard(spec.conversation)
        try:
            self._folders.check_room()
            if spec.conversation not in self._processes:
                # Nothing starts for an account that would refuse the first request.
                await account.admit()
            process = await self._process(spec, account, store)
            if process.busy:
                raise Busy("The conversation is still answering. Send the message again after that.")
            if not process.ready:
                yield Status("starting")
                await process.start()
                yield Status("ready")
        except EngineError as error:
            yield self._not_started(spec.conversation, error)
            return
        async with contextlib.aclosing(process.turn(account, content, ask, began)) as events:
            async for event in events:
                yield event

    def _not_started(self, conversation: str, error: EngineError) -> TurnEnd:
        if conversation in self._interrupted:
            return TurnEnd("interrupted")
        return TurnEnd("failed", error=faults.engine_fault(error))

    async def interrupt(self, conversation: str) -> None:
        """End the running turn: returns when it has ended, by force if need be."""
        process = self._processes.get(conversation)
        if process is None:
            return
        if process.busy:
            await process.interrupt()
        elif not process.ready:
            self._interrupted.add(conversation)
            await process.stop(gently=False)

    async def set_model(self, conversation: str, value: str | None) -> None:
        """Takes effect at once in a running turn; the next one asks for it by itself, on its own account."""
        process = self._processes.get(conversation)
        if process is not None and process.busy:
            await process.adopt(replace(process.spec, model=value))

    async def set_permission_mode(self, conversation: str, value: str) -> None:
        """Takes effect at once in a running turn; the next one asks for it by itself."""
        process = self._processes.get(conversation)
        if process is not None and process.busy:
            await process.adopt(replace(process.spec, permission_mode=value))

    async def stop(self, conversation: str, *, gently: bool = True) -> None:
        """Returns when the process and all that it started are gone; it has time to finish only if `gently`."""
        if process := self._processes.get(conversation):
            await process.stop(gently=gently)

    async def stop_all(self) -> None:
        """Ends the pool itself too."""
        await uncancelled(self._stop_all())

    async def _stop_all(self) -> None:
        self._sweeper.cancel()
        self._watcher.cancel()
        await asyncio.gather(*(process.stop() for process in list(self._processes.values())))
        await self._host.upstreams.close()

    # State

    def live(self) -> set[str]:
        """The conversations that have a process, starting ones included."""
        return {conversation for conversation, process in self._processes.items() if process.alive}

    @property
    def places(self) -> int:
        """How many processes there may be at a time."""
        return self._limit

    def room(self) -> bool:
        """Whether one more conversation could have a process now, evicting an idle one if need be."""
        return len(self._processes) < self._limit or self._victim() is not None

    def has_files(self, conversation: str) -> bool:
        """Whether anything lies in the conversation's workspace on this host."""
        return self._folders.has_files(conversation)

    def kept(self) -> list[UUID]:
        """The conversations that have a folder on this host."""
        return self._folders.kept()

    def forget(self, conversation: str) -> None:
        """Delete the conversation's folder. Blocks while it deletes; the process must be stopped."""
        self._folders.forget(conversation)

    # Processes come and go

    async def _process(self, spec: LaunchSpec, account: Account, store: SessionStore) -> Process:
        """The conversation's process as `spec` wants it, perhaps still to be started."""
        while process := self._processes.get(spec.conversation):
            if process.alive and await self._suits(process, spec, account):
                return process
            await process.stop()
        await self._make_room()
        if spec.conversation in self._processes:
            return await self._process(spec, account, store)
        place = self._folders.place(spec.conversation)
        process = Process(self._host, spec, place, store, account, self._gone)
        self._processes[spec.conversation] = process
        return process

    async def _suits(self, process: Process, spec: LaunchSpec, account: Account) -> bool:
        if process.spec == spec:
            return True
        if not process.ready:
            await process.start()
        return await process.adopt(spec, account)

    async def _make_room(self) -> None:
        deadline = monotonic() + self._settings.start_within
        while len(self._processes) >= self._limit:
            if victim := self._victim():
                await self._evict(victim)
            elif not await self._wait_for_change(deadline - monotonic()):
                raise NoRoom("Every place on this machine is busy. Send the message again in a minute.")

    def _victim(self) -> Process | None:
        """The longest idle process of the tenant that has most, among those with an idle one."""
        held = Counter(process.spec.tenant for process in self._processes.values())
        idle = [process for process in self._processes.values() if process.ready and not process.busy]
        return max(idle, key=lambda process: (held[process.spec.tenant], -process.idle_since), default=None)

    async def _evict(self, process: Process) -> None:
        await process.stop()
        if self.on_evict is not None:
            self.on_evict(process.spec.conversation)

    def _gone(self, process: Process) -> None:
        if self._processes.get(process.spec.conversation) is process:
            del self._processes[process.spec.conversation]
        self._notice = asyncio.ensure_future(self._notify())

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait_for_change(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._settings.idle_after / 20)
            limit = monotonic() - self._settings.idle_after
            for process in list(self._processes.values()):
                if process.ready and not process.busy and process.idle_since < limit:
                    await self._evict(process)

    # Limits

    async def _watch(self) -> None:
        """Hold each process against its limits once a second; who exceeds them ends."""
        while True:
            await asyncio.sleep(WATCH_EVERY)
            watched = [process for process in self._processes.values() if process.pid is not None]
            for process in watched:
                if process.watch.due:
                    self._counting.add(counting := asyncio.create_task(self._count(process)))
                    counting.add_done_callback(self._counting.discard)
            if watched:
                for process, reason in await asyncio.to_thread(self._look, watched):
                    process.fail(reason)

    def _look(self, watched: list[Process]) -> list[tuple[Process, str]]:
        walled = self._host.tier not in UNWALLED
        # One reading of all that runs here serves all conversations that have no group to tell theirs.
        everybody = cache(Census)
        found = []
        for process in watched:
            if (pid := process.pid) is not None:
                family = process.watch.family(pid, everybody, walled=walled)
                if reason := process.watch.excess(family, walled=walled):
                    found.append((process, reason))
        return found

    async def _count(self, process: Process) -> None:
        if reason := await asyncio.to_thread(process.watch.overfull):
            process.fail(reason)
