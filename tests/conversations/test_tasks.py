"""Background work, called as procrastinate calls it."""

import asyncio
from datetime import timedelta
from uuid import UUID

from django.utils import timezone

from conversations import tasks
from conversations.models import Event, EventPack, Turn
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
