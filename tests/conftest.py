"""Every test meets the real servers, as the application's own database role.

No test is rolled back or cleaned up after: a transaction around a test would hide a forgotten tenant (a
tenant that was named stays named after a savepoint), and other processes must see the data. Instead each
test has tenants of its own, see `cast`.
"""

import os
from collections.abc import Iterator
from typing import Any

import pytest

# The settings read the environment once, so the servers come first of all.
from tests.servers import TestServers

for name in ("DATABASE_URL", "DATABASE_OWNER_URL", "REDIS_URL", "SECRET_KEY", "MASTER_KEY", "DATA_DIR"):
    os.environ.pop(f"{name}_FILE", None)
SERVERS = TestServers()
SERVERS.start()

import django  # noqa: E402

django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connections  # noqa: E402
from django.db.backends.postgresql.base import DatabaseWrapper  # noqa: E402
from pytest_django import DjangoDbBlocker  # noqa: E402

from tests.cast import House, Person, found_house  # noqa: E402
from tests.shifts import Shifts, by_length  # noqa: E402


def pytest_unconfigure() -> None:
    SERVERS.stop()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Each worker starts servers of its own; it must not load the settings before that, as this variable
    would have it."""
    del os.environ["DJANGO_SETTINGS_MODULE"]
    SERVERS.stop()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Shifts:
    config.option.loadscopereorder = False
    return Shifts(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=by_length)


@pytest.fixture(scope="session")
def servers() -> TestServers:
    """The servers of this run."""
    return SERVERS


@pytest.fixture(scope="session")
def django_db_setup(django_db_blocker: DjangoDbBlocker) -> None:
    """In place of pytest-django's: the one database, migrated by its owner."""
    with django_db_blocker.unblock():
        call_command("migrate", database="owner", verbosity=0, interactive=False)
        connections["owner"].close()


@pytest.fixture(scope="session")
def database(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """Access to the database, as the application."""
    with django_db_blocker.unblock():
        yield
        connections.close_all()
        assert isinstance(connections["default"], DatabaseWrapper)
        connections["default"].close_pool()


@pytest.fixture
def house(database: None) -> House:
    """A tenant of this test's own: its `owner`, `admin`, `member` and `viewer`, each made on first use."""
    return found_house("house")


@pytest.fixture
def owner(house: House) -> Person:
    return _with_key(house.owner)


@pytest.fixture
def admin(house: House) -> Person:
    return _with_key(house.admin)


@pytest.fixture
def member(house: House) -> Person:
    return _with_key(house.member)


@pytest.fixture
def viewer(house: House) -> Person:
    return _with_key(house.viewer)


@pytest.fixture
def stranger(database: None) -> Person:
    """The owner of another tenant, who has nothing to do with `house`."""
    return _with_key(found_house("strange").owner)


def _with_key(person: Person) -> Person:
    """With the key made now: an async test could not ask the database for it in passing."""
    assert person.key
    return person
