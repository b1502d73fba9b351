"""The live path: what is typed arrives, words come in before the answer ends, nothing is missed or lost."""

import time
from uuid import UUID

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import Visit, sign_in
from tests.stack import Installation, Process, eventually

pytestmark = [pytest.mark.needs_chromium, pytest.mark.needs_bubblewrap]


def conversation_in(address: str) -> str:
    return str(UUID(address.rstrip("/").rpartition("/")[2]))


def test_words_arrive_before_the_answer_ends_and_a_reload_misses_none(
    visit: Visit, installation: Installation
) -> None:
    person = visit()
    person.say("slow 60 6")
    expect(person.answer).to_contain_text("river")
    expect(person.last).to_have_attribute("data-state", "running")
    early = person.answer.inner_text()
    person.page.reload()
    assert person.answer.inner_text().startswith(early)
    expect(person.last).to_have_attribute("data-state", "running")
    person.ends()
    said = person.answer.inner_text().split()
    assert len(said) == 60 and len(early.split()) < 60
    [turn] = installation.client(installation.webs[0]).turns(conversation_in(person.page.url))
    assert said == "".join(block["text"] for block in turn["blocks"]).split()
    person.same_again()


def test_the_first_message_makes_the_conversation_and_its_address(visit: Visit) -> None:
    person = visit()
    person.page.get_by_role("button", name="Ask what it can do").click()
    person.page.keyboard.press("Enter")
    person.ends()
    assert conversation_in(person.page.url)
    expect(person.answer.locator("table")).to_be_visible()
    expect(person.page.locator(".conversations [aria-current]")).to_have_text("hello")
    expect(person.page).to_have_title("hello · Parley")
    person.same_again()


def test_a_new_conversation_can_be_shared_as_soon_as_its_first_turn_is_there(visit: Visit) -> None:
    person = visit()
    share = person.page.get_by_role("button", name="Share", exact=True)
    expect(share).to_be_hidden()
    person.say("slow 40 4")
    expect(share).to_be_visible()
    expect(person.last).to_have_attribute("data-state", "running")
    conversation = conversation_in(person.page.url)
    share.click()
    expect(person.page.get_by_role("button", name="Stop sharing")).to_be_visible()
    assert conversation_in(person.page.url) == conversation
    person.ends()


def test_two_tabs_show_the_same(visit: Visit) -> None:
    one = visit()
    one.say("slow 40 4")
    expect(one.answer).to_contain_text("river")
    other = visit(one.page.url)
    other.ends()
    one.ends()
    assert one.shown() == other.shown()
    other.say("echo and back")
    one.ends(turns=2)
    expect(one.answer).to_have_text("and back")


def test_the_stop_button_stops_within_a_second(visit: Visit) -> None:
    person = visit()
    person.say("slow 300 60")
    expect(person.answer).to_contain_text("river")
    started = time.monotonic()
    person.page.get_by_role("button", name="Stop the answer").click()
    person.ends("interrupted")
    assert time.monotonic() - started < 1
    expect(person.last).to_contain_text("What was said so far is kept.")
    expect(person.page.locator("#stop")).to_be_hidden()
    person.say("echo on we go")
    person.ends(turns=2)
    person.same_again()


def test_a_question_is_answered_by_key_and_an_opened_card_stays_open(visit: Visit) -> None:
    person = visit()
    person.say("write notes.txt: one\nrun rm notes.txt")
    card = person.page.locator(".question")
    expect(card).to_contain_text("Write this file?")
    expect(card).to_be_focused()
    person.answer.locator("summary").first.click()
    person.page.wait_for_timeout(700)  # a key that comes with the question is no answer
    person.page.keyboard.press("a")
    expect(card).to_contain_text("Run this command?")
    expect(person.answer.locator("details").first).to_have_attribute("open", "")
    expect(person.answer.locator("summary").first).to_contain_text("Wrote notes.txt +1")
    card.get_by_role("button", name="Deny").click()
    person.ends()
    expect(person.answer).to_contain_text("You denied Bash")
    expect(person.page.locator("#message")).to_be_focused()
    person.same_again()


def test_typing_is_no_answer(visit: Visit) -> None:
    person = visit()
    person.say("write notes.txt: one")
    person.page.locator("#message").fill("a")
    expect(person.page.locator(".question")).to_be_visible()
    person.page.keyboard.type("sad")
    expect(person.page.locator(".question button").first).to_be_enabled()
    expect(person.page.locator("#message")).to_have_value("asad")
    person.page.locator("#message").fill("")
    person.page.get_by_role("button", name="Deny").click()
    person.ends()


def test_a_failure_says_what_to_do_and_the_next_message_works(visit: Visit) -> None:
    person = visit()
    person.say("error 401")
    person.ends("failed")
    expect(person.last).to_contain_text("This answer could not be finished.")
    expect(person.last).to_contain_text("Credentials")
    person.say("echo better")
    person.ends(turns=2)
    person.same_again()


def test_a_thought_is_a_folded_line(visit: Visit) -> None:
    person = visit()
    person.say("think about the sea")
    person.ends()
    expect(person.answer.locator("summary")).to_contain_text("Thought 43 words")
    expect(person.answer.locator(".thoughts")).to_be_hidden()
    person.same_again()


