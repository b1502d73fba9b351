"""What holds when the code above forgets: the database's walls (T3, T4, T5) and the sealed secrets (T6, T7)."""

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest
from django.apps import apps
from django.db import Error, ProgrammingError, connection, models, transaction
from pytest_django import Settings

from config.embedded.postgres import programs
from tenants import secrets
from tenants.context import across_tenants, in_tenant, tenant_context
from tenants.drafts import CredentialDraft
from tenants.master_keys import SecretError, new_master_key
from tenants.models import SECRET_FIELD, Credential, Tenant
from tenants.rotation import wrap_anew
from tests.cast import House, Person
from tests.conversations.stage import Hands, say
from tests.servers import DATABASE, TestServers

PROJECT = Path(__file__).resolve().parents[2]
CANARY = "sk-canary-9c41d0"
OF_TENANTS = [
    model
    for model in apps.get_models()
    if model is Tenant or any(field.name == "tenant" for field in model._meta.local_fields)
]


def keep(person: Person, secret: str = CANARY) -> Credential:
    draft = CredentialDraft.checked(name="Canary", kind="api_key", secret=secret)
    with tenant_context(person.membership.tenant_id):
        return Credential.objects.create_for(person.caller, draft)


# T3 -----------------------------------------------------------------------------------------------------------


