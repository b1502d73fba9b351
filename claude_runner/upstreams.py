"""The connections to models' servers that all gateways of a host share: to approved addresses only.

A name may come to mean another address between the day it was entered and the moment of a connection, so
whoever made the pool is asked for each connection, and what they answer is connected to.
"""

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.helpers import is_ip_address
from yarl import URL

# All addresses of a host and port, each fit to connect to; an OSError says in a sentence why there is none. Blocks.
type AddressesOf = Callable[[str, int], list[str]]

# Names at a time; seconds that a connection waits for one.
MOST_LOOKUPS, RESOLVE_WITHIN = 64, 10.0
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
        self._resolver = _Resolver(addresses_of)
        self.session = aiohttp.ClientSession(
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=55, resolver=self._resolver, use_dns_cache=False
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
        await self._resolver.close()


class _Resolver(AbstractResolver):
    """Threads of its own: a name server that does not answer holds up nobody but those who want that very name.

    Nothing is kept: who asks while a name is looked up shares the answer, which was approved just then.
    """

    def __init__(self, addresses_of: AddressesOf) -> None:
        self._addresses_of = addresses_of
        self._threads = ThreadPoolExecutor(MOST_LOOKUPS, thread_name_prefix="names")
        self._looking: dict[tuple[str, int], asyncio.Future[list[str]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        async with asyncio.timeout(RESOLVE_WITHIN):
            addresses = await asyncio.shield(self._look_up(host, port))
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

    def _look_up(self, host: str, port: int) -> asyncio.Future[list[str]]:
        looking = self._looking.get((host, port))
        if looking is None:
            loop = asyncio.get_running_loop()
            looking = loop.run_in_executor(self._threads, self._addresses_of, host, port)
            self._looking[host, port] = looking
            looking.add_done_callback(lambda done: self._found(host, port, done))
        return looking

    def _found(self, host: str, port: int, done: asyncio.Future[list[str]]) -> None:
        del self._looking[host, port]
        # Perhaps nobody waits for it any more.
        _ = done.cancelled() or done.exception()

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
