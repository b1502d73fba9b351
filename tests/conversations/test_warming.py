"""Warm-ups of one tenant stand in a line of their own: half of the places, no end of waiting, and nothing stays."""

import asyncio
from collections import Counter
from uuid import UUID, uuid4

import pytest

from conversations.warming import AT_ONCE, MOST_WAITING, WarmUps


class Starts:
    """Starts that last until they are let go."""

    def __init__(self) -> None:
        self.warm_ups = WarmUps(self.start)
        self.begun: list[tuple[UUID, UUID]] = []
        self.running: Counter[UUID] = Counter()
        self.go = asyncio.Event()

    async def start(self, tenant: UUID, conversation: UUID) -> None:
        self.begun.append((tenant, conversation))
        self.running[tenant] += 1
        assert self.running[tenant] <= AT_ONCE
        await self.go.wait()
        self.running[tenant] -= 1

    async def asked(self, tenant: UUID, *conversations: UUID) -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(self.warm_ups.ask(tenant, one)) for one in conversations]
        await asyncio.sleep(0.01)
        return tasks


async def test_a_tenants_warm_ups_wait_for_each_other_and_for_nobody_else() -> None:
    starts, greedy, modest = Starts(), uuid4(), uuid4()
    conversations = [uuid4() for _ in range(10)]
    tasks = await starts.asked(greedy, *conversations)
    assert starts.begun == [(greedy, one) for one in conversations[:AT_ONCE]]
    tasks += await starts.asked(modest, conversations[0])
    assert starts.begun[-1] == (modest, conversations[0])
    starts.go.set()
    await asyncio.gather(*tasks)
    assert Counter(tenant for tenant, _one in starts.begun) == {greedy: 10, modest: 1}
    assert [one for tenant, one in starts.begun if tenant == greedy] == conversations


async def test_asked_again_it_is_started_once_and_once_more_when_that_is_over() -> None:
    starts, tenant, conversation = Starts(), uuid4(), uuid4()
    tasks = await starts.asked(tenant, conversation, conversation)
    assert len(starts.begun) == 1
    starts.go.set()
    await asyncio.gather(*tasks, *await starts.asked(tenant, conversation))
    assert len(starts.begun) == 2


async def test_a_line_that_is_long_enough_grows_no_longer() -> None:
    starts, tenant = Starts(), uuid4()
    tasks = await starts.asked(tenant, *(uuid4() for _ in range(3 * MOST_WAITING)))
    assert sum(not task.done() for task in tasks) == MOST_WAITING
    starts.go.set()
    await asyncio.gather(*tasks)
    assert len(starts.begun) == MOST_WAITING


async def test_a_start_that_breaks_or_is_cancelled_makes_room() -> None:
    tenant, after = uuid4(), []

    async def start(_tenant: UUID, conversation: UUID) -> None:
        if conversation.int == 1:
            raise OSError("no more processes")
        if conversation.int == 2:
            await asyncio.Event().wait()
        after.append(conversation)

    warm_ups = WarmUps(start)
    for _ in range(AT_ONCE + 1):
        with pytest.raises(OSError, match="no more"):
            await warm_ups.ask(tenant, UUID(int=1))
        hanging = asyncio.create_task(warm_ups.ask(tenant, UUID(int=2)))
        await asyncio.sleep(0)
        hanging.cancel()
        await asyncio.gather(hanging, return_exceptions=True)
    await warm_ups.ask(tenant, UUID(int=3))
    assert after == [UUID(int=3)]
    assert warm_ups._lines == {}
