"""The production setting, PUBLIC_URL=https://…, as a real process behind a proxy that ends TLS."""

import os
import secrets
import subprocess
import sys
from ipaddress import ip_network
from typing import Any

import httpx
import pytest
from django.core.exceptions import ImproperlyConfigured
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from config.proxies import Proxied
from config.readers import read_networks, read_public_url
from tests.security.front import NAME, PRODUCTION, Browser
from tests.stack import PROJECT, Installation, Web

# Settings -------------------------------------------------------------------------------------------------------


def manage(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_djangos_checks_for_deployment_find_nothing(production: Installation) -> None:
    done = manage(production.environment, "check", "--deploy", "--fail-level", "WARNING")
    assert done.returncode == 0, done.stderr
    plain = {name: value for name, value in production.environment.items() if name not in PRODUCTION}
    assert "security.W" in manage(plain, "check", "--deploy").stderr, "the check sees what is missing"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"TRUSTED_PROXIES": ""}, "name its address in TRUSTED_PROXIES"),
        ({"TRUSTED_PROXIES": "proxy.example"}, "TRUSTED_PROXIES takes addresses or networks"),
        ({"PUBLIC_URL": "parley.example"}, "such as https://parley.example"),
        ({"DEBUG": "true"}, "not together with a PUBLIC_URL of https"),
    ],
)
def test_half_a_production_setting_does_not_start(change: dict[str, str], said: str) -> None:
    environment = {"PATH": os.environ["PATH"], "SECRET_KEY": secrets.token_urlsafe(50)}
    done = manage(environment | PRODUCTION | change, "check")
    assert done.returncode
    assert said in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "bad", ["ftp://a.example", "https://", "https://a.example/path", "https://u:p@a.example"]
)
def test_a_public_url_is_scheme_and_host(bad: str) -> None:
    assert read_public_url("https://a.example:8443/") == "https://a.example:8443"
    with pytest.raises(ImproperlyConfigured):
        read_public_url(bad)


# Who asks -------------------------------------------------------------------------------------------------------


def seen(peer: str, *headers: tuple[str, str], kind: str = "http") -> tuple[str, str, list[str]]:
    """Address, scheme and headers as the application gets them."""
    sent = [(name.encode(), value.encode()) for name, value in headers]
    scope: dict[str, Any] = {"type": kind, "client": [peer, 4711], "headers": sent}
    trusted = read_networks(["127.0.0.1", "10.0.0.0/8", "::1"])
    asked = Proxied(None, trusted=trusted, https=True).seen(scope)  # type: ignore[arg-type]  # is not called
    return asked["client"][0], asked["scheme"], [name.decode() for name, _value in asked["headers"]]


