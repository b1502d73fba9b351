"""An installation for the faults: its servers are killed, its processes come and go with each test."""

from collections.abc import Iterator

import pytest

from tests.client import Client
from tests.stack import Installation


@pytest.fixture(scope="package")
def cluster() -> Iterator[Installation]:
    """Each test says which processes it wants alive."""
    with Installation.standing() as installation:
        yield installation


@pytest.fixture
def client(cluster: Installation) -> Client:
    """The owner's program, at a web process that lives."""
    return cluster.client(cluster.some_webs(1)[0])


@pytest.fixture
def clients(cluster: Installation) -> list[Client]:
    """The same program at two web processes."""
    return [cluster.client(web) for web in cluster.some_webs(2)]
