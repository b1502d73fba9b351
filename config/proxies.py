"""Who asks, and whether over TLS, where a proxy stands before us.

Only what a proxy of `TRUSTED_PROXIES` adds is believed. Anybody can write such a header, so nothing behind this
ever sees one.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

type Scope = dict[str, Any]
type Application = Callable[[Scope, Any, Any], Awaitable[None]]
type Networks = Sequence[IPv4Network | IPv6Network]

FORWARDED = (b"forwarded", b"x-forwarded-", b"x-real-ip")
SECURE = {"http": "https", "websocket": "wss"}
PLAIN = {"http": "http", "websocket": "ws"}


class Proxied:
    """An ASGI application whose `client` and `scheme` are those of who really asks.

    With `https` a plain socket is refused; Django redirects plain requests by itself.
    """

    def __init__(self, application: Application, *, trusted: Networks, https: bool) -> None:
        self.application = application
        self.trusted = trusted
        self.https = https

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        asked = self.seen(scope)
        if self.https and asked.get("scheme") == "ws":
            await send({"type": "websocket.close"})  # before it was accepted: 403 on the wire
        else:
            await self.application(asked, receive, send)

    def seen(self, scope: Scope) -> Scope:
        """The scope as the application gets it."""
        if scope["type"] not in PLAIN:
            return scope
        kept = [(name, value) for name, value in scope["headers"] if not name.lower().startswith(FORWARDED)]
        asked = scope | {"headers": kept, "scheme": PLAIN[scope["type"]]}
        if self._trusts(peer := _address((scope.get("client") or [""])[0])):
            hops = [*_values(scope, b"x-forwarded-for"), str(peer)]
            asked["client"] = [self._nearest_stranger(hops), 0]
            if _values(scope, b"x-forwarded-proto")[-1:] == ["https"]:
                asked["scheme"] = SECURE[scope["type"]]
        return asked

    def _nearest_stranger(self, hops: list[str]) -> str:
        """The last address that no proxy of ours has: what stands before it, a client may have made up."""
        for hop in reversed(hops):
            if not self._trusts(_address(hop)):
                return str(_address(hop) or "unknown")
        return hops[0]

    def _trusts(self, address: IPv4Address | IPv6Address | None) -> bool:
        return address is not None and any(address in network for network in self.trusted)


def _values(scope: Mapping[str, Any], name: bytes) -> list[str]:
    """What a header lists, over all lines of its name."""
    lines = [value.decode("latin-1") for found, value in scope["headers"] if found.lower() == name]
    return [part.strip() for part in ",".join(lines).split(",") if part.strip()]


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(text.strip("[]"))
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
