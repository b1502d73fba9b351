"""Makes the database and its three roles, as often as one likes: what is there stays.

`<database>_owner`     migrates, and owns the database, its tables, and nothing besides
`<database>_app`       runs the application: reads and writes rows under row-level security, owns nothing
`<database>_crossing`  cannot log in; owns the few functions that cross tenants
"""

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import psycopg
from psycopg import Connection, sql

NAME = re.compile(r"^[a-z_][a-z0-9_]{0,47}$")


class ProvisionError(Exception):
    """A sentence that says what to do."""


@dataclass(frozen=True, slots=True)
class DatabaseUrls:
    """Where the application and where the migrating role log in. Both hold passwords."""

    app: str = field(repr=False)
    owner: str = field(repr=False)


def provision(
    admin_url: str, database: str, known: DatabaseUrls | None = None, *, new_passwords: bool = False
) -> DatabaseUrls:
    """Make what is missing on the server at `admin_url` (a superuser's, or one with CREATEROLE and CREATEDB).

    New roles get new passwords. For roles that are there already pass the URLs that were kept (`known`);
    where they are lost, `new_passwords` makes new ones, which locks out whoever uses the old ones.
    ProvisionError where neither helps.
    """
    if not NAME.match(database):
        raise ProvisionError(
            f"A database is named by at most 48 small letters, digits and underscores, not {database!r}."
        )
    with _connected(admin_url) as admin:
        admin.execute("SELECT pg_advisory_xact_lock(hashtext('provision'))")
        urls = _make_roles(admin, admin_url, database, known, new_passwords)
    with _connected(admin_url, autocommit=True) as admin:
        _make_database(admin, database)
    with _connected(_with(admin_url, database=database)) as admin:
        _grant(admin, database)
    _check(urls)
    return urls


@contextmanager
def _connected(url: str, *, autocommit: bool = False) -> Iterator[Connection]:
    try:
        connection = psycopg.connect(url, autocommit=autocommit, connect_timeout=10)
    except psycopg.OperationalError as error:
        raise ProvisionError(f"The database server did not let us in: {error}") from error
    with connection:
        try:
            yield connection
        except psycopg.errors.InsufficientPrivilege as error:
            raise ProvisionError(
                f"DATABASE_URL's role may not set up the database ({error.diag.message_primary}). Give a"
                " superuser, or a role with CREATEROLE and CREATEDB; or set up the roles yourself and give"
                " DATABASE_URL (the application's) and DATABASE_OWNER_URL (the migrating one's)."
            ) from error


def _make_roles(
    admin: Connection, admin_url: str, database: str, known: DatabaseUrls | None, new_passwords: bool
) -> DatabaseUrls:
    # A creator that is no superuser may so become the roles that it makes, to act for them.
    admin.execute("SET createrole_self_grant = 'set, inherit'")
    crossing = f"{database}_crossing"
    if not _exists(admin, crossing):
        admin.execute(sql.SQL("CREATE ROLE {} NOLOGIN NOINHERIT").format(sql.Identifier(crossing)))
    urls = {
        kind: _login(
            admin,
            _with(admin_url, database=database, user=f"{database}_{kind}"),
            getattr(known, kind, ""),
            new_passwords,
        )
        for kind in ("app", "owner")
    }
    # The owner may become the crossing role to define its functions, but does not inherit its policies.
    admin.execute(
        sql.SQL("GRANT {} TO {} WITH SET TRUE, INHERIT FALSE").format(
            sql.Identifier(crossing), sql.Identifier(f"{database}_owner")
        )
    )
    return DatabaseUrls(**urls)


def _login(admin: Connection, url: str, known: str, new_password: bool) -> str:
    """Make the role that `url` names unless it is there; its URL with the password that works."""
    role = unquote(urlsplit(url).username or "")
    there = _exists(admin, role)
    if there and not new_password:
        if not known:
            raise ProvisionError(
                f"The role {role} exists already and its password is not known here. Give the URLs that"
                " belong to it, or allow new passwords, which locks out whoever uses the old ones."
            )
        return _with(url, password=unquote(urlsplit(known).password or ""))
    password = secrets.token_urlsafe(32)
    # The server may log what it is asked to do: it gets what it would keep of the password, not the password.
    verifier = admin.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    admin.execute(
        sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(
            sql.SQL("ALTER" if there else "CREATE"), sql.Identifier(role), sql.Literal(verifier)
        )
    )
    return _with(url, password=password)


def _exists(admin: Connection, role: str) -> bool:
    return admin.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone() is not None


def _make_database(admin: Connection, database: str) -> None:
    """Make it, or hand it to its owner's role. Outside a transaction, as PostgreSQL wants it."""
    owned_by = admin.execute(
        "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s", [database]
    ).fetchone()
    owner = f"{database}_owner"
    if owned_by == (owner,):
        return
    text = (
        "ALTER DATABASE {} OWNER TO {}"
        if owned_by
        else "CREATE DATABASE {} OWNER {} ENCODING 'UTF8' TEMPLATE template0"
    )
    admin.execute(sql.SQL(text).format(sql.Identifier(database), sql.Identifier(owner)))


GRANTS = """
    SET LOCAL ROLE {owner};
    REVOKE ALL ON DATABASE {database} FROM PUBLIC;
    GRANT CONNECT ON DATABASE {database} TO {app};
    REVOKE ALL ON SCHEMA public FROM PUBLIC;
    GRANT USAGE ON SCHEMA public TO {app};
    GRANT USAGE, CREATE ON SCHEMA public TO {crossing};
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {app};
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO {app}, {crossing};
"""


def _grant(admin: Connection, database: str) -> None:
    names = {role: sql.Identifier(f"{database}_{role}") for role in ("app", "owner", "crossing")}
    admin.execute(sql.SQL(GRANTS).format(database=sql.Identifier(database), **names))


def _check(urls: DatabaseUrls) -> None:
    for url in (urls.app, urls.owner):
        try:
            psycopg.connect(url, connect_timeout=10).close()
        except psycopg.OperationalError as error:
            raise ProvisionError(
                f"The password that was kept for {urlsplit(url).username} does not work any more: {error}"
            ) from error


def _with(url: str, database: str = "", user: str = "", password: str = "") -> str:
    """The URL with another database, user or password; a new user leaves the old one's password behind."""
    parts = urlsplit(url)
    _, _, place = parts.netloc.rpartition("@")
    if not user:
        user, password = unquote(parts.username or ""), password or unquote(parts.password or "")
    who = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    path = f"/{database}" if database else parts.path
    return urlunsplit((parts.scheme, f"{who}@{place}", path, parts.query, ""))
