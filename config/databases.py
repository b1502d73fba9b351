"""Which database URLs the application gets: its own role's, and the owner's for migrations."""

from urllib.parse import urlsplit

import psycopg

from config.embedded import ServerError
from tenants.provision import DatabaseUrls, provision

DATABASE = "parley"


def embedded(admin_url: str) -> DatabaseUrls:
    """Set up our own server: database and roles, with new passwords at each start."""
    return provision(admin_url, DATABASE)


def given(url: str, owner_url: str, known: DatabaseUrls | None) -> DatabaseUrls:
    """Use the operator's server; ServerError where its roles don't suffice.

    With both URLs they are taken as they are. With one, its role has to be one that makes roles: it makes
    the application's and the owner's once, and `known`, from an earlier start, serves from then on.
    """
    if owner_url:
        return DatabaseUrls(app=url, owner=owner_url)
    if not _makes_roles(url):
        raise ServerError(
            "DATABASE_URL names a role that can't create roles. Then it has to be the application's role, "
            "and DATABASE_OWNER_URL has to name the role that owns the tables: see docs/operating.md."
        )
    if known and _same_server(url, known.app) and _connects(known.app) and _connects(known.owner):
        return known
    try:
        return provision(url, urlsplit(url).path.lstrip("/") or DATABASE)
    except psycopg.Error as error:
        raise ServerError(f"The role of DATABASE_URL could not set the database up: {error}") from error


def _makes_roles(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=10) as connection:
            row = connection.execute(
                "SELECT rolsuper OR (rolcreaterole AND rolcreatedb) FROM pg_roles "
                "WHERE rolname = current_user"
            ).fetchone()
    except psycopg.Error as error:
        raise ServerError(f"The database of DATABASE_URL can't be reached: {error}") from error
    return bool(row and row[0])


def _connects(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=10).close()
    except psycopg.Error:
        return False
    return True


def _same_server(one: str, other: str) -> bool:
    first, second = urlsplit(one), urlsplit(other)
    return (first.hostname, first.port or 5432, first.path) == (
        second.hostname,
        second.port or 5432,
        second.path,
    )
