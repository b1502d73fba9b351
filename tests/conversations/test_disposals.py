"""Orders for the folders of deleted conversations, and the end of a tenant, as far as the database goes."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import DatabaseError, connection, transaction

from claude_runner.folders import Folders
from claude_runner.spec import RunnerSettings
from conversations.disposals import note_done, ordered_among, still_open
from conversations.ending import delete_conversations, delete_rest, shut_out
from conversations.leases import end_lost_turns, expire_leases
from conversations.models import Conversation
from conversations.running import note_files
from conversations.turns import draft
from tenants import key_parts
from tenants.authentication import memberships_of
from tenants.context import tenant_context
from tenants.master_keys import SecretError
from tenants.models import Membership, Tenant
from tenants.rotation import all_tenants
from tests.cast import House, Person
from tests.conversations.stage import Hands, say
from tests.servers import TestServers


@pytest.fixture
def short() -> Iterator[Path]:
    """A short folder that other uids may pass through, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="p-", dir="/tmp") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def talk(person: Person) -> Hands:
    """A conversation whose files lie on a runner of its own."""
    hands = Hands.claiming(say(person.caller))
    with tenant_context(person.caller.tenant_id):
        note_files(hands.claim.conversation, hands.claim.epoch, hands.runner)
    return hands


def test_whatever_deletes_a_conversation_orders_its_folder_away(house: House, servers: TestServers) -> None:
    alone, cascaded = talk(house.owner), talk(house.member)
    both = [alone.claim.conversation, cascaded.claim.conversation]
    assert ordered_among(both) == []
    with tenant_context(house.id):
        Conversation.objects.filter(id=both[0]).delete()
    assert ordered_among(both) == both[:1]
    with servers.as_admin() as admin:
        admin.execute("DELETE FROM tenants_membership WHERE id = %s", [house.member.membership.id])
    assert set(ordered_among(both)) == set(both)
    assert still_open(both) == {alone.runner: 1, cascaded.runner: 1}
    note_done("somebody else", both)
    note_done(alone.runner, both)
    assert still_open(both) == {cascaded.runner: 1}


def test_a_deletion_that_is_undone_orders_nothing(house: House) -> None:
    conversation = talk(house.owner).claim.conversation

    def break_off() -> None:
        with tenant_context(house.id):
            Conversation.objects.filter(id=conversation).delete()
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    assert ordered_among([conversation]) == []


def test_what_never_had_a_runner_needs_no_order(house: House) -> None:
    with tenant_context(house.id):
        conversation = draft(house.owner.caller, None)
        name = conversation.id
        conversation.delete()
    assert ordered_among([name]) == []


def test_the_application_reads_and_writes_no_orders(house: House) -> None:
    """One tenant's code could else order another's files away."""
    for attempt in (
        "SELECT * FROM conversations_disposal",
        f"INSERT INTO conversations_disposal VALUES ('{uuid4()}', '', now())",
        "DELETE FROM conversations_disposal",
        "SELECT order_disposal()",
    ):
        with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(attempt)


def test_a_tenant_ends_in_steps_that_may_be_repeated(house: House, stranger: Person) -> None:
    hands = talk(house.owner)
    assert [here.tenant_slug for here in memberships_of(house.owner.user)] == [house.slug]
    for _ in range(2):
        shut_out(house.id)
        assert memberships_of(house.owner.user) == []
    assert delete_conversations(house.id) == [hands.claim.conversation]
    assert delete_conversations(house.id) == []
    expire_leases(hands.runner)
    end_lost_turns()
    key_parts.destroy_part(house.id)
    delete_rest(house.id)
    assert house.slug not in {slug for _id, slug in all_tenants()}
    with tenant_context(house.id):
        assert not Membership.objects.exists()
    with pytest.raises(SecretError):
        key_parts.part_of(house.id)
    with tenant_context(stranger.caller.tenant_id):
        assert Tenant.objects.exists()


def test_the_command_asks_for_the_slug_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda _question: "another")
    with pytest.raises(CommandError, match="Nothing was deleted"):
        call_command("delete_tenant", house.slug)
    with pytest.raises(CommandError, match="There is no tenant nowhere-at-all"):
        call_command("delete_tenant", "nowhere-at-all", "--yes")
    said = StringIO()
    monkeypatch.setattr("builtins.input", lambda _question: house.slug)
    call_command("delete_tenant", house.slug, stdout=said)
    assert f"{house.slug} is deleted" in said.getvalue()


CLOSED = """
import os, sys
from pathlib import Path
from uuid import UUID
from claude_runner.folders import Folders
from claude_runner.spec import RunnerSettings
if os.geteuid() == 0:
    os.setgroups([]); os.setresgid(54321, 54321, 54321); os.setresuid(54321, 54321, 54321)
folders = Folders(RunnerSettings(Path(sys.argv[1])))
place = folders.place(sys.argv[2])
(place.workspace / "a/b").mkdir(parents=True)
(place.workspace / "a/b/file").write_text("x")
(place.workspace / "a/b").chmod(0)
(place.workspace / "a").chmod(0)
assert folders.kept() == [UUID(sys.argv[2])]
folders.forget(sys.argv[2])
assert folders.kept() == [] and not place.folder.exists()
"""


def test_a_folder_goes_though_its_agent_closed_it(short: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", CLOSED, str(short / "s"), str(uuid4())],
        check=True,
        env={"PATH": os.defpath, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )


def test_a_link_out_of_a_folder_deletes_nothing_outside(short: Path) -> None:
    outside, conversation = short / "outside", UUID(int=7)
    outside.mkdir()
    (outside / "kept").write_text("kept")
    folders = Folders(RunnerSettings(short / "s"))
    place = folders.place(str(conversation))
    (place.workspace / "out").symlink_to(outside)
    folders.forget(str(conversation))
    assert (outside / "kept").read_text() == "kept"
    folders.forget(str(conversation))


def test_the_deletion_of_a_tenant_takes_the_time_that_it_needs(house: House, servers: TestServers) -> None:
    conversation = talk(house.owner).claim.conversation
    shut_out(house.id)

    def delete_in_a_hurry() -> list[UUID]:
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = '300ms'")
        try:
            deleted = delete_conversations(house.id)
            delete_rest(house.id)
            return deleted
        finally:
            with connection.cursor() as cursor:
                cursor.execute("RESET statement_timeout")
            connection.close()

    with ThreadPoolExecutor(1) as elsewhere:
        with servers.as_admin() as admin, admin.transaction():
            admin.execute("SELECT FROM conversations_conversation WHERE id = %s FOR UPDATE", [conversation])
            deleting = elsewhere.submit(delete_in_a_hurry)
            with pytest.raises(TimeoutError):
                deleting.result(1)
        assert deleting.result(10) == [conversation]
    assert not Tenant.objects.filter(id=house.id).exists()


def test_a_tenants_part_of_its_key_goes_when_nobody_seals_any_more(house: House) -> None:
    shut_out(house.id)
    with ThreadPoolExecutor(1) as elsewhere:
        with tenant_context(house.id):
            Tenant.objects.for_sealing(house.id)
            deleting = elsewhere.submit(delete_rest, house.id)
            with pytest.raises(TimeoutError):
                deleting.result(0.5)
            assert key_parts.part_of(house.id)
        deleting.result(10)
        elsewhere.submit(connection.close)
    with pytest.raises(SecretError):
        key_parts.part_of(house.id)