def rows_written(statement: str, *arguments: object) -> int:
    """How many; none where the application may not do that to the table at all, as with the audit."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement, arguments)  # type: ignore[arg-type]
            return int(cursor.rowcount)
    except ProgrammingError as error:
        if "permission denied for table tenants_auditevent" not in str(error):
            raise
        return 0


@pytest.mark.parametrize("model", OF_TENANTS, ids=lambda model: model.__name__)
def test_t3_without_a_tenant_named_there_is_no_row_and_no_write(
    house: House, servers: TestServers, model: type[models.Model]
) -> None:
    """Of every table that the models have, with a row of the house in it where a person's work makes one."""
    keep(house.owner)
    Hands.claiming(say(house.owner.caller)).text("said")
    table, owner = model._meta.db_table, "id" if model is Tenant else "tenant_id"
    with servers.as_admin() as admin:
        before = admin.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
    for statement in (f"SELECT count(*) FROM {table}", f"SELECT count(*) FROM {table} WHERE {owner} = %s"):
        with connection.cursor() as cursor:
            cursor.execute(statement, [house.id] if "%s" in statement else [])
            assert cursor.fetchone() == (0,)
    for statement in (f"UPDATE {table} SET {owner} = {owner}", f"DELETE FROM {table}"):
        assert rows_written(statement) == 0
    with (
        pytest.raises(Error, match="row-level security"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(f"INSERT INTO {table} ({owner}) VALUES (%s)", [house.id])
    with servers.as_admin() as admin:
        assert admin.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() == before


@pytest.mark.parametrize("model", OF_TENANTS, ids=lambda model: model.__name__)
def test_t3_under_another_tenants_name_there_is_no_row_and_no_write_either(
    house: House, stranger: Person, model: type[models.Model]
) -> None:
    keep(house.owner)
    Hands.claiming(say(house.owner.caller)).text("said")
    table, owner = model._meta.db_table, "id" if model is Tenant else "tenant_id"
    with tenant_context(stranger.caller.tenant_id), connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {table} WHERE {owner} = %s", [house.id])
        assert cursor.fetchone() == (0,)
        assert rows_written(f"DELETE FROM {table} WHERE {owner} = %s", house.id) == 0
    with pytest.raises(Error, match="row-level security"):
        with tenant_context(stranger.caller.tenant_id), connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO {table} ({owner}) VALUES (%s)", [house.id])


# T4 -----------------------------------------------------------------------------------------------------------

QUERIES = 100_000
A_UNIT = 20


class Crowd:
    """Both tenants' work at once; `asked` counts the queries whose answers were looked at."""

    def __init__(self, tenants: list[UUID]) -> None:
        self.tenants = tenants
        self.asked: list[int] = []
        self.pages = ThreadPoolExecutor(8)

    def look(self, tenant: UUID | None, breaks: bool = False) -> None:
        own = {tenant} if tenant else set()
        with connection.cursor() as cursor:
            for _ in range(A_UNIT // 2):
                cursor.execute("SELECT tenant_id FROM tenants_credential")
                assert {row[0] for row in cursor.fetchall()} == own
                cursor.execute("SELECT id FROM tenants_tenant")
                assert {row[0] for row in cursor.fetchall()} == own
        self.asked.append(A_UNIT)
        if breaks:
            raise ZeroDivisionError

    def page(self, tenant: UUID) -> None:
        """As a page does it: on a thread that takes a connection out of the pool, and gives it back."""
        try:
            with tenant_context(tenant):
                self.look(tenant)
        finally:
            connection.close()

    async def somebody(self) -> None:
        tenant = random.choice(self.tenants)
        match random.randrange(6):
            case 0:
                await across_tenants(self.look, None)
            case 1:
                with pytest.raises(ZeroDivisionError):
                    await in_tenant(tenant, self.look, tenant, breaks=True)
            case 2:
                await asyncio.get_running_loop().run_in_executor(self.pages, self.page, tenant)
            case 3:
                await self.who_gives_up(tenant)
            case _:
                await in_tenant(tenant, self.look, tenant)

    async def who_gives_up(self, tenant: UUID) -> None:
        task = asyncio.create_task(in_tenant(tenant, self.look, tenant))
        await asyncio.sleep(random.random() / 200)
        task.cancel()
        done = (await asyncio.gather(task, return_exceptions=True))[0]
        assert done is None or isinstance(done, asyncio.CancelledError), done


async def test_t4_no_foreign_row_in_100_000_interleaved_queries(house: House, stranger: Person) -> None:
    """On the line's threads and on pooled connections, with cancellations and errors in between."""
    for person in (house.owner, stranger):
        await in_tenant(person.caller.tenant_id, _own_rows, person)
    crowd = Crowd([house.id, stranger.caller.tenant_id])
    with crowd.pages:
        while sum(crowd.asked) < QUERIES:
            await asyncio.gather(*(crowd.somebody() for _ in range(200)))
    await across_tenants(crowd.look, None)


def _own_rows(person: Person) -> None:
    draft = CredentialDraft.checked(name="Own", kind="api_key", secret="sk-own-1234")
    Credential.objects.create_for(person.caller, draft)


# T5 -----------------------------------------------------------------------------------------------------------


def as_admin(servers: TestServers) -> str:
    """The tests' database, for the superuser."""
    return urlsplit(servers.embedded.admin_database_url)._replace(path=f"/{DATABASE}").geturl()


@contextmanager
def changed(servers: TestServers, change: str, back: str) -> Iterator[None]:
    with servers.as_admin() as admin:
        admin.execute(change.encode())
        try:
            yield
        finally:
            admin.execute(back.encode())


def start(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A real process of ours, which has to end by itself."""
    argv = [sys.executable, "manage.py", *command.split()]
    return subprocess.run(
        argv,
        cwd=PROJECT,
        env=dict(os.environ) | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("change", "back", "told"),
    [
        (None, None, "is a superuser: nothing holds it back."),
        (
            f"ALTER ROLE {DATABASE}_app BYPASSRLS",
            f"ALTER ROLE {DATABASE}_app NOBYPASSRLS",
            f"The role {DATABASE}_app bypasses row-level security.",
        ),
        (
            "CREATE TABLE loose (id int, tenant_id uuid); GRANT SELECT ON loose TO PUBLIC",
            "DROP TABLE loose",
            "The table loose is not held by the policy 'tenant' alone",
        ),
    ],
    ids=["superuser", "bypassing role", "table without its policy"],
)
def test_t5_web_and_runner_refuse_to_start_with_the_list(
    database: None, servers: TestServers, change: str | None, back: str, told: str
) -> None:
    admins = {"DATABASE_URL": as_admin(servers), "DATABASE_OWNER_URL": servers.urls.owner}
    environment = {} if change else admins
    with changed(servers, change, back) if change else nullcontext(), ThreadPoolExecutor() as side_by_side:
        started = [
            side_by_side.submit(start, command, **environment)
            for command in ("web --port 0", "runner --name t5")
        ]
    for refused in (future.result() for future in started):
        assert refused.returncode != 0
        assert "Parley does not start like this:" in refused.stderr
        assert told in refused.stderr


# T6 -----------------------------------------------------------------------------------------------------------


def test_t6_a_ciphertext_in_another_tenants_row_does_not_open(
    house: House, stranger: Person, servers: TestServers
) -> None:
    ours, theirs = keep(house.owner), keep(stranger, "sk-theirs-4711")
    with servers.as_admin() as admin:
        admin.execute(
            "UPDATE tenants_credential SET sealed_secret = (SELECT sealed_secret FROM tenants_credential"
            " WHERE id = %s) WHERE id = %s",
            [ours.id, theirs.id],
        )
    with tenant_context(stranger.caller.tenant_id), pytest.raises(SecretError):
        _ = Credential.objects.get(id=theirs.id).secret
    with servers.as_admin() as admin:  # with A's key beside it neither: the tenant is bound into both
        admin.execute(
            "UPDATE tenants_tenant SET sealed_key = (SELECT sealed_key FROM tenants_tenant WHERE id = %s)"
            " WHERE id = %s",
            [house.id, stranger.caller.tenant_id],
        )
    with tenant_context(stranger.caller.tenant_id), pytest.raises(SecretError):
        _ = Credential.objects.get(id=theirs.id).secret
    with tenant_context(house.id):
        assert Credential.objects.get(id=ours.id).secret == CANARY


def test_t6_nor_in_another_row_or_field_of_its_own_tenant(house: House) -> None:
    ours = keep(house.owner)
    for field, row in ((SECRET_FIELD, uuid4()), ("apikey.secret", ours.id)):
        with pytest.raises(SecretError):
            secrets.unseal(ours.tenant, field, row, ours.sealed_secret)
    assert secrets.unseal(ours.tenant, SECRET_FIELD, ours.id, ours.sealed_secret) == CANARY


# T7 -----------------------------------------------------------------------------------------------------------


def test_t7_after_a_rotation_the_old_master_key_opens_nothing(house: House, settings: Settings) -> None:
    kept, old, new = keep(house.owner), settings.MASTER_KEY, new_master_key()

    def opened() -> str:
        with tenant_context(house.id):
            return Credential.objects.select_related("tenant").get(id=kept.id).secret

    settings.MASTER_KEY = f"{new},{old}"
    assert wrap_anew(house.id)
    settings.MASTER_KEY = new
    assert opened() == CANARY
    settings.MASTER_KEY = old
    with pytest.raises(SecretError, match="not in MASTER_KEY"):
        opened()


def test_t7_a_dump_has_no_secret_and_opens_with_no_other_key(
    house: House, servers: TestServers, settings: Settings
) -> None:
    kept = keep(house.owner)
    dump = subprocess.run(
        [programs() / "pg_dump", "--dbname", as_admin(servers)],
        capture_output=True,
        check=True,
    ).stdout
    assert str(kept.id).encode() in dump
    for hidden in (CANARY.encode(), CANARY.encode().hex().encode(), settings.MASTER_KEY.encode()):
        assert hidden not in dump
    settings.MASTER_KEY = new_master_key()
    with tenant_context(house.id), pytest.raises(SecretError):
        _ = Credential.objects.select_related("tenant").get(id=kept.id).secret
