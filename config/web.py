"""The `web` process: Daphne, with the brakes and the way out that it lacks.

Daphne's `send()` never waits, so a reader that stalls fills the memory. Here each connection registers as a
push producer of its transport, and `send()` waits while the transport holds more than 64 KiB (Twisted's own
mark). A reader that takes nothing for `stall_seconds` is dropped. The other way round, frames and bodies are
limited in size and have to come in time, and a socket whose application lags behind is not read from.

On the first SIGTERM or SIGINT the server goes on answering (`/ready` says 503 from then on), closes the
sockets with 1012 and endless streams with their end, lets running requests finish for at most
`drain_seconds`, and stops. The second signal stops at once.
"""

# Installs Twisted's asyncio reactor, so it has to come before everything else of Twisted.
import daphne.server  # type: ignore[import-untyped]  # isort: skip

import asyncio
import json
import logging
import signal
import socket
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from daphne.http_protocol import HTTPFactory, WebRequest  # type: ignore[import-untyped]
from daphne.ws_protocol import WebSocketFactory, WebSocketProtocol  # type: ignore[import-untyped]
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.logger import LogEvent, globalLogBeginner
from twisted.web.http import HTTPChannel

from conversations.flow import EXTENSION, STALL_SECONDS, Flow, StalledReader

logger = logging.getLogger("parley.web")

reactor: Any = installed_reactor  # Twisted types it as a module; it is the asyncio reactor
untyped_channel: Any = HTTPChannel  # some of its methods have no types

