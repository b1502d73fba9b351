"""The SDK's own conformance suite, and the fence, on the transcripts in Postgres."""

from uuid import uuid4

import pytest
from claude_agent_sdk import SessionKey
from claude_agent_sdk.testing import run_session_store_conformance

from claude_runner import StartFailed
from conversations.models import Conversation
from conversations.transcripts import Fenced, TranscriptStore
from conversations.turns import draft
from tenants.access import Caller
from tenants.context import in_tenant
from tests.cast import House, Person

KEY: SessionKey = {"project_key": "-workspace", "session_id": str(uuid4())}


@pytest.fixture
def caller(house: House) -> Caller:
    return house.member.caller


async def a_store(caller: Caller) -> TranscriptStore:
    conversation = await in_tenant(caller.tenant_id, draft, caller)
    return TranscriptStore(caller.tenant_id, conversation.id, epoch=0)


async def test_the_store_passes_the_sdks_conformance_suite(caller: Caller) -> None:
    await run_session_store_conformance(lambda: a_store(caller))


async def test_an_entry_with_a_uuid_is_kept_once(caller: Caller) -> None:
    store = await a_store(caller)
    await store.append(KEY, [{"type": "user", "uuid": "u1"}])
    await store.append(KEY, [{"type": "user", "uuid": "u1"}, {"type": "mode"}, {"type": "mode"}])
    assert await store.load(KEY) == [{"type": "user", "uuid": "u1"}, {"type": "mode"}, {"type": "mode"}]


async def test_a_memory_that_is_too_large_to_be_read_is_told(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await a_store(caller)
    await store.append(KEY, [{"type": "user", "uuid": "x" * 70 + str(n)} for n in range(3)])
    assert len(await store.load(KEY) or []) == 3
    monkeypatch.setattr("conversations.transcripts.LARGEST", 200)
    with pytest.raises(StartFailed, match="Start a new conversation"):
        await store.load(KEY)


async def test_an_entry_keeps_characters_that_jsonb_refuses(caller: Caller) -> None:
    store = await a_store(caller)
    odd = {"type": "user", "text": "nul \x00, half a pair \ud83d"}
    await store.append(KEY, [odd])  # type: ignore[list-item]  # entries are opaque
    assert await store.load(KEY) == [odd]


async def test_a_former_holder_writes_nothing(caller: Caller) -> None:
    store = await a_store(caller)
    await in_tenant(
        caller.tenant_id, lambda: Conversation.objects.filter(id=store.conversation).update(epoch=1)
    )
    with pytest.raises(Fenced):
        await store.append(KEY, [{"type": "user"}])
    assert await store.load(KEY) is None


async def test_another_tenants_store_sees_nothing(caller: Caller, stranger: Person) -> None:
    store = await a_store(caller)
    await store.append(KEY, [{"type": "user"}])
    theirs = TranscriptStore(stranger.caller.tenant_id, store.conversation, epoch=0)
    assert await theirs.load(KEY) is None
    with pytest.raises(Fenced):
        await theirs.append(KEY, [{"type": "user"}])
