"""The platform's admin in Chromium: under the strict policy for scripts and styles, readable by all."""

from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser.conftest import Visit
from tests.stack import Installation

pytestmark = [pytest.mark.needs_chromium, pytest.mark.needs_bubblewrap]

PAGES = ("", "tenants/tenant/", "tenants/user/", "tenants/credential/", "tenants/apikey/")
OF_A_TENANT = ("tenants/membership/", "conversations/conversation/", "conversations/runnerhost/")
RED = """
    INSERT INTO conversations_runnerhost (name, started_at, seen_at, tier, tier_reason, cli_version, processes,
        findings, proved_at, refuses, any_tenant, turns_ended)
    SELECT 'red', now(), now() - interval '1 hour', tier, 'why not better', '', 0,
        '[{"name": "network", "holds": false, "lacked": false, "detail": "it sees eth0"},
          {"name": "own uid", "holds": false, "lacked": true, "detail": "as the runner"}]',
        now() - interval '1 hour', '', true, '{}'
    FROM conversations_runnerhost WHERE name = 'one'
"""


@pytest.fixture
def operator(installation: Installation) -> Iterator[None]:
    """The first owner operates the platform meanwhile, and one host is red."""
    installation.manage("create_platform_admin", installation.first_run["email"])
    installation.query(RED)
    yield
    installation.query("DELETE FROM conversations_runnerhost WHERE name = 'red'")
    installation.query("UPDATE tenants_user SET is_staff = false")


@pytest.mark.parametrize(
    ("scheme", "size"), [("light", (1280, 900)), ("dark", (1280, 900)), ("light", (360, 740))]
)
def test_every_page_is_whole_and_axe_has_nothing_to_complain_about(
    visit: Visit, installation: Installation, operator: None, scheme: str, size: tuple[int, int]
) -> None:
    person = visit(color_scheme=scheme, viewport={"width": size[0], "height": size[1]})
    root, page = f"{installation.webs[0].url}/admin/", person.page
    page.goto(f"{root}tenants/tenant/")
    if (look := page.get_by_role("button", name="Look into")).count():  # the tests share a session
        look.click()
    expect(page.locator(".chosen")).to_contain_text(installation.first_run["tenant"])
    problems: list[Any] = []
    own = [person.home + "settings/"]
    ending = [
        f"tenants/{kind}/{installation.query(f'SELECT id FROM tenants_{kind} ORDER BY created_at LIMIT 1')}/delete/"
        for kind in ("membership", "apikey")
    ]
    for path in [*own, *(root + path for path in (*PAGES, *ending, *OF_A_TENANT))]:
        page.goto(path)
        problems += [(path, found["id"]) for found in Axe().run(page).response["violations"]]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
    assert problems == []
    expect(page.get_by_role("status")).to_contain_text("Something is wrong")
    probes = page.get_by_role("region", name="Probes")
    expect(probes.get_by_role("row", name="network")).to_contain_text("it sees eth0")
    expect(probes.get_by_role("row", name="own uid")).to_contain_text("not in this tier")
