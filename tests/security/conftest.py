"""An installation in the production setting, whose one web process is asked as a proxy would, and a whole one."""

from collections.abc import Iterator

import pytest

from tests.security.front import PRODUCTION
from tests.stack import Installation, Web


@pytest.fixture(scope="package")
def production() -> Iterator[Installation]:
    with Installation.standing() as installation:
        installation.environment |= PRODUCTION
        installation.web()
        yield installation


@pytest.fixture(scope="package")
def whole() -> Iterator[Installation]:
    """An installation as `make run` has it: one web process, the runner "one", the offline model."""
    with Installation.standing() as installation:
        yield installation.up()


@pytest.fixture
def front(production: Installation) -> Web:
    return production.webs[0]
