"""One turn on its way through the engine: claimed, run, recorded."""

import asyncio
import logging
from contextlib import aclosing
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

from django.db import Error
from django.utils.translation import gettext as _

from claude_runner import Answer, Pool, Question, ToolFinished, TurnEnd
from conversations.launch import Launch, content_of, launch_of
from conversations.leases import Claim, Lease
from conversations.models import Conversation
from conversations.recorder import RETRY_SECONDS, Recorder
from conversations.transcripts import TranscriptStore
from tenants.context import in_tenant
from tenants.errors import ApiError

logger = logging.getLogger("parley.runner")

INSIST_SECONDS = 0.1


class RunningTurn:
    """Runs a claimed turn to its end, which is always recorded: completed, failed or interrupted."""

    def __init__(self, claim: Claim, lease: Lease, pool: Pool, recorder: Recorder, runner: str) -> None:
        self.claim = claim
        self.lease = lease
        self._pool = pool
        self._recorder = recorder
        self._runner = runner
        self._questions: dict[str, asyncio.Future[tuple[Answer, str]]] = {}
        self._files_noted = claim.files_on == runner
        self._interrupting: asyncio.Task[None] | None = None
        self._stopped_because = ""
        self.asks_since: float | None = None
        """Since when (monotonic) it waits for an answer; None while it does not."""
        self.outcome = "lost"
        """How it ended: completed, failed or interrupted; lost as long as that is not recorded."""

    async def run(self) -> None:
        """Returns once the turn's last event is stored, or refused because another host took over."""
        try:
            self._check_files()
            launch, content = launch_of(self.claim), await content_of(self.claim)
            if self._interrupting is None:
                await self._follow(launch, content)
            else:
                await self._end("turn.interrupted", _nothing("interrupted"))
        except ApiError as error:
            await self._fail(error.type, str(error))
        except Error as error:
            logger.warning("Turn %s could not be prepared: %s", self.claim.turn, error)
            await self._fail("api_error", _("The database did not answer. Send the message again."))
        except Exception:
            # A border: a turn ends with a sentence, whatever broke.
            logger.exception("Turn %s broke", self.claim.turn)
            await self._fail(
                "api_error",
                _("Something went wrong in the runner. Send the message again; its log has more."),
            )
        finally:
            if self._interrupting is not None:
                self._interrupting.cancel()

    def interrupt(self) -> None:
        """Have it end within seconds, however far it has come."""
        if self._interrupting is None:
            self._interrupting = asyncio.create_task(self._insist())

    def stop_because(self, message: str) -> None:
        """Its process is being stopped for a reason that the person has to hear."""
        self._stopped_because = message
        self.interrupt()

    async def _insist(self) -> None:
        # The engine stops what runs, and knows nothing of a turn that is only about to: say it until it ends.
        while True:
            await self._pool.interrupt(str(self.claim.conversation))
            await asyncio.sleep(INSIST_SECONDS)

    def _check_files(self) -> None:
        if self.claim.files_on not in ("", self._runner):
            raise ApiError(
                _(
                    "The files of this conversation lie on the runner %(name)s, which does not answer. "
                    "Start it again and repeat the message, or go on in a new conversation."
                )
                % {"name": self.claim.files_on}
            )

    async def _follow(self, launch: Launch, content: Any) -> None:
        store = TranscriptStore(self.claim.tenant, self.claim.conversation, self.claim.epoch)
        events = self._pool.turn(launch.spec, launch.account, store, content, self._ask)
        async with aclosing(events) as turn:
            async for event in turn:
                if isinstance(event, TurnEnd):
                    await self._note_files()
                    await self._end(event.type, event.data())
                    return
                self._recorder.record(self.lease, self.claim.turn, event.type, event.data())
                await self._recorder.room(self.claim.conversation)
                if isinstance(event, ToolFinished):
                    await self._note_files()

    async def _end(self, kind: str, data: dict[str, Any]) -> None:
        data["timing"] = {"queued_ms": self.claim.queued_ms, **data["timing"]}
        if self._stopped_because and kind != "turn.completed":
            error = {"type": "api_error", "message": self._stopped_because}
            kind, data = "turn.failed", data | {"stop_reason": "error", "error": error}
        if await self._recorder.record_last(self.lease, self.claim.turn, kind, data):
            self.outcome = kind.removeprefix("turn.")

    async def _fail(self, kind: str, message: str) -> None:
        says = _nothing("error") | {"error": {"type": kind, "message": message}}
        await self._end("turn.failed", says)

    async def _ask(self, question: Question) -> Answer:
        """Put a question to the people, and wait as long as they need."""
        request = str(uuid4())
        future: asyncio.Future[tuple[Answer, str]] = asyncio.get_running_loop().create_future()
        self._questions[request] = future
        self.asks_since = self.asks_since or monotonic()
        says = {
            "request": request,
            "tool_use": question.tool_use,
            "name": question.name,
            "input": question.input,
            "title": question.title,
            "choices": question.choices,
        }
        try:
            await self._recorder.record_last(self.lease, self.claim.turn, "permission.requested", says)
            answer, by = await future
        finally:
            del self._questions[request]
            if not self._questions:
                self.asks_since = None
        resolved = {"request": request, "decision": answer.decision, "by": by}
        self._recorder.record(self.lease, self.claim.turn, "permission.resolved", resolved)
        return answer

    def answer(self, request: str, decision: str, message: str, by: str) -> None:
        """A person's answer; one for a question that is no longer open changes nothing."""
        future = self._questions.get(request)
        if future is not None and not future.done():
            future.set_result((Answer(decision, message), by))

    async def _note_files(self) -> None:
        """Say that the conversation's files are on this host, as soon as there are any.

        Not to be left out: another host would go on without them.
        """
        while not self._files_noted and self._pool.has_files(str(self.claim.conversation)):
            try:
                await in_tenant(
                    self.claim.tenant, note_files, self.claim.conversation, self.claim.epoch, self._runner
                )
                self._files_noted = True
            except Error as error:
                logger.warning("Where files are could not be noted, trying again: %s", error)
                await asyncio.sleep(RETRY_SECONDS)


def _nothing(stop_reason: str) -> dict[str, Any]:
    """What the last event of a turn says that used nothing."""
    return {"stop_reason": stop_reason, "usage": {}, "cost_usd": 0.0, "timing": {}}


def note_files(conversation: UUID, epoch: int, runner: str) -> None:
    """Fenced by the epoch: a runner that was overtaken notes nothing."""
    Conversation.objects.filter(id=conversation, epoch=epoch).update(files_on=runner)
