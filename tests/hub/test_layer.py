"""The Redis channel layer, against real Redis servers."""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import uvloop
from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from redis import Redis
from redis.asyncio.connection import AbstractConnection

from chatbe.hub.layer import Loss, Message, PipelinedRedisChannelLayer, PipelinedRedisLoopLayer
from tests.support.servers import RedisServer

pytestmark = [pytest.mark.asyncio, pytest.mark.pure]

MakeLayer = Callable[..., PipelinedRedisChannelLayer]


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """For tests that kill or pause it."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    with Redis.from_url(redis_server.url) as client:
        yield client


@pytest_asyncio.fixture
async def make_layer(request: pytest.FixtureRequest) -> AsyncIterator[MakeLayer]:
    """Makes layers with a prefix of the test's own; closes them."""
    made: list[PipelinedRedisChannelLayer] = []
    prefix = f"t{os.urandom(6).hex()}"

    def make(*urls: str, **settings: Any) -> PipelinedRedisChannelLayer:
        layer = PipelinedRedisChannelLayer(hosts=list(urls), **{"prefix": prefix, **settings})
        made.append(layer)
        return layer

    yield make
    for layer in made:
        await layer.flush()


@pytest.fixture
def layer(make_layer: MakeLayer, redis_server: RedisServer) -> PipelinedRedisChannelLayer:
    return make_layer(redis_server.url)


class Losses:
    """What a layer told, and how to wait for it."""

    def __init__(self, layer: PipelinedRedisLoopLayer) -> None:
        self.reasons: list[Loss] = []
        self._told = asyncio.Event()
        layer.on_loss(self._note)

    def _note(self, reason: Loss) -> None:
        self.reasons.append(reason)
        self._told.set()

    async def until(self, reason: Loss) -> None:
        async with asyncio.timeout(10):
            while reason not in self.reasons:
                self._told.clear()
                await self._told.wait()


def is_available(layer: PipelinedRedisLoopLayer) -> bool:
    return layer.available


async def nothing_more(layer: PipelinedRedisChannelLayer, channel: str) -> bool:
    """Whether a channel has no message, once all that Redis has now has come in."""
    await layer.send(channel, {"type": "last"})
    return await received(layer, channel) == {"type": "last"}


async def received(layer: PipelinedRedisChannelLayer, channel: str) -> Message:
    async with asyncio.timeout(10):
        message: Message = await layer.receive(channel)
        return message


def subscribers(redis: Redis, layer: PipelinedRedisChannelLayer, group: str) -> int:
    """How many connections Redis itself counts for a group."""
    name = layer.loop_layer()._get_group_channel_name(group)
    [(_, count)] = redis.pubsub_numsub(name)
    return int(count)


# --- the contract of channel layers --------------------------------------------------------------


async def test_what_is_sent_to_a_channel_is_received_in_order(layer: PipelinedRedisChannelLayer) -> None:
    channel = await layer.new_channel()
    for number in range(10):
        await layer.send(channel, {"type": "count", "number": number, "raw": b"\x00\xff", "text": "é"})
    assert [(await received(layer, channel))["number"] for _ in range(10)] == list(range(10))


async def test_values_survive_the_bus(layer: PipelinedRedisChannelLayer) -> None:
    channel = await layer.new_channel()
    message = {
        "type": "x",
        "b": b"\x00\xff",
        "s": "é",
        "n": None,
        "f": 1.5,
        "l": [1, {"a": True}],
        "i": 2**60,
    }
    await layer.send(channel, message)
    assert await received(layer, channel) == message


async def test_new_channels_differ_and_carry_the_prefix_asked_for(layer: PipelinedRedisChannelLayer) -> None:
    first, second = await layer.new_channel(), await layer.new_channel("other.")
    assert first != second
    assert "other." in second


async def test_a_waiting_receive_gets_the_message_and_only_one_does(
    layer: PipelinedRedisChannelLayer,
) -> None:
    channel = await layer.new_channel()
    waiting = [asyncio.create_task(layer.receive(channel)) for _ in range(2)]
    await layer.send(channel, {"type": "one"})
    done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=10)
    assert [task.result() for task in done] == [{"type": "one"}]
    assert len(pending) == 1
    await layer.send(channel, {"type": "two"})
    assert await asyncio.wait_for(pending.pop(), 10) == {"type": "two"}


