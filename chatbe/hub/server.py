"""Daphne, as chatbe runs it: uvloop, ready-made frames, backpressure, limits, drain.

Importing this module makes this process's Twisted reactor, as importing Daphne does; only
`manage.py serve` does it. What it adds to Daphne 4.2:

- text frames go to the application by a direct call, and ready frames straight to the socket
  (`scope["extensions"]["chatbe.transport"]`, see `chatbe.hub.transport`);
- what a slow reader has not taken is counted and told; every close code can be sent; a close, a
  silence and an application that hangs end within a bounded time;
- request bodies, request times and the number of sockets are limited;
- SIGTERM and SIGINT stop accepting, drain, and finish the requests that are in flight.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import logging
import os
import resource
import signal
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property, partial
from http import HTTPStatus
from io import BytesIO
from tempfile import SpooledTemporaryFile
from typing import IO, Any, ClassVar, Final

from chatbe.core.errors import Unavailable
from chatbe.hub import listening, reactor

_reactor = reactor.install()

from autobahn.util import encode_truncate, wildcards2patterns
from autobahn.websocket.protocol import TrafficStats
from autobahn.websocket.utf8validator import Utf8Validator
from daphne.http_protocol import HTTPFactory, WebRequest
from daphne.server import Server as DaphneServer
from daphne.server import twisted_loop
from daphne.ws_protocol import WebSocketFactory, WebSocketProtocol
from twisted.internet import main, tcp
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    STDLibLogObserver,
    globalLogBeginner,
)
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel

from chatbe.hub.transport import EXTENSION
from chatbe.wire.codes import CloseCode, ErrorCode
from chatbe.wire.websocket import PING, encode_text_frame, skip_pong, take_text_frame

# Daphne makes a loop for the reactor that it would have installed.
twisted_loop.close()

logger = logging.getLogger("chatbe.hub.server")
access = logging.getLogger("chatbe.access")

MAX_MESSAGE: Final = 128 * 1024
"""Bytes of an inbound message; twice the contract's 64 KiB, which the codec checks exactly."""
READ_SIZE: Final = 64 * 1024
HELD_BYTES: Final = 16 * 1024
"""What of a paused WebSocket's input waits in this process; the rest waits in the kernel."""
HELD_OVERHEAD: Final = 64
"""Bytes that a held frame takes beside its payload, about."""
SWEEP_PERIOD: Final = 1.0
LINGER: Final = 5.0
"""Seconds in which a client may read the answer to a body that was refused."""
FRESH_GRACE: Final = 1.0
"""Seconds from the end of accepting in which a connection that was just made may send its request."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Limits and times of one server process; times in seconds."""

    max_sockets: int = 20_000
    """WebSockets at once; one more is refused with 503."""
    max_body: int = 256 * 1024
    """Bytes of a request's body; more is refused with 413."""
    upload_path: str = ""
    """Requests to this path may have a larger body, which waits on disk, and more time."""
    max_upload: int = 0
    receive_timeout: float = 30.0
    """From a request's first line to its last byte."""
    http_timeout: float = 60.0
    """From there to the application's answer; then 503."""
    keepalive_timeout: float = 60.0
    """Between two requests of a connection."""
    upload_timeout: float = 300.0
    """As `receive_timeout`, for uploads."""
    accept_timeout: float = 20.0
    """From the handshake to the application's accept."""
    ping_interval: float = 25.0
    """After so much silence a WebSocket is pinged."""
    ping_timeout: float = 20.0
    """Without a byte from it within so much time after that it is dropped."""
    close_timeout: float = 2.0
    """How long a client may take to answer a close frame."""
    flush_timeout: float = 10.0
    """How long it may take to read what is buffered before the close frame."""
    drain_timeout: float = 15.0
    """From SIGTERM until what is still in flight is dropped."""
    application_timeout: float = 10.0
    """How long an application may go on after its connection has ended."""


class _Nobody:
    """Stands for the Deferreds that autobahn resolves and that nobody waits for."""

    def callback(self, _result: object) -> None:
        """Nothing."""


class Inbox:
    """What an application's `receive` reads; one reader. An asyncio.Queue is eight times its size."""

    __slots__ = ("_messages", "_waiter")

    def __init__(self) -> None:
        self._messages: list[dict[str, Any]] = []
        self._waiter: asyncio.Future[None] | None = None

    def put_nowait(self, message: dict[str, Any]) -> None:
        """Add a message."""
        self._messages.append(message)
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def get(self) -> dict[str, Any]:
        """The next message."""
        while not self._messages:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._messages.pop(0)


