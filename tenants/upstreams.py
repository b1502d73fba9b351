"""Addresses that people enter for servers of theirs, checked so that they can't point into our own network.

A name is resolved and all its addresses are looked at; what is private in any disguise is refused, unless
the operator named host and port in MODEL_UPSTREAM_ALLOWLIST. Whoever connects asks `addresses_of` again and
connects to what it returns: between check and use a name may come to mean something else.
"""

import socket
from ipaddress import IPv4Address, IPv6Network, ip_address
from urllib.parse import SplitResult, urlsplit

from django.conf import settings
from django.utils.translation import gettext as _

from tenants.errors import InvalidRequest

PORTS = {"http": 80, "https": 443}
LENGTH = 500
GLOBAL_UNICAST = IPv6Network("2000::/3")
# In these the last bits are an address of IPv4.
NAT64 = IPv6Network("64:ff9b::/96")
# 6to4, whose inner bits are one too, and what Python does not know to be for documentation.
NEVER = (IPv6Network("2002::/16"), IPv6Network("3fff::/20"))


def checked_base_url(text: str) -> str:
    """The URL without a trailing slash, or InvalidRequest. Resolves names: not inside a transaction."""
    url = text.strip().rstrip("/")
    parts, port = _parts(url)
    host = parts.hostname or ""
    if parts.scheme == "http" and not is_trusted(host, port):
        raise InvalidRequest(
            _("base_url must begin with https://. Plain http is for addresses that the operator has allowed.")
        )
    addresses_of(host, port)
    return url


def addresses_of(host: str, port: int) -> list[str]:
    """All addresses of a host, each fit to connect to; InvalidRequest when one is not, or there is none."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise InvalidRequest(_("There is no server named %(host)s.") % {"host": host[:100]}) from None
    addresses = list(dict.fromkeys(str(place[0]) for *_, place in found))
    if not is_trusted(host, port) and not all(is_public(address) for address in addresses):
        raise InvalidRequest(
            _("%(host)s is an address of a private network. The operator can allow it.")
            % {"host": host[:100]}
        )
    return addresses


def is_trusted(host: str, port: int) -> bool:
    """Whether the operator named this host and port."""
    written = f"[{host}]" if ":" in host else host
    return f"{written}:{port}" in settings.MODEL_UPSTREAM_ALLOWLIST


def is_public(address: str) -> bool:
    """Whether an address of IPv4 or IPv6 is one of the internet, looked at through tunnels and mappings."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, IPv4Address):
        return found.is_global and not found.is_multicast and not found.is_reserved
    if found in NAT64:
        return is_public(str(IPv4Address(int(found) & 0xFFFFFFFF)))
    if found.ipv4_mapped is not None:
        return is_public(str(found.ipv4_mapped))
    return found in GLOBAL_UNICAST and found.is_global and not any(found in network for network in NEVER)


def _parts(url: str) -> tuple[SplitResult, int]:
    """The parts of a URL that is fit to be a base, and its port."""
    wrong = InvalidRequest(
        _("base_url must look like https://host, https://host:port or https://host/path, and no more.")
    )
    if len(url) > LENGTH or not url.isascii() or any(sign <= " " or sign == "\\" for sign in url):
        raise wrong
    try:
        parts = urlsplit(url)
        port = parts.port or PORTS[parts.scheme]
    except (ValueError, KeyError):
        raise wrong from None
    if not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment or "?" in url or "#" in url:
        raise wrong
    return parts, port