async def test_a_group_reaches_all_its_channels_and_no_other(layer: PipelinedRedisChannelLayer) -> None:
    first, second, third = [await layer.new_channel() for _ in range(3)]
    await layer.group_add("room", first)
    await layer.group_add("room", second)
    await layer.group_add("elsewhere", third)
    await layer.group_send("room", {"type": "hello"})
    assert await received(layer, first) == {"type": "hello"}
    assert await received(layer, second) == {"type": "hello"}
    assert await nothing_more(layer, third)


async def test_a_channel_added_twice_gets_one_copy(layer: PipelinedRedisChannelLayer) -> None:
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_add("room", channel)
    await layer.group_send("room", {"type": "hello"})
    assert await received(layer, channel) == {"type": "hello"}
    assert await nothing_more(layer, channel)


async def test_a_discarded_channel_gets_nothing_and_the_others_still_do(
    layer: PipelinedRedisChannelLayer, redis: Redis
) -> None:
    first, second = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("room", first)
    await layer.group_add("room", second)
    await layer.group_discard("room", first)
    await layer.group_discard("room", first)
    await layer.group_discard("room", "nobody.knows")
    await layer.group_send("room", {"type": "hello"})
    assert await received(layer, second) == {"type": "hello"}
    assert await nothing_more(layer, first)
    await layer.group_discard("room", second)
    assert await nothing_more(layer, second)
    assert subscribers(redis, layer, "room") == 0


async def test_sending_to_an_empty_group_or_unknown_channel_is_no_error(
    layer: PipelinedRedisChannelLayer,
) -> None:
    await layer.group_send("nobody", {"type": "hello"})
    await layer.send("no.such.channel", {"type": "hello"})
    assert layer.loop_layer().lost == 0


async def test_groups_take_only_channels_of_this_process(layer: PipelinedRedisChannelLayer) -> None:
    with pytest.raises(RuntimeError, match="no channel of this process"):
        await layer.group_add("room", "foreign.channel")


async def test_bad_names_and_messages_are_refused(layer: PipelinedRedisChannelLayer) -> None:
    channel = await layer.new_channel()
    for name in ("with space", "ünicode", "x" * 100, ""):
        with pytest.raises(TypeError):
            await layer.group_add(name, channel)
        with pytest.raises(TypeError):
            await layer.group_send(name, {"type": "x"})
        with pytest.raises(TypeError):
            await layer.send(name, {"type": "x"})
    with pytest.raises(TypeError):
        await layer.group_send("room", "no dict")
    with pytest.raises(TypeError):
        await layer.send(channel, [1])


async def test_a_full_channel_refuses_direct_messages(
    make_layer: MakeLayer, redis_server: RedisServer
) -> None:
    layer = make_layer(redis_server.url, capacity=3)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    for number in range(3):
        await layer.group_send("room", {"type": "x", "number": number})
    with pytest.raises(ChannelFull):
        await layer.send(channel, {"type": "x"})
    assert [(await received(layer, channel))["number"] for _ in range(3)] == [0, 1, 2]
    assert await nothing_more(layer, channel)


async def test_overflow_drops_the_newest_and_is_told_once_until_the_queue_is_empty(
    make_layer: MakeLayer, redis_server: RedisServer
) -> None:
    layer = make_layer(redis_server.url, capacity=3)
    losses = Losses(layer.loop_layer())
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    for _ in range(2):
        for number in range(10):
            await layer.group_send("room", {"type": "x", "number": number})
        assert [(await received(layer, channel))["number"] for _ in range(3)] == [0, 1, 2]
    assert losses.reasons == ["overflow", "overflow"]
    assert layer.loop_layer().dropped == 14


async def test_a_queue_is_bounded_in_bytes_too(make_layer: MakeLayer, redis_server: RedisServer) -> None:
    layer = make_layer(redis_server.url, capacity_bytes=100_000)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    for _ in range(10):
        await layer.group_send("room", {"type": "x", "body": "x" * 40_000})
    assert layer.loop_layer().dropped == 7


