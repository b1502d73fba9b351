"""Background work, done by procrastinate inside each runner. Every job is safe to repeat."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from uuid import UUID

from django.contrib.sessions.models import Session
from django.db import Error, connection
from django.utils import timezone
from procrastinate import App, JobContext, RetryStrategy
from procrastinate.contrib.django import app as proxied
from procrastinate.contrib.django import procrastinate_app
from procrastinate.manager import JobManager

from conversations.ending import delete_conversations, delete_rest
from conversations.events import pack
from conversations.models import Conversation
from conversations.nudges import nudge_runners
from tenants.context import across_tenants, in_tenant
from tenants.models import Tenant

logger = logging.getLogger("parley.tasks")

DRAFTS_LIVE = timedelta(days=1)
EVENTS_STAY_LOOSE = timedelta(days=1)
CONVERSATIONS_A_RUN = 100
REST_SECONDS = 1.0
SETTLED_STAYS = timedelta(days=30)
ROWS_AT_ONCE = 1000
DELETING = "delete_tenant"
TRIES = RetryStrategy(max_attempts=10, exponential_wait=3)  # the last after a day


@proxied.periodic(cron="17 * * * *")
@proxied.task(name="delete_old_drafts", queueing_lock="delete_old_drafts", pass_context=False)
async def delete_old_drafts(timestamp: int) -> None:
    """Conversations that were opened and warmed up, but never written to."""
    await across_tenants(_delete_old_drafts)


@proxied.periodic(cron="47 * * * *")
@proxied.task(name="delete_settled", queueing_lock="delete_settled", pass_context=True)
async def delete_settled(context: JobContext, timestamp: int) -> None:
    """What nobody asks for any more: controls, questions and jobs of long ago, sessions that have ended."""
    await delete_settled_rows()
    await delete_old_jobs(context.app.job_manager)


async def delete_settled_rows() -> None:
    """A bounded number a transaction, until there are no more."""
    for some_went in (_delete_settled, _delete_ended_sessions):
        while await across_tenants(some_went) >= ROWS_AT_ONCE:
            pass


async def delete_old_jobs(jobs: JobManager) -> None:
    """Those of them that have ended, however."""
    hours = int(SETTLED_STAYS.total_seconds()) // 3600
    await jobs.delete_old_jobs(hours, include_failed=True, include_cancelled=True, include_aborted=True)


@proxied.periodic(cron="*/10 * * * *")
@proxied.task(name="pack_old_events", queueing_lock="pack_old_events", pass_context=False)
async def pack_old_events(timestamp: int) -> None:
    """Pack the events of conversations, a bounded number a run, until nothing old is loose."""
    for tenant, conversation in await across_tenants(_packable):
        try:
            while await in_tenant(tenant, pack_conversation, conversation, EVENTS_STAY_LOOSE):
                pass
        except Error as error:
            logger.warning("Conversation %s can't be packed: %s", conversation, error)


@proxied.task(name=DELETING, pass_context=False, retry=TRIES)
async def delete_tenant(tenant: str) -> None:
    """Delete all that is left of a tenant that was shut out."""
    await across_tenants(delete_conversations, UUID(tenant))
    await nudge_runners("", "dispose")
    with suppress(Tenant.DoesNotExist):
        await across_tenants(delete_rest, UUID(tenant))


@proxied.periodic(cron="* * * * *")
@proxied.task(name="go_on_deleting", queueing_lock="go_on_deleting", pass_context=True)
async def go_on_deleting(context: JobContext, timestamp: int) -> None:
    """Take up what a runner left behind that was killed while it deleted a tenant."""
    await retry_stalled(context.app.job_manager)


async def retry_stalled(jobs: JobManager) -> None:
    """Only deletions: what is done again by the hour needs no second try."""
    for job in await jobs.get_stalled_jobs(task_name=DELETING):
        await jobs.retry_job(job)


def pack_conversation(conversation: UUID, older_than: timedelta) -> int:
    """Pack one run of a conversation's old events; how many. One that was deleted meanwhile has none."""
    found = Conversation.objects.filter(id=conversation).first()
    return pack(found, timezone.now() - older_than) if found else 0


def _delete_old_drafts() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT delete_old_drafts(%s::interval)", [str(DRAFTS_LIVE)])


def _delete_settled() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT delete_settled(%s::interval, %s)", [str(SETTLED_STAYS), ROWS_AT_ONCE])
        (most,) = cursor.fetchone()
    return int(most)


def _delete_ended_sessions() -> int:
    ended = Session.objects.filter(expire_date__lt=timezone.now()).values("session_key")[:ROWS_AT_ONCE]
    return Session.objects.filter(session_key__in=ended).delete()[0]


def _packable() -> list[tuple[UUID, UUID]]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT tenant_id, conversation_id FROM packable_conversations(%s::interval, %s)",
            [str(EVENTS_STAY_LOOSE), CONVERSATIONS_A_RUN],
        )
        rows: list[tuple[UUID, UUID]] = cursor.fetchall()
        return rows


@asynccontextmanager
async def job_queue() -> AsyncIterator[App]:
    """procrastinate's app, connected as long as the context is open."""
    app = procrastinate_app.current_app  # made when all apps are ready, so not to be imported by name
    connector = app.connector.get_worker_connector()  # type: ignore[attr-defined]  # Django's connector has it
    async with app.with_connector(connector).open_async() as working:
        yield working


async def _work(working: App) -> None:
    """A worker ends with the first outage of the database, and says so to nobody: another one takes over."""
    while True:
        try:
            await working.run_worker_async(install_signal_handlers=False, concurrency=2, wait=True)
        except Exception:
            # A border: whatever it was, the next one may fare better.
            logger.exception("Background work ended and begins anew")
        await asyncio.sleep(REST_SECONDS)


@asynccontextmanager
async def work_in_background() -> AsyncIterator[None]:
    """Run procrastinate's worker as long as the context is open."""
    async with job_queue() as working:
        worker = asyncio.create_task(_work(working))
        try:
            yield
        finally:
            worker.cancel()
            with suppress(asyncio.CancelledError):
                await worker
