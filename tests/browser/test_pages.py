"""The pages as people of all kinds meet them: narrow, dark, by keyboard, with a screen reader, on paper."""

import gzip
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser.conftest import Visit, Visitor

pytestmark = [pytest.mark.needs_chromium, pytest.mark.needs_bubblewrap]

PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
MOST_SCRIPT = 60_000  # bytes, compressed
RICH = """echo # Title

Text with `code` and [a link](https://example.org).

```python
x = 1  # one
```

| a | b |
| - | -: |
| 1 | 2 |"""


def rich_conversation(visit: Visit, **options: Any) -> Visitor:
    """Text, code, a table, a tool call and an open question."""
    person = visit(**options)
    person.say(RICH)
    person.ends()
    person.say("think about it")
    person.ends(turns=2)
    person.say("write a.txt: one")
    expect(person.page.locator(".question")).to_be_visible()
    return person


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_complain_about(visit: Visit, scheme: str) -> None:
    person = rich_conversation(visit, color_scheme=scheme)
    person.page.mouse.move(600, 300)  # the line that shows on hover, too
    problems = violations(person)
    person.page.get_by_role("button", name="Deny").click()
    person.ends(turns=3)
    for path in (
        "",
        "credentials/",
        "members/",
        "usage/",
        "usage/?month=2026-01",
        "settings/",
        "nothing-here",
    ):
        person.page.goto(person.home + path)
        problems += violations(person)
    person.context.clear_cookies()
    person.page.goto(person.home)
    problems += violations(person)
    person.complaints.clear()  # the browser's own word on 404
    assert not problems, "\n".join(problems)


def violations(person: Visitor) -> list[str]:
    found = Axe().run(person.page).response["violations"]
    return [
        f"{rule['id']}: {node['html'][:200]} {node.get('failureSummary')}"
        for rule in found
        for node in rule["nodes"]
    ]


def test_nothing_is_wider_than_a_phone(visit: Visit) -> None:
    person = rich_conversation(visit, **PHONE)
    assert person.page.evaluate("() => document.documentElement.scrollWidth") == 360
    small = person.page.evaluate(
        """() => [...document.querySelectorAll("button, summary, .composer textarea, .sidebar a")]
            .filter((e) => e.checkVisibility({ visibilityProperty: true }))
            .filter((e) => e.getBoundingClientRect().height < 44)
            .map((e) => e.outerHTML.slice(0, 120))"""
    )
    assert small == []
    person.page.get_by_role("button", name="Deny").click()
    person.ends(turns=3)
    for path in ("usage/", "settings/", "members/"):
        person.page.goto(person.home + path)
        assert person.page.evaluate("() => document.documentElement.scrollWidth") == 360, path


def test_the_list_folds_away_on_a_phone(visit: Visit) -> None:
    person = visit(**PHONE)
    sidebar = person.page.locator("#sidebar")
    expect(sidebar).to_be_hidden()
    person.page.get_by_role("button", name="Show the conversations").tap()
    expect(sidebar).to_be_visible()
    person.page.keyboard.press("Escape")
    expect(sidebar).to_be_hidden()
    expect(person.page.get_by_role("button", name="Show the conversations")).to_be_focused()


def test_everything_works_by_keyboard(visit: Visit) -> None:
    person = visit()
    person.page.keyboard.press("Tab")
    person.page.keyboard.press("?")
    expect(person.page.get_by_role("heading", name="Keyboard shortcuts")).to_be_visible()
    person.page.keyboard.press("Escape")
    expect(person.page.get_by_role("heading", name="Keyboard shortcuts")).to_be_hidden()
    person.page.keyboard.press("/")
    expect(person.page.locator("#message")).to_be_focused()
    person.page.keyboard.type("echo first")
    person.page.keyboard.press("Shift+Enter")
    person.page.keyboard.type("second")
    person.page.keyboard.press("Enter")
    person.ends()
    expect(person.last.locator(".bubble")).to_have_text("echo first\nsecond")
    person.page.keyboard.press("Alt+k")
    expect(person.page.locator("#search")).to_be_focused()
    person.page.keyboard.press("Alt+n")
    person.page.wait_for_url(person.home)


def test_searching_narrows_the_list(visit: Visit) -> None:
    person = visit()
    person.say("echo about whales")
    person.ends()
    person.page.locator("#search").fill("WHALES")
    expect(person.page.locator(".conversations a")).to_have_count(1)
    person.page.locator("#search").fill("nothing like that")
    expect(person.page.locator(".conversations")).to_contain_text("Nothing found")


