"""What the hub writes to: ready-made WebSocket frames, with an eye on what has not left yet.

`manage.py serve` puts a native one into the scope (`EXTENSION`). On any other ASGI server
`AsgiTransport` does the same by ASGI messages: frames wait in a queue of its own, which one
short-lived task empties.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Protocol

EXTENSION = "chatbe.transport"


class Transport(Protocol):
    """One socket's way out, and its brakes."""

    last_inbound: float
    """`time.monotonic()` of the last bytes that came in."""

    @property
    def buffered(self) -> int:
        """Bytes that the kernel has not taken yet."""

    def write_frames(self, data: bytes) -> None:
        """Write complete, unmasked WebSocket text frames."""

    def set_drain(self, on_drain: Callable[[], None]) -> None:
        """Have `on_drain` called whenever the buffer has emptied after it was not empty."""

    def set_receiver(
        self, on_text: Callable[[Any], None], on_binary: Callable[[], None], on_lost: Callable[[int], None]
    ) -> None:
        """From now on pass inbound frames by direct call."""

    def pause_reading(self) -> None:
        """Take no more bytes from the client."""

    def resume_reading(self) -> None:
        """Go on taking bytes."""

    def close(self, code: int, reason: str = "") -> None:
        """Flush within a bounded time, then close with `code`."""

    def abort(self) -> None:
        """Drop the connection at once."""


def payloads(data: bytes) -> Iterator[bytes]:
    """The payloads of complete, unmasked WebSocket frames (RFC 6455, section 5.2)."""
    start = 0
    while start < len(data):
        length = data[start + 1]
        start += 2
        if length >= 126:
            width = 2 if length == 126 else 8
            length = int.from_bytes(data[start : start + width], "big")
            start += width
        yield data[start : start + length]
        start += length


class AsgiTransport:
    """A `Transport` over plain ASGI messages."""

    def __init__(self, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        self._send = send
        self._waiting: deque[dict[str, Any]] = deque()
        self._sender: asyncio.Task[None] | None = None
        self._on_drain: Callable[[], None] | None = None
        self._reading = asyncio.Event()
        self._reading.set()
        self._closed = False
        self._buffered = 0
        self.last_inbound = time.monotonic()

    @property
    def buffered(self) -> int:
        """Bytes handed over and not yet taken by the server."""
        return self._buffered

    def write_frames(self, data: bytes) -> None:
        """Queue the payload of each frame as one `websocket.send`."""
        if self._closed:
            return
        for payload in payloads(data):
            self._buffered += len(payload)
            self._put({"type": "websocket.send", "text": payload.decode()})

    def set_drain(self, on_drain: Callable[[], None]) -> None:
        """Called each time the queue has been emptied."""
        self._on_drain = on_drain

    def set_receiver(self, *_callbacks: object) -> None:
        """ASGI has no direct calls; the consumer reads `receive` itself."""

    def pause_reading(self) -> None:
        """Let the consumer's loop wait before its next `receive`; not once it is closed: its end comes from there."""
        if not self._closed:
            self._reading.clear()

    def resume_reading(self) -> None:
        """Let the consumer's loop go on."""
        self._reading.set()

    async def readable(self) -> None:
        """Return once reading is not paused."""
        await self._reading.wait()

    def close(self, code: int, reason: str = "") -> None:
        """Close after what is queued; a server that cannot send the code sends 1000."""
        if not self._closed:
            self._closed = True
            self._reading.set()
            self._put({"type": "websocket.close", "code": code, "reason": reason})

    def abort(self) -> None:
        """Drop what is queued and close."""
        self._waiting.clear()
        self._buffered = 0
        self.close(1011)

    def _put(self, message: dict[str, Any]) -> None:
        self._waiting.append(message)
        if self._sender is None:
            self._sender = asyncio.get_running_loop().create_task(self._empty())

    async def _empty(self) -> None:
        try:
            while self._waiting:
                message = self._waiting.popleft()
                if message["type"] == "websocket.close":
                    await self._send_close(message)
                else:
                    await self._send(message)
                    self._buffered -= len(message["text"].encode())
        except (OSError, RuntimeError):
            # The server has let go of the socket; its disconnect message follows.
            self._closed = True
            self._reading.set()
            self._waiting.clear()
            self._buffered = 0
        finally:
            self._sender = None
        if self._on_drain is not None:
            self._on_drain()

    async def _send_close(self, message: dict[str, Any]) -> None:
        """Close with the code, or with 1000 where the server refuses it: a socket must not stay half closed."""
        try:
            await self._send(message)
        except (OSError, RuntimeError):
            raise
        except Exception:  # noqa: BLE001 - autobahn, under Daphne, raises it for all but 1000 and 3000 to 4999
            await self._send({**message, "code": 1000})