async def test_capacity_may_depend_on_the_name(make_layer: MakeLayer, redis_server: RedisServer) -> None:
    layer = make_layer(redis_server.url, prefix="", channel_capacity={"small.*": 1})
    small, large = await layer.new_channel("small."), await layer.new_channel("large.")
    for channel in (small, large):
        await layer.send(channel, {"type": "x"})
    await layer.send(large, {"type": "x"})
    with pytest.raises(ChannelFull):
        await layer.send(small, {"type": "x"})


async def test_flush_forgets_all_and_leaves_it_usable(
    layer: PipelinedRedisChannelLayer, redis: Redis
) -> None:
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    losses = Losses(layer.loop_layer())
    await layer.flush()
    assert subscribers(redis, layer, "room") == 0
    again = await layer.new_channel()
    await layer.group_add("room", again)
    await layer.group_send("room", {"type": "hello"})
    assert await received(layer, again) == {"type": "hello"}
    assert losses.reasons == []


async def test_the_extensions_are_named_without_a_running_loop(layer: PipelinedRedisChannelLayer) -> None:
    assert await asyncio.to_thread(lambda: layer.extensions) == ["groups", "flush"]


# --- pipelined and confirmed ---------------------------------------------------------------------


async def test_group_add_returns_after_redis_has_the_subscription(
    layer: PipelinedRedisChannelLayer, redis: Redis
) -> None:
    channel = await layer.new_channel()
    for number in range(50):
        await layer.group_add(f"room.{number}", channel)
        assert subscribers(redis, layer, f"room.{number}") == 1


async def test_subscribes_of_one_turn_are_one_command(make_layer: MakeLayer, own_server: RedisServer) -> None:
    layer = make_layer(own_server.url)
    channel = await layer.new_channel()
    with Redis.from_url(own_server.url) as redis:
        redis.config_resetstat()
        await asyncio.gather(*(layer.group_add(f"room.{number}", channel) for number in range(200)))
        await layer.loop_layer().group_add_many((f"more.{number}" for number in range(200)), channel)
        assert redis.info("commandstats")["cmdstat_subscribe"]["calls"] == 2
        assert len(redis.pubsub_channels()) == 401
        await layer.loop_layer().group_discard_many((f"more.{number}" for number in range(200)), channel)
        assert await nothing_more(layer, channel)
        assert len(redis.pubsub_channels()) == 201


async def test_publishes_of_one_turn_leave_in_one_write(
    make_layer: MakeLayer, own_server: RedisServer
) -> None:
    layer = make_layer(own_server.url)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    publish = layer.loop_layer().publish_nowait
    with Redis.from_url(own_server.url) as redis:
        before = redis.info("stats")["total_reads_processed"]
        for number in range(100):
            assert publish("room", {"type": "x", "number": number})
        assert [(await received(layer, channel))["number"] for _ in range(100)] == list(range(100))
        # One read for the hundred, and this client's own question.
        assert redis.info("stats")["total_reads_processed"] - before <= 2


async def test_the_first_publish_waits_for_the_connection(
    layer: PipelinedRedisChannelLayer, redis: Redis
) -> None:
    loop_layer = layer.loop_layer()
    with redis.pubsub() as listening:  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        listening.subscribe(loop_layer._get_group_channel_name("room"))
        assert listening.get_message(timeout=5) is not None
        assert not is_available(loop_layer)
        assert loop_layer.publish_nowait("room", {"type": "early"})
        await layer.group_send("room", {"type": "late"})
        heard = [listening.get_message(timeout=5) for _ in range(2)]
    assert [layer.deserialize(message["data"]) for message in heard if message] == [
        {"type": "early"},
        {"type": "late"},
    ]
    assert is_available(loop_layer)


async def test_a_receiver_is_called_in_place_of_the_queue(layer: PipelinedRedisChannelLayer) -> None:
    channel, other = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.send(channel, {"type": "queued before"})
    heard: list[Message] = []
    layer.loop_layer().set_receiver(channel, heard.append)
    await layer.group_send("room", {"type": "hello"})
    assert await nothing_more(layer, other)
    assert heard == [{"type": "queued before"}, {"type": "hello"}]


