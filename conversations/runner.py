"""The runner: claims turns, keeps their conversations' leases, and runs them on the pool of live processes.

Any number of them work beside each other; what they share is Postgres. A runner that could not renew its leases
for half their time kills its processes itself: by then another one may hold them.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any
from uuid import UUID

from channels.layers import get_channel_layer
from django.db import DatabaseError, InterfaceError
from redis.exceptions import RedisError

from claude_runner import EngineError, Pool, Proof, RunnerSettings
from conversations import leases
from conversations.hosts import say_alive, say_gone
from conversations.launch import compose
from conversations.leases import LEASE, Claim, Lease
from conversations.models import Control, Conversation
from conversations.nudges import ALL_RUNNERS, nudge_runners, publish, runner_group
from conversations.recorder import Recorder
from conversations.running import RunningTurn
from conversations.transcripts import TranscriptStore
from tenants.context import across_tenants, in_tenant
from tenants.errors import ApiError

logger = logging.getLogger("parley.runner")

LOOK_SECONDS = 1.0
RENEW_SECONDS = LEASE.total_seconds() / 4
FENCE_SECONDS = LEASE.total_seconds() / 2


@dataclass(frozen=True, slots=True)
class Host:
    """What a runner publishes of itself."""

    name: str
    proof: Proof
    cli_version: str


class Runner:
    """`run()` works until `drain()` was called and all turns have ended."""

    def __init__(self, host: Host, settings: RunnerSettings) -> None:
        self.host = host
        self.pool = Pool(settings, host.proof.tier, on_evict=self._evicted)
        self.recorder = Recorder(on_fenced=self._overtaken)
        self.leases: dict[UUID, Lease] = {}
        self.turns: dict[UUID, RunningTurn] = {}
        self._tasks: dict[UUID, asyncio.Task[None]] = {}
        self._others: set[asyncio.Task[Any]] = set()
        self._look = asyncio.Event()
        self._draining = asyncio.Event()
        self._renewed = monotonic()

    # Its life ---------------------------------------------------------------------------------------------

    async def run(self, drain_seconds: float) -> None:
        """Work until drained; a turn that needs longer than `drain_seconds` then is interrupted."""
        await across_tenants(leases.expire_leases, self.host.name)
        await self._look_around()
        loops = [
            self._listen,
            self._claim,
            self._look_regularly,
            self._renew,
            self._watch_lease,
            self.recorder.run,
        ]
        background = [asyncio.create_task(self._forever(loop), name=loop.__name__) for loop in loops]
        try:
            await self._draining.wait()
            await self._finish(drain_seconds)
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await self.pool.stop_all()

    def drain(self) -> None:
        """Take no new turn; leave when the running ones have ended."""
        self._draining.set()

    async def _finish(self, seconds: float) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=seconds)
        for conversation in list(self._tasks):
            await self.pool.interrupt(str(conversation))
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=5)
        await self.pool.stop_all()
        for lease in list(self.leases.values()):
            await across_tenants(leases.release_lease, self.host.name, lease)
        await across_tenants(say_gone, self.host.name)
        # Whoever stays takes over at once what was queued here.
        await nudge_runners("", "turn")

    async def _forever(self, loop: Callable[[], Awaitable[None]]) -> None:
        """A loop outlives an outage of Postgres or of the channel layer; anything else is a bug and ends us.

        One that returns is done: the claiming loop, once we drain.
        """
        while True:
            try:
                await loop()
                return
            except (DatabaseError, InterfaceError, RedisError, OSError) as error:
                logger.warning("%s: %s; trying again", loop.__name__, error)
                await asyncio.sleep(LOOK_SECONDS)
            except Exception:
                logger.exception("The runner's loop %s failed; draining", loop.__name__)
                self.drain()
                raise

    # The queue --------------------------------------------------------------------------------------------

    async def _claim(self) -> None:
        while not self._draining.is_set():
            await self._look.wait()
            self._look.clear()
            while not self._draining.is_set():
                claim = await across_tenants(leases.claim_turn, self.host.name, self._room())
                if claim is None:
                    break
                self._begin(claim)

    def _room(self) -> bool:
        coming = sum(str(conversation) not in self.pool.live() for conversation in self.turns)
        return self.pool.room() and coming < 2

    def _begin(self, claim: Claim) -> None:
        lease = self._lease(claim.tenant, claim.conversation, claim.epoch)
        turn = RunningTurn(claim, lease, self.pool, self.recorder, self.host.name)
        self.turns[claim.conversation] = turn
        self._tasks[claim.conversation] = asyncio.create_task(self._run(turn), name=f"turn {claim.turn}")

    async def _run(self, turn: RunningTurn) -> None:
        conversation = turn.claim.conversation
        try:
            await publish([turn.claim.started])
            await turn.run()
        except Exception:
            logger.exception("Turn %s broke", turn.claim.turn)
            # Without its lease renewed, the turn is ended as lost in seconds.
            self._overtaken(conversation)
        finally:
            if self.turns.get(conversation) is turn:
                del self.turns[conversation]
                del self._tasks[conversation]
            self._look.set()

    def _lease(self, tenant: UUID, conversation: UUID, epoch: int) -> Lease:
        held = self.leases.get(conversation)
        if held is None or held.epoch != epoch:
            held = self.leases[conversation] = Lease(tenant, conversation, epoch)
        return held

    async def _look_regularly(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self._look_around()

    async def _look_around(self) -> None:
        """What a nudge would have said, should it have been lost; and what runners that are gone left behind."""
        await publish(await across_tenants(leases.end_lost_turns))
        await self._take_controls()
        self._look.set()

    # Leases -----------------------------------------------------------------------------------------------

    async def _renew(self) -> None:
        while True:
            asked = monotonic()
            held = list(self.leases.values())
            kept = await across_tenants(leases.renew_leases, self.host.name, held) if held else set()
            self._renewed = asked
            for lease in held:
                if lease.conversation not in kept and self.leases.get(lease.conversation) is lease:
                    self._overtaken(lease.conversation)
            proof = self.host.proof
            await across_tenants(
                say_alive,
                self.host.name,
                proof.tier,
                proof.reason,
                self.host.cli_version,
                len(self.pool.live()),
            )
            await asyncio.sleep(RENEW_SECONDS)

    async def _watch_lease(self) -> None:
        while True:
            await asyncio.sleep(FENCE_SECONDS / 10)
            if self.leases and monotonic() - self._renewed > FENCE_SECONDS:
                logger.warning(
                    "The leases could not be renewed for %.0f s: stopping all processes", FENCE_SECONDS
                )
                for conversation in list(self.leases):
                    self._overtaken(conversation)

    def _overtaken(self, conversation: UUID) -> None:
        """Another runner may hold it: stop at once, write nothing more."""
        if self.leases.pop(conversation, None) is not None:
            self._spawn(self._abandon(conversation))

    async def _abandon(self, conversation: UUID) -> None:
        task = self._tasks.get(conversation)
        if task is not None and task is not asyncio.current_task():
            task.cancel()
        await self.pool.stop(str(conversation))

    def _evicted(self, conversation: str) -> None:
        lease = self.leases.pop(UUID(conversation), None)
        if lease is not None:
            self._spawn(across_tenants(leases.release_lease, self.host.name, lease))

    def _spawn(self, work: Awaitable[Any]) -> None:
        task = asyncio.ensure_future(work)
        self._others.add(task)
        task.add_done_callback(self._others.discard)

    # What people want -------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        layer = get_channel_layer()
        assert layer is not None
        channel = await layer.new_channel()
        await layer.group_add(ALL_RUNNERS, channel)
        await layer.group_add(runner_group(self.host.name), channel)
        while True:
            message = await layer.receive(channel)
            match message["type"]:
                case "runner.turn":
                    self._look.set()
                case "runner.control":
                    self._spawn(self._take_controls())
                case "runner.warm":
                    self._spawn(self._warm(UUID(message["tenant"]), UUID(message["conversation"])))

    async def _take_controls(self) -> None:
        for control in await across_tenants(leases.take_controls, self.host.name):
            conversation, data = UUID(control["conversation"]), control["data"]
            turn = self.turns.get(conversation)
            match control["kind"]:
                case Control.Kind.INTERRUPT if turn and str(turn.claim.turn) == control["turn"]:
                    self._spawn(self.pool.interrupt(str(conversation)))
                case Control.Kind.PERMISSION if turn:
                    turn.answer(data["request"], data["decision"], data["message"], data["by"])
                case Control.Kind.SET:
                    self._spawn(self._set(str(conversation), data))

    async def _set(self, conversation: str, data: dict[str, str]) -> None:
        if "model" in data:
            await self.pool.set_model(conversation, data["model"] or None)
        if "permission_mode" in data:
            await self.pool.set_permission_mode(conversation, data["permission_mode"])

    async def _warm(self, tenant: UUID, conversation: UUID) -> None:
        """Have a process ready before the first message. What hinders it, the message itself will say."""
        if self._draining.is_set() or str(conversation) in self.pool.live() or not self._room():
            return
        epoch = await across_tenants(leases.take_lease, self.host.name, tenant, conversation)
        if epoch is None:
            return
        lease = self._lease(tenant, conversation, epoch)
        try:
            launch = await in_tenant(tenant, compose_for_author, tenant, conversation)
            await self.pool.warm(launch.spec, launch.upstream, TranscriptStore(tenant, conversation, epoch))
        except (ApiError, EngineError) as error:
            logger.info("Conversation %s was not warmed up: %s", conversation, error)
        if str(conversation) not in self.pool.live() and conversation not in self.turns:
            self.leases.pop(conversation, None)
            await across_tenants(leases.release_lease, self.host.name, lease)


def compose_for_author(tenant: UUID, conversation: UUID) -> Any:
    """The launch that the conversation's author would get."""
    author = Conversation.objects.values_list("author_id", flat=True).get(id=conversation)
    return compose(tenant, conversation, author)
