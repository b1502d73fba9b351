"""Background work, called as procrastinate calls it."""

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest
from django.utils import timezone

from conversations import tasks
from conversations.models import Control, Event, EventPack, PermissionRequest, Turn
from tenants.context import tenant_context
from tests.cast import House, Person
from tests.conversations.stage import Hands, say
from tests.conversations.test_recorder import failing
from tests.servers import TestServers

LONG_AGO = timedelta(days=3)


def aged(person: Person, ended: bool = True) -> UUID:
    """A conversation of days ago; its turn has ended, or waits still."""
    submitted = say(person.caller)
    if ended:
        Hands.claiming(submitted).finish()
    with tenant_context(person.caller.tenant_id):
        Event.objects.filter(conversation=submitted.conversation).update(at=timezone.now() - LONG_AGO)
    return submitted.conversation


def is_packed(person: Person, conversation: UUID) -> bool:
    with tenant_context(person.caller.tenant_id):
        return EventPack.objects.filter(conversation=conversation).exists()


def pack() -> None:
    asyncio.run(tasks.pack_old_events.func(0))


def test_what_can_not_be_packed_stands_before_nothing_that_can(house: House) -> None:
    waiting = [aged(house.member, ended=False) for _ in range(tasks.CONVERSATIONS_A_RUN + 1)]
    ready = aged(house.owner)
    for _ in range(5):  # what other tests have left may fill a run
        pack()
    assert is_packed(house.owner, ready)
    assert not any(is_packed(house.member, one) for one in waiting)
    with tenant_context(house.id):
        Turn.objects.filter(conversation__in=waiting).delete()


def test_one_that_fails_to_be_packed_stops_no_other(house: House, servers: TestServers) -> None:
    broken, others = aged(house.owner), [aged(house.member) for _ in range(3)]
    with failing(servers, broken, "conversations_eventpack"):
        for _ in range(5):
            pack()
    assert all(is_packed(house.member, one) for one in others)
    assert not is_packed(house.owner, broken)
    pack()
    assert is_packed(house.owner, broken)


async def test_what_was_settled_long_ago_goes_and_nothing_else(
    house: House, servers: TestServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "ROWS_AT_ONCE", 2)
    kept = await asyncio.to_thread(settle, house)
    with servers.as_admin() as admin:
        ended = "INSERT INTO django_session VALUES (%s, 'x', now() - interval '1 minute')"
        for number in range(3):
            admin.execute(ended, [f"ended-{number}-{house.id}"[:40]])
        admin.execute(
            "INSERT INTO django_session VALUES (%s, 'x', now() + interval '1 hour')", [str(house.id)]
        )
        jobs = admin.execute(
            "WITH made AS (INSERT INTO procrastinate_jobs (queue_name, task_name, status) "
            "SELECT 'default', 'test', s::procrastinate_job_status FROM unnest(%s::text[]) s RETURNING id) "
            "INSERT INTO procrastinate_events (job_id, type, at) "
            "SELECT id, 'succeeded', now() - interval '40 days' FROM made RETURNING job_id",
            [["succeeded", "failed", "todo"]],
        ).fetchall()
    async with tasks.job_queue() as working:
        await tasks.delete_settled_rows()
        await tasks.delete_old_jobs(working.job_manager)
    assert await asyncio.to_thread(left_of, house) == kept
    with servers.as_admin() as admin:
        count = "SELECT count(*) FROM django_session WHERE session_key LIKE %s OR session_key = %s"
        assert admin.execute(count, ["ended-%", str(house.id)]).fetchone() == (1,)
        left = admin.execute(
            "SELECT status::text FROM procrastinate_jobs WHERE id = ANY(%s)", [[job for (job,) in jobs]]
        ).fetchall()
        assert left == [("todo",)]


def settle(house: House) -> set[object]:
    """Controls and questions, young and old, settled and open; those that have to stay."""
    hands, now = Hands.claiming(say(house.member.caller)), timezone.now()
    old, young = (
        now - tasks.SETTLED_STAYS - timedelta(hours=1),
        now - tasks.SETTLED_STAYS + timedelta(hours=1),
    )
    about = {"tenant": house.tenant, "conversation_id": hands.claim.conversation, "turn_id": hands.claim.turn}
    with tenant_context(house.id):
        made = [
            [
                Control.objects.create(kind=Control.Kind.INTERRUPT, taken_at=settled, **about).id,
                PermissionRequest.objects.create(asked_at=old, decided_at=settled, **about).id,
            ]
            for settled in (old, young, None)
        ]
    return {*made[1], *made[2]}


def left_of(house: House) -> set[object]:
    with tenant_context(house.id):
        return {
            *Control.objects.values_list("id", flat=True),
            *PermissionRequest.objects.values_list("id", flat=True),
        }