type Message = dict[str, Any]
type Application = Callable[
    [dict[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

RESTART = 1012
ERROR_TYPES = {400: "invalid_request_error", 413: "request_too_large", 503: "overloaded_error"}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may cost; bytes and seconds."""

    frame: int = 20 * 1024 * 1024  # above the largest message, so that its refusal is an answer
    body: int = 32 * 1024 * 1024
    unread: int = 1024 * 1024
    kernel_unsent: int = 128 * 1024
    stall_seconds: float = STALL_SECONDS
    drain_seconds: float = 25.0
    head_seconds: float = 20.0
    body_seconds: float = 30.0  # in any of which as many bytes a second have to come as body_rate
    body_rate: int = 512
    idle_seconds: float = 75.0  # between two requests: longer than proxies rest, so that they close first
    # The timeout stays below the interval: a second ping would lose the first one's timer, which then fires.
    ping_interval: int = 25
    ping_timeout: int = 20


class Producer(Flow):
    """A flow in Twisted's spelling of a push producer."""

    pauseProducing = Flow.pause
    resumeProducing = Flow.resume
    stopProducing = Flow.stop


class Channel(untyped_channel):  # type: ignore[misc]
    """One connection. Each part of a request has its time, and so has the pause between two.

    Twisted's own timer, which begins anew with each byte, is off.
    """

    timer: asyncio.TimerHandle | None = None
    resting = False
    taken = 0

    def connectionMade(self) -> None:
        super().connectionMade()
        self.wait(self.limits.head_seconds)

    def dataReceived(self, data: bytes) -> None:
        if self.resting:
            self.resting = False
            self.wait(self.limits.head_seconds)
        super().dataReceived(data)

    def allHeadersReceived(self) -> None:
        super().allHeadersReceived()
        self.taken = 0
        self.wait(self.limits.body_seconds)

    def allContentReceived(self) -> None:
        self.wait(None)
        super().allContentReceived()

    def requestDone(self, request: "Request") -> None:
        self.resting = True
        self.wait(self.limits.idle_seconds)
        super().requestDone(request)

    def connectionLost(self, reason: Any) -> None:
        self.wait(None)
        super().connectionLost(reason)

    @property
    def limits(self) -> Limits:
        limits: Limits = self.factory.server.limits
        return limits

    def wait(self, seconds: float | None) -> None:
        """Close the connection after so long, or not at all, unless told anew before that."""
        if self.timer is not None:
            self.timer.cancel()
        self.timer = asyncio.get_running_loop().call_later(seconds, self.look) if seconds else None

    def look(self) -> None:
        """The time is up: a body that came along well gets as much again."""
        received = self.requests[-1].received if self.requests else 0
        if received - self.taken < self.limits.body_rate * self.limits.body_seconds:
            self.timeoutConnection()
        else:
            self.taken = received
            self.wait(self.limits.body_seconds)


class Request(WebRequest):  # type: ignore[misc]  # Daphne is untyped
    """One HTTP request, its body limited, its answer braked."""

    received = 0
    flow: Flow | None = None

    def __init__(self, *args: Any) -> None:
        # Django reads the forms; Twisted would parse them too, in memory.
        super().__init__(*args, parsePOSTFormSubmission=False)

    def brake(self, flow: Flow) -> None:
        self.flow = flow
        self.registerProducer(flow, True)

    def abort(self) -> None:
        if self.channel is not None:
            self.channel.forceAbortClient()

    def leave(self) -> None:
        """End a stream that would not end by itself; the others may finish."""
        if self.flow and self.flow.endless and not self.finished and self.channel is not None:
            self.finish()

    def took(self, message: Message) -> None:
        """Nothing to do: the body was limited on its way in."""

    def handleContentChunk(self, data: bytes) -> None:
        """Keep the body up to its limit; read and drop the rest, or the client would miss the answer."""
        self.received += len(data)
        if self.received <= self.server.limits.body:
            super().handleContentChunk(data)
        elif self.received > 4 * self.server.limits.body:
            self.abort()

    def process(self) -> Any:
        if self.received > self.server.limits.body:
            return self.basic_error(413, b"Content Too Large", "The request is too large.")
        # Daphne lets any client choose the root path by this header.
        self.requestHeaders.removeHeader(b"daphne-root-path")
        if self.server.closing.is_set():
            self.responseHeaders.setRawHeaders(b"connection", [b"close"])
            self.channel.persistent = False
        return super().process()

    def finish(self) -> None:
        if self.flow:
            self.flow.stop()
            self.unregisterProducer()
        super().finish()

    def handle_exception(self, exception: BaseException) -> None:
        """Answer for an application that failed; where its answer had begun, break that off visibly."""
        if not self._response_started:
            super().handle_exception(exception)
        elif self.channel is not None:
            self.channel.loseConnection()

    def basic_error(self, status: int, status_text: bytes, body: str) -> None:
        """What the server itself has to refuse, in the API's shape."""
        request_id = f"req_{uuid.uuid4().hex}"
        error = {"type": ERROR_TYPES.get(status, "api_error"), "message": body}
        content = json.dumps({"type": "error", "error": error, "request_id": request_id}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"request-id", request_id.encode()),
        ]
        self.handle_reply({"type": "http.response.start", "status": status, "headers": headers})
        self.handle_reply({"type": "http.response.body", "body": content})


class Socket(WebSocketProtocol):  # type: ignore[misc]  # Daphne is untyped
    """One WebSocket, braked in both directions."""

    unread = 0

    def onConnect(self, request: ConnectionRequest) -> Any:
        if self.factory.server_class.closing.is_set():
            raise restarting()
        return super().onConnect(request)

    def brake(self, flow: Flow) -> None:
        self.flow = flow
        # The transport came from an HTTP channel, which is registered still.
        self.transport.unregisterProducer()
        self.transport.registerProducer(flow, True)

    def abort(self) -> None:
        self.dropConnection(abort=True)

    def leave(self) -> None:
        if self.state == self.STATE_CONNECTING:
            self.handshake_deferred.errback(restarting())
            del self.handshake_deferred
            self.server.protocol_disconnected(self)
        else:
            self.serverClose(RESTART)

    # Autobahn formats a coloured debug line for each read and write, wanted or not: half the cost of a frame.

    def dataReceived(self, data: bytes) -> None:
        self._dataReceived(data)

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        self.transport.write(data)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        super().onMessage(payload, isBinary)
        self.unread += len(payload)
        if self.unread > self.server.limits.unread:
            self.transport.pauseProducing()

    def took(self, message: Message) -> None:
        """The application has taken a message: read on, if that was what was waited for."""
        if message["type"] != "websocket.receive" or not self.unread:
            return
        text = message.get("text")
        paused = self.unread > self.server.limits.unread
        self.unread -= len(message["bytes"] if text is None else text.encode())
        if paused and self.unread <= self.server.limits.unread and self.state == self.STATE_OPEN:
            self.transport.resumeProducing()

    def serverSend(self, content: str | bytes, binary: bool = False) -> None:
        if self.state == self.STATE_OPEN:
            payload = content.encode() if isinstance(content, str) else content
            # Not sendMessage(): it holds answers to the limit that is meant for what comes in.
            self.sendFrame(opcode=2 if binary else 1, payload=payload)

    def serverClose(self, code: int | None = None) -> None:
        # Not sendClose(): it refuses the registered codes, 1012 among them.
        if self.state == self.STATE_OPEN:
            self.sendCloseFrame(code=code or 1000, isReply=False)


def restarting() -> ConnectionDeny:
    """What a socket gets that comes while we leave: not 403, which would tell it to stay away."""
    return ConnectionDeny(503, "Restarting")  # type: ignore[no-untyped-call]


class Factory(HTTPFactory):  # type: ignore[misc]  # Daphne is untyped
    protocol = Channel

    def __init__(self, server: "Server") -> None:
        super().__init__(server)
        self.timeOut = None

    def buildProtocol(self, addr: Any) -> Any:
        protocol = super().buildProtocol(addr)
        protocol.requestFactory = Request
        return protocol


class Server(daphne.server.Server):  # type: ignore[misc]  # Daphne is untyped
    """Serves one ASGI application until it is told to leave."""

    def __init__(self, application: Application, host: str, port: int, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.host, self.port = host, port
        self.closing = asyncio.Event()
        super().__init__(
            application,
            endpoints=[f"{host}:{port}"],
            server_name="",
            ping_interval=self.limits.ping_interval,
            ping_timeout=self.limits.ping_timeout,
            websocket_timeout=-1,
            websocket_max_frame_size=self.limits.frame,
            websocket_max_message_size=self.limits.frame,
        )

    def run(self) -> None:
        """Serve until stopped; returns when every application has ended. Exits if the port is taken."""
        self.connections: dict[Any, dict[str, Any]] = {}
        self.ws_factory = WebSocketFactory(self, server="")
        self.ws_factory.protocol = Socket
        self.ws_factory.setProtocolOptions(
            autoPingTimeout=self.ping_timeout,
            openHandshakeTimeout=self.websocket_handshake_timeout,
            maxMessagePayloadSize=self.websocket_max_message_size,
            maxFramePayloadSize=self.websocket_max_frame_size,
            failByDrop=False,  # a client is told by a close code what it did wrong
            allowNullOrigin=True,  # the application judges the origin: 403 for a cookie, nothing for a key
            perMessageCompressionAccept=lambda offers: None,
            tcpNoDelay=True,
        )
        observers: Any = [_log_bug]
        globalLogBeginner.beginLoggingTo(observers, redirectStandardIO=False, discardBuffer=True)
        loop = reactor._asyncioEventloop
        asyncio.set_event_loop(loop)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.leave)
        reactor.callLater(1, self.application_checker)
        reactor.callLater(2, self.timeout_checker)
        reactor.addSystemEventTrigger("before", "shutdown", self.kill_all_applications)
        self.listen()
        reactor.run(installSignalHandlers=False)

    def listen(self) -> None:
        try:
            listener = reactor.listenTCP(self.port, Factory(self), backlog=1024, interface=self.host)
        except CannotListenError as error:
            raise SystemExit(f"Cannot listen on {self.host}:{self.port}: {error.socketError}") from error
        # Connections inherit it: a stalled reader leaves no more in the kernel than it leaves here.
        listener.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, self.limits.kernel_unsent)
        logger.info("listening on %s port %d", self.host, listener.getHost().port)

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> asyncio.Queue[Message]:
        """Start the application for one connection, its scope carrying the connection's flow."""
        inbox: asyncio.Queue[Message] = asyncio.Queue()
        flow = Producer(
            patience=self.limits.stall_seconds,
            abort=lambda: self.drop(protocol),
            closing=self.closing,
        )
        protocol.brake(flow)

        async def receive() -> Message:
            message = await inbox.get()
            protocol.took(message)
            return message

        async def send(message: Message) -> None:
            if flow.gone:
                # Nobody is there: an application that did not notice yet must not spin without a pause.
                await asyncio.sleep(0)
            await self.handle_reply(protocol, message)
            try:
                await flow.drained()
            except StalledReader:
                pass  # As after any other disconnect: the application is told by receive().

        scope["asgi"] = {"version": "3.0"}
        scope["extensions"] = {EXTENSION: flow}
        self.connections[protocol]["application_instance"] = asyncio.ensure_future(
            self.application(scope, receive, send)
        )
        return inbox

    def drop(self, protocol: Any) -> None:
        kind, patience = type(protocol).__name__, self.limits.stall_seconds
        logger.info("dropped %s of %s, which took nothing for %.0f s", kind, protocol.client_addr, patience)
        protocol.abort()

    def leave(self) -> None:
        """Stop when what runs has ended or the time is up; asked again, stop now."""
        if self.closing.is_set():
            self.stop()
            return
        self.closing.set()
        for protocol, details in list(self.connections.items()):
            if "application_instance" in details and "disconnected" not in details:
                protocol.leave()
        self._leaving = asyncio.ensure_future(self._leave())

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(self.limits.drain_seconds):
                # A transport that waits to write is an answer that has not been sent.
                while self._running() or reactor.getWriters():  # noqa: ASYNC110  # nothing tells of either
                    await asyncio.sleep(0.05)
        except TimeoutError:
            logger.warning("leaving with %d requests unfinished", len(self._running()))
        self.stop()

    def _running(self) -> list[asyncio.Future[None]]:
        applications = [details.get("application_instance") for details in self.connections.values()]
        return [application for application in applications if application and not application.done()]

    def kill_all_applications(self) -> Deferred[Any] | None:
        """Cancel what still runs, and give it a moment to clean up."""
        running = self._running()
        for application in running:
            application.cancel()
        return (
            Deferred.fromFuture(asyncio.ensure_future(asyncio.wait(running, timeout=3))) if running else None
        )


def _log_bug(event: LogEvent) -> None:
    """Of what Twisted and Autobahn log, the failures of code; clients cause the rest at will."""
    if (failure := event.get("log_failure")) is not None:
        logger.error("%s", failure.getTraceback())