class Connection(tcp.Server):
    """An accepted connection whose bytes take the shortest way."""

    on_drain: Callable[[], None] | None = None
    """Called when all that was buffered has been taken by the kernel."""
    disconnecting: bool
    taken = 0
    """Bytes that the kernel took from the buffer."""

    def __init__(self, sock: socket.socket, protocol: Any, peer: Any, server: Server) -> None:
        client = peer if isinstance(peer, tuple) else ("", 0)
        super().__init__(sock, protocol, client, None, 0, _reactor)
        self.repstr = f"<connection from {client[0]}>"
        self._server = server
        server.open_connections.add(self)
        server.fresh_connections.add(self)

    @property
    def buffered(self) -> int:
        """Bytes that the kernel has not taken yet."""
        waiting: int = len(self.dataBuffer) - self.offset + self._tempDataLen
        return waiting

    def write_now(self, data: bytes) -> None:
        """Write straight to the socket while nothing is buffered; what it does not take is buffered."""
        if self._tempDataLen or self.dataBuffer:
            self.write(data)
            return
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            _reactor.drop(self)
            return
        if sent < len(data):
            self.write(data[sent:])

    def loseConnection(self, _reason: Any = None) -> None:
        """End the connection after what is buffered; without waiting for an event where nothing is."""
        if self.buffered or self.producer is not None or self._writeDisconnected:
            super().loseConnection()
        elif self.connected and not self.disconnecting:
            self.stopReading()
            self.disconnecting = True
            _reactor.loop.call_soon(self._end)

    def _end(self) -> None:
        if self.buffered:
            # Written meanwhile.
            self.startWriting()
        else:
            _reactor.end(self)

    def doRead(self) -> Any:
        """Read once and hand it over."""
        try:
            data = self.socket.recv(READ_SIZE)
        except BlockingIOError:
            return None
        except OSError:
            return main.CONNECTION_LOST
        if not data:
            return main.CONNECTION_DONE
        self._server.read_lately.add(self)
        self.protocol.dataReceived(data)
        return None

    def look(self) -> None:
        """See whether the connection was reset just after its last bytes: no event tells (see `reactor`)."""
        if self.disconnected or not _reactor.is_reading(self):
            return
        try:
            self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            _reactor.drop(self)
        else:
            _reactor.read(self)

    def doWrite(self) -> Any:
        """Write what is buffered."""
        result = super().doWrite()
        if result is None and self.on_drain is not None and not self.dataBuffer and not self._tempDataLen:
            self.on_drain()
        return result

    def writeSomeData(self, data: Any) -> Any:
        """Count what goes out from the buffer: it shows that a slow reader is alive."""
        written = super().writeSomeData(data)
        if isinstance(written, int):
            self.taken += written
        return written

    def connectionLost(self, reason: Failure) -> None:
        """Tell the protocol."""
        self._server.open_connections.discard(self)
        self._server.fresh_connections.discard(self)
        self._server.read_lately.discard(self)
        self.on_drain = None
        super().connectionLost(reason)

    def getHost(self) -> Any:
        """Twisted's form of the local address."""
        return UNIXAddress(self.socket.getsockname()) if self._is_unix else super().getHost()

    def getPeer(self) -> Any:
        """Twisted's form of the remote address; unix sockets have none."""
        return UNIXAddress(None) if self._is_unix else super().getPeer()

    @property
    def _is_unix(self) -> bool:
        return bool(self.socket.family == socket.AF_UNIX)