async def test_what_is_published_elsewhere_reaches_all_but_its_sender(
    make_layer: MakeLayer, redis_server: RedisServer
) -> None:
    here, there = make_layer(redis_server.url), make_layer(redis_server.url)
    channels = [(layer, await layer.new_channel()) for layer in (here, there)]
    for layer, channel in channels:
        await layer.group_add("room", channel)
        await layer.group_add("other", channel)
    here.loop_layer().publish_elsewhere(["room", "other"], {"type": "hello"})
    # Answered on the same connection, so Redis has what went before it.
    await here.group_send("nobody", {"type": "hello"})
    await there.group_send("room", {"type": "answer"})
    for layer, channel in channels:
        messages = [await received(layer, channel)]
        while messages[-1]["type"] != "answer":
            messages.append(await received(layer, channel))
        assert [message["type"] for message in messages[:-1]] == ["hello"] * 2 * (layer is there)


async def test_a_failing_receiver_does_not_stop_the_stream(
    layer: PipelinedRedisChannelLayer, caplog: pytest.LogCaptureFixture
) -> None:
    channel, other = await layer.new_channel(), await layer.new_channel()
    heard = []

    def receiver(message: Message) -> None:
        heard.append(message["number"])
        raise ValueError("planted")

    layer.loop_layer().set_receiver(channel, receiver)
    for number in range(2):
        await layer.send(channel, {"type": "x", "number": number})
    assert await nothing_more(layer, other)
    assert heard == [0, 1]
    assert "a receiver failed" in caplog.text


async def test_an_unreadable_message_is_skipped(layer: PipelinedRedisChannelLayer, redis: Redis) -> None:
    channel = await layer.new_channel()
    redis.publish(channel, b"\xc1 not msgpack")
    await layer.send(channel, {"type": "readable"})
    assert await received(layer, channel) == {"type": "readable"}


async def test_a_cancelled_group_add_does_not_end_the_others(
    layer: PipelinedRedisChannelLayer, redis: Redis
) -> None:
    channel, other = await layer.new_channel(), await layer.new_channel()
    first = asyncio.create_task(layer.group_add("room", channel))
    second = asyncio.create_task(layer.group_add("room", other))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait_for(second, 10)
    assert subscribers(redis, layer, "room") == 1


async def test_quick_changes_of_mind_end_in_the_last_one(
    layer: PipelinedRedisChannelLayer, redis: Redis
) -> None:
    channel = await layer.new_channel()
    for _ in range(3):
        await layer.group_add("room", channel)
        await layer.group_discard("room", channel)
        await layer.group_add("room", channel)
        assert subscribers(redis, layer, "room") == 1
        adding = asyncio.create_task(layer.group_add("other", channel))
        await asyncio.sleep(0)
        await layer.group_discard("other", channel)
        await asyncio.wait_for(adding, 10)
        assert await nothing_more(layer, channel)
        assert subscribers(redis, layer, "other") == 0


async def test_a_cancelled_receive_leaves_nothing_behind(
    layer: PipelinedRedisChannelLayer, redis: Redis
) -> None:
    channel, other = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("room", channel)
    waiting = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert await nothing_more(layer, other)
    loop_layer = layer.loop_layer()
    assert list(loop_layer.channels) == [other]
    assert loop_layer.groups == {}
    assert subscribers(redis, layer, "room") == 0
    assert redis.pubsub_numsub(channel) == [(channel.encode(), 0)]


# --- when Redis goes away ------------------------------------------------------------------------

QUICK = {"ping_interval": 0.2, "ping_timeout": 0.2, "max_backoff": 0.2, "connect_timeout": 0.5}


