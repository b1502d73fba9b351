"""The database and its roles: made once, kept, and made by no more than it takes."""

import secrets
from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from tenants.provision import DatabaseUrls, ProvisionError, provision
from tests.servers import TestServers


@pytest.fixture
def name(servers: TestServers) -> Iterator[str]:
    """Of a database that is gone afterwards."""
    name = f"other_{secrets.token_hex(4)}"
    yield name
    with servers.as_admin() as admin:
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        for role in ("app", "crossing", "owner"):
            admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(f"{name}_{role}")))


def does(url: str, *statements: str) -> None:
    with psycopg.connect(url) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def test_the_owner_makes_tables_and_the_application_uses_them(servers: TestServers, name: str) -> None:
    urls = provision(servers.embedded.admin_database_url, name)
    does(urls.owner, "CREATE TABLE t (id bigserial, x int)")
    does(urls.app, "INSERT INTO t (x) VALUES (1)", "UPDATE t SET x = 2", "SELECT * FROM t", "DELETE FROM t")
    for forbidden in (
        "CREATE TABLE mine (id int)",
        "DROP TABLE t",
        "TRUNCATE t",
        "ALTER TABLE t ADD y int",
        "CREATE TEMP TABLE mine (id int)",
        "CREATE SCHEMA mine",
        f"SET ROLE {name}_owner",
        f"SET ROLE {name}_crossing",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            does(urls.app, forbidden)


def test_the_functions_role_cannot_log_in_and_the_owner_does_not_inherit_from_it(
    servers: TestServers, name: str
) -> None:
    urls = provision(servers.embedded.admin_database_url, name)
    with servers.as_admin() as admin:
        rows = admin.execute(
            "SELECT rolname, rolcanlogin, rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb"
            " FROM pg_roles WHERE rolname LIKE %s ORDER BY 1",
            [f"{name}%"],
        ).fetchall()
    assert rows == [
        (f"{name}_app", True, False),
        (f"{name}_crossing", False, False),
        (f"{name}_owner", True, False),
    ]
    with psycopg.connect(urls.owner) as owner:
        row = owner.execute(
            "SELECT pg_has_role(%(role)s, 'USAGE'), pg_has_role(%(role)s, 'SET')",
            {"role": f"{name}_crossing"},
        ).fetchone()
    assert row == (False, True)


def test_a_second_time_nothing_changes(servers: TestServers, name: str) -> None:
    admin = servers.embedded.admin_database_url
    urls = provision(admin, name)
    does(urls.owner, "CREATE TABLE kept (id int)", "INSERT INTO kept VALUES (1)")
    assert provision(admin, name, urls) == urls
    does(urls.app, "SELECT 1 FROM kept")


def test_passwords_that_were_lost_are_made_anew_only_when_told(servers: TestServers, name: str) -> None:
    admin = servers.embedded.admin_database_url
    urls = provision(admin, name)
    with pytest.raises(ProvisionError, match="password is not known here"):
        provision(admin, name)
    does(urls.app, "SELECT 1")
    fresh = provision(admin, name, new_passwords=True)
    does(fresh.app, "SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        does(urls.app, "SELECT 1")
    with pytest.raises(ProvisionError, match="does not work any more"):
        provision(admin, name, urls)


def test_an_admin_who_is_no_superuser_is_enough(servers: TestServers, name: str) -> None:
    role = f"{name}_admin"
    admin = servers.embedded.admin_database_url
    parts = urlsplit(admin)
    url = parts._replace(netloc=f"{role}:p%40ss@{parts.hostname}:{parts.port}").geturl()
    with servers.as_admin() as superuser:
        superuser.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'p@ss' CREATEROLE CREATEDB".encode())
    try:
        urls = provision(url, name)
        does(urls.owner, "CREATE TABLE t (id int)")
        does(urls.app, "SELECT * FROM t")
        assert provision(url, name, urls) == urls
    finally:
        with servers.as_admin() as superuser:
            superuser.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
            superuser.execute(f"DROP OWNED BY {role} CASCADE".encode())
            superuser.execute(f"DROP ROLE {role}".encode())


def test_a_database_that_is_there_is_handed_to_its_owner(servers: TestServers, name: str) -> None:
    with servers.as_admin() as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    urls = provision(servers.embedded.admin_database_url, name)
    does(urls.owner, "CREATE TABLE t (id int)")
    does(urls.app, "INSERT INTO t VALUES (1)")


def test_who_may_not_is_told_what_it_takes(servers: TestServers, name: str) -> None:
    with pytest.raises(ProvisionError, match="CREATEROLE and CREATEDB"):
        provision(servers.urls.app, name)
    nowhere = urlsplit(servers.urls.app)._replace(netloc="nobody:x@127.0.0.1:1").geturl()
    with pytest.raises(ProvisionError, match="did not let us in"):
        provision(nowhere, name)


@pytest.mark.parametrize("bad", ["", "Upper", "with-hyphen", "1st", 'quo"te', "x" * 49])
def test_a_name_that_roles_can_not_bear_is_refused(servers: TestServers, bad: str) -> None:
    with pytest.raises(ProvisionError, match="A database is named by"):
        provision(servers.embedded.admin_database_url, bad)


def test_the_urls_do_not_print_their_passwords(servers: TestServers) -> None:
    urls = DatabaseUrls(app="postgres://a:secret@h/d", owner="postgres://o:secret@h/d")
    assert "secret" not in repr(urls)


def test_a_server_that_logs_all_it_is_asked_writes_no_password_down(servers: TestServers, name: str) -> None:
    log = servers.data_dir / "logs" / "postgres.log"
    before = len(log.read_text())
    with servers.as_admin() as admin:
        admin.execute("ALTER ROLE postgres SET log_statement = 'all'")
        try:
            urls = provision(servers.embedded.admin_database_url, name)
        finally:
            admin.execute("ALTER ROLE postgres RESET log_statement")
    written = log.read_text()[before:]
    assert f"{name}_app" in written
    assert "SCRAM-SHA-256$" in written
    for url in (urls.app, urls.owner):
        does(url, "SELECT 1")
        assert str(urlsplit(url).password) not in written
