"""A tenant is deleted (T9): rows, files, keys and live processes are gone, a restored backup's credentials closed.

And the folders of deleted conversations: gone also where their runner was down, and never without an order.
"""

import json
import re
import subprocess
import time
from collections.abc import Iterable, Iterator
from io import StringIO
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from allauth.account.models import EmailAddress
from django.core.management import call_command
from pytest_django import Settings

from config.embedded.postgres import programs
from conversations.disposals import ordered_among
from conversations.models import Conversation
from tenants.authentication import memberships_of
from tenants.context import tenant_context
from tenants.founding import make_platform_admin
from tenants.master_keys import SecretError
from tenants.members import remove
from tenants.models import SECRET_FIELD, Membership, Tenant, User
from tenants.roles import Role
from tenants.secrets import unseal
from tests.cast import House, found_house, someone
from tests.client import Client
from tests.conversations.stage import say
from tests.stack import Installation, Web, eventually

RUNNER = "t9"
SECRET = "sk-canary-of-the-deleted"


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[Installation, Web]]:
    with Installation.standing() as installation:
        yield installation.up(RUNNER), installation.webs[0]


def folder_of(installation: Installation, conversation: str) -> Path | None:
    return next((installation.folder / "s").glob(f"*/c/{conversation}"), None)


def talk(client: Client, message: str) -> str:
    """A conversation with a turn that was answered; its id."""
    with client.socket() as socket:
        socket.say(message)
        return str(socket.until_end_allowing()[-1]["conversation"])


def count_of(installation: Installation, tenant: str) -> dict[str, int]:
    """Rows that name the tenant, by table."""
    with psycopg.connect(installation.servers.admin_database_url, dbname="parley", autocommit=True) as admin:
        tables = admin.execute(
            "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
            " WHERE c.relkind = 'r' AND a.attname = 'tenant_id' AND c.relnamespace = 'public'::regnamespace"
        ).fetchall()
        counts = {
            table: admin.execute(f"SELECT count(*) FROM {table} WHERE tenant_id = %s".encode(), [tenant])
            for (table,) in tables
        }
        found = {table: int(count.fetchone()[0]) for table, count in counts.items()}  # type: ignore[index]
    return {table: count for table, count in found.items() if count}


