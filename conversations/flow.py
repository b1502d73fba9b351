"""How far the reader of one connection has fallen behind."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

EXTENSION = "parley.flow"
STALL_SECONDS = 30.0


class StalledReader(ConnectionError):
    """The reader took nothing for too long; its connection has been aborted."""


class Flow:
    """One connection's brake, put into its ASGI scope by the `web` process.

    `send()` already waits for a reader that is behind, so a consumer or view that awaits its sends has
    nothing to do. `drained()` is for those who want to wait before they fetch what they would send next.
    A Flow of its own (under a test client) never stalls.
    """

    def __init__(
        self,
        *,
        patience: float = STALL_SECONDS,
        abort: Callable[[], None] = lambda: None,
        closing: asyncio.Event | None = None,
    ) -> None:
        self.endless = False
        """Set by a stream that never ends by itself: the server ends it when it leaves."""
        self.gone = False
        """Whether the connection has ended. What is sent now reaches nobody."""
        self.closing = closing or asyncio.Event()
        """Set from the moment on that the server wants to leave."""
        self._patience = patience
        self._abort = abort
        self._aborted = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def stalled(self) -> bool:
        """Whether more is unsent than the transport likes to hold."""
        return not self._writable.is_set()

    async def drained(self) -> None:
        """Return at once, or as soon as the reader has taken what was sent or has gone.

        Raises StalledReader when it took nothing in time and was dropped.
        """
        await self._writable.wait()
        if self._aborted:
            raise StalledReader

    def pause(self) -> None:
        """The transport is full: start to count, unless the count runs already."""
        if self._writable.is_set() and not self.gone:
            self._writable.clear()
            self._deadline = asyncio.get_running_loop().call_later(self._patience, self._give_up)

    def resume(self) -> None:
        """The transport is empty: nobody has to wait."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._writable.set()

    def stop(self) -> None:
        """The connection has ended: nobody has to wait any more."""
        self.gone = True
        self.resume()

    def _give_up(self) -> None:
        self._aborted = True
        self.stop()
        self._abort()


def flow_of(scope: Mapping[str, Any]) -> Flow:
    """The flow of the connection behind an ASGI scope."""
    flow = scope.get("extensions", {}).get(EXTENSION)
    return flow if isinstance(flow, Flow) else Flow()
