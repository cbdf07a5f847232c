"""One Redis host's connection on one event loop: pipelined, confirmed, watched, reconnecting.

Publishes and subscribes of one turn of the event loop leave in one write. PUBLISH and SUBSCRIBE
share one RESP3 connection (Redis 6 or later), so that answers and messages come in one read.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, cast

import hiredis
from channels_redis.utils import create_pool
from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

logger = logging.getLogger("chatbe.hub.pipeline")

_NAMES_PER_COMMAND: Final = 1000
_PING: Final = object()
# Its stub knows commands of one word only.
_pack = cast("Callable[[tuple[bytes, ...]], bytes]", hiredis.pack_command)


@dataclass(frozen=True, slots=True)
class PipelineOptions:
    """Limits and times of a pipeline; times in seconds."""

    max_outgoing_bytes: int = 8 * 1024 * 1024
    """What may wait for the kernel to take it; a publish beyond is refused."""
    ping_interval: float = 3.0
    """After so much silence of Redis it is asked for a sign of life."""
    ping_timeout: float = 3.0
    """Without that sign within so much time the connection is given up."""
    connect_timeout: float = 5.0
    min_backoff: float = 0.1
    max_backoff: float = 5.0
    """Reconnects wait a random time below a bound that doubles from `min_backoff` to this."""


class _State(Enum):
    IDLE = "not used yet, or closed"
    OPENING = "the first attempt to connect is under way; what is queued waits for it"
    OPEN = "connected"
    DOWN = "not connected; tries again"


class _Batch:
    """The subscriptions that one turn of the event loop asked for; `confirmed` when Redis has all of them."""

    __slots__ = ("confirmed", "remaining")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.remaining = 0
        self.confirmed: asyncio.Future[None] = loop.create_future()

    def took(self, count: int = 1) -> None:
        """`count` of its names are confirmed, or no longer wanted."""
        self.remaining -= count
        if self.remaining <= 0:
            self.release()

    def release(self) -> None:
        """Wake whoever waits."""
        if not self.confirmed.done():
            self.confirmed.set_result(None)


class RedisPipeline(asyncio.Protocol):
    """Publishes to and hears from one Redis host.

    `host` is an entry of channels_redis' `hosts` setting in its dict form. `on_message(channel,
    payload)` is called for each message of a subscribed channel, and must not raise; `on_up()` when
    a connection stands and all subscriptions are confirmed; `on_down()` when it is lost or could
    not be made, once until the next `on_up`.
    """

    def __init__(
        self,
        host: Mapping[str, Any],
        *,
        options: PipelineOptions,
        on_message: Callable[[bytes, bytes], None],
        on_up: Callable[[], None],
        on_down: Callable[[], None],
    ) -> None:
        self._host = host
        self._options = options
        self._on_message = on_message
        self._on_up = on_up
        self._on_down = on_down
        self._loop = asyncio.get_running_loop()
        self._state = _State.IDLE
        self._told_down = False
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._attempt: asyncio.Future[None] | None = None
        """While the first attempt to connect is under way; done when it succeeded or failed."""
        self._closed: asyncio.Future[None] | None = None
        self._reader = hiredis.Reader()
        self._clogged = False
        self._heard = False
        self._watch: asyncio.TimerHandle | None = None

        self._flush_due = False
        self._control: list[bytes] = []
        """SUBSCRIBE and UNSUBSCRIBE commands; they go ahead of `_outgoing` and have no answers."""
        self._outgoing: list[bytes] = []
        self._outgoing_bytes = 0
        self._answers: deque[asyncio.Future[bool] | object | None] = deque()
        """One entry per command that has an answer, in order: who waits for it, nobody, or a ping."""

        self._subscriptions: dict[bytes, _Batch] = {}
        """All names that are wanted, each with the batch that asked for it last."""
        self._to_subscribe: dict[bytes, _Batch] = {}
        self._to_unsubscribe: dict[bytes, _Batch] = {}
        self._confirmations: deque[_Batch] = deque()
        """One entry per name in a SUBSCRIBE that was sent: Redis confirms them in this order."""
        self._resubscribing: _Batch | None = None

        self.up = False
        """Whether publishes reach Redis and every subscription is confirmed."""
        self.lost = 0
        """Publishes that were refused, or whose answer never came."""

    # --- publishing --------------------------------------------------------------------------------

    def publish(self, channel: bytes, payload: bytes, waiter: asyncio.Future[bool] | None = None) -> bool:
        """Queue a message for this turn's write; False, and counted as lost, when it cannot go out.

        `waiter` is told True when Redis has it, False when that is not known.
        """
        if (
            (self._transport is None and not self._opening())
            or self._clogged
            or self._outgoing_bytes > self._options.max_outgoing_bytes
        ):
            self.lost += 1
            return False
        command = _pack((b"PUBLISH", channel, payload))
        self._outgoing.append(command)
        self._outgoing_bytes += len(command)
        self._answers.append(waiter)
        if not self._flush_due:
            self._schedule_flush()
        return True

    async def publish_confirmed(self, channel: bytes, payload: bytes) -> bool:
        """Publish and wait until Redis has the message; False when it is lost, or may be."""
        waiter: asyncio.Future[bool] = self._loop.create_future()
        return self.publish(channel, payload, waiter) and await waiter

    # --- subscribing -------------------------------------------------------------------------------

    async def subscribe(self, names: Iterable[bytes]) -> None:
        """Subscribe and wait until Redis has confirmed each of `names`.

        While Redis is away it returns at once: the names are subscribed before the next `on_up`.
        """
        opening = self._opening()
        batches: dict[_Batch, None] = {}
        new: _Batch | None = None
        for name in names:
            batch = self._subscriptions.get(name)
            if batch is None:
                # Redis may not have been told yet that it was not wanted for a moment.
                batch = self._to_unsubscribe.pop(name, None)
                if batch is None:
                    if new is None:
                        new = _Batch(self._loop)
                    batch = new
                    if opening:
                        new.remaining += 1
                        self._to_subscribe[name] = new
                self._subscriptions[name] = batch
            batches[batch] = None
        if new is not None:
            if new.remaining:
                self._schedule_flush()
            else:
                new.release()
        for batch in batches:
            if not batch.confirmed.done():
                # Several may wait for one batch; one that is cancelled must not end it for the others.
                await asyncio.shield(batch.confirmed)

    def unsubscribe(self, names: Iterable[bytes]) -> None:
        """Want `names` no longer. Messages that are under way may still come."""
        for name in names:
            batch = self._subscriptions.pop(name, None)
            if batch is None:
                continue
            if self._to_subscribe.pop(name, None) is not None:
                batch.took()
            elif self._transport is not None:
                self._to_unsubscribe[name] = batch
                self._schedule_flush()

    # --- life --------------------------------------------------------------------------------------

    async def connect(self) -> bool:
        """Connect if this has not begun; wait for the first attempt's end. Whether there is a connection."""
        if self._opening() and self._attempt is not None:
            await asyncio.shield(self._attempt)
        return self._transport is not None

    async def close(self) -> None:
        """Write what is queued, drop the connection and all subscriptions. It can be used again."""
        task, self._task = self._task, None
        self._told_down = True
        if self._transport is not None and self._closed is not None:
            self._flush()
            self._transport.close()
            await asyncio.wait([self._closed], timeout=1.0)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        self._subscriptions.clear()

    def _opening(self) -> bool:
        """Whether there is a connection or the first one is being made; begins the first use."""
        if self._state is _State.IDLE:
            self._state = _State.OPENING
            self._attempt = self._loop.create_future()
            self._task = self._loop.create_task(self._keep_connected())
        return self._state is not _State.DOWN

    async def _keep_connected(self) -> None:
        failures = 0
        connection: Connection | None = None
        try:
            while True:
                try:
                    connection = await self._connect()
                except (RedisError, OSError, RuntimeError) as error:
                    # RuntimeError is uvloop's, where it notices the end of a connection first.
                    self._lose(str(error))
                else:
                    failures = 0
                    if self._closed is not None:
                        await self._closed
                    # Its stream is ours and closed; this only tells redis-py so.
                    await connection.disconnect(nowait=True)
                bound = min(self._options.max_backoff, self._options.min_backoff * 2**failures)
                failures += 1
                await asyncio.sleep(random.uniform(bound / 10, bound))  # noqa: S311 - spreads load, guards nothing
        finally:
            # Closed, or the event loop ends: nobody needs to be told.
            self._told_down = True
            if self._transport is not None:
                self._flush()
                # Its end must not reach this object any more, which may be in use again by then.
                self._transport.set_protocol(asyncio.Protocol())
            self._lose("closed")
            self._told_down = False
            self._state = _State.IDLE
            if connection is not None:
                await connection.disconnect(nowait=True)

    async def _connect(self) -> Connection:
        """Let redis-py connect (addresses, TLS, credentials, sentinels), then take its stream over."""
        settings = {
            "socket_connect_timeout": self._options.connect_timeout,
            "socket_timeout": self._options.connect_timeout,
            **self._host,
            "protocol": 3,
            "retry": Retry(NoBackoff(), 0),
        }
        connection: Connection = create_pool(settings).make_connection()
        try:
            await connection.connect()
            self._take_over(connection)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    def _take_over(self, connection: Connection) -> None:
        """Read the connection's stream: redis-py reads one answer per coroutine call, here a whole read is parsed.

        All answers of the handshake have been read, so nothing is left behind in redis-py's buffers.
        """
        writer = connection._writer  # noqa: SLF001 - it has no public name
        if writer is None:
            raise ConnectionResetError("closed by Redis at once")
        transport = writer.transport
        transport.set_protocol(self)
        if transport.is_closing():
            # Its end was told to redis-py, and will not be told again.
            raise ConnectionResetError("closed by Redis at once")
        self.connection_made(transport)

    # --- asyncio.Protocol --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Subscribe to everything that is wanted, then write what has been queued."""
        self._transport = cast("asyncio.WriteTransport", transport)
        self._transport.set_write_buffer_limits(high=self._options.max_outgoing_bytes)
        self._state = _State.OPEN
        self._closed = self._loop.create_future()
        self._reader = hiredis.Reader()
        self._clogged = False
        again = [name for name in self._subscriptions if name not in self._to_subscribe]
        if again:
            batch = self._resubscribing = _Batch(self._loop)
            batch.remaining = len(again)
            batches = dict.fromkeys(again, batch)
            self._subscriptions.update(batches)
            self._add_subscribes(batches)
        if not self._flush():
            return
        if self._attempt is not None:
            self._attempt.set_result(None)
            self._attempt = None
        self._watch = self._loop.call_later(self._options.ping_interval, self._look_for_life)
        if not again:
            self._set_up()

    def data_received(self, data: bytes) -> None:
        """Take answers, confirmations and messages."""
        self._heard = True
        reader = self._reader
        reader.feed(data)
        answers = self._answers
        on_message = self._on_message
        try:
            while (reply := reader.gets()) is not False:
                if type(reply) is hiredis.PushNotification:
                    kind = reply[0]
                    if kind == b"message":
                        on_message(reply[1], reply[2])
                    elif kind == b"subscribe":
                        self._confirm()
                elif isinstance(reply, hiredis.ReplyError):
                    # Which command it answers cannot be told: a refused SUBSCRIBE has no place in the order.
                    self._give_up(str(reply))
                    return
                else:
                    waiter = answers.popleft()
                    if waiter is not None and waiter is not _PING:
                        _tell(cast("asyncio.Future[bool]", waiter), reached=True)
        except hiredis.ProtocolError as error:
            self._give_up(str(error))

    def pause_writing(self) -> None:
        """The outgoing buffer is full: publishes are refused until it has room."""
        self._clogged = True

    def resume_writing(self) -> None:
        """The outgoing buffer has room again."""
        self._clogged = False

    def connection_lost(self, error: Exception | None) -> None:
        """Count what was under way as lost, let go of who waits, and have `_keep_connected` go on."""
        self._lose(str(error) if error is not None else "closed by Redis")
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)

    # --- within ------------------------------------------------------------------------------------

    def _schedule_flush(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> bool:
        """Write all that this turn of the loop has queued, in one piece; False where there is no connection."""
        self._flush_due = False
        if self._transport is None:
            return False
        if self._to_unsubscribe:
            self._add_control(b"UNSUBSCRIBE", list(self._to_unsubscribe))
            self._to_unsubscribe.clear()
        if self._to_subscribe:
            self._add_subscribes(self._to_subscribe)
            self._to_subscribe.clear()
        if self._control or self._outgoing:
            try:
                self._transport.write(b"".join([*self._control, *self._outgoing]))
            except RuntimeError as error:
                # What uvloop raises where it has noticed the end of the connection before it told so.
                self._transport.set_protocol(asyncio.Protocol())
                self.connection_lost(error)
                return False
            self._control.clear()
            self._outgoing.clear()
            self._outgoing_bytes = 0
        return True

    def _add_subscribes(self, batches: dict[bytes, _Batch]) -> None:
        self._add_control(b"SUBSCRIBE", list(batches))
        self._confirmations.extend(batches.values())

    def _add_control(self, command: bytes, names: list[bytes]) -> None:
        for start in range(0, len(names), _NAMES_PER_COMMAND):
            self._control.append(_pack((command, *names[start : start + _NAMES_PER_COMMAND])))

    def _confirm(self) -> None:
        batch = self._confirmations.popleft()
        batch.took()
        if batch is self._resubscribing and batch.confirmed.done():
            self._resubscribing = None
            self._set_up()

    def _set_up(self) -> None:
        self.up = True
        self._told_down = False
        self._on_up()

    def _look_for_life(self) -> None:
        """Silence is normal where nothing is said; after it, Redis has to answer a ping."""
        if self._heard:
            self._heard = False
            self._watch = self._loop.call_later(self._options.ping_interval, self._look_for_life)
        else:
            self._outgoing.append(_pack((b"PING",)))
            self._answers.append(_PING)
            self._schedule_flush()
            self._watch = self._loop.call_later(self._options.ping_timeout, self._judge, 2)

    def _judge(self, chances: int) -> None:
        if self._heard:
            self._look_for_life()
        elif chances > 0:
            # If this process itself stood still, the answer may lie unread in the kernel: read first.
            self._watch = self._loop.call_later(0.01, self._judge, chances - 1)
        else:
            self._give_up("no sign of life")

    def _give_up(self, reason: str) -> None:
        logger.warning("dropping the connection to Redis", extra={"reason": reason})
        if self._transport is not None:
            self._transport.abort()

    def _lose(self, reason: str) -> None:
        """There is no connection (any more): nothing that waits will come. Repeatable."""
        self.up = False
        self._transport = None
        self._state = _State.DOWN
        self._resubscribing = None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        answers, self._answers = self._answers, deque()
        self._control.clear()
        self._outgoing.clear()
        self._outgoing_bytes = 0
        for waiter in answers:
            if waiter is not _PING:
                self.lost += 1
                if waiter is not None:
                    _tell(cast("asyncio.Future[bool]", waiter), reached=False)
        for batch in {*self._confirmations, *self._to_subscribe.values()}:
            batch.release()
        self._confirmations.clear()
        self._to_subscribe.clear()
        self._to_unsubscribe.clear()
        if self._attempt is not None:
            self._attempt.set_result(None)
            self._attempt = None
        if not self._told_down:
            self._told_down = True
            logger.warning("Redis is away", extra={"reason": reason})
            self._on_down()


def _tell(waiter: asyncio.Future[bool], *, reached: bool) -> None:
    if not waiter.done():
        waiter.set_result(reached)