def restored(installation: Installation, dump: bytes, name: str) -> dict[str, tuple[Tenant, UUID, bytes]]:
    """By slug what a restored backup has: the tenant with its key, and one credential."""
    url = urlsplit(installation.servers.admin_database_url)
    with psycopg.connect(url.geturl(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0".encode())
    there = url._replace(path=f"/{name}").geturl()
    subprocess.run([programs() / "psql", "--quiet", there], input=dump, stdout=subprocess.DEVNULL, check=True)
    with psycopg.connect(there) as admin:
        rows = admin.execute(
            "SELECT t.slug, t.id, t.sealed_key, c.id, c.sealed_secret FROM tenants_tenant t"
            " JOIN tenants_credential c ON c.tenant_id = t.id"
        ).fetchall()
    return {slug: (Tenant(id=id, sealed_key=key), row, sealed) for slug, id, key, row, sealed in rows}


def test_t9_nothing_is_left_of_a_deleted_tenant(place: tuple[Installation, Web], settings: Settings) -> None:
    installation, web = place
    slug = f"gone-{uuid4().hex[:6]}"
    founded = json.loads(installation.manage("create_tenant", slug, "--owner", f"{slug}@example.org"))
    client = installation.client(web, founded["api_key"])
    endpoint = {"kind": "endpoint", "base_url": installation.model_url, "secret": SECRET, "name": "Its own"}
    client.post("/v1/credentials", endpoint | {"default": True})
    conversation = talk(client, "write canary.txt: of the deleted")
    tenant = str(installation.query("SELECT id FROM tenants_tenant WHERE slug = %s", slug))
    folder, part = folder_of(installation, conversation), installation.folder / "data/keys/tenants" / tenant
    assert folder and part.exists() and count_of(installation, tenant)["conversations_event"]
    others = talk(installation.client(web), "words 3")
    url = urlsplit(installation.servers.admin_database_url)._replace(path="/parley").geturl()
    dump = subprocess.run([programs() / "pg_dump", url], capture_output=True, check=True).stdout
    with client.socket() as socket:
        socket.say("slow 300 60", conversation)
        socket.until_text(2)
        live = installation.runners[RUNNER].family()
        told = installation.manage("delete_tenant", slug, "--yes")
    assert "is deleted" in told and "has not answered" not in told
    assert count_of(installation, tenant) == {}
    assert not installation.query("SELECT count(*) FROM tenants_tenant WHERE id = %s", tenant)
    assert not installation.query("SELECT count(*) FROM tenants_user WHERE email LIKE %s", f"{slug}%")
    assert not folder.exists() and not part.exists()
    assert client.call("GET", "/v1/conversations").status_code == 401
    eventually(lambda: any(not process.is_running() for process in live), 5)
    assert not any(
        conversation in " ".join(process.cmdline()) for process in installation.runners[RUNNER].family()
    )
    assert folder_of(installation, others), "another tenant's files stay"
    assert talk(installation.client(web), "words 2")
    # A backup from before, with today's master key and what lies beside it:
    settings.MASTER_KEY = installation.environment["MASTER_KEY"]
    settings.TENANT_KEYS_DIR = installation.folder / "data/keys/tenants"
    backup = restored(installation, dump, "restored")
    gone, row, sealed = backup[slug]
    with pytest.raises(SecretError, match="the tenant was deleted"):
        unseal(gone, SECRET_FIELD, row, sealed)
    kept, row, sealed = backup[installation.first_run["tenant"]]
    assert unseal(kept, SECRET_FIELD, row, sealed) == "offline"


def accounts_of(people: Iterable[User]) -> set[UUID]:
    ids = [person.id for person in people]
    assert set(EmailAddress.objects.filter(user_id__in=ids).values_list("user_id", flat=True)) == set(
        User.objects.filter(id__in=ids).values_list("id", flat=True)
    )
    return set(User.objects.filter(id__in=ids).values_list("id", flat=True))


def test_t9_the_accounts_of_those_who_belong_nowhere_else_go_with_it(house: House) -> None:
    here, other = found_house("gone"), house
    only, left_here, both, left_there, admin, root = people = [someone(f"t9-{n}") for n in range(6)]
    for person in people:
        EmailAddress.objects.create(user=person, email=person.email, primary=True, verified=True)
        joined = here.join(Role.MEMBER, person)
        if person == left_here:
            with tenant_context(here.id):
                remove(here.owner.caller, joined.caller.member_id)
    other.join(Role.MEMBER, both)
    former = other.join(Role.MEMBER, left_there)
    theirs = say(former.caller, "I was here").conversation
    with tenant_context(other.id):
        Conversation.objects.filter(id=theirs).update(is_shared=True)
        remove(other.owner.caller, former.caller.member_id)
    make_platform_admin(admin.email)
    User.objects.filter(id=root.id).update(is_superuser=True)
    assert accounts_of(people) == {person.id for person in people}
    said = StringIO()
    call_command("delete_tenant", here.slug, "--yes", stdout=said)
    assert "3 accounts" in said.getvalue()  # with its owner's
    assert accounts_of(people) == {both.id, left_there.id, admin.id, root.id}
    assert not User.objects.filter(id=here.owner.user.id).exists()
    assert only.id not in accounts_of(people) and left_here.id not in accounts_of(people)
    # What those who stay have elsewhere is as it was.
    assert [place.tenant_slug for place in memberships_of(both)] == [other.slug]
    with tenant_context(other.id):
        assert Membership.objects.filter(user__in=[both, left_there]).count() == 2
        author = Conversation.objects.get(id=theirs).author.user
    assert author == left_there


def send(browser: httpx.Client, path: str, fields: dict[str, str], action: str = "") -> httpx.Response:
    """Open the page of a form and send the form, there or to its action."""
    [token, *_others] = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', browser.get(path).text)
    return browser.post(action or path, data=fields | {"csrfmiddlewaretoken": token})


def test_t9_an_owner_deletes_the_tenant_on_its_page(place: tuple[Installation, Web]) -> None:
    installation, web = place
    slug = f"own-{uuid4().hex[:6]}"
    founded = json.loads(installation.manage("create_tenant", slug, "--owner", f"{slug}@example.org"))
    client = installation.client(web, founded["api_key"])
    endpoint = {"kind": "endpoint", "base_url": installation.model_url, "secret": SECRET, "name": "Its own"}
    client.post("/v1/credentials", endpoint | {"default": True})
    conversation = talk(client, "write canary.txt: of the deleted")
    tenant = str(installation.query("SELECT id FROM tenants_tenant WHERE slug = %s", slug))
    folder, part = folder_of(installation, conversation), installation.folder / "data/keys/tenants" / tenant
    assert folder and part.exists()
    others = talk(installation.client(web), "words 3")
    with (
        httpx.Client(base_url=web.url, trust_env=False, timeout=20, headers={"origin": web.url}) as browser,
        client.socket() as socket,
    ):
        signed = {"login": founded["email"], "password": founded["password"]}
        assert send(browser, "/accounts/login/", signed).status_code == 302
        socket.say("slow 300 60", conversation)
        socket.until_text(2)
        settings, ending = f"/t/{slug}/settings/", f"/t/{slug}/settings/delete"
        assert send(browser, settings, {"name": "another"}, ending).status_code == 400
        asked = time.monotonic()
        assert send(browser, settings, {"name": slug}, ending).status_code == 200
        assert time.monotonic() - asked < 3, "nobody waits for the slow part"
        assert browser.get(settings).status_code in (302, 404), "the account goes as well"
    assert client.call("GET", "/v1/conversations").status_code == 401
    eventually(lambda: not count_of(installation, tenant), 20)
    assert not installation.query("SELECT count(*) FROM tenants_tenant WHERE id = %s", tenant)
    eventually(lambda: not folder.exists(), 10)
    assert not part.exists()
    assert not installation.query("SELECT count(*) FROM tenants_user WHERE email LIKE %s", f"{slug}%")
    assert folder_of(installation, others), "another tenant's files stay"


def test_t9_a_deletion_that_was_cut_off_is_repeated(place: tuple[Installation, Web]) -> None:
    installation, web = place
    slug = f"half-{uuid4().hex[:6]}"
    founded = json.loads(installation.manage("create_tenant", slug, "--owner", f"{slug}@example.org"))
    client = installation.client(web, founded["api_key"])
    client.begin()
    tenant = str(installation.query("SELECT id FROM tenants_tenant WHERE slug = %s", slug))
    # As it stands after the key went and before the rows did:
    (installation.folder / "data/keys/tenants" / tenant).unlink()
    installation.manage("delete_tenant", slug, "--yes")
    assert count_of(installation, tenant) == {}
    assert not installation.query("SELECT count(*) FROM tenants_tenant WHERE id = %s", tenant)


def test_t9_a_deleted_conversations_folder_goes_also_when_its_runner_was_down(
    place: tuple[Installation, Web],
) -> None:
    installation, web = place
    client = installation.client(web)
    soon, later, kept = (talk(client, f"write {name}.txt: {name}") for name in ("soon", "later", "kept"))
    assert all(folder_of(installation, conversation) for conversation in (soon, later, kept))
    assert client.call("DELETE", f"/v1/conversations/{soon}").status_code == 204
    eventually(lambda: not folder_of(installation, soon), 8)
    installation.runners.pop(RUNNER).kill()
    assert client.call("DELETE", f"/v1/conversations/{later}").status_code == 204
    assert folder_of(installation, later)
    installation.runner(RUNNER)
    eventually(lambda: not folder_of(installation, later), 15)
    assert folder_of(installation, kept)
    done = "SELECT done_at IS NOT NULL FROM conversations_disposal WHERE conversation = %s"
    eventually(lambda: installation.query(done, later), 5)


def test_t9_without_an_order_nothing_is_deleted(database: None) -> None:
    """An empty database, or a wrong one, knows none of a runner's folders."""
    assert ordered_among([uuid4() for _ in range(10)]) == []
