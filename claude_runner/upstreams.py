"""The connections to models' servers that all gateways of a host share: to approved addresses only.

A name may come to mean another address between the day it was entered and the moment of a connection, so
whoever made the pool is asked for each connection, and what they answer is connected to.
"""

import asyncio
import socket
from collections.abc import Callable
from ipaddress import ip_address

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.helpers import is_ip_address
from yarl import URL

# All addresses of a host and port, each fit to connect to; an OSError says in a sentence why there is none. Blocks.
type AddressesOf = Callable[[str, int], list[str]]

TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=600)


def any_address_of(host: str, port: int) -> list[str]:
    """Whatever the machine's resolver says: for those who connect to what they wrote themselves."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(place[0]) for *_, place in found))


class Upstreams:
    """Use it inside the event loop; `close()` ends all connections.

    No cookies: they would cross tenants. No proxy, whatever the environment says: it would choose the address.
    """

    def __init__(self, addresses_of: AddressesOf = any_address_of) -> None:
        self._addresses_of = addresses_of
        self.session = aiohttp.ClientSession(
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=55, resolver=_Resolver(addresses_of), use_dns_cache=False
            ),
            skip_auto_headers=("User-Agent", "Content-Type", "Accept", "Accept-Encoding"),
            timeout=TIMEOUT,
            trust_env=False,
        )

    def url_of(self, base_url: str, path: str) -> URL:
        """OSError where no connection may be tried: aiohttp asks its resolver for names only, not for addresses."""
        try:
            url = URL(base_url.rstrip("/") + path)
            # What only looks like an address would be looked up as a name below, which blocks.
            is_address = is_ip_address(url.host) and bool(ip_address((url.host or "").partition("%")[0]))
        except ValueError:
            raise OSError("It is no plain address of http or https.") from None
        if url.scheme not in ("http", "https") or not url.host or url.user is not None:
            raise OSError("It is no plain address of http or https.")
        if is_address:
            self._addresses_of(url.host, url.port or 0)
        return url

    async def close(self) -> None:
        await self.session.close()


class _Resolver(AbstractResolver):
    def __init__(self, addresses_of: AddressesOf) -> None:
        self._addresses_of = addresses_of

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = await asyncio.to_thread(self._addresses_of, host, port)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        pass
