"""T22, T23 at the door: who guesses passwords, and what the answers and the log then say."""

import json
import re
import time
from itertools import count
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.security.front import LOGIN, NAME, Browser
from tests.stack import Installation, Web

CANARY = "canary-7b1e"
ADDRESSES = (f"203.0.113.{number}" for number in count(10))
TOO_MANY = "Too many failed login attempts"


@pytest.fixture
def person(production: Installation) -> dict[str, Any]:
    """The owner of a new tenant: email, password and what else was told."""
    slug = f"t-{uuid4().hex[:8]}"
    said = production.manage("create_tenant", slug, "--owner", f"{slug}@example.org")
    return dict(json.loads(said))


def new(front: Web, address: str = "", forged: str = "") -> Browser:
    return Browser(front, address or next(ADDRESSES), forged=forged)


def test_t22_guesses_at_one_account_end_whatever_address_and_host_they_name(
    front: Web, person: dict[str, Any]
) -> None:
    for number in range(5):
        host = f"{NAME}:{7000 + number}"
        named = {"host": host, "origin": f"https://{host}", "referer": f"https://{host}{LOGIN}"}
        assert TOO_MANY not in new(front).sign_in(person["email"].upper(), f"guess {number}", **named).text
    refused = new(front).sign_in(person["email"], person["password"])
    assert refused.status_code == 200
    assert TOO_MANY in refused.text


def test_t22_guesses_from_one_address_end_and_a_forged_header_is_no_other_address(front: Web) -> None:
    address = next(ADDRESSES)
    for number in range(10):
        browser = new(front, address, forged=f"198.51.100.{number}, ")
        assert TOO_MANY not in browser.sign_in(f"{number}-{uuid4()}@example.org", "guess").text
    assert TOO_MANY in new(front, address, forged="198.51.100.99, ").sign_in("x@example.org", "guess").text
    assert TOO_MANY not in new(front).sign_in(f"{uuid4()}@example.org", "guess").text


def test_t22_an_account_that_is_not_there_answers_alike_and_as_late(
    front: Web, person: dict[str, Any]
) -> None:
    unknown = person["email"].replace("t-", "u-", 1)
    told: dict[str, list[tuple[float, int, str]]] = {unknown: [], person["email"]: []}
    for _ in range(3):
        for email, heard in told.items():
            browser = new(front)
            token = browser.token(LOGIN)
            began = time.monotonic()
            answer = browser.ask(
                "POST", LOGIN, {"login": email, "password": "guess", "csrfmiddlewaretoken": token}
            )
            text = re.sub(r'(csrfmiddlewaretoken" value=")\w+', "", answer.text).replace(email, "")
            heard.append((time.monotonic() - began, answer.status_code, text))
    assert len({(status, text) for heard in told.values() for _seconds, status, text in heard}) == 1
    fastest = {email: min(seconds for seconds, *_rest in heard) for email, heard in told.items()}
    assert fastest[unknown] > fastest[person["email"]] / 2


def test_t22_a_session_is_new_at_sign_in_and_ends_with_the_password(
    front: Web, person: dict[str, Any]
) -> None:
    mine, elsewhere = new(front), new(front)
    elsewhere.cookies["__Host-session"] = planted = "a" * 32
    for browser in (mine, elsewhere):
        assert browser.sign_in(person["email"], person["password"]).status_code == 302
        assert browser.ask("GET", "/v1/conversations").status_code == 200
    assert elsewhere.cookies["__Host-session"] not in (planted, mine.cookies["__Host-session"])
    kept = mine.cookies["__Host-session"]
    fields = {
        "oldpassword": person["password"],
        "password1": "another-long-one",
        "password2": "another-long-one",
    }
    assert mine.send("/accounts/password/change/", fields).status_code == 302
    assert mine.ask("GET", "/v1/conversations").status_code == 200
    assert mine.cookies["__Host-session"] != kept
    assert elsewhere.ask("GET", "/v1/conversations").status_code == 401


def test_t23_a_real_process_says_no_secret_and_logs_no_forged_line(production: Installation) -> None:
    """Bad requests, and a bug: its Redis is away, and its address has a password."""
    web = production.web(REDIS_URL=f"redis://:{CANARY}-redis@127.0.0.1:1/0")
    browser, key = new(web), production.first_run["api_key"]
    answers = [
        browser.ask("GET", f"/nowhere%0aERROR%20parley:%20forged%1b[31m%e2%80%ae/parley_{CANARY}_{CANARY}"),
        browser.ask("GET", "/v1/nowhere%0d%0aERROR%20forged", x_api_key=f"parley_{CANARY}"),
        browser.ask("GET", f"/invitation/{CANARY}/"),
        browser.ask(
            "POST",
            "/v1/credentials",
            f'{{"secret": "sk-ant-{CANARY}"',
            x_api_key=key,
        ),
        browser.ask("GET", "/v1/credentials", authorization=f"Bearer {CANARY}"),
        browser.ask("GET", "/t/home/", cookie=f"__Host-session={CANARY}"),
        browser.ask("GET", "/", host="elsewhere.example\\nERROR forged"),
        browser.sign_in(f"{CANARY}@example.org", f"{CANARY}-password"),
    ]
    assert answers[-1].status_code == 500
    assert "Something broke on our side" in answers[-1].text
    for answer in answers:
        assert answer.status_code >= 300
        assert f"{CANARY}-redis" not in answer.text and f"{CANARY}-password" not in answer.text
        assert "Traceback" not in answer.text and "redis" not in answer.text.lower()
    assert CANARY not in answers[3].text + answers[4].text
    log = web.said()
    assert "ConnectionError" in log
    assert [line for line in log.split("\n") if CANARY in line] == []
    assert [line for line in log.split("\n") if line and not re.match(r"[A-Z]+ [\w.]+: ", line)] == []
    assert [line for line in log.split("\n") if line.startswith("ERROR") and " forged" in line[:24]] == []
    assert "".join(log.split("\n")).isprintable()


def test_t23_the_pages_of_errors_tell_nothing(front: Web) -> None:
    for path in ("/nowhere", "/v1/nowhere", "/static/nowhere.js"):
        answer = httpx.get(
            front.url + path, headers={"host": NAME, "x-forwarded-proto": "https"}, trust_env=False
        )
        assert answer.status_code == 404
        for inside in ("Traceback", "urlpatterns", "settings", "DEBUG", "Django"):
            assert inside not in answer.text