@pytest.mark.parametrize(
    ("peer", "chain", "address"),
    [
        ("127.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("127.0.0.1", "198.51.100.1, 203.0.113.7", "203.0.113.7"),
        ("127.0.0.1", "198.51.100.1, 203.0.113.7, 10.1.2.3", "203.0.113.7"),
        ("::ffff:127.0.0.1", "2001:db8::7", "2001:db8::7"),
        ("127.0.0.1", "203.0.113.7, nonsense", "unknown"),
        ("127.0.0.1", "10.0.0.1", "10.0.0.1"),
        ("203.0.113.9", "127.0.0.1", "203.0.113.9"),
        ("203.0.113.9", "198.51.100.1, 127.0.0.1", "203.0.113.9"),
    ],
)
def test_t22_only_what_a_named_proxy_added_is_believed(peer: str, chain: str, address: str) -> None:
    assert seen(peer, ("X-Forwarded-For", chain))[0] == address


def test_t22_whoever_is_no_proxy_of_ours_says_nothing_about_the_scheme() -> None:
    https = ("x-forwarded-proto", "https")
    assert seen("127.0.0.1", https)[1] == "https"
    assert seen("127.0.0.1", https, kind="websocket")[1] == "wss"
    assert seen("127.0.0.1", ("x-forwarded-proto", "https, http"))[1] == "http"
    assert seen("203.0.113.9", https)[1] == "http"
    assert seen("203.0.113.9", https, ("Forwarded", "for=x"), ("X-Real-IP", "x"), ("a", "b"))[2] == ["a"]
    assert Proxied(None, trusted=[ip_network("::1")], https=True).seen({"type": "lifespan"}) == {  # type: ignore[arg-type]
        "type": "lifespan"
    }


# The whole process ----------------------------------------------------------------------------------------------


def test_pages_come_over_https_alone(front: Web) -> None:
    plain = httpx.get(f"{front.url}/accounts/login/?next=/x", headers={"host": NAME}, trust_env=False)
    assert (plain.status_code, plain.headers["location"]) == (301, f"https://{NAME}/accounts/login/?next=/x")
    forged = httpx.get(f"{front.url}/", headers={"host": "elsewhere.example"}, trust_env=False)
    assert "elsewhere" not in forged.headers.get("location", "")
    assert httpx.get(f"{front.url}/health", trust_env=False).status_code == 200
    page = Browser(front, "203.0.113.1").ask("GET", "/accounts/login/")
    assert page.status_code == 200
    assert page.headers["strict-transport-security"] == "max-age=31536000; includeSubDomains"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["x-frame-options"] == "DENY"
    assert page.headers["referrer-policy"] == "same-origin"
    assert page.headers["cross-origin-opener-policy"] == "same-origin"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy
    assert "unsafe" not in policy and "frame-ancestors 'none'" in policy


def test_t19_cookies_belong_to_this_host_over_https_alone(production: Installation, front: Web) -> None:
    browser = Browser(front, "203.0.113.2")
    first = production.first_run
    assert browser.sign_in(first["email"], first["password"]).status_code == 302
    kept = {line.partition("=")[0]: line.lower() for line in browser.set_cookie}
    assert set(kept) == {"__Host-session", "__Host-csrf"}
    for line in kept.values():
        parts = {part.strip() for part in line.split(";")}
        assert {"secure", "httponly", "path=/", "samesite=lax"} <= parts
        assert not [part for part in parts if part.startswith("domain")]
    assert browser.ask("GET", "/v1/conversations").status_code == 200
    renamed = Browser(front, "203.0.113.2")
    renamed.cookies = {"sessionid": browser.cookies["__Host-session"]}
    assert renamed.ask("GET", "/v1/conversations").status_code == 401


@pytest.mark.parametrize(
    ("origin", "proto", "status"),
    [
        (f"https://{NAME}", "https", 101),
        (f"http://{NAME}", "https", 403),
        (f"https://{NAME}", "http", 403),
        ("https://elsewhere.example", "https", 403),
        (f"https://sub.{NAME}", "https", 403),
        ("null", "https", 403),
        (None, "https", 403),
    ],
)
def test_t19_a_cookie_opens_a_socket_from_our_https_page_alone(
    production: Installation, front: Web, origin: str | None, proto: str, status: int
) -> None:
    browser = Browser(front, "203.0.113.3")
    browser.sign_in(production.first_run["email"], production.first_run["password"])
    headers = {
        "host": NAME,
        "cookie": f"__Host-session={browser.cookies['__Host-session']}",
        "x-forwarded-proto": proto,
    }
    assert handshake(front, origin, headers) == status


def test_t19_a_name_that_was_made_to_lead_here_opens_nothing(front: Web) -> None:
    headers = {"host": "rebound.example", "cookie": "__Host-session=x", "x-forwarded-proto": "https"}
    assert handshake(front, "https://rebound.example", headers) == 403


def handshake(web: Web, origin: str | None, headers: dict[str, str]) -> int:
    """The status that the wire gives to a socket."""
    try:
        with connect(
            f"ws://{headers['host']}/v1/chat/ws",
            address=("127.0.0.1", web.port),
            origin=Origin(origin) if origin else None,
            additional_headers={name: value for name, value in headers.items() if name != "host"},
            proxy=None,
        ):
            return 101
    except InvalidStatus as error:
        return error.response.status_code
