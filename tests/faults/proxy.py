"""A TCP link that can be cut, delayed, and frozen one way."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Literal

Way = Literal["there", "back"]
"""From who connects to the target, or back."""

SMALL_BUFFER = 16 * 1024


class Link:
    """A listener on a free loopback port that passes connections on to `target`."""

    def __init__(self, target: int, *, name: str = "", small_buffers: bool = False) -> None:
        """`target` is a loopback port; with `small_buffers` the kernel holds little, so that a freeze is felt soon."""
        self.target = target
        self.name = name
        self.delay = 0.0
        """Seconds that each piece of data takes longer, both ways."""
        self.refusing = False
        """New connections are closed at once."""
        self.alter: Callable[[bytes], bytes] | None = None
        """Applied to each piece of data on the way there."""
        self.cuts: Callable[[bytes], bool] | None = None
        """Asked about each piece of data on the way back: where it says so, the connection is reset instead."""
        self._small_buffers = small_buffers
        self._frozen: set[Way] = set()
        self._pairs: set[_Pair] = set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._pairs)

    async def open(self) -> Link:
        """Begin to listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Pair(self).near, "127.0.0.1", 0)
        return self

    def cut(self) -> None:
        """Reset every connection; new ones are taken."""
        for pair in list(self._pairs):
            pair.abort()

    def freeze(self, way: Way) -> None:
        """Pass nothing on this way, and read nothing from it, until `thaw`; connections stay."""
        self._frozen.add(way)
        for pair in self._pairs:
            pair.apply_freeze()

    def thaw(self) -> None:
        """Go on after `freeze`."""
        self._frozen.clear()
        for pair in self._pairs:
            pair.apply_freeze()

    def heal(self) -> None:
        """End whatever was done to it, except that what was cut stays cut."""
        self.delay = 0.0
        self.refusing = False
        self.thaw()

    def is_frozen(self, way: Way) -> bool:
        """Whether nothing passes on this way."""
        return way in self._frozen

    def close(self) -> None:
        """Stop listening and reset every connection."""
        self.cut()
        if self._server is not None:
            self._server.close()

    def _connect(self, pair: _Pair) -> None:
        task = asyncio.get_running_loop().create_task(self._reach(pair))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reach(self, pair: _Pair) -> None:
        loop = asyncio.get_running_loop()
        connection = socket.socket()
        try:
            connection.setblocking(False)
            if self._small_buffers:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
            await loop.sock_connect(connection, ("127.0.0.1", self.target))
            await loop.create_connection(lambda: pair.far, sock=connection)
        except OSError:
            connection.close()
            pair.abort()


class _Pair:
    """One connection through a link: the near end, which was accepted, and the far one."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.near = _End(self, "there")
        self.far = _End(self, "back")
        self.near.other, self.far.other = self.far, self.near
        link._pairs.add(self)

    def abort(self) -> None:
        self.link._pairs.discard(self)
        for end in (self.near, self.far):
            end.closed = True
            if end.transport is not None:
                connection = end.transport.get_extra_info("socket")
                if connection is not None and connection.fileno() >= 0:
                    # A reset, not an end.
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.transport.abort()

    def apply_freeze(self) -> None:
        for end in (self.near, self.far):
            end.apply()


class _End(asyncio.Protocol):
    """What is read here is written to the other end."""

    def __init__(self, pair: _Pair, way: Way) -> None:
        self.pair = pair
        self.way: Way = way
        self.other: _End = self
        self.transport: asyncio.Transport | None = None
        self.closed = False
        self.full = False
        """The other end's transport takes nothing more for now."""
        self.reading = True
        self.early: list[bytes] = []
        """Read before the other end was connected."""
        self.delayed: deque[bytes] = deque()
        """What waits for its time. What comes after it may not overtake it."""
        self.due = 0.0
        """When the last of it is passed on."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self.closed or (self.way == "there" and self.pair.link.refusing):
            self.pair.abort()
            return
        if self.way == "there":
            self.pair.link._connect(self.pair)
        else:
            early, self.other.early = self.other.early, []
            for data in early:
                transport.write(data)
        self.apply()

    def data_received(self, data: bytes) -> None:
        if self.way == "there" and self.pair.link.alter is not None:
            data = self.pair.link.alter(data)
        if self.way == "back" and self.pair.link.cuts is not None and self.pair.link.cuts(data):
            self.pair.abort()
            return
        loop = asyncio.get_running_loop()
        if self.pair.link.delay or self.delayed:
            self.delayed.append(data)
            self.due = max(loop.time() + self.pair.link.delay, self.due)
            loop.call_at(self.due, self._pass_on_next)
        else:
            self._pass_on(data)

    def _pass_on_next(self) -> None:
        self._pass_on(self.delayed.popleft())

    def _pass_on(self, data: bytes) -> None:
        target = self.other.transport
        if target is None:
            self.early.append(data)
        elif not self.other.closed:
            target.write(data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self.pair.link._pairs.discard(self.pair)
        if self.other.transport is None:
            self.other.closed = True
        elif not self.other.closed:
            if error is None:
                # What is still buffered goes out first.
                self.other.transport.close()
            else:
                self.other.transport.abort()

    def pause_writing(self) -> None:
        self.other.full = True
        self.other.apply()

    def resume_writing(self) -> None:
        self.other.full = False
        self.other.apply()

    def apply(self) -> None:
        """Read, or do not."""
        if self.transport is None or self.closed:
            return
        wanted = not self.full and not self.pair.link.is_frozen(self.way)
        if wanted != self.reading:
            self.reading = wanted
            if wanted:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()
