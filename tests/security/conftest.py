"""An installation in the production setting, whose one web process is asked as a proxy would."""

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


@pytest.fixture
def front(production: Installation) -> Web:
    return production.webs[0]