async def test_a_killed_redis_is_told_and_all_is_subscribed_again_before_its_return_is(
    make_layer: MakeLayer, own_server: RedisServer
) -> None:
    layer = make_layer(own_server.url, **QUICK)
    loop_layer = layer.loop_layer()
    losses = Losses(loop_layer)
    channel = await layer.new_channel()
    await loop_layer.group_add_many((f"room.{number}" for number in range(1500)), channel)
    assert is_available(loop_layer)
    own_server.kill()
    await losses.until("disconnected")
    assert not is_available(loop_layer)

    started = time.monotonic()
    assert not loop_layer.publish_nowait("room.1", {"type": "x"})
    await layer.group_send("room.1", {"type": "x"})
    await layer.send(channel, {"type": "x"})
    await layer.group_add("joined.while.away", channel)
    assert time.monotonic() - started < 0.5
    assert loop_layer.lost >= 3

    own_server.start()
    await losses.until("reconnected")
    assert is_available(loop_layer)
    with Redis.from_url(own_server.url) as redis:
        assert len(redis.pubsub_channels()) == 1502
    await layer.group_send("joined.while.away", {"type": "hello"})
    assert await received(layer, channel) == {"type": "hello"}
    assert losses.reasons == ["disconnected", "reconnected"]


async def in_room(
    make_layer: MakeLayer, server: RedisServer
) -> tuple[PipelinedRedisChannelLayer, Losses, str]:
    """A layer, what it tells, and a channel of it in the group `room`."""
    layer = make_layer(server.url, **QUICK)
    losses = Losses(layer.loop_layer())
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    return layer, losses, channel


