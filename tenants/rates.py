"""How much one API key, one signed-in person, or one address of who is nobody yet, may do: counted in Redis for all
web processes together.

A rate counts over five seconds, so that a burst which is no flood passes. Without Redis nobody is refused; where
so many ask it at once that its connections are not enough, who waits too long is.
Frames of sockets are counted here, in memory: a trip for each would cost what it is meant to spare.
"""

import logging
import time
from asyncio import AbstractEventLoop, Semaphore, get_running_loop, timeout
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import ceil
from uuid import UUID
from weakref import WeakKeyDictionary

from django.conf import settings
from django.utils.translation import gettext as _
from limits import RateLimitItem, RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from tenants.access import Caller
from tenants.errors import RateLimited

logger = logging.getLogger("parley.rates")

WINDOW = 5
PATIENCE = 1.0
MOST_ASKING = 50  # connections to Redis
# A socket that has not been heard of for so long went down with its web process.
SOCKET_LIVES = 15


class Window:
    """So many a second, over five seconds, in this process.

    Not out of `limits`: its storage in memory tidies up behind each hit, on a thread, through all that it has.
    """

    def __init__(self, per_second: int) -> None:
        self._times: deque[float] = deque(maxlen=max(1, per_second * WINDOW))

    def hit(self) -> bool:
        """Whether there is room for one more, which then counts."""
        if len(self._times) == self._times.maxlen and self.seconds_until_free() > 0:
            return False
        self._times.append(time.monotonic())
        return True

    def seconds_until_free(self) -> float:
        """Until the oldest counts no more."""
        return self._times[0] + WINDOW - time.monotonic()

    def is_idle(self) -> bool:
        return not self._times or self._times[-1] + WINDOW <= time.monotonic()


class Rates:
    """The counters, as one event loop sees them."""

    def __init__(self, url: str) -> None:
        self._places = Semaphore(MOST_ASKING)
        # Once more: what seems late may have lain there while this process was held up.
        retry = Retry(NoBackoff(), 1)
        self._redis = Redis.from_url(
            url, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE, retry=retry
        )
        storage = RedisStorage(
            f"async+{url}",
            implementation="redispy",
            key_prefix="parley:rates",
            connection_pool=self._redis.connection_pool,  # type: ignore[arg-type]  # as its text says
        )
        self._limiter = MovingWindowRateLimiter(storage)
        self._frames: dict[str, Window] = {}

    def count_frame(self, caller: Caller) -> None:
        """RateLimited when the caller has sent too many frames lately, over all their sockets of this process."""
        who = _who(caller)
        if who not in self._frames:
            self._frames[who] = Window(settings.KEY_FRAMES_PER_SECOND)
        if not self._frames[who].hit():
            seconds = ceil(self._frames[who].seconds_until_free())
            raise RateLimited(_("Too many at once. Try again in a moment."), retry_after=max(1, seconds))

    async def count_message(self, caller: Caller) -> None:
        """RateLimited when the caller has sent too many messages lately."""
        await self._count("messages", settings.KEY_MESSAGES_PER_SECOND, _who(caller))

    async def count_call(self, caller: Caller) -> None:
        """RateLimited when the caller has made too many calls over HTTP lately, other than messages."""
        await self._count("calls", settings.KEY_CALLS_PER_SECOND, _who(caller))

    async def count_page(self, who: str) -> None:
        """RateLimited when `who` (a person, or the address of a stranger) has asked for too many pages lately."""
        await self._count("pages", settings.PAGES_PER_SECOND, who)

    async def open_socket(self, caller: Caller, socket: UUID) -> None:
        """Count a new socket; RateLimited when the caller has too many, or opened too many lately."""
        await self._count("sockets", settings.KEY_SOCKETS_PER_SECOND, _who(caller))
        await self.open_stream(caller, socket)

    async def open_stream(self, caller: Caller, socket: UUID) -> None:
        """Count a new connection whose opening counts as something else already; RateLimited as for sockets."""
        if await self._unless_away(lambda: self._count_socket(caller, socket), 0) > settings.KEY_SOCKETS:
            await self.close_socket(caller, socket)
            raise RateLimited(
                _("You have too many connections open. Close some first."), retry_after=SOCKET_LIVES
            )

    async def keep_socket(self, caller: Caller, socket: UUID) -> None:
        """Say that it is open still."""
        with suppress(RateLimited):
            await self._unless_away(lambda: self._count_socket(caller, socket), 0)

    async def close_socket(self, caller: Caller, socket: UUID) -> None:
        # Not at once: who closes and opens again begins no new count.
        get_running_loop().call_later(WINDOW, self._forget, _who(caller))
        with suppress(RateLimited):
            await self._unless_away(lambda: self._redis.zrem(_sockets(caller), str(socket)), 0)

    def _forget(self, who: str) -> None:
        if who in self._frames and self._frames[who].is_idle():
            del self._frames[who]

    async def _count(self, what: str, per_second: int, who: str) -> None:
        limit = RateLimitItemPerSecond(per_second * WINDOW, WINDOW, namespace=what)
        if not await self._unless_away(lambda: self._limiter.hit(limit, who), True):
            seconds = await self._unless_away(lambda: self._seconds_until_free(limit, who), 1)
            raise RateLimited(_("Too many at once. Try again in a moment."), retry_after=seconds)

    async def _unless_away[T](self, asked: Callable[[], Awaitable[T]], otherwise: T) -> T:
        await self._wait_for_a_place()
        try:
            return await asked()
        except (RedisError, OSError) as error:
            logger.warning("Redis is away, nothing is limited: %s", error)
            return otherwise
        finally:
            self._places.release()

    async def _wait_for_a_place(self) -> None:
        """A flood that takes up all connections is not Redis being away."""
        try:
            async with timeout(PATIENCE):
                await self._places.acquire()
        except TimeoutError:
            raise RateLimited(_("Too many at once. Try again in a moment."), retry_after=1) from None

    async def _seconds_until_free(self, limit: RateLimitItem, who: str) -> int:
        window = await self._limiter.get_window_stats(limit, who)
        return max(1, ceil(window.reset_time - time.time()))

    async def _count_socket(self, caller: Caller, socket: UUID) -> int:
        now, name = time.time(), _sockets(caller)
        async with self._redis.pipeline() as pipe:
            pipe.zremrangebyscore(name, 0, now - SOCKET_LIVES)
            pipe.zadd(name, {str(socket): now})
            pipe.expire(name, SOCKET_LIVES)
            pipe.zcard(name)
            *_done, open_now = await pipe.execute()
        return int(open_now)


def _who(caller: Caller) -> str:
    return str(caller.key_id or caller.member_id)


def _sockets(caller: Caller) -> str:
    return f"parley:sockets:{_who(caller)}"


_rates: "WeakKeyDictionary[AbstractEventLoop, Rates]" = WeakKeyDictionary()


def rates() -> Rates:
    """The rates of the running event loop."""
    loop = get_running_loop()
    if loop not in _rates:
        _rates[loop] = Rates(settings.REDIS_URL or "redis://127.0.0.1:6379")
    return _rates[loop]