def test_a_message_queued_behind_an_answer_says_so(visit: Visit) -> None:
    person = visit()
    person.say("slow 40 4")
    expect(person.answer).to_contain_text("river")
    person.say("echo second")
    expect(person.page.locator(".turn")).to_have_count(2)
    expect(person.last).to_contain_text("Waiting for its turn")
    person.ends(turns=2)
    expect(person.answer).to_have_text("second")


def test_a_web_process_that_dies_in_the_middle_costs_the_page_nothing(
    visit: Visit, installation: Installation
) -> None:
    web = installation.web()
    person = visit(url=web.url)
    person.say("slow 80 8")
    expect(person.answer).to_contain_text("river")
    web.kill()
    expect(person.page.locator("#connection")).to_contain_text("The connection is lost")
    person.say("echo said while nobody listened")
    expect(person.page.locator("#outbox")).to_contain_text("said while nobody listened")
    argv = ["manage.py", "web", "--port", str(web.port)]
    again = Process(argv, installation.environment, installation.folder / "web-again.log")
    try:
        person.ends(turns=2)
        expect(person.page.locator("#connection")).to_be_empty()
        expect(person.page.locator("#outbox")).to_be_empty()
        expect(person.answer).to_have_text("said while nobody listened")
        assert len(person.page.locator(".turn .parts").first.inner_text().split()) == 80
        person.same_again()
    finally:
        again.leave()
        person.complaints.clear()  # the browser's own words on the lost connection


def test_what_is_typed_is_shown_to_nobody_else_at_the_same_browser(
    visit: Visit, installation: Installation
) -> None:
    person = visit()
    person.page.locator("#message").fill("for my eyes only")
    whose = person.page.locator("#thread").get_attribute("data-whose")
    assert whose
    owner = installation.client(installation.webs[0]).get("/v1/members")["data"][0]["id"]
    assert whose == f"{installation.first_run['tenant']}:{owner}"
    kept = person.page.evaluate("Object.keys(localStorage)")
    assert [key for key in kept if "draft" in key] == [f"parley:draft:{whose}:new"]
    person.page.evaluate(
        """([whose]) => {
            const other = whose.split(":")[0] + ":somebody-else";
            localStorage.setItem(`parley:draft:${other}:new`, "not yours");
        }""",
        [whose],
    )
    person.page.reload()
    expect(person.page.locator("#message")).to_have_value("for my eyes only")


def test_what_is_typed_survives_a_reload_and_a_lost_session(visit: Visit) -> None:
    person = visit()
    person.page.locator("#message").fill("a long thought")
    person.page.reload()
    expect(person.page.locator("#message")).to_have_value("a long thought")
    cookies = person.context.cookies()
    person.context.clear_cookies()
    person.page.reload()
    expect(person.page.get_by_role("heading", name="Sign in")).to_be_visible()
    person.context.add_cookies(cookies)  # type: ignore[arg-type]  # as they came
    person.open()
    expect(person.page.locator("#message")).to_have_value("a long thought")


def test_who_is_signed_out_elsewhere_is_told_and_comes_back(
    chromium: Browser, installation: Installation
) -> None:
    context = chromium.new_context()
    page = sign_in(context, installation)
    page.locator("#message").fill("half a sentence")
    other = context.new_page()
    other.goto(page.url)
    other.get_by_role("button", name="Sign out").click()
    expect(page.locator("#connection")).to_contain_text("You are signed out. What you wrote is kept.")
    page.locator("#connection").get_by_role("link", name="Sign in").click()
    sign_in(context, installation, page)
    expect(page.locator("#message")).to_have_value("half a sentence")
    context.close()


def test_a_message_written_offline_is_sent_once(visit: Visit) -> None:
    person = visit()
    person.context.set_offline(True)
    expect(person.page.locator("#connection")).to_contain_text("You are offline.")
    person.say("echo from the tunnel")
    expect(person.page.locator("#outbox")).to_contain_text("Sent once the connection is back")
    person.context.set_offline(False)
    person.ends()
    expect(person.answer).to_have_text("from the tunnel")
    expect(person.page.locator("#outbox")).to_be_empty()
    person.complaints.clear()  # the browser's own words on the lost connection


def test_a_refused_message_comes_back_to_its_writer(visit: Visit) -> None:
    person = visit()
    person.say("x" * 200_001)
    expect(person.page.locator("#problem")).to_contain_text("200001 characters")
    assert len(person.page.locator("#message").input_value()) == 200_001
    person.page.locator("#message").fill("")


def test_the_page_follows_the_answer_until_the_reader_scrolls_up(visit: Visit) -> None:
    person = visit(viewport={"width": 900, "height": 500})
    person.say("slow 400 12")
    far = "() => document.scrollingElement.scrollHeight - innerHeight - scrollY"
    eventually(lambda: person.page.evaluate("() => scrollY") > 100, 20)
    assert person.page.evaluate(far) < 80
    person.page.mouse.move(600, 200)
    person.page.mouse.wheel(0, -400)
    latest = person.page.get_by_role("button", name="Jump to latest")
    expect(latest).to_be_visible()
    stays = person.page.evaluate("() => scrollY")
    person.page.wait_for_timeout(1000)
    assert person.page.evaluate("() => scrollY") == stays
    latest.click()
    expect(latest).to_be_hidden()
    assert person.page.evaluate(far) < 80
    person.page.keyboard.press("Escape")
    person.ends("interrupted")