async def test_a_connection_that_ends_while_it_is_made_is_made_again(
    make_layer: MakeLayer, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvloop raises RuntimeError where it has noticed an end that it has not told of yet."""
    connect = AbstractConnection.connect
    attempts = 0

    async def ends_at_first(connection: AbstractConnection) -> None:
        nonlocal attempts
        attempts += 1
        await connect(connection)  # type: ignore[no-untyped-call]  # redis-py has no types there
        if attempts == 1:
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>")
        if attempts == 2:
            reader, writer = connection._reader, connection._writer
            assert reader is not None
            assert writer is not None
            writer.transport.abort()
            # Its end is told to redis-py's own protocol.
            while not reader.at_eof():
                await asyncio.sleep(0)

    monkeypatch.setattr(AbstractConnection, "connect", ends_at_first)
    layer, losses, channel = await in_room(make_layer, redis_server)
    await losses.until("reconnected")
    assert attempts == 3
    await layer.group_send("room", {"type": "hello"})
    assert await received(layer, channel) == {"type": "hello"}


async def test_a_transport_that_is_closed_already_is_a_lost_connection(
    make_layer: MakeLayer, redis_server: RedisServer
) -> None:
    layer, losses, channel = await in_room(make_layer, redis_server)
    (pipeline,) = layer.loop_layer()._shards
    transport = pipeline._transport
    assert transport is not None

    class Closed:
        """As uvloop's is, where it has noticed the end."""

        def __init__(self, real: asyncio.WriteTransport) -> None:
            self.set_protocol = real.set_protocol

        def write(self, data: bytes) -> None:
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>")

    pipeline._transport = Closed(transport)  # type: ignore[assignment]  # what the pipeline uses of one here
    await layer.group_send("room", {"type": "lost"})
    await losses.until("reconnected")
    await layer.group_send("room", {"type": "hello"})
    assert await received(layer, channel) == {"type": "hello"}


async def test_publishes_without_an_answer_are_counted(
    make_layer: MakeLayer, own_server: RedisServer
) -> None:
    layer = make_layer(own_server.url, **QUICK)
    loop_layer = layer.loop_layer()
    assert await loop_layer.connect()
    losses = Losses(loop_layer)
    own_server.pause()
    assert loop_layer.publish_nowait("room", {"type": "x"})
    sending = asyncio.create_task(layer.group_send("room", {"type": "x"}))
    await losses.until("disconnected")
    await asyncio.wait_for(sending, 1)
    assert loop_layer.lost == 2


async def test_a_silent_redis_is_found_and_found_again(
    make_layer: MakeLayer, own_server: RedisServer
) -> None:
    layer = make_layer(own_server.url, **QUICK)
    losses = Losses(layer.loop_layer())
    channel = await layer.new_channel()
    own_server.pause()
    await losses.until("disconnected")
    own_server.resume()
    await losses.until("reconnected")
    assert await nothing_more(layer, channel)


async def test_a_process_that_stood_still_does_not_blame_redis(
    make_layer: MakeLayer, own_server: RedisServer
) -> None:
    layer = make_layer(own_server.url, **QUICK)
    losses = Losses(layer.loop_layer())
    channel = await layer.new_channel()
    for _ in range(4):
        # The ping of a silent connection is under way, or about to be, when the process stops.
        await asyncio.sleep(0.25)
        time.sleep(0.6)  # noqa: ASYNC251 - standing still is what is tested
    assert await nothing_more(layer, channel)
    assert losses.reasons == []


async def test_a_cut_subscriber_comes_back(make_layer: MakeLayer, own_server: RedisServer) -> None:
    layer = make_layer(own_server.url, **QUICK)
    losses = Losses(layer.loop_layer())
    channel = await layer.new_channel()
    with Redis.from_url(own_server.url) as redis:
        redis.client_kill_filter(_type="pubsub")
    await losses.until("reconnected")
    assert await nothing_more(layer, channel)


async def test_what_waits_to_go_out_is_bounded(make_layer: MakeLayer, own_server: RedisServer) -> None:
    layer = make_layer(own_server.url, max_outgoing_bytes=1_000_000)
    loop_layer = layer.loop_layer()
    assert await loop_layer.connect()
    own_server.pause()
    taken = 0
    for _ in range(100):
        for _ in range(10):
            taken += loop_layer.publish_nowait("room", {"type": "x", "body": "x" * 100_000})
        await asyncio.sleep(0)
    # One bound in this turn's list, one in the transport, and what the kernels' buffers hold.
    assert taken * 100_000 < 20_000_000
    assert loop_layer.lost == 1000 - taken
    own_server.resume()
    refused = 0
    async with asyncio.timeout(10):
        while not loop_layer.publish_nowait("room", {"type": "x"}):
            refused += 1
            await asyncio.sleep(0.01)
    await layer.group_send("room", {"type": "x"})
    assert loop_layer.lost == 1000 - taken + refused


async def test_a_redis_that_was_never_there_is_told_and_hangs_nobody(
    make_layer: MakeLayer, own_server: RedisServer
) -> None:
    own_server.kill()
    layer = make_layer(own_server.url, **QUICK)
    losses = Losses(layer.loop_layer())
    async with asyncio.timeout(5):
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.group_send("room", {"type": "x"})
        assert not await layer.loop_layer().connect()
    assert losses.reasons == ["disconnected"]
    own_server.start()
    await losses.until("reconnected")
    await layer.group_send("room", {"type": "hello"})
    assert await received(layer, channel) == {"type": "hello"}


async def test_the_hooks_of_channels_redis_are_called(make_layer: MakeLayer, own_server: RedisServer) -> None:
    calls: list[str] = []
    returned = asyncio.Event()

    async def on_reconnect() -> None:
        calls.append("reconnect")
        returned.set()

    layer = make_layer(
        own_server.url, on_disconnect=lambda: calls.append("disconnect"), on_reconnect=on_reconnect, **QUICK
    )
    await layer.new_channel()
    own_server.kill()
    own_server.start()
    await asyncio.wait_for(returned.wait(), 10)
    assert calls == ["disconnect", "reconnect"]


async def test_a_listener_can_leave_and_a_failing_one_harms_nobody(
    make_layer: MakeLayer, own_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    layer = make_layer(own_server.url, **QUICK)
    loop_layer = layer.loop_layer()
    gone: list[Loss] = []
    loop_layer.on_loss(gone.append)()
    loop_layer.on_loss(lambda _reason: next(iter(())))
    losses = Losses(loop_layer)
    await layer.new_channel()
    own_server.kill()
    own_server.start()
    await losses.until("reconnected")
    assert gone == []
    assert "a loss listener failed" in caplog.text


# --- hosts ---------------------------------------------------------------------------------------


async def test_groups_are_spread_over_several_hosts_and_their_return_is_told_when_all_are_back(
    make_layer: MakeLayer, redis_server: RedisServer, own_server: RedisServer
) -> None:
    layer = make_layer(redis_server.url, own_server.url, **QUICK)
    loop_layer = layer.loop_layer()
    losses = Losses(loop_layer)
    channel = await layer.new_channel()
    groups = [f"room.{number}" for number in range(40)]
    await loop_layer.group_add_many(groups, channel)
    counts = []
    for server in (redis_server, own_server):
        with Redis.from_url(server.url) as redis:
            counts.append(len(redis.pubsub_channels(f"{loop_layer.prefix}*")))
    assert sum(counts) == 41
    assert min(counts) > 5
    for group in groups:
        assert loop_layer.publish_nowait(group, {"type": "x", "group": group})
    assert {(await received(layer, channel))["group"] for _ in groups} == set(groups)

    own_server.kill()
    await losses.until("disconnected")
    taken = [group for group in groups if loop_layer.publish_nowait(group, {"type": "x", "group": group})]
    assert 5 < len(taken) < 35
    assert {(await received(layer, channel))["group"] for _ in taken} == set(taken)
    own_server.start()
    await losses.until("reconnected")
    for group in groups:
        await layer.group_send(group, {"type": "x", "group": group})
    assert {(await received(layer, channel))["group"] for _ in groups} == set(groups)


async def test_a_unix_socket_a_password_and_a_dict_of_settings_work(
    make_layer: MakeLayer, redis_server: RedisServer
) -> None:
    password = redis_server._password
    hosts: list[Any] = [
        redis_server.socket_url,
        f"redis://default:{password}@127.0.0.1:{redis_server.port}/3",
        {"host": "127.0.0.1", "port": redis_server.port, "password": password},
        {
            "address": f"redis://127.0.0.1:{redis_server.port}",
            "password": password,
            "client_name": "chatbe-test",
        },
    ]
    for host in hosts:
        layer = make_layer(host)
        channel = await layer.new_channel()
        assert await nothing_more(layer, channel)
    refused = make_layer(f"redis://:wrong@127.0.0.1:{redis_server.port}", **QUICK)
    assert not await refused.loop_layer().connect()


async def test_encryption_and_other_serializers_are_channels_redis_own(
    make_layer: MakeLayer, redis_server: RedisServer
) -> None:
    for settings in ({"symmetric_encryption_keys": ["key one", "key two"]}, {"serializer_format": "json"}):
        layer = make_layer(redis_server.url, **settings)
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "secret"})
        assert await received(layer, channel) == {"type": "secret"}


