"""The Redis channel layer: channels_redis' pub/sub layer on pipelined, confirmed connections.

From channels_redis come its settings (hosts, prefix, encryption, serializer), its names on the
bus and its sharding over several hosts; the connections are `chatbe.hub.pipeline`'s. Delivery is
at-most-once, as Pub/Sub is; what is new is that every loss on the way in is told (`on_loss`).
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import secrets
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

from channels.exceptions import ChannelFull
from channels.layers import BaseChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer, RedisPubSubLoopLayer
from channels_redis.utils import _wrap_close, decode_hosts

from chatbe.hub.pipeline import PipelineOptions, RedisPipeline

logger = logging.getLogger("chatbe.hub.layer")

Message = dict[str, Any]

# In front of what `publish_elsewhere` sends: a byte that begins no msgpack, then the sender's own.
_MARK = b"\xc1"
_MARK_BYTES = 9

Loss = Literal["overflow", "disconnected", "reconnected"]
"""Why messages may be missing: a channel's queue was full; the connection to a Redis host was lost
or could not be made; all subscriptions are confirmed again, so that reading the database now closes
the gap."""


class _Channel:
    """A channel of this process: its queue, or the receiver that is called in its place."""

    __slots__ = (
        "_max_bytes",
        "_max_messages",
        "bytes",
        "groups",
        "messages",
        "name",
        "overflowing",
        "receiver",
        "waiters",
    )

    def __init__(self, name: str, *, max_messages: int, max_bytes: int) -> None:
        self.name = name
        self.groups: set[bytes] = set()
        self.messages: deque[tuple[Message, int]] = deque()
        self.bytes = 0
        self.waiters: deque[asyncio.Future[None]] = deque()
        self.receiver: Callable[[Message], None] | None = None
        self.overflowing = False
        self._max_messages = max_messages
        self._max_bytes = max_bytes

    @property
    def full(self) -> bool:
        """Whether the next message would be dropped."""
        return len(self.messages) >= self._max_messages or self.bytes >= self._max_bytes

    def deliver(self, message: Message, size: int) -> bool:
        """Hand over or queue a message that had `size` bytes on the bus; False if it had to be dropped."""
        if self.receiver is not None:
            try:
                self.receiver(message)
            except Exception:
                # One message's failure must not take the connection, and with it all others, away.
                logger.exception("a receiver failed", extra={"channel": self.name})
            return True
        if self.full:
            return False
        self.messages.append((message, size))
        self.bytes += size
        self.wake()
        return True

    def wake(self) -> None:
        """Let one of those who wait in `receive` go on."""
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def take(self) -> Message:
        """The oldest message of the queue, which must not be empty."""
        message, size = self.messages.popleft()
        self.bytes -= size
        if not self.messages:
            self.overflowing = False
        return message


class PipelinedRedisLoopLayer(RedisPubSubLoopLayer):
    """The layer of one event loop. `PipelinedRedisChannelLayer` makes one for each loop that uses it."""

    def __init__(
        self,
        hosts: list[Any] | None = None,
        prefix: str = "asgi",
        on_disconnect: Callable[[], Any] | None = None,
        on_reconnect: Callable[[], Any] | None = None,
        channel_layer: PipelinedRedisChannelLayer | None = None,
        *,
        capacity: int = 10_000,
        capacity_bytes: int = 64 * 1024 * 1024,
        channel_capacity: Mapping[Any, int] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(None, prefix, on_disconnect, on_reconnect, channel_layer)
        if channel_layer is None:
            raise TypeError("a loop layer belongs to a channel layer")
        self._loop = asyncio.get_running_loop()
        self._serialize = channel_layer.serialize
        self._deserialize = channel_layer.deserialize
        self._rules = BaseChannelLayer(capacity=capacity)
        self._capacities = self._rules.compile_capacities(dict(channel_capacity or {}))
        self._capacity_bytes = capacity_bytes
        self.channels: dict[str, _Channel] = {}
        self.groups: dict[bytes, dict[_Channel, None]] = {}
        self._routes: dict[bytes, _Channel] = {}
        self._group_prefix: str = self._get_group_channel_name("")
        self._loss_listeners: list[Callable[[Loss], None]] = []
        self._own_mark = _MARK + secrets.token_bytes(_MARK_BYTES - len(_MARK))
        self._hook_tasks: set[asyncio.Future[Any]] = set()
        self.dropped = 0
        """Messages that came in and did not fit into their channel's queue."""
        self._shards: list[RedisPipeline] = []
        self._away: set[int] = set()
        for number, host in enumerate(decode_hosts(hosts)):
            self._shards.append(
                RedisPipeline(
                    host,
                    options=PipelineOptions(**options),
                    on_message=self._take,
                    on_up=partial(self._on_up, number),
                    on_down=partial(self._on_down, number),
                )
            )
        self._only_shard = self._shards[0] if len(self._shards) == 1 else None

    # --- channels ----------------------------------------------------------------------------------

    async def send(self, channel: str, message: Message) -> None:
        """Send to one channel; returns when Redis has the message, or it is counted as lost.

        Raises ChannelFull if the channel is one of this process's and its queue is full.
        """
        self._rules.require_valid_channel_name(channel)
        _require_message(message)
        local = self.channels.get(channel)
        if local is not None and local.receiver is None and local.full:
            raise ChannelFull(channel)
        await self._get_shard(channel).publish_confirmed(channel.encode(), self._serialize(message))

    async def new_channel(self, prefix: str = "specific.") -> str:
        """A new channel of this process, subscribed."""
        channel = f"{self.prefix}{prefix}{uuid.uuid4().hex}"
        await self._open(channel)
        return channel

    async def receive(self, channel: str) -> Message:
        """The next message of a channel. Who cancels the last waiting `receive` has closed the channel.

        Channels has no other call that says so: then it leaves its groups, too, and its queue is dropped.
        """
        target = self.channels.get(channel) or await self._open(channel)
        while not target.messages:
            waiter: asyncio.Future[None] = self._loop.create_future()
            target.waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter in target.waiters:
                    target.waiters.remove(waiter)
                if target.waiters:
                    if target.messages:
                        target.wake()
                elif self.channels.get(channel) is target:
                    self._close(target)
                raise
        return target.take()

    def set_receiver(self, channel: str, receiver: Callable[[Message], None]) -> None:
        """From now on call `receiver` with each message of a channel of this process, in place of queueing.

        It is called on the event loop, as the bytes are read, and must not block. The message is
        shared with the other channels of this process that get it: it must not be changed.
        """
        target = self.channels[channel]
        target.receiver = receiver
        while target.messages:
            target.deliver(target.take(), 0)

    # --- groups ------------------------------------------------------------------------------------

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel of this process to a group; returns when Redis has confirmed the subscription.

        While Redis is away it returns at once, and the subscription is made before "reconnected" is told.
        """
        await self.group_add_many((group,), channel)

    async def group_add_many(self, groups: Iterable[str], channel: str) -> None:
        """`group_add` for many groups, in one round trip."""
        target = self.channels.get(channel)
        if target is None:
            raise RuntimeError(
                f"{channel!r} is no channel of this process; groups take those of new_channel()"
            )
        wanted: dict[RedisPipeline, list[bytes]] = {}
        for group in groups:
            self._rules.require_valid_group_name(group)
            name = self._group_prefix + group
            key = name.encode()
            self.groups.setdefault(key, {})[target] = None
            target.groups.add(key)
            wanted.setdefault(self._get_shard(name), []).append(key)
        if len(wanted) == 1:
            for shard, keys in wanted.items():
                await shard.subscribe(keys)
        else:
            await asyncio.gather(*(shard.subscribe(keys) for shard, keys in wanted.items()))

    async def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group, if it is in it."""
        await self.group_discard_many((group,), channel)

    async def group_discard_many(self, groups: Iterable[str], channel: str) -> None:
        """`group_discard` for many groups."""
        target = self.channels.get(channel)
        if target is not None:
            for group in groups:
                self._leave(target, (self._group_prefix + group).encode())

    async def group_send(self, group: str, message: Message) -> None:
        """Send to a group; returns when Redis has the message, or it is counted as lost.

        Raises nothing for a Redis that is away.
        """
        self._rules.require_valid_group_name(group)
        _require_message(message)
        name = self._group_prefix + group
        await self._get_shard(name).publish_confirmed(name.encode(), self._serialize(message))

    def publish_nowait(self, group: str, message: Message) -> bool:
        """Queue a message to a group for this loop turn's write.

        Returns False, and counts it as lost, if it cannot go out.
        """
        name = self._group_prefix + group
        shard = self._only_shard or self._get_shard(name)
        return shard.publish(name.encode(), self._serialize(message))

    def publish_elsewhere(self, groups: Iterable[str], message: Message) -> None:
        """Queue a message to several groups for this loop turn's write, for all processes but this one.

        It is serialized once, and what comes back is dropped before it is decoded.
        """
        payload = self._own_mark + self._serialize(message)
        prefix, shard = self._group_prefix, self._only_shard
        for group in groups:
            name = prefix + group
            (shard or self._get_shard(name)).publish(name.encode(), payload)

    # --- state -------------------------------------------------------------------------------------

    async def connect(self) -> bool:
        """Connect to every host; whether all answered. Later ones are tried again in the background."""
        return all(await asyncio.gather(*(shard.connect() for shard in self._shards)))

    @property
    def available(self) -> bool:
        """Whether every host is connected and has confirmed every subscription."""
        return all(shard.up for shard in self._shards)

    @property
    def lost(self) -> int:
        """Publishes that were refused because a host was away or too slow, or whose answer never came."""
        return sum(shard.lost for shard in self._shards)

    def on_loss(self, listener: Callable[[Loss], None]) -> Callable[[], None]:
        """Call `listener(reason)` on the event loop whenever messages may be missing.

        Returns the function that ends this.
        """
        self._loss_listeners.append(listener)
        return partial(self._loss_listeners.remove, listener)

    async def flush(self) -> None:
        """Forget channels and groups and close the connections; it can be used as if it was new."""
        self.channels.clear()
        self.groups.clear()
        self._routes.clear()
        await asyncio.gather(*(shard.close() for shard in self._shards))
        self._away.clear()

    async def close(self) -> None:
        """Write what is queued and close the connections. The same as `flush`: both leave nothing open."""
        await self.flush()

    # --- within ------------------------------------------------------------------------------------

    async def _open(self, channel: str) -> _Channel:
        self._rules.require_valid_channel_name(channel)
        key = channel.encode()
        capacity = next(
            (limit for pattern, limit in self._capacities if pattern.match(channel)), self._rules.capacity
        )
        target = _Channel(channel, max_messages=capacity, max_bytes=self._capacity_bytes)
        self.channels[channel] = self._routes[key] = target
        try:
            await self._get_shard(channel).subscribe((key,))
        except asyncio.CancelledError:
            if self.channels.get(channel) is target:
                self._close(target)
            raise
        return target

    def _close(self, target: _Channel) -> None:
        for key in tuple(target.groups):
            self._leave(target, key)
        key = target.name.encode()
        del self.channels[target.name]
        del self._routes[key]
        self._get_shard(target.name).unsubscribe((key,))

    def _leave(self, target: _Channel, key: bytes) -> None:
        members = self.groups.get(key)
        if members is None or target not in members:
            return
        target.groups.discard(key)
        del members[target]
        if not members:
            del self.groups[key]
            self._get_shard(key).unsubscribe((key,))

    def _take(self, name: bytes, data: bytes) -> None:
        """A message has come in: decode it once, deliver it to all of this process who are to have it."""
        if data.startswith(_MARK):
            if data.startswith(self._own_mark):
                return
            data = data[_MARK_BYTES:]
        targets: Iterable[_Channel] | None = self.groups.get(name)
        if targets is None:
            target = self._routes.get(name)
            if target is None:
                return
            targets = (target,)
        try:
            message = self._deserialize(data)
        except Exception as error:  # noqa: BLE001 - as said below
            # Whatever a foreign publisher or a wrong key put there: the next message may be ours.
            logger.warning("an unreadable message on the bus", extra={"channel": name, "reason": repr(error)})
            return
        size = len(data)
        for target in tuple(targets):
            if not target.deliver(message, size):
                self._overflow(target)

    def _overflow(self, target: _Channel) -> None:
        self.dropped += 1
        if not target.overflowing:
            # Once until its queue has been emptied: what follows is part of the same loss.
            target.overflowing = True
            logger.warning("a channel's queue is full", extra={"channel": target.name})
            self._tell("overflow")

    def _on_up(self, shard: int) -> None:
        if shard in self._away:
            self._away.discard(shard)
            if not self._away:
                self._tell("reconnected")
                self._call_hook(self.on_reconnect)

    def _on_down(self, shard: int) -> None:
        self._away.add(shard)
        self._tell("disconnected")
        self._call_hook(self.on_disconnect)

    def _tell(self, reason: Loss) -> None:
        for listener in tuple(self._loss_listeners):
            try:
                listener(reason)
            except Exception:
                # The connection's own state must not depend on who listens.
                logger.exception("a loss listener failed", extra={"loss": reason})

    def _call_hook(self, hook: Callable[[], Any] | None) -> None:
        """Call channels_redis' `on_disconnect` or `on_reconnect`: a function or coroutine function."""
        if hook is None:
            return
        try:
            result = hook()
        except Exception:
            logger.exception("a connection hook failed")
            return
        if inspect.isawaitable(result):
            task = asyncio.ensure_future(result)
            self._hook_tasks.add(task)
            task.add_done_callback(self._hook_tasks.discard)


class PipelinedRedisChannelLayer(RedisPubSubChannelLayer):
    """Django's CHANNEL_LAYERS backend.

    Settings, beside channels_redis' own (hosts, prefix, on_disconnect, on_reconnect,
    symmetric_encryption_keys, serializer_format): `capacity` (messages) and `capacity_bytes` per
    channel, `channel_capacity` by name pattern, and those of `PipelineOptions`.

    Code that stays on one event loop and calls often should hold `loop_layer()`.
    """

    extensions: ClassVar[list[str]] = ["groups", "flush"]

    def loop_layer(self) -> PipelinedRedisLoopLayer:
        """The running event loop's layer."""
        return self._get_layer()

    def _get_layer(self) -> PipelinedRedisLoopLayer:
        loop = asyncio.get_running_loop()
        layer: PipelinedRedisLoopLayer | None = self._layers.get(loop)
        if layer is None:
            layer = PipelinedRedisLoopLayer(*self._args, **{**self._kwargs, "channel_layer": self})
            self._layers[loop] = layer
            # A short-lived loop (async_to_sync in a thread) takes its connections with it.
            _wrap_close(self, loop)
        return layer


def _require_message(message: Message) -> None:
    if not isinstance(message, dict):
        raise TypeError("a message is a dict")