class Listener:
    """Accepts connections on one listening socket."""

    BATCH: Final = 16
    """Connections accepted at once, between which nothing else is done."""

    def __init__(self, sock: socket.socket, server: Server) -> None:
        self._socket = sock
        self._server = server
        self._loop = _reactor.loop
        self._paused: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to accept."""
        self._paused = None
        self._loop.add_reader(self._socket, self._accept)

    def close(self) -> None:
        """Accept no more; another process that shares the socket goes on."""
        if self._paused is None:
            # Who has connected already would be reset.
            self._accept()
        if self._paused is not None:
            self._paused.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _accept(self) -> None:
        for _ in range(self.BATCH):
            try:
                sock, peer = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                    # Those who wait go on waiting until others have left.
                    logger.error("cannot accept more connections", extra={"reason": str(error)})
                    self._loop.remove_reader(self._socket)
                    self._paused = self._loop.call_later(1.0, self.start)
                    return
                continue
            protocol = self._server.http_factory.buildProtocol(None)
            connection = Connection(sock, protocol, peer, self._server)
            protocol.makeConnection(connection)


class SocketProtocol(WebSocketProtocol):
    """One WebSocket; it is the `chatbe.hub.transport.Transport` of its application.

    Plain text frames are parsed here; all else (fragments, partial and control frames, errors) by
    autobahn. Its options are class attributes: copied to each socket, as autobahn does, they would be
    a large part of a socket's memory.
    """

    logOctets = logFrames = trackTimings = False
    utf8validateIncoming = applyMask = requireMaskedClientFrames = tcpNoDelay = allowNullOrigin = True
    maskServerFrames = webStatus = serveFlashSocketPolicy = False
    maxFramePayloadSize = maxMessagePayloadSize = MAX_MESSAGE
    autoFragmentSize = autoPingInterval = autoPingTimeout = maxConnections = trustXForwardedFor = 0
    openHandshakeTimeout = closeHandshakeTimeout = 0
    failByDrop = False
    """A protocol error is told by its close code, not by a reset."""
    echoCloseCodeReason = True
    versions: ClassVar[list[int]] = WebSocketProtocol.SUPPORTED_PROTOCOL_VERSIONS
    allowedOrigins: ClassVar[list[str]] = ["*"]
    allowedOriginsPatterns: ClassVar[list[Any]] = wildcards2patterns(["*"])

    # The state that autobahn gives to each connection, until it changes.
    state = WebSocketProtocol.STATE_CONNECTING
    data = b""
    peer = ""
    current_frame = None
    inside_message = False
    send_queue: ClassVar[tuple[Any, ...]] = ()
    trafficStats: ClassVar[TrafficStats] = TrafficStats()
    _perMessageCompress = trackedTimings = None
    wasMaxFramePayloadSizeExceeded = wasMaxMessagePayloadSizeExceeded = False
    closedByMe = failedByMe = droppedByMe = wasClean = False
    wasNotCleanReason = None
    wasOpenHandshakeTimeout = wasCloseHandshakeTimeout = wasServingFlashSocketPolicyFile = False
    localCloseCode = localCloseReason = remoteCloseCode = remoteCloseReason = None
    openHandshakeTimeoutCall = closeHandshakeTimeoutCall = None
    autoPingTimeoutCall = autoPingPending = autoPingPendingCall = None

    is_open = is_closed = _Nobody()

    transport: Connection
    message_data: list[bytes] | None
    application_queue: Inbox | None = None
    _on_text: Callable[[bytes], None] | None = None
    _on_binary: Callable[[], None] | None = None
    _on_lost: Callable[[int], None] | None = None
    _on_drain: Callable[[], None] | None = None
    _paused = False
    _held: deque[bytes] | None = None
    _held_bytes = 0
    _pinged = 0.0
    _taken_at_ping = 0
    _close_began = 0.0
    _close_timer: asyncio.TimerHandle | None = None
    last_inbound = 0.0

    def __init__(self) -> None:
        """All that autobahn would make here has its class attribute."""

    @staticmethod
    def perMessageCompressionAccept(_offers: Any) -> None:
        """No compression: its memory per socket is many times that of all else."""

    @cached_property
    def utf8validator(self) -> Utf8Validator:
        """For text that does not come in one plain frame."""
        return Utf8Validator()

    # --- Transport ---------------------------------------------------------------------------------

    @property
    def buffered(self) -> int:
        """Bytes that the kernel has not taken yet."""
        # As `Connection.buffered`, without a further call: it is asked before each delivery.
        connection = self.transport
        waiting: int = len(connection.dataBuffer) - connection.offset + connection._tempDataLen  # noqa: SLF001
        return waiting

    def write_frames(self, data: bytes) -> None:
        """Write complete, unmasked frames; nothing is written once a close has begun."""
        if self.state == self.STATE_OPEN:
            self.transport.write_now(data)

    def set_drain(self, on_drain: Callable[[], None]) -> None:
        """Have `on_drain` called whenever the buffer has emptied after it was not empty."""
        self._on_drain = on_drain

    def set_receiver(
        self, on_text: Callable[[Any], None], on_binary: Callable[[], None], on_lost: Callable[[int], None]
    ) -> None:
        """Pass the payload of each text frame, as bytes of valid UTF-8, to `on_text`."""
        self._on_text, self._on_binary, self._on_lost = on_text, on_binary, on_lost

    def pause_reading(self) -> None:
        """Hand nothing more over. What comes waits here up to `HELD_BYTES`, then in the kernel."""
        self._paused = True
        if self._on_text is None:
            # What comes would go to the application's inbox, which has no bound.
            self.transport.pauseProducing()

    def resume_reading(self) -> None:
        """Hand over what waits, and go on reading."""
        self._paused = False
        while self._held and not self._paused:
            payload = self._held.popleft()
            self._held_bytes -= len(payload)
            self._deliver(payload)
        if not self._paused:
            # Time that went by while nothing was read is no silence of the client.
            self.last_inbound = time.monotonic()
            self.transport.resumeProducing()

    def close(self, code: int, reason: str = "") -> None:
        """Send a close frame with any code after what is buffered; the connection ends soon after."""
        if self.state == self.STATE_CONNECTING:
            self.serverReject()
        elif self.state == self.STATE_OPEN:
            self._held = None
            self._held_bytes = 0
            self._paused = False
            self.transport.resumeProducing()
            self.sendCloseFrame(code=int(code), reasonUtf8=encode_truncate(reason, 123) if reason else None)

    def abort(self) -> None:
        """Drop the connection at once."""
        self.transport.abortConnection()

    # --- bytes in ----------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Take over the connection from HTTP."""
        # The HTTP channel was told to pause reading while its answers wait; that is not for us.
        self.transport.unregisterProducer()
        self.transport.on_drain = self._drained
        self.last_inbound = time.monotonic()
        self.factory.server_class.sockets.add(self)

    def dataReceived(self, data: bytes) -> None:
        """Take plain text frames; leave everything from the first other frame on to autobahn."""
        self.last_inbound = time.monotonic()
        if (
            self._on_text is None
            or self.state != self.STATE_OPEN
            or self.data
            or self.inside_message
            or self.current_frame is not None
        ):
            self._dataReceived(data)
            return
        position, end = 0, len(data)
        while position < end:
            taken = take_text_frame(data, position, MAX_MESSAGE)
            if taken is None:
                start, position = position, skip_pong(data, position)
                if position == start:
                    self._dataReceived(data[start:] if start else data)
                    return
                continue
            payload, position = taken
            if not payload.isascii():
                try:
                    payload.decode()
                except UnicodeDecodeError:
                    self._invalid_payload("invalid UTF-8")
                    return
            self._deliver(payload)
            if self.state != self.STATE_OPEN:
                # Closing: of what follows only the peer's close frame counts.
                self._dataReceived(data[position:])
                return

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """A whole message that came another way than as one plain frame."""
        if self.state != self.STATE_OPEN:
            return
        if self._on_text is None or self._on_binary is None:
            inbox = self.application_queue
            if inbox is not None:
                content = {"bytes": payload} if isBinary else {"text": payload.decode()}
                inbox.put_nowait({"type": "websocket.receive", **content})
        elif isBinary:
            self._on_binary()
        else:
            self._deliver(payload)

    def onMessageEnd(self) -> None:
        """All frames of a message are here."""
        if not self.failedByMe and self.message_data is not None:
            self.onMessage(b"".join(self.message_data), self.message_is_binary)
        self.message_data = None

    def _deliver(self, payload: bytes) -> None:
        if self._paused:
            if self._held is None:
                self._held = deque()
            self._held.append(payload)
            self._held_bytes += len(payload) + HELD_OVERHEAD
            if self._held_bytes > HELD_BYTES:
                self.transport.pauseProducing()
        elif self._on_text is not None:
            try:
                self._on_text(payload)
            except Exception:
                logger.exception("an application failed on a frame")
                self.close(CloseCode.INTERNAL_ERROR)

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Write what autobahn has made (the handshake's answer, control frames), without its log."""
        self.transport.write_now(data)

    def onPing(self, payload: bytes) -> None:
        """Answer, unless the client does not even read what it was sent."""
        if self.buffered < MAX_MESSAGE:
            self.sendPong(payload)

    # --- life --------------------------------------------------------------------------------------

    def onOpen(self) -> None:
        """Let go of what only the handshake needed."""
        for name in (
            *(
                "http_request_data",
                "http_status_line",
                "http_headers",
                "http_request_uri",
                "http_request_path",
            ),
            *("http_request_params", "http_request_host", "http_response_data", "_wskey", "request"),
            *("websocket_extensions", "websocket_extensions_in_use", "websocket_protocols", "clean_headers"),
            *("application_deferred", "protocol_to_accept"),
        ):
            self.__dict__.pop(name, None)

    def _onOpen(self) -> None:
        self.onOpen()

    def handle_reply(self, message: dict[str, Any]) -> None:
        """Take an ASGI message; a close may have any code, and its reason is sent."""
        if message["type"] == "websocket.close":
            self.close(message.get("code") or CloseCode.NORMAL, message.get("reason") or "")
        else:
            super().handle_reply(message)

    def serverSend(self, content: Any, binary: bool = False) -> None:
        """Send a message for an application that speaks plain ASGI."""
        if self.state == self.STATE_CONNECTING:
            self.serverAccept()
        if not binary:
            self.write_frames(encode_text_frame(content.encode()))
        elif self.state == self.STATE_OPEN:
            self.sendFrame(opcode=self.MESSAGE_TYPE_BINARY, payload=content)

    def sendCloseFrame(self, *args: Any, **kwargs: Any) -> None:
        """Begin a close, whoever asked for it; it ends within a bounded time."""
        super().sendCloseFrame(*args, **kwargs)
        if self.state == self.STATE_CLOSING:
            self._bound_close()

    def dropConnection(self, abort: bool = False) -> None:
        """End the connection, after what is buffered; at once if `abort` and nothing went as it should."""
        if self.state != self.STATE_CLOSED:
            self.state = self.STATE_CLOSED
            self.droppedByMe = True
            # Both sides may have closed at the same moment: then our close frame has yet to leave.
            if abort and not self.wasClean:
                self.transport.abortConnection()
            else:
                self.transport.loseConnection()
                self._bound_close()

    def _bound_close(self) -> None:
        if self._close_timer is None:
            self._close_began = time.monotonic()
            self._set_close_timer()

    def _set_close_timer(self) -> None:
        server = self.factory.server_class
        self._close_timer = _reactor.loop.call_later(server.options.close_timeout, self._on_close_timer)

    def _on_close_timer(self) -> None:
        flushing = time.monotonic() - self._close_began < self.factory.server_class.options.flush_timeout
        if self.buffered and flushing:
            self._set_close_timer()
        else:
            self.transport.abortConnection()

    def connectionLost(self, _reason: Any = None) -> None:
        """The connection is gone: tell the application, once."""
        self.state = self.STATE_CLOSED
        code = self.remoteCloseCode if self.wasClean else 1006
        reason: str | None = self.remoteCloseReason
        self.onClose(self.wasClean, 1005 if code is None else code, reason or "")

    def onClose(self, wasClean: bool, code: int, reason: str) -> None:
        """Tell the application, and forget it."""
        server = self.factory.server_class
        server.sockets.discard(self)
        server.protocol_disconnected(self)
        if self._close_timer is not None:
            self._close_timer.cancel()
        on_lost = self._on_lost
        self._on_text = self._on_binary = self._on_lost = self._on_drain = self._held = None
        if on_lost is not None:
            try:
                on_lost(code)
            except Exception:
                logger.exception("an application failed on the end of its socket")
        if self.application_queue is not None:
            self.application_queue.put_nowait(
                {"type": "websocket.disconnect", "code": code, "reason": reason}
            )
        server.look_whether_drained()

    def application_returned(self, error: BaseException | None) -> None:
        """The application has ended; its socket ends with it."""
        if self.state == self.STATE_CONNECTING:
            self._deny(HTTPStatus.INTERNAL_SERVER_ERROR if error is not None else HTTPStatus.FORBIDDEN)
        else:
            self.close(CloseCode.INTERNAL_ERROR if error is not None else CloseCode.NORMAL)

    def _deny(self, status: HTTPStatus) -> None:
        self.__dict__.pop("handshake_deferred", None)
        self.failHandshake(status.phrase, int(status))

    def serverReject(self) -> None:
        """Refuse the handshake: the application closed before it accepted."""
        self.factory.server_class.protocol_disconnected(self)
        self._deny(HTTPStatus.FORBIDDEN)

    def _drained(self) -> None:
        if self._on_drain is not None:
            self._on_drain()

    def supervise(self, now: float, options: ServerOptions) -> None:
        """Ping who is silent, drop who stays so; called when nothing has come from it for a while."""
        silence = now - self.last_inbound
        if self.state == self.STATE_CONNECTING:
            if silence > options.accept_timeout:
                self.serverReject()
        elif self.state == self.STATE_OPEN and not self._paused and silence > options.ping_interval:
            if self._pinged < self.last_inbound:
                self._pinged = now
                self._taken_at_ping = self.transport.taken
                self.write_frames(PING)
            elif now - self._pinged > options.ping_timeout:
                if self.transport.taken != self._taken_at_ping:
                    # Slow: the ping may still wait behind what is being read. Only bytes that the
                    # client's side made room for count: what we send cannot hide that nobody is there.
                    self._pinged = now
                    self._taken_at_ping = self.transport.taken
                else:
                    self.abort()


class SocketFactory(WebSocketFactory):
    """Makes the WebSocket of each upgraded connection."""

    protocol = SocketProtocol


class Request(WebRequest):
    """An HTTP request with limits; what the server itself refuses is told as a problem (RFC 9457)."""

    _refused = False
    content: IO[bytes]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._began = time.monotonic()
        super().__init__(*args, **kwargs)
        self._max_body = self.server.options.max_body
        self._receive_timeout = self.server.options.receive_timeout
        self.server.fresh_connections.discard(self.channel.transport)
        # Forms are the application's business.
        self._parsePOSTFormSubmission = False

    def gotLength(self, length: int | None) -> None:
        """The head is complete; a body that is too long is refused before it is read."""
        options = self.server.options
        path, _, _ = self.channel._path.partition(b"?")  # noqa: SLF001 - the request is told its path after its body
        if options.upload_path and path == options.upload_path.encode():
            self._max_body = options.max_upload
            self._receive_timeout = options.upload_timeout
            self.content = SpooledTemporaryFile(max_size=options.max_body)  # noqa: SIM115 - closed with the request
        else:
            self._max_body = options.max_body
            self.content = BytesIO()
        if length is not None and length > self._max_body:
            self._refuse_body()

    def handleContentChunk(self, data: bytes) -> None:
        """Take a part of the body."""
        if self._refused:
            return
        if self.content.tell() + len(data) > self._max_body:
            self._refuse_body()
        else:
            self.content.write(data)

    def _refuse_body(self) -> None:
        """Answer now, and let the client read the answer although it goes on sending."""
        self._refused = True
        self.requestHeaders.removeHeader(b"expect")
        _refuse(
            self.channel.transport, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"At most {self._max_body} bytes."
        )
        self.content = BytesIO()

    def process(self) -> Any:
        """Hand the complete request to the application, or make it a WebSocket."""
        if self._refused:
            return None
        if self.server.stopping:
            self.channel.persistent = False
            self.responseHeaders.setRawHeaders(b"connection", [b"close"])
        # Daphne would take the application's root path from any client.
        self.requestHeaders.removeHeader(b"daphne-root-path")
        upgrade = self.requestHeaders.getRawHeaders(b"upgrade")
        if not upgrade or upgrade[0].lower() != b"websocket":
            return super().process()
        self.request_start = time.time()
        if len(self.server.sockets) >= self.server.options.max_sockets or self.server.stopping:
            self.basic_error(503, b"Service Unavailable", "No more sockets here.", retry_after=5)
            return None
        channel = self.channel
        result = super().process()
        if self.transport is None:
            # The connection is a WebSocket's; without this the collector alone could free the request.
            channel.requests.clear()
        return result

    def basic_error(
        self,
        status: int,
        status_text: bytes,
        body: str,
        *,
        retry_after: int | None = None,
    ) -> None:
        """Answer with a problem, if no answer has begun."""
        if self._response_started:
            if not self.finished:
                self.channel.transport.abortConnection()
            return
        content = _problem(HTTPStatus(status), body)
        headers = [(b"Content-Type", b"application/problem+json"), (b"Content-Length", b"%d" % len(content))]
        if retry_after is not None or status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers.append((b"Retry-After", b"%d" % (retry_after or 5)))
        self.handle_reply({"type": "http.response.start", "status": status, "headers": headers})
        self.handle_reply({"type": "http.response.body", "body": content})

    def check_timeouts(self) -> None:
        """End a request that is received or answered too slowly."""
        if self.finished or self._refused:
            return
        if hasattr(self, "request_start"):
            super().check_timeouts()
        elif time.monotonic() - self._began > self._receive_timeout:
            self.channel.transport.abortConnection()

    def application_returned(self, error: BaseException | None) -> None:
        """The application has ended; without a complete answer the client must not wait."""
        if not self.finished and self.channel is not None:
            self.basic_error(500, b"Internal Server Error", "The server failed." if error else "No answer.")


class Channel(HTTPChannel):
    """The HTTP of one connection; a head that cannot be taken is answered before the connection ends."""

    def lineLengthExceeded(self, line: bytes) -> None:
        """A line over Twisted's limit: the first one is the request's, with its address."""
        if self.requests:
            self._end(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"At most {self.MAX_LENGTH} bytes a line.")
        else:
            self._end(HTTPStatus.REQUEST_URI_TOO_LONG, f"At most {self.MAX_LENGTH} bytes a line.")

    def _respondToBadRequestAndDisconnect(self) -> None:
        """Whatever else Twisted refuses of a head."""
        if self._receivedHeaderSize > self.totalHeadersSize or self._receivedHeaderCount > self.maxHeaders:
            detail = f"At most {self.totalHeadersSize} bytes, and {self.maxHeaders} headers."
            self._end(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail)
        else:
            self._end(HTTPStatus.BAD_REQUEST, "The request is malformed.")

    def _end(self, status: HTTPStatus, detail: str) -> None:
        self.clearLineBuffer()
        # What the client goes on to send.
        self.dataReceived = _ignore
        _refuse(self.transport, status, detail)


def _ignore(_data: bytes) -> None:
    """Take bytes that nobody wants."""


def _refuse(transport: Any, status: HTTPStatus, detail: str) -> None:
    """Answer at once with a problem, then end the connection: let the client read the answer although it goes on
    sending."""
    body = _problem(status, detail)
    # Straight to the socket: the client may have ended its side already, which drops what is buffered.
    transport.write_now(
        b"HTTP/1.1 %d %b\r\nContent-Type: application/problem+json\r\n"
        b"Content-Length: %d\r\nConnection: close\r\n\r\n%b"
        % (status, status.phrase.encode(), len(body), body)
    )
    transport.loseWriteConnection()
    _reactor.loop.call_later(LINGER, transport.abortConnection)


def _problem(status: HTTPStatus, detail: str) -> bytes:
    codes = {
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: ErrorCode.TOO_LARGE,
        HTTPStatus.REQUEST_URI_TOO_LONG: ErrorCode.TOO_LARGE,
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: ErrorCode.TOO_LARGE,
        HTTPStatus.SERVICE_UNAVAILABLE: ErrorCode.UNAVAILABLE,
        HTTPStatus.INTERNAL_SERVER_ERROR: "internal",
    }
    return json.dumps({
        "type": "about:blank",
        "title": status.phrase,
        "status": int(status),
        "detail": detail,
        "code": str(codes.get(status, ErrorCode.INVALID)),
    }).encode()  # fmt: skip


class RequestFactory(HTTPFactory):
    """Makes the HTTP channel of each connection."""

    def buildProtocol(self, addr: Any) -> Any:
        """A channel whose requests are `Request`s."""
        protocol = super().buildProtocol(addr)
        # Twisted's wrapper, which waits for what HTTP version is agreed on, has a channel of its own making.
        outer, channel = protocol._channel, Channel()  # noqa: SLF001 - no other way in
        channel.factory, channel.timeOut, channel.callLater = outer.factory, outer.timeOut, outer.callLater
        protocol._channel = channel  # noqa: SLF001 - no other way in
        protocol.requestFactory = Request
        return protocol


class Server(DaphneServer):
    """One server process: `run` returns its exit code.

    `start` is awaited before the first connection is accepted, `drain` after the last; `on_ready`
    is told the URL of each listener. `parent`, if given, is a socket that is told "ready" and whose
    end means that the supervisor is gone.
    """

    def __init__(
        self,
        application: Any,
        listeners: list[socket.socket],
        *,
        options: ServerOptions,
        start: Callable[[], Awaitable[object]] | None = None,
        drain: Callable[[], Awaitable[object]] | None = None,
        on_ready: Callable[[list[str]], None] | None = None,
        parent: socket.socket | None = None,
    ) -> None:
        super().__init__(
            application,
            endpoints=["opened already"],
            signal_handlers=False,
            http_timeout=options.http_timeout,
            # One ASGI message per body.
            request_buffer_size=options.max_body + 1,
            server_name="",
        )
        self.options = options
        self.stopping = False
        self.connections: dict[Any, dict[str, Any]] = {}
        self.sockets: set[SocketProtocol] = set()
        self.requests: set[Request] = set()
        self.open_connections: set[Connection] = set()
        self.read_lately: set[Connection] = set()
        self.fresh_connections: set[Connection] = set()
        """Those from which nothing has come yet."""
        self.http_factory = RequestFactory(self)
        self.http_factory.timeOut = options.keepalive_timeout
        self.ws_factory = SocketFactory(self, server="")
        self._listening = listeners
        self._listeners = [Listener(listener, self) for listener in listeners]
        self._start = start
        self._drain = drain
        self._on_ready = on_ready
        self._parent = parent
        self._loop = _reactor.loop
        self._exit_code = 0
        self._leaving: dict[Any, float] = {}
        self._last_sweep = 0.0
        self._look_at = 0.0
        self._drained: asyncio.Future[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    # --- life --------------------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until a signal says otherwise. Returns the exit code."""
        _log_errors_of_twisted()
        _allow_descriptors(self.options.max_sockets)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal, number)
        if self._parent is not None:
            self._parent.setblocking(False)
            self._loop.add_reader(self._parent, self._on_parent)
        _reactor.addSystemEventTrigger("before", "shutdown", self.kill_all_applications)
        _reactor.callWhenRunning(self._begin)
        _reactor.run(installSignalHandlers=False)
        return self._exit_code

    def _begin(self) -> None:
        self._tasks.append(self._loop.create_task(self._open()))

    async def _open(self) -> None:
        try:
            if self._start is not None:
                await self._start()
        except Exception as error:
            if isinstance(error, Unavailable):
                logger.error("the server cannot start: %s", error.detail)
            else:
                logger.exception("the server cannot start")
            self._exit_code = 1
            self._stop_reactor()
            return
        if self.stopping:
            return
        # What has been loaded stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        for listener in self._listeners:
            listener.start()
        self._last_sweep = time.monotonic()
        self._loop.call_later(SWEEP_PERIOD, self._sweep)
        if self._parent is not None:
            self._parent.send(b"ready\n")
        if self._on_ready is not None:
            self._on_ready([listening.url(listener) for listener in self._listening])

    def _on_signal(self, number: signal.Signals) -> None:
        if self.stopping:
            logger.warning("stopped at once by a second signal")
            logging.shutdown()
            os._exit(128 + number)
        self._begin_to_stop(number.name)

    def _on_parent(self) -> None:
        if self._parent is not None and not self._parent.recv(64):
            self._loop.remove_reader(self._parent)
            if not self.stopping:
                self._begin_to_stop("the supervisor is gone")

    def _begin_to_stop(self, reason: str) -> None:
        self.stopping = True
        logger.info("stopping", extra={"reason": reason, "sockets": len(self.sockets)})
        self._tasks.append(self._loop.create_task(self._finish()))

    async def _finish(self) -> None:
        """Stop accepting, drain, wait for what is in flight, each within the drain's time."""
        deadline = self._loop.time() + self.options.drain_timeout
        for listener in self._listeners:
            listener.close()
        for connection in tuple(self.open_connections):
            channel = getattr(connection.protocol, "_channel", None)
            if channel is not None:
                if channel.requests:
                    channel.persistent = False
                elif connection not in self.fresh_connections:
                    connection.loseConnection()
        self._loop.call_later(FRESH_GRACE, self._drop_fresh)
        if self._drain is not None:
            try:
                async with asyncio.timeout_at(deadline + self.options.close_timeout):
                    await self._drain()
            except Exception:
                logger.exception("the drain failed")
        for protocol in tuple(self.sockets):
            protocol.close(CloseCode.RESTARTING)
        self._drained = self._loop.create_future()
        self.look_whether_drained()
        deadline = max(deadline, self._loop.time() + self.options.close_timeout + SWEEP_PERIOD)
        await asyncio.wait([self._drained], timeout=deadline - self._loop.time())
        self._stop_reactor()

    def look_whether_drained(self) -> None:
        """If the server is stopping and nothing is in flight any more, let it end."""
        if self._drained is None or self.sockets or self.requests or self.fresh_connections:
            return
        if not self._drained.done():
            self._drained.set_result(None)

    def _drop_fresh(self) -> None:
        for connection in tuple(self.fresh_connections):
            connection.abortConnection()
        self.fresh_connections.clear()
        self.look_whether_drained()

    def _stop_reactor(self) -> None:
        if _reactor.running:
            _reactor.stop()

    def kill_all_applications(self) -> Deferred[Any]:
        """Cancel what still runs and wait for it; Daphne's own stumbles over applications that have ended."""
        tasks = [
            task for details in self.connections.values() if (task := details.get("application_instance"))
        ]
        for task in tasks:
            task.cancel()
        return Deferred.fromFuture(asyncio.gather(*tasks, return_exceptions=True))

    # --- protocols and their applications ----------------------------------------------------------

    def protocol_connected(self, protocol: Any) -> None:
        """A request has begun, or a WebSocket's handshake."""
        self.connections[protocol] = {}
        if isinstance(protocol, Request):
            self.requests.add(protocol)

    def protocol_disconnected(self, protocol: Any) -> None:
        """It has ended; its application may go on for a while. Repeatable."""
        self.requests.discard(protocol)
        details = self.connections.get(protocol)
        if details is not None and "disconnected" not in details:
            details["disconnected"] = time.time()
            if "application_instance" in details:
                self._leaving[protocol] = self._loop.time() + self.options.application_timeout
            else:
                del self.connections[protocol]
        self.look_whether_drained()

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> Inbox | None:
        """Run the application for one request or WebSocket."""
        details = self.connections.get(protocol)
        if details is None:
            return None
        scope.setdefault("asgi", {"version": "3.0"})
        if isinstance(protocol, SocketProtocol):
            scope["extensions"] = {EXTENSION: protocol}
        inbox = Inbox()
        task = self._loop.create_task(
            self.application(scope=scope, receive=inbox.get, send=partial(self.handle_reply, protocol))
        )
        details["application_instance"] = task
        task.add_done_callback(partial(self._on_application_done, protocol))
        return inbox

    def _on_application_done(self, protocol: Any, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.error("an application failed", exc_info=error)
        self._leaving.pop(protocol, None)
        details = self.connections.get(protocol)
        if details is None:
            return
        details.pop("application_instance", None)
        if "disconnected" in details:
            del self.connections[protocol]
        else:
            protocol.application_returned(error)

    def log_action(self, protocol: str, action: str, details: dict[str, Any]) -> None:
        """Daphne's access log, by Django's logging; without query strings: one-time passwords are in them."""
        if protocol != "http" or action != "complete":
            return
        path = details["path"].partition("?")[0]
        access.info(
            "%s %s %s",
            details["method"],
            path if path.isprintable() else ascii(path),
            details["status"],
            extra={
                "client": details["client"],
                "milliseconds": round(details["time_taken"] * 1000, 1),
                "bytes": details["size"],
            },
        )

    # --- once per second ---------------------------------------------------------------------------

    def _sweep(self) -> None:
        now = time.monotonic()
        stood_still = now - self._last_sweep - SWEEP_PERIOD
        self._last_sweep = now
        patience = min(self.options.ping_interval, self.options.accept_timeout)
        if stood_still > self.options.ping_timeout / 2:
            # This process was paused: the silence was its own.
            for protocol in self.sockets:
                protocol.last_inbound = now
        if now >= self._look_at:
            # Ten thousand are not looked at each second, but often enough to be in time by a fifth.
            self._look_at = now + min(patience, self.options.ping_timeout) / 5 - SWEEP_PERIOD / 2
            for protocol in [protocol for protocol in self.sockets if protocol.last_inbound < now - patience]:
                protocol.supervise(now, self.options)
        for request in tuple(self.requests):
            request.check_timeouts()
        lately, self.read_lately = self.read_lately, set()
        for connection in lately:
            connection.look()
        moment = self._loop.time()
        for protocol in [protocol for protocol, deadline in self._leaving.items() if deadline < moment]:
            del self._leaving[protocol]
            task = self.connections.get(protocol, {}).get("application_instance")
            if task is not None:
                logger.warning("an application went on too long after its connection's end and is cancelled")
                task.cancel()
        self._loop.call_later(SWEEP_PERIOD, self._sweep)


def _allow_descriptors(sockets: int) -> None:
    """Raise this process's limit as far as it may; say so if it is below what the settings allow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < sockets:
        logger.warning(
            "fewer descriptors than CHATBE_MAX_SOCKETS: raise the limit (ulimit -n)",
            extra={"descriptors": hard, "max_sockets": sockets},
        )


def _log_errors_of_twisted() -> None:
    """Twisted's errors go to Python's logging; the rest of its log says nothing that ours does not."""
    errors = LogLevelFilterPredicate(defaultLogLevel=LogLevel.error)
    globalLogBeginner.beginLoggingTo(
        [FilteringLogObserver(STDLibLogObserver("chatbe.hub.twisted"), [errors])],
        redirectStandardIO=False,
        discardBuffer=True,
    )
