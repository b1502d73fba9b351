"""Addresses in every disguise: refused before a byte is sent (T20)."""

import socket

import pytest
from pytest_django import Settings

from tenants.errors import InvalidRequest
from tenants.upstreams import addresses_of, checked_base_url, is_public

PRIVATE = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.1",
    "192.0.2.1",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::8.8.8.8",
    "100::1",
    "2001:0:7f00:1::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:a00:1::",
    "3fff::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%lo",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    "not an address",
    "",
]
PUBLIC = ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::8.8.8.8"]


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_is_none_of_the_internet(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_one(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST",
        "localhost.",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "0",
        "[::1]",
        "[::ffff:7f00:1]",
        "[::ffff:127.0.0.1]",
        "[0:0:0:0:0:0:0:1]",
        "169.254.169.254",
        "192.168.0.1",
    ],
)
def test_no_spelling_of_a_private_host_passes(host: str) -> None:
    with pytest.raises(InvalidRequest):
        checked_base_url(f"https://{host}")
    with pytest.raises(InvalidRequest):
        checked_base_url(f"https://{host}:8443/v1")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "1.1.1.1",
        "//1.1.1.1",
        "ftp://1.1.1.1",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "unix:///run/x.sock",
        "http://1.1.1.1",
        "https://",
        "https://:443",
        "https://1.1.1.1:0x50",
        "https://1.1.1.1:99999",
        "https://user@1.1.1.1",
        "https://user:pass@1.1.1.1",
        "https://1.1.1.1@127.0.0.1",
        "https://1.1.1.1/?q=1",
        "https://1.1.1.1/#x",
        "https://1.1.1.1/a b",
        "https://1.1.1.1\\@127.0.0.1",
        "https://1.1.1.1/\r\nx: y",
        "https://ⓛocalhost",
        "https://127。0。0。1",
        "https://[::1",
        "https://" + "a" * 500,
        "https://nobody.has.this.name.invalid",
    ],
)
def test_what_is_no_plain_https_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest):
        checked_base_url(url)


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://1.1.1.1", "https://1.1.1.1"),
        (" https://1.1.1.1:8443/anthropic/ ", "https://1.1.1.1:8443/anthropic"),
        ("https://[2606:4700::1111]/", "https://[2606:4700::1111]"),
    ],
)
def test_a_public_address_is_kept_without_its_trailing_slash(url: str, kept: str) -> None:
    assert checked_base_url(url) == kept


def test_what_the_operator_named_passes_over_plain_http_too(settings: Settings) -> None:
    settings.MODEL_UPSTREAM_ALLOWLIST = frozenset({"127.0.0.1:8123", "[::1]:8123", "localhost:80"})
    assert checked_base_url("http://127.0.0.1:8123/") == "http://127.0.0.1:8123"
    assert checked_base_url("http://[::1]:8123") == "http://[::1]:8123"
    assert checked_base_url("http://localhost") == "http://localhost"
    for other in ("http://127.0.0.1:8124", "http://127.0.0.1", "http://localhost:8123", "https://127.1:8123"):
        with pytest.raises(InvalidRequest):
            checked_base_url(other)


def test_one_private_address_among_public_ones_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resolves to both, as in rebinding. The resolver is the machine's: it is stood in for."""

    def resolve(host: str, port: int, **how: object) -> list[tuple[object, ...]]:
        return [(0, 0, 0, "", ("1.1.1.1", port)), (0, 0, 0, "", ("10.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(InvalidRequest, match="private network"):
        addresses_of("rebinding.example", 443)
