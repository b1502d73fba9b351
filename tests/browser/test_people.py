"""Two people in two browsers: invited, reading along, removed."""

from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import SLOW_MACHINE, Visit, Visitor
from tests.browser.test_pages import violations
from tests.stack import Installation

pytestmark = [pytest.mark.needs_chromium, pytest.mark.needs_bubblewrap]

PASSWORD = "correct horse battery"


def joined(chromium: Browser, owner: Visitor, email: str, **options: Any) -> Visitor:
    """Somebody whom the owner invites on the members page, and who comes in by the link."""
    owner.page.goto(owner.home + "members/")
    owner.page.get_by_label("E-mail").fill(email)
    owner.page.get_by_role("button", name="Create invitation").click()
    link = owner.page.get_by_label("Link").input_value()
    context = chromium.new_context(**options)
    context.set_default_timeout(SLOW_MACHINE)
    guest = Visitor(context, owner.home)
    guest.page.goto(link)
    assert violations(guest) == []
    guest.page.get_by_label("Name").fill("Ada Lovelace")
    guest.page.get_by_label("Password").fill(PASSWORD)
    guest.page.get_by_role("button", name="Create account and join").click()
    guest.page.wait_for_url("**/t/**")
    guest.is_connected()
    return guest


def test_who_was_invited_reads_a_shared_conversation_live_until_it_is_private_again_and_goes(
    visit: Visit, chromium: Browser, installation: Installation
) -> None:
    owner = visit()
    owner.say("echo first")
    owner.ends()
    address, owner_name = owner.page.url, installation.first_run["email"]
    guest = joined(chromium, owner, "ada@example.org")
    try:
        guest.page.goto(address)
        expect(guest.page.get_by_role("heading", name="There is nothing here")).to_be_visible()
        guest.complaints.clear()  # the browser's own word on 404

        owner.page.goto(address)
        owner.is_connected()
        owner.page.get_by_role("button", name="Share").click()
        expect(owner.page.get_by_role("button", name="Stop sharing")).to_be_visible()
        owner.is_connected()
        guest.open(address)
        expect(guest.page.get_by_text("Shared by")).to_be_visible()
        expect(guest.page.locator("#composer")).to_have_count(0)
        assert violations(guest) == []
        owner.say("write a.txt: one")
        expect(owner.page.locator(".question .choices")).to_be_visible()
        expect(guest.page.locator(".question")).to_be_visible()
        for _again in range(2):  # as it came, and after a reload
            expect(guest.page.locator(".question")).to_contain_text(f"Waits for {owner_name} or an admin")
            expect(guest.page.locator(".question button")).to_have_count(0)
            guest.open(address)
        owner.page.get_by_role("button", name="Deny").click()
        guest.ends(turns=2)

        owner.page.get_by_role("button", name="Stop sharing").click()
        expect(guest.page.locator("#problem")).to_contain_text("not shared any more")
        expect(owner.page.get_by_role("button", name="Share", exact=True)).to_be_visible()

        guest.open("")
        owner.page.goto(owner.home + "members/")
        owner.page.get_by_role("button", name="Remove").click()
        typed = owner.page.get_by_label("Type their name or e-mail: Ada Lovelace")
        typed.fill("Ada")
        owner.page.get_by_role("button", name="Remove member").click()
        expect(owner.page.get_by_text("Nobody was removed")).to_be_visible()
        assert violations(owner) == []
        owner.complaints.clear()  # the browser's own word on 400
        expect(typed).to_have_value("Ada")
        typed.fill("ada lovelace")
        owner.page.get_by_role("button", name="Remove member").click()
        expect(owner.page.get_by_role("status")).to_contain_text("They are out")
        expect(guest.page.locator("#connection")).to_contain_text("signed out", timeout=6000)
        assert guest.complaints == []
    finally:
        guest.context.close()
