"""Starting with a database that would not keep tenants apart: refused, with the whole list (T5)."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import environ
import pytest
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import ConnectionHandler
from pytest_django import Settings

from tenants.checks import UnsafeStart, assert_safe_database, database_problems
from tests.servers import DATABASE, TestServers


@contextmanager
def connected(url: str) -> Iterator[BaseDatabaseWrapper]:
    """A connection of Django's to the tests' database, as somebody else."""
    url = urlsplit(url)._replace(path=f"/{DATABASE}").geturl()
    handler = ConnectionHandler({"default": environ.Env.db_url_config(url)})
    try:
        yield handler["default"]
    finally:
        handler.close_all()


def refusal(database: BaseDatabaseWrapper) -> str:
    with pytest.raises(UnsafeStart) as refused:
        assert_safe_database(database)
    return str(refused.value)


def test_the_application_role_of_this_house_is_fine(database: None) -> None:
    assert_safe_database()
    call_command("check", databases=["default"], fail_level="ERROR")


def test_a_superuser_is_refused(database: None, servers: TestServers) -> None:
    with connected(servers.embedded.admin_database_url) as admin:
        assert "The role postgres is a superuser" in refusal(admin)


def test_the_owner_of_the_tables_is_refused_with_all_that_it_owns(
    database: None, servers: TestServers
) -> None:
    with connected(servers.urls.owner) as owner:
        told = refusal(owner)
    assert "owns tenants_credential." in told
    assert "owns tenants_tenant." in told
    assert f"may become {DATABASE}_crossing" in told
    assert "may create objects in the schema public" in told


@pytest.mark.parametrize(
    ("change", "back", "told"),
    [
        ("ALTER ROLE {app} BYPASSRLS", "ALTER ROLE {app} NOBYPASSRLS", "bypasses row-level security"),
        ("GRANT {owner} TO {app}", "REVOKE {owner} FROM {app}", "may become {owner}"),
        ("GRANT {crossing} TO {app}", "REVOKE {crossing} FROM {app}", "may become {crossing}"),
        (
            "CREATE TABLE loose (id int, tenant_id uuid)",
            "DROP TABLE loose",
            "The table loose has no row-level security.",
        ),
        (
            "ALTER TABLE tenants_apikey NO FORCE ROW LEVEL SECURITY",
            "ALTER TABLE tenants_apikey FORCE ROW LEVEL SECURITY",
            "The table tenants_apikey does not force",
        ),
        (
            "CREATE POLICY wide ON tenants_apikey USING (true)",
            "DROP POLICY wide ON tenants_apikey",
            "The table tenants_apikey is not held by the policy 'tenant' alone",
        ),
        (
            "ALTER POLICY crossing ON tenants_apikey TO PUBLIC",
            "ALTER POLICY crossing ON tenants_apikey TO {crossing}",
            "The policy 'crossing' of tenants_apikey is open",
        ),
        (
            "GRANT TRUNCATE ON tenants_apikey TO {app}",
            "REVOKE TRUNCATE ON tenants_apikey FROM {app}",
            "tenants_apikey may be truncated",
        ),
        (
            "GRANT UPDATE (details) ON tenants_auditevent TO {app}",
            "REVOKE UPDATE (details) ON tenants_auditevent FROM {app}",
            "The audit may be changed: the role {app} has UPDATE",
        ),
        (
            "GRANT DELETE ON tenants_auditevent TO {app}",
            "REVOKE DELETE ON tenants_auditevent FROM {app}",
            "The audit may be changed: the role {app} has DELETE",
        ),
        (
            "GRANT INSERT (at) ON tenants_auditevent TO {app}",
            "REVOKE INSERT (at) ON tenants_auditevent FROM {app}",
            "The audit may be forged: the role {app} writes at",
        ),
        (
            "ALTER TABLE tenants_auditevent DISABLE TRIGGER chain_audit",
            "ALTER TABLE tenants_auditevent ENABLE TRIGGER chain_audit",
            "The audit is not chained",
        ),
        ("CREATE VIEW peep AS SELECT * FROM tenants_apikey", "DROP VIEW peep", "The view peep"),
        (
            "CREATE FUNCTION peep() RETURNS int SECURITY DEFINER LANGUAGE sql AS 'SELECT 1'",
            "DROP FUNCTION peep()",
            "The function peep() runs with the rights of postgres",
        ),
    ],
)
def test_each_hole_is_told(database: None, servers: TestServers, change: str, back: str, told: str) -> None:
    roles = {role: f"{DATABASE}_{role}" for role in ("app", "owner", "crossing")}
    with servers.as_admin() as admin:
        admin.execute(change.format(**roles).encode())
        try:
            problems = list(database_problems(connections["default"]))
        finally:
            admin.execute(back.format(**roles).encode())
    assert told.format(**roles) in "\n".join(problems)
    assert not list(database_problems(connections["default"]))


@pytest.mark.parametrize("key", ["", "short", "AAAA", "not base64 at all!"])
def test_without_a_good_master_key_nothing_starts(database: None, settings: Settings, key: str) -> None:
    settings.MASTER_KEY = key
    assert "openssl rand -base64 32" in refusal(connections["default"])
    with pytest.raises(SystemCheckError, match="openssl rand"):
        call_command("check", databases=["default"])
