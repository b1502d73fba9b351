"""A cable that can be pulled: between a process of ours and a server."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit


class Relay:
    """Forwards each connection to `port`. While `pulled` is set, nothing comes through, and nobody is told.

    While `deaf` is set, who connects gets no answer, nor does it ever.
    """

    def __init__(self, port: int) -> None:
        self.pulled = threading.Event()
        self.deaf = threading.Event()
        self.port = 0
        self._target = port
        self._loop = asyncio.new_event_loop()
        self._pumping: set[asyncio.Task[None]] = set()
        self._unheard: list[asyncio.StreamWriter] = []

    async def _serve(self, ready: threading.Event) -> None:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await server.serve_forever()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.deaf.is_set():
            self._unheard.append(writer)
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            pump = asyncio.create_task(self._pump(source, sink))
            self._pumping.add(pump)
            pump.add_done_callback(self._pumping.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                while self.pulled.is_set():  # noqa: ASYNC110  # it is set by another thread
                    await asyncio.sleep(0.02)
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            pass
        finally:
            sink.close()

    def run(self, ready: threading.Event) -> None:
        serving = self._loop.create_task(self._serve(ready))
        self._loop.run_forever()
        for task in (serving, *self._pumping):
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(serving, *self._pumping, return_exceptions=True))
        self._loop.close()

    def cut(self) -> None:
        """End every connection."""
        for pump in list(self._pumping):
            self._loop.call_soon_threadsafe(pump.cancel)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)


@contextmanager
def relayed(url: str) -> Iterator[tuple[Relay, str]]:
    """A relay to the server of a URL, and the URL that leads through it."""
    parts = urlsplit(url)
    assert parts.port, url
    relay, ready = Relay(parts.port), threading.Event()
    thread = threading.Thread(target=relay.run, args=(ready,), daemon=True)
    thread.start()
    ready.wait(5)
    through = parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{relay.port}"))
    try:
        yield relay, urlunsplit(through)
    finally:
        relay.stop()
        thread.join(5)