def test_code_is_copied_and_wrapped(visit: Visit) -> None:
    person = visit()
    person.context.grant_permissions(["clipboard-read", "clipboard-write"])
    person.say("echo ```python\nprint(6 * 7)\n```")
    person.ends()
    person.answer.get_by_role("button", name="Copy").click()
    expect(person.answer.get_by_role("button", name="Copied")).to_be_visible()
    assert person.page.evaluate("() => navigator.clipboard.readText()") == "print(6 * 7)\n"
    wrap = person.answer.get_by_role("button", name="Wrap lines")
    wrap.click()
    expect(wrap).to_have_attribute("aria-pressed", "true")


def test_an_ended_answer_is_announced_once(visit: Visit) -> None:
    person = visit()
    person.page.evaluate(
        """() => {
            window.heard = [];
            new MutationObserver((changes) => window.heard.push(...changes.map((c) => c.target.textContent)))
                .observe(document.getElementById("announcer"), { childList: true });
        }"""
    )
    person.say("words 50")
    person.ends()
    assert person.page.evaluate("() => window.heard") == ["Answer finished"]


def test_the_page_asks_nobody_else_and_carries_little_script(visit: Visit) -> None:
    person = rich_conversation(visit)
    assert {urlsplit(url).netloc for url in person.asked} == {urlsplit(person.home).netloc}
    scripts = {url for url in person.asked if urlsplit(url).path.endswith(".js")}
    sizes = [len(gzip.compress(person.context.request.get(url).body())) for url in scripts]
    assert len(sizes) >= 10 and sum(sizes) < MOST_SCRIPT
    person.page.get_by_role("button", name="Deny").click()
    person.ends(turns=3)


def test_no_image_of_the_model_loads_by_itself(visit: Visit) -> None:
    person = visit()
    person.say("echo ![a cat](https://elsewhere.example/cat.png) <img src=https://elsewhere.example/b.png>")
    person.ends()
    expect(person.answer.get_by_role("link", name="a cat")).to_be_visible()
    assert not [url for url in person.asked if "elsewhere" in url]


HOSTILE = (
    '<script>window.hit=1</script><img src=https://elsewhere.example/b.png onerror="window.hit=1">'
    "<a href='javascript:window.hit=1'>x</a>\u202egnp.exe\x1b[2J"
)


def test_t21_hostile_words_of_model_and_tools_do_nothing(visit: Visit) -> None:
    """In the title, the prompt, a tool's line, its output and the answer, as they stream and after a reload."""
    person = visit()
    person.say(f"run printf %s '{HOSTILE.replace(chr(39), chr(34))}'")
    person.ends()
    person.say(f"echo {HOSTILE}")
    person.ends(turns=2)
    for _again in range(2):
        assert person.page.evaluate("() => window.hit") is None
        assert not [url for url in person.asked if "elsewhere" in url]
        assert not person.page.locator(".turn img, .turn iframe, .turn a[href^=javascript]").count()
        shown = person.page.content() + person.page.title()
        assert "\u202e" not in shown and "\x1b" not in shown
        assert "<script>window.hit=1</script>" in "".join(person.page.locator(".turn").all_inner_texts())
        person.page.reload()
        person.is_connected()


def test_on_paper_there_is_only_the_conversation(visit: Visit) -> None:
    person = visit()
    person.say("echo on paper")
    person.ends()
    person.page.emulate_media(media="print")
    for hidden in ("#sidebar", "#thread", ".meta", ".banner"):
        expect(person.page.locator(hidden).first).to_be_hidden()
    expect(person.answer).to_be_visible()


def test_a_credential_is_added_and_deleted_by_name(visit: Visit) -> None:
    person = visit("credentials/")
    page = person.page
    expect(page.get_by_label("Address of the server")).to_be_hidden()
    page.get_by_label("What it is").select_option("oauth_token")
    expect(page.get_by_text("Anthropic's terms")).to_be_visible()
    page.get_by_label("What it is").select_option("api_key")
    page.get_by_label("Name", exact=True).fill("Spare")
    page.get_by_label("Key or token").fill("sk-spare-4321")
    page.get_by_label("Use it from the next message on").uncheck()
    page.get_by_role("button", name="Add credential").click()
    row = page.locator(".credentials li", has_text="Spare")
    expect(row).to_contain_text("…4321")
    row.get_by_role("button", name="Delete").click()
    page.get_by_label("Type its name: Spare").fill("Spear")
    page.get_by_role("button", name="Delete credential").click()
    expect(page.get_by_text("Nothing was deleted")).to_be_visible()
    person.complaints.clear()  # the browser's own word on 400
    page.get_by_label("Type its name: Spare").fill("Spare")
    page.get_by_role("button", name="Delete credential").click()
    expect(page.get_by_text("Spare was deleted.")).to_be_visible()
    expect(page.locator(".credentials li")).to_have_count(1)
