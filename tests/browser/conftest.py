"""A person in Chromium, before the whole installation as it really runs."""

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.stack import Installation, installation

__all__ = ["installation"]

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
SLOW_MACHINE = 20_000  # ms

type Visit = Callable[..., "Visitor"]


class Visitor:
    """A signed-in browser tab that remembers all that went wrong in it."""

    def __init__(self, context: BrowserContext, home: str) -> None:
        self.context = context
        self.home = home
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console", lambda said: self.complaints.append(said.text) if said.type == "error" else None
        )
        self.page.on("request", lambda request: self.asked.append(request.url))

    def open(self, path: str = "") -> "Visitor":
        self.page.goto(path if path.startswith("http") else self.home + path)
        self.is_connected()
        return self

    def is_connected(self) -> None:
        """Wait for the socket: whoever types before loses nothing, but is not what most tests are about."""
        if self.page.locator("#thread").count():
            expect(self.page.locator("#thread")).to_have_attribute("data-connection", "open")

    @property
    def is_phone(self) -> bool:
        size = self.page.viewport_size
        return size is not None and size["width"] < 640

    def say(self, text: str) -> None:
        self.page.locator("#message").fill(text)
        if self.is_phone:
            self.page.get_by_role("button", name="Send").tap()
        else:
            self.page.keyboard.press("Enter")

    @property
    def last(self) -> Any:
        return self.page.locator(".turn").last

    @property
    def answer(self) -> Any:
        return self.last.locator(".parts")

    def ends(self, state: str = "completed", turns: int = 1) -> None:
        """Wait until so many turns are shown and the last one has ended like this."""
        expect(self.page.locator(".turn")).to_have_count(turns)
        expect(self.last).to_have_attribute("data-state", state)

    def same_again(self) -> None:
        """What patches made of the page is what a reload makes of it."""
        before = self.shown()
        self.page.reload()
        self.is_connected()
        assert self.shown() == before

    def shown(self) -> list[str]:
        """The turns without what depends on the moment: clocks, space between elements, opened cards."""
        return [
            str(turn.evaluate(
                """(turn) => {
                    const copy = turn.cloneNode(true);
                    for (const clock of copy.querySelectorAll(".elapsed")) clock.textContent = "";
                    for (const card of copy.querySelectorAll("details")) card.removeAttribute("open");
                    return copy.outerHTML.replace(/>\\s+</g, "><").replace(/\\s+</g, "<");
                }"""
            ))
            for turn in self.page.locator(".turn").all()
        ]  # fmt: skip


def sign_in(context: BrowserContext, installation: Installation, page: Page | None = None) -> Page:
    """Come through the entrance, on a page that stands there or on a new one."""
    if page is None:
        page = context.new_page()
        page.goto(installation.webs[0].url)
    page.get_by_label("E-mail").fill(installation.first_run["email"])
    page.get_by_label("Password").fill(installation.first_run["password"])
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/t/**")
    expect(page.locator("#thread")).to_have_attribute("data-connection", "open")
    return page


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """As long as tests of this folder run: its event loop would stand in the way of asynchronous tests."""
    expect.set_options(timeout=SLOW_MACHINE)
    with sync_playwright() as playwright:
        flags = ["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def signed_in(chromium: Browser, installation: Installation) -> Any:
    """The cookies of a person who came through the entrance."""
    context = chromium.new_context()
    sign_in(context, installation)
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def visit(chromium: Browser, installation: Installation, signed_in: Any) -> Iterator[Visit]:
    """Open a tab: `visit()` on the new-chat page, `visit("credentials/")`; each has to end without complaint."""
    visitors: list[Visitor] = []

    def visit(path: str = "", url: str = "", **options: Any) -> Visitor:
        url = url or installation.webs[0].url
        context = chromium.new_context(storage_state=signed_in, **options)
        context.set_default_timeout(SLOW_MACHINE)
        visitor = Visitor(context, f"{url}/t/{installation.first_run['tenant']}/")
        visitors.append(visitor)
        return visitor.open(path)

    yield visit
    complaints = [complaint for visitor in visitors for complaint in visitor.complaints]
    for visitor in visitors:
        visitor.context.close()
    assert complaints == []
