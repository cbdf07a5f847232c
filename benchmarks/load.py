"""Many cheap clients: picows sockets, frames told apart by their first bytes, nothing decoded."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from benchmarks.errors import TargetError
from benchmarks.targets import Dialect

OPENING_AT_ONCE = 32
PATIENCE = 60.0
"""Seconds until a run that does not go on is given up."""

T = TypeVar("T")


class Tally:
    """What all clients of a run have seen."""

    def __init__(self) -> None:
        self.sent: dict[bytes, float] = {}
        """client_id → when it was sent; taken out at its delivery."""
        self.started = 0
        self.delivered = 0
        self.unexpected = 0
        """Messages that were delivered twice, or never sent in this run."""
        self.acked = 0
        self.presence = 0
        self.errors: list[bytes] = []
        self.latencies: list[float] = []
        self.closed = 0


class Client(WSListener):
    """One socket. `on_ack` may be set to be called at each ack."""

    def __init__(self, dialect: Dialect, tally: Tally) -> None:
        super().__init__()
        self.dialect = dialect
        self.tally = tally
        self.peer = ""
        self.live: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.on_ack: Callable[[], None] | None = None
        self.hold_hello = False
        self._last_of_greeting = dialect.synced
        self._message, self._ack, self._error = dialect.message, dialect.ack, dialect.error
        self._id_key, self._id_skip = dialect.client_id, len(dialect.client_id)

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Say hello."""
        self.transport = transport
        if self.dialect.synced is None:
            self.live.set_result(None)
        elif self.dialect.hello is not None and not self.hold_hello:
            transport.send(WSMsgType.TEXT, self.dialect.hello)

    def on_ws_disconnected(self, _transport: WSTransport) -> None:
        """Count it."""
        self.tally.closed += 1
        if not self.live.done():
            self.live.set_exception(TargetError("closed while signing in"))

    def on_ws_frame(self, _transport: WSTransport, frame: WSFrame) -> None:
        """Count what came."""
        data = frame.get_payload_as_bytes()
        tally = self.tally
        if data.startswith(self._message):
            start = data.find(self._id_key) + self._id_skip
            sent = tally.sent.pop(data[start : start + 36], 0.0)
            if sent:
                tally.delivered += 1
                tally.latencies.append(time.perf_counter() - sent)
            else:
                tally.unexpected += 1
        elif data.startswith(self._ack):
            tally.acked += 1
            if self.on_ack is not None:
                self.on_ack()
        elif data.startswith(self._error):
            tally.errors.append(data)
        elif data.startswith(self.dialect.presence):
            tally.presence += 1
        elif not self.live.done() and data.startswith(self._last_of_greeting or b"?"):
            self.live.set_result(None)

    def only_sign_in(self) -> None:
        """Say no hello after connecting: the client is `live` when the server has greeted it."""
        self.hold_hello = True
        self._last_of_greeting = self.dialect.greeted

    def begin(self, hello: bytes) -> asyncio.Future[None]:
        """Say a hello of one's own, after `only_sign_in`; the future is done when the stream has begun."""
        self._last_of_greeting = self.dialect.synced
        self.live = asyncio.get_running_loop().create_future()
        self.say(hello)
        return self.live

    def send_message(self, body: bytes) -> None:
        """Send one to the peer."""
        client_id = str(uuid.uuid4()).encode()
        tally = self.tally
        tally.started += 1
        tally.sent[client_id] = time.perf_counter()
        self.transport.send(WSMsgType.TEXT, self.dialect.send(self.peer, client_id, body))

    def say(self, frame: bytes) -> None:
        """Send any text frame."""
        self.transport.send(WSMsgType.TEXT, frame)

    def close(self) -> None:
        """Close in order."""
        self.transport.send_close(WSCloseCode.OK)
        self.transport.disconnect()


async def open_client(url: str, client: Client) -> Client:
    """Connect and wait until the stream has begun, or the client was greeted."""
    await ws_connect(lambda: client, url)
    await asyncio.wait_for(client.live, PATIENCE)
    return client


async def open_clients(urls: Sequence[str], make: Callable[[], Client]) -> list[Client]:
    """Connect many, a few at a time, in order."""

    async def open_one(url: str) -> Client:
        return await open_client(url, make())

    return await bounded([partial(open_one, url) for url in urls], OPENING_AT_ONCE)


async def bounded(jobs: Iterable[Callable[[], Awaitable[T]]], limit: int) -> list[T]:
    """Run jobs, at most `limit` at once; their results in order."""
    gate = asyncio.Semaphore(limit)

    async def run(job: Callable[[], Awaitable[T]]) -> T:
        async with gate:
            return await job()

    return await asyncio.gather(*(run(job) for job in jobs))


async def until(condition: Callable[[], bool], *, what: str, patience: float = PATIENCE) -> None:
    """Wait until the condition holds; it depends on other processes, which give no event."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise TargetError(f"gave up waiting for {what}")
        await asyncio.sleep(0.01)


async def close_all(clients: Iterable[Client]) -> None:
    """Close every socket."""
    for client in clients:
        client.close()
    await asyncio.sleep(0.1)
