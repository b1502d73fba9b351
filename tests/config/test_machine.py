"""What is decided before anything starts."""

from pathlib import Path

import pytest

from config.embedded import ServerError
from config.machine import Machine, Plan
from config.readers import database_urls, fingerprint
from config.supervisor import Stop


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("::1", "http://[::1]:8000"),
        ("parley.example", "http://parley.example:8000"),
    ],
)
def test_the_url_is_one_that_a_browser_here_can_open(host: str, url: str) -> None:
    assert Plan(Path(), Path(), host, 8000).url == url


def test_an_owner_without_an_application_is_refused_before_anything_starts(tmp_path: Path) -> None:
    plan = Plan(tmp_path, tmp_path / "data", "127.0.0.1", 0, database_owner_url="postgres://owner@db/parley")
    with pytest.raises(ServerError, match="both, or neither"):
        Machine(plan, Stop(), lambda ready: None).run()
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["up.lock"]


class TestDatabaseUrls:
    """Whom a command connects as, given the operator's URLs and what `up` left behind."""

    left = {"database_url": "app", "database_owner_url": "owner", "made_with": fingerprint("admin")}

    def test_without_urls_the_running_servers_are_taken(self) -> None:
        assert database_urls("", "", self.left) == ("app", "owner")
        assert database_urls("", "", {}) == ("", "")

    def test_an_administrators_url_stands_for_the_roles_that_were_made_with_it(self) -> None:
        assert database_urls("admin", "", self.left) == ("app", "owner")

    def test_another_url_is_taken_as_it_is(self) -> None:
        assert database_urls("mine", "", self.left) == ("mine", "mine")
        assert database_urls("mine", "my owner", self.left) == ("mine", "my owner")