async def test_tls_works(make_layer: MakeLayer, redis_server: RedisServer, tmp_path: Path) -> None:
    certificate, key = _certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", redis_server.port)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
            sink.close()

        await asyncio.gather(pump(reader, upstream_writer), pump(upstream_reader, writer))

    async with await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        layer = make_layer(f"rediss://:{redis_server._password}@127.0.0.1:{port}?ssl_ca_certs={certificate}")
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "x", "body": "x" * 200_000})
        assert len((await received(layer, channel))["body"]) == 200_000
        await layer.flush()


def _certificate(directory: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_path, key_path = directory / "cert.pem", directory / "key.pem"
    certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return certificate_path, key_path


async def connections_fall_to(count: int, redis: Redis) -> None:
    """Redis sees the end of a connection a moment after it: there is no event to wait for."""
    async with asyncio.timeout(10):
        while len(redis.client_list()) > count:
            await asyncio.sleep(0.01)


# --- several event loops -------------------------------------------------------------------------


async def test_a_thread_with_a_loop_of_its_own_sends_and_cleans_up(
    layer: PipelinedRedisChannelLayer, redis: Redis
) -> None:
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    connections = len(redis.client_list())

    def send() -> None:
        async_to_sync(layer.group_send)("room", {"type": "from a thread"})

    threads = [threading.Thread(target=send) for _ in range(5)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert await received(layer, channel) == {"type": "from a thread"}
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert list(layer._layers) == [asyncio.get_running_loop()]
    await connections_fall_to(connections, redis)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
async def test_one_layer_serves_one_loop_after_another(
    run: Callable[[Any], Any], make_layer: MakeLayer, redis_server: RedisServer, redis: Redis
) -> None:
    layer = make_layer(redis_server.url)
    connections = len(redis.client_list())

    async def use() -> None:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.group_send("room", {"type": "hello"})
        assert await received(layer, channel) == {"type": "hello"}

    for _ in range(3):
        await asyncio.to_thread(run, use())
    assert not layer._layers
    await connections_fall_to(connections, redis)
