"""The runner: claims turns, keeps their conversations' leases, and runs them on the pool of live processes.

Any number of them work beside each other; what they share is Postgres. A runner that could not renew a lease
for half its time kills the process itself: by then another one may hold the conversation.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from secrets import token_hex
from time import monotonic
from typing import Any
from uuid import UUID

from channels.layers import get_channel_layer
from django.db import Error
from django.utils.translation import gettext as _
from redis.exceptions import RedisError

from claude_runner import EngineError, Pool, Proof, RunnerSettings
from conversations import disposals, leases
from conversations.accounts import model_addresses_of
from conversations.hosts import NameTaken, Said, say_alive, say_gone, take_name
from conversations.launch import launch_for_author
from conversations.leases import BUSY_SECONDS, FENCE_SECONDS, RENEW_SECONDS, WATCH_SECONDS, Claim, Lease
from conversations.models import Control
from conversations.nudges import ALL_RUNNERS, nudge_runners, publish, runner_group
from conversations.proving import Walls
from conversations.recorder import Recorder, wait_for
from conversations.running import RunningTurn
from conversations.transcripts import TranscriptStore
from conversations.waiting import explain_waiting
from conversations.warming import WarmUps
from tenants.context import across_tenants, in_tenant
from tenants.errors import ApiError

logger = logging.getLogger("parley.runner")

LOOK_SECONDS = 1.0
LAST_SECONDS = 5.0
DISPOSE_SECONDS = 5.0
STARTING_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Host:
    """What a runner publishes of itself."""

    name: str
    proof: Proof
    cli_version: str
    any_tenant: bool = False
    """Whether it works for all tenants even without a sandbox."""
    prove_every: float = 600.0
    """Seconds."""
    questions_yield: float = 600.0
    """Seconds after which a question without an answer gives its place up, where there is none for others."""
    home: str = ""
    """What its folder is called, of which it holds the lock: two processes of one home never live side by side."""


class Runner:
    """`run()` works until `drain()` was called and all turns have ended."""

    def __init__(self, host: Host, settings: RunnerSettings) -> None:
        self.host = host
        self.instance = f"{host.home}.{token_hex(8)}"
        self.walls = Walls(settings, host.proof, host.any_tenant, host.prove_every)
        self.pool = Pool(settings, host.proof.tier, on_evict=self._evicted, addresses_of=model_addresses_of)
        self.recorder = Recorder(on_fenced=self._overtaken)
        self.leases: dict[UUID, Lease] = {}
        self.turns: dict[UUID, RunningTurn] = {}
        self.ended: Counter[str] = Counter()
        self._tasks: dict[UUID, asyncio.Task[None]] = {}
        self._warming: set[UUID] = set()
        self._warm_ups = WarmUps(self._warm)
        self._others: set[asyncio.Task[Any]] = set()
        self._look = asyncio.Event()
        self._disposing = asyncio.Event()
        self._draining = asyncio.Event()
        self._is_replaced = False
        # Held while a conversation is claimed or let go, so that no lease goes under a turn that has just begun.
        self._holding = asyncio.Lock()
        self._heeding = asyncio.Lock()
        self._heeded: set[int] = set()

    # Its life ---------------------------------------------------------------------------------------------

    async def run(self, drain_seconds: float) -> None:
        """Work until drained; a turn that needs longer than `drain_seconds` then is interrupted.

        NameTaken where another process is the runner of our name, or has become it meanwhile.
        """
        await self._take_name()  # nothing is claimed by a host that has not published what it proved
        await across_tenants(leases.expire_leases, self.host.name)
        await self._look_around()
        loops = [
            self._listen,
            self._claim,
            self._look_regularly,
            self._renew,
            self._watch_leases,
            self._watch_walls,
            self._dispose,
            self.recorder.run,
            self.recorder.catch_up,
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
        if self._is_replaced:
            raise NameTaken(self.host.name)

    async def _take_name(self) -> None:
        """One that does not say a word any more is waited for until its leases have ended."""
        heard: set[datetime] = set()
        while (last := await across_tenants(take_name, self._said(), self.host.home)) is not None:
            heard.add(last)
            if len(heard) > 1:
                raise NameTaken(self.host.name)
            await asyncio.sleep(LOOK_SECONDS / 2)

    def drain(self) -> None:
        """Take no new turn; leave when the running ones have ended."""
        self._draining.set()

    async def _finish(self, seconds: float) -> None:
        async with self._holding:
            pass  # A claim that was on its way has become a turn.
        # What waits here goes to others now; each conversation follows when its turn has ended.
        for conversation in self.leases.keys() - self.turns.keys():
            self._spawn(self._let_go(conversation))
        await self._turns_end(seconds)
        for turn in self.turns.values():
            turn.interrupt()
        await self._turns_end(LAST_SECONDS)
        await self.pool.stop_all()
        await self._turns_end(LAST_SECONDS)
        await asyncio.gather(*self._others, return_exceptions=True)
        last = [self._let_go(conversation) for conversation in self.leases]
        await asyncio.gather(*last, return_exceptions=True)
        with suppress(Error):  # An entry that nobody renews is as good as none.
            await across_tenants(say_gone, self.host.name, self.instance)

    async def _turns_end(self, seconds: float) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=seconds)

    async def _forever(self, loop: Callable[[], Awaitable[None]]) -> None:
        """A loop outlives an outage of Postgres or of the channel layer; anything else is a bug and ends us.

        One that returns is done: the claiming loop, once we drain.
        """
        while True:
            try:
                await loop()
                return
            except (Error, RedisError, OSError) as error:
                logger.warning("%s: %s; trying again", loop.__name__, error)
                await asyncio.sleep(LOOK_SECONDS)
            except NameTaken:
                self._give_way()
                return
            except Exception:
                logger.exception("The runner's loop %s failed; draining", loop.__name__)
                self.drain()
                raise

    def _give_way(self) -> None:
        """Another process has our name, so that nothing here is ours any more: leave at once."""
        self._is_replaced = True
        for lease in list(self.leases.values()):
            self._overtaken(lease)
        self.drain()

    # The queue --------------------------------------------------------------------------------------------

    async def _claim(self) -> None:
        # Came here after a fault: what was claimed then without an answer is nobody's.
        async with self._holding:
            known = [turn.claim.turn for turn in self.turns.values()]
            await across_tenants(leases.disown_turns, self.host.name, known)
        while not self._draining.is_set():
            claim = await self._claim_one()
            if claim is not None and claim.more:
                continue
            # While others start, room comes without anybody saying so.
            await wait_for(self._look, LOOK_SECONDS / 10 if self._starting() else None)
            self._look.clear()

    async def _claim_one(self) -> Claim | None:
        async with self._holding:
            if self.walls.refuses:
                return None
            asked = monotonic()
            claim = await across_tenants(leases.claim_turn, self.host.name, self._room(), self.instance)
            if claim is not None:
                self._begin(claim, asked)
        return claim

    def _starting(self) -> int:
        return sum(str(conversation) not in self.pool.live() for conversation in self.turns)

    def _room(self) -> bool:
        return self.pool.room() and self._starting() < STARTING_AT_ONCE

    def _begin(self, claim: Claim, asked: float) -> None:
        lease = self._lease(claim.tenant, claim.conversation, claim.epoch, asked)
        turn = RunningTurn(claim, lease, self.pool, self.recorder, self.host.name)
        self.turns[claim.conversation] = turn
        self._tasks[claim.conversation] = asyncio.create_task(self._run(turn), name=f"turn {claim.turn}")

    async def _run(self, turn: RunningTurn) -> None:
        conversation = turn.claim.conversation
        try:
            await publish([turn.claim.started])
            await turn.run()
        finally:
            self.ended[turn.outcome] += 1
            if self.turns.get(conversation) is turn:
                del self.turns[conversation]
                del self._tasks[conversation]
            self._look.set()
            if self._draining.is_set():
                self._spawn(self._let_go(conversation))

    def _lease(self, tenant: UUID, conversation: UUID, epoch: int, asked: float) -> Lease:
        held = self.leases.get(conversation)
        if held is None or held.epoch < epoch:
            held = self.leases[conversation] = Lease(tenant, conversation, epoch, asked)
        held.renewed = max(held.renewed, asked)
        return held

    async def _look_regularly(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self._look_around()

    async def _look_around(self) -> None:
        """What a nudge would have said, should it have been lost; and what runners that are gone left behind."""
        await publish(await across_tenants(leases.end_lost_turns))
        await publish(await across_tenants(explain_waiting))
        await self._take_controls()
        await self._make_room()
        self._look.set()

    async def _make_room(self) -> None:
        """A question that nobody answers gives its place up once others want it."""
        if self.pool.room():
            return
        since = monotonic() - self.host.questions_yield
        asking = [turn for turn in self.turns.values() if (turn.asks_since or monotonic()) < since]
        if not asking:
            return
        is_wanted: bool = await across_tenants(leases.is_room_wanted)
        if is_wanted:
            held = Counter(turn.claim.tenant for turn in self.turns.values())
            longest = min(asking, key=lambda turn: (-held[turn.claim.tenant], turn.asks_since or 0.0))
            longest.stop_because(
                _(
                    "Nobody answered the question for a long time, and others were waiting for the place."
                    " Send a message to go on."
                )
            )

    # Leases -----------------------------------------------------------------------------------------------

    async def _renew(self) -> None:
        while True:
            busy = await self._renew_those(list(self.leases.values()))
            self._let_idle_go()
            await self._say_alive()
            due = monotonic() + RENEW_SECONDS
            while busy and monotonic() < due:
                await asyncio.sleep(BUSY_SECONDS)
                busy = await self._renew_those(
                    [one for one in busy if self.leases.get(one.conversation) is one]
                )
            await asyncio.sleep(max(0.0, due - monotonic()))

    async def _renew_those(self, held: list[Lease]) -> list[Lease]:
        """Renew these; those whose row somebody else has, which are asked for again soon: it is ours still."""
        if not held:
            return []
        asked = monotonic()
        kept, busy = await across_tenants(leases.renew_leases, self.host.name, held)
        for lease in held:
            if lease.conversation in kept:
                lease.renewed = asked
            elif lease.conversation not in busy:
                self._overtaken(lease)
        return [lease for lease in held if lease.conversation in busy]

    async def _say_alive(self) -> None:
        await across_tenants(say_alive, self._said())

    def _said(self) -> Said:
        return self.walls.said(
            self.host.name,
            instance=self.instance,
            cli_version=self.host.cli_version,
            processes=len(self.pool.live()),
            places=self.pool.places,
            turns_ended=self.ended,
        )

    async def _watch_walls(self) -> None:
        while True:
            await asyncio.sleep(self.walls.look_again_in)
            holds = await self.walls.prove()
            await asyncio.gather(self._say_alive(), *([] if holds else [self._stop_agents()]))
            self._look.set()

    async def _stop_agents(self) -> None:
        """End every process: the walls around them do not hold. What is about to start one is waited for."""
        async with self._holding:
            pass  # A claim that was on its way has become a turn.
        message = _("The sandbox around this turn did not pass its checks any more, so it was stopped.")
        while self.turns or self.pool.live():
            for turn in self.turns.values():
                turn.stop_because(message)
            await asyncio.gather(*(self.pool.stop(one, gently=False) for one in self.pool.live()))
            await asyncio.sleep(LOOK_SECONDS / 10)

    async def _watch_leases(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            late = [lease for lease in self.leases.values() if lease.look()]
            if late:
                logger.warning(
                    "%d leases could not be renewed for %.0f s: stopping their processes",
                    len(late),
                    FENCE_SECONDS,
                )
            for lease in late:
                self._overtaken(lease)

    def _overtaken(self, lease: Lease) -> None:
        """Another runner may hold it: stop at once, write nothing more. A former lease of ours is no news."""
        if self.leases.get(lease.conversation) is lease:
            del self.leases[lease.conversation]
            self._spawn(self._abandon(lease.conversation))

    async def _abandon(self, conversation: UUID) -> None:
        task = self._tasks.get(conversation)
        if task is not None:
            task.cancel()
        await self.pool.stop(str(conversation), gently=False)

    def _evicted(self, conversation: str) -> None:
        self._spawn(self._let_go(UUID(conversation)))

    def _let_idle_go(self) -> None:
        """A conversation whose process ended by itself is as well off anywhere."""
        for conversation in list(self.leases):
            if not self._uses(conversation):
                self._spawn(self._let_go(conversation))

    def _uses(self, conversation: UUID) -> bool:
        return (
            conversation in self.turns
            or conversation in self._warming
            or str(conversation) in self.pool.live()
        )

    async def _let_go(self, conversation: UUID) -> None:
        """Give a conversation back, unless a turn of it runs here."""
        if self._draining.is_set() and conversation not in self.turns:
            await self.pool.stop(str(conversation))
        async with self._holding:
            lease = self.leases.get(conversation)
            if lease is None or self._uses(conversation):
                return
            if await across_tenants(leases.release_lease, self.host.name, lease):
                del self.leases[conversation]
        if self._draining.is_set():
            await nudge_runners("", "turn")

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._others.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._others.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.warning("Left undone: %r", error)

    # What was deleted -------------------------------------------------------------------------------------

    async def _dispose(self) -> None:
        """Delete the folders that were ordered away, and nothing else; see `disposals`."""
        while True:
            self._disposing.clear()
            kept = await asyncio.to_thread(self.pool.kept)
            ordered = await across_tenants(disposals.ordered_among, kept) if kept else []
            gone = [conversation for conversation in ordered if await self._dispose_of(conversation)]
            if gone:
                await across_tenants(disposals.note_done, self.host.name, gone)
            await wait_for(self._disposing, DISPOSE_SECONDS)

    async def _dispose_of(self, conversation: UUID) -> bool:
        self.leases.pop(conversation, None)
        await self._abandon(conversation)
        try:
            await asyncio.to_thread(self.pool.forget, str(conversation))
        except OSError as error:
            logger.error("The folder of %s could not be deleted: %s; trying again", conversation, error)
            return False
        return True

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
                case "runner.dispose":
                    self._disposing.set()
                case "runner.warm":
                    self._spawn(self._warm_ups.ask(UUID(message["tenant"]), UUID(message["conversation"])))

    async def _take_controls(self) -> None:
        async with self._heeding:
            heeded = list(self._heeded)
            controls = await across_tenants(leases.take_controls, self.host.name, heeded)
            self._heeded.difference_update(heeded)
            self._heeded.update(control["id"] for control in controls if self._heed(control))

    def _heed(self, control: dict[str, Any]) -> bool:
        """Do it; false where its turn is not here yet."""
        conversation, data = UUID(control["conversation"]), control["data"]
        if control["kind"] == Control.Kind.SET:
            self._spawn(self._set(str(conversation), data))
            return True
        turn = self.turns.get(conversation)
        if turn is None or str(turn.claim.turn) != control["turn"]:
            return False
        if control["kind"] == Control.Kind.INTERRUPT:
            turn.interrupt()
        else:
            turn.answer(data["request"], data["decision"], data["message"], data["by"])
        return True

    async def _set(self, conversation: str, data: dict[str, str]) -> None:
        if "model" in data:
            await self.pool.set_model(conversation, data["model"] or None)
        if "permission_mode" in data:
            await self.pool.set_permission_mode(conversation, data["permission_mode"])

    async def _warm(self, tenant: UUID, conversation: UUID) -> None:
        """Have a process ready before the first message. What hinders it, the message itself will say."""
        if self.walls.refuses or self._draining.is_set() or self._uses(conversation) or not self._room():
            return
        self._warming.add(conversation)
        try:
            await self._warm_up(tenant, conversation)
        except (ApiError, EngineError, Error) as error:
            logger.info("Conversation %s was not warmed up: %s", conversation, error)
        finally:
            self._warming.discard(conversation)

    async def _warm_up(self, tenant: UUID, conversation: UUID) -> None:
        asked = monotonic()
        epoch = await across_tenants(leases.take_lease, self.host.name, tenant, conversation)
        if epoch is not None:
            self._lease(tenant, conversation, epoch, asked)
            launch = await in_tenant(tenant, launch_for_author, tenant, conversation)
            await self.pool.warm(launch.spec, launch.account, TranscriptStore(tenant, conversation, epoch))
