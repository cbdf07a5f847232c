"""What only a Redis can do to the registry: lose its memory, restart, hang, be one of several."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from redis import Redis
from redis.asyncio.connection import AbstractConnection

from presence.registry.base import Lease, PresenceUnavailable, Terms
from presence.registry.redis import Host, RedisReader, RedisRegistry, place_of
from tests.presence.worlds import TERMS, RedisWorld
from tests.support.servers import RedisServer

pytestmark = [pytest.mark.asyncio, pytest.mark.pure]

ALICE, BOB = "alice", "bob"
ON_ALICE = {"c1": Lease(ALICE, "s1")}
ON_BOB = {"c2": Lease(BOB, "s2")}


@pytest_asyncio.fixture
async def first(redis_world: RedisWorld) -> AsyncIterator[RedisRegistry]:
    registry = redis_world.registry()
    yield registry
    await registry.close()


@pytest_asyncio.fixture
async def second(redis_world: RedisWorld) -> AsyncIterator[RedisRegistry]:
    registry = redis_world.registry()
    yield registry
    await registry.close()


async def answers(registry: RedisRegistry) -> None:
    """Wait until the registry works again."""
    while True:
        try:
            await registry.read([ALICE, BOB])
        except PresenceUnavailable:
            await asyncio.sleep(0.02)
        else:
            return


async def test_an_emptied_redis_makes_nobody_offline(
    redis_world: RedisWorld, first: RedisRegistry, second: RedisRegistry
) -> None:
    await first.refresh(ON_ALICE)
    await second.refresh(ON_BOB)
    cursor = (await first.changed_since(None)).cursor
    before = await first.read([ALICE, BOB])

    redis_world.lose_memory()

    # Nothing can be said of anybody; the log is of no use.
    assert await first.read([ALICE, BOB, "carol"]) == {}
    assert not (await first.changed_since(cursor)).complete
    assert await first.refresh(ON_ALICE) == {"c1"}
    assert await first.sweep(10) == 0
    statuses = await first.read([ALICE, BOB])
    assert statuses[ALICE].online
    assert statuses[ALICE].version > before[ALICE].version
    assert BOB not in statuses

    # The other process comes to it later, but within the lease.
    redis_world.age(TERMS.lease / 2)
    assert await second.refresh(ON_BOB) == {"c2"}
    assert set(await first.read([ALICE, BOB])) == {ALICE, BOB}
    redis_world.age(TERMS.lease / 2 + 1)
    statuses = await first.read([ALICE, BOB, "carol"])
    assert statuses[BOB].online
    assert not statuses["carol"].online


async def test_after_an_emptied_redis_who_does_not_come_back_is_offline_a_lease_later(
    redis_world: RedisWorld, first: RedisRegistry, second: RedisRegistry
) -> None:
    await first.refresh(ON_ALICE)
    await second.refresh(ON_BOB)
    await first.changed_since(None)
    redis_world.lose_memory()
    assert BOB not in await first.read([BOB])
    redis_world.age(TERMS.lease + 1)
    assert (await first.read([BOB]))[BOB] == (False, 0, None)


async def test_a_new_redis_needs_no_waiting(redis_world: RedisWorld, first: RedisRegistry) -> None:
    assert not (await first.read([ALICE]))[ALICE].online
    await first.connect(ALICE, "c1", "s1")
    await first.disconnect(ALICE, "c1")
    redis_world.age(TERMS.grace + 1)
    assert await first.sweep(10) == 1


async def test_a_redis_restarted_from_its_disk_takes_no_lease_before_all_could_refresh(
    redis_world: RedisWorld, first: RedisRegistry
) -> None:
    await first.connect(ALICE, "c1", "s1")
    await first.connect(BOB, "c2", "s2")
    assert await first.sweep(10) == 0
    cursor = (await first.changed_since(None)).cursor
    # Down for longer than a lease; then it has the old leases, and a new run id.
    redis_world.age(TERMS.lease + 1)
    for client in redis_world.clients:
        client.hset(f"{redis_world.prefix}:presence:meta", "run", "another")
    assert await first.sweep(10) == 0
    assert (await first.read([ALICE]))[ALICE].online
    assert not (await first.changed_since(cursor)).complete
    assert await first.refresh(ON_ALICE) == set()
    redis_world.age(TERMS.lease - 1)
    await first.refresh(ON_ALICE)
    redis_world.age(2)
    assert await first.sweep(10) == 1
    statuses = await first.read([ALICE, BOB])
    assert (statuses[ALICE].online, statuses[BOB].online) == (True, False)


async def test_a_redis_killed_and_started_from_its_disk_ends_in_the_truth() -> None:
    with RedisServer(persistent=True) as server:
        world = RedisWorld([server.url])
        registry = world.registry()
        await registry.connect(ALICE, "c1", "s1")
        await registry.connect(BOB, "c2", "s2")
        await registry.sweep(10)
        server.kill()
        server.start()
        world.age(TERMS.lease + 1)
        assert await registry.sweep(10) == 0
        assert await registry.refresh(ON_ALICE) == set()
        world.age(TERMS.lease + 1)
        await registry.refresh(ON_ALICE)
        assert await registry.sweep(10) == 1
        statuses = await registry.read([ALICE, BOB])
        assert (statuses[ALICE].online, statuses[BOB].online) == (True, False)
        await registry.close()
        world.close()


async def test_a_restarted_redis_is_used_again(own_server: RedisServer) -> None:
    registry = RedisRegistry([own_server.url], TERMS, prefix="test")
    await registry.connect(ALICE, "c1", "s1")
    own_server.kill()
    with pytest.raises(PresenceUnavailable):
        await registry.refresh(ON_ALICE)
    # It has just failed, so it is not asked again at once.
    started = time.monotonic()
    with pytest.raises(PresenceUnavailable):
        await registry.read([ALICE])
    assert time.monotonic() - started < 0.1
    own_server.start()
    await answers(registry)
    assert await registry.refresh(ON_ALICE) == {"c1"}
    # A restart between two calls is not even noticed.
    own_server.kill()
    own_server.start()
    assert await registry.refresh(ON_ALICE) == {"c1"}
    await registry.close()


async def test_a_host_that_became_a_replica_is_left_for_the_one_that_took_over(
    own_server: RedisServer,
) -> None:
    """A failover behind one name: connections to the old host stay, and it only reads."""
    successor = RedisServer()
    successor._password = successor._settings["requirepass"] = own_server._password
    with successor:
        name = Name(own_server.port)
        async with await asyncio.start_server(name.lead, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            url = own_server.url.replace(f":{own_server.port}/", f":{port}/")
            registry = RedisRegistry([url], TERMS, prefix="test")
            await registry.connect(ALICE, "c1", "s1")
            with Redis.from_url(own_server.url) as old:
                old.replicaof("127.0.0.1", successor.port)
            name.port = successor.port
            with pytest.raises(PresenceUnavailable):
                await registry.refresh(ON_ALICE)
            assert await registry.refresh(ON_ALICE) == {"c1"}
            await registry.close()
            await name.left()


class Name:
    """Leads each new connection to the host that has the name now."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._ways: list[asyncio.Task[None]] = []

    async def lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host_reader, host_writer = await asyncio.open_connection("127.0.0.1", self.port)
        for source, target in ((reader, host_writer), (host_reader, writer)):
            self._ways.append(asyncio.create_task(_carry(source, target)))

    async def left(self) -> None:
        """Return once all connections have ended."""
        await asyncio.gather(*self._ways)


async def _carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(65536):
            target.write(data)
    target.close()
    with contextlib.suppress(ConnectionError):
        await target.wait_closed()


async def test_a_transport_that_is_closed_already_is_a_lost_connection(first: RedisRegistry) -> None:
    await first.connect(ALICE, "c1", "s1")
    host = first._host(ALICE)
    assert host._transport is not None

    class Closed:
        """As uvloop's is, where it has noticed the end."""

        def __init__(self, transport: asyncio.WriteTransport) -> None:
            self.set_protocol, self.abort = transport.set_protocol, transport.abort

        def write(self, data: bytes) -> None:
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>")

    host._transport = Closed(host._transport)  # type: ignore[assignment]  # what `Host` uses of one
    statuses = await asyncio.wait_for(first.read([ALICE]), 5)
    assert statuses[ALICE].online


async def test_a_connection_that_ends_while_it_is_made_is_made_again(
    first: RedisRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvloop raises RuntimeError where it has noticed an end that it has not told of yet."""
    connect = AbstractConnection.connect

    async def ends(connection: AbstractConnection) -> None:
        await connect(connection)  # type: ignore[no-untyped-call]  # redis-py has no types there
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>")

    with monkeypatch.context() as patch:
        patch.setattr(AbstractConnection, "connect", ends)
        with pytest.raises(PresenceUnavailable):
            await asyncio.wait_for(first.connect(ALICE, "c1", "s1"), 5)
    while True:
        try:
            await first.connect(ALICE, "c1", "s1")
        except PresenceUnavailable:
            await asyncio.sleep(0.02)
        else:
            break
    assert (await first.read([ALICE]))[ALICE].online


async def test_a_redis_that_hangs_is_unavailable_within_the_timeout_for_all_who_wait(
    own_server: RedisServer,
) -> None:
    registry = RedisRegistry([own_server.url], TERMS, prefix="test", timeout=0.3)
    await registry.connect(ALICE, "c1", "s1")
    own_server.pause()
    started = time.monotonic()
    waiting = [registry.connect(f"user{number}", f"c{number}", "s") for number in range(1000)]
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, PresenceUnavailable) for result in results)
    assert time.monotonic() - started < 2.0
    own_server.resume()
    await answers(registry)
    assert (await registry.read([ALICE]))[ALICE].online
    await registry.close()


async def test_scripts_that_redis_forgot_are_loaded_again_in_the_order_of_the_calls(
    redis_world: RedisWorld, first: RedisRegistry
) -> None:
    await first.connect(ALICE, "c1", "s1")
    for client in redis_world.clients:
        client.script_flush()
    await asyncio.gather(
        first.connect(ALICE, "c2", "s2"), first.disconnect(ALICE, "c2"), first.logout(ALICE, "s1")
    )
    redis_world.age(TERMS.grace + 1)
    assert await first.sweep(10) == 1
    assert not (await first.read([ALICE]))[ALICE].online


async def test_a_cancelled_caller_harms_no_other(first: RedisRegistry) -> None:
    waiting = [
        asyncio.ensure_future(first.connect(f"user{number}", f"c{number}", "s")) for number in range(20)
    ]
    await asyncio.sleep(0)
    for task in waiting[::2]:
        task.cancel()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert results[1::2] == [True] * 10
    statuses = await first.read([f"user{number}" for number in range(20)])
    assert all(status.online for status in statuses.values())


def count_writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From now on the number of calls in each write."""
    calls: list[int] = []
    write = Host._write

    def counted(host: Host, transport: asyncio.WriteTransport, **options: Any) -> None:
        calls.append(len(host._batch))
        write(host, transport, **options)

    monkeypatch.setattr(Host, "_write", counted)
    return calls


async def test_a_refresh_of_any_number_of_leases_is_one_call_per_host(
    redis_world: RedisWorld, first: RedisRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases = {f"c{number}": Lease(f"user{number}", "s") for number in range(3000)}
    assert await first.refresh(leases) == set(leases)
    calls = count_writes(monkeypatch)
    missing, _ = await asyncio.gather(
        first.refresh(leases), first.changed_since((await first.changed_since(None)).cursor)
    )
    assert missing == set()
    # One for the argument above, and one each for everything else together.
    assert len(calls) == 2 * len(redis_world.clients)


async def test_a_crowd_that_arrives_at_once_goes_in_few_writes(
    first: RedisRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count_writes(monkeypatch)
    made_online = await asyncio.gather(
        *(first.connect(f"user{number}", f"c{number}", "s") for number in range(2000))
    )
    assert all(made_online)
    assert len(calls) < 30


async def test_one_of_two_hosts_is_enough_for_its_users(
    own_server: RedisServer, redis_server: RedisServer
) -> None:
    names = [f"user{number}" for number in range(20)]
    here = [name for name in names if place_of(name, 2) == 0]
    registry = RedisRegistry([redis_server.url, own_server.url], TERMS, prefix="one-of-two")
    await asyncio.gather(*(registry.connect(name, f"c-{name}", "s") for name in names))
    cursor = (await registry.changed_since(None)).cursor
    own_server.kill()
    assert set(await registry.read(names)) == set(here)
    assert await registry.sweep(10) == 0
    after = await registry.changed_since(cursor)
    assert (after.changes, after.cursor, after.complete) == ([], cursor, True)
    with pytest.raises(PresenceUnavailable):
        await registry.refresh({f"c-{name}": Lease(name, "s") for name in names})
    with pytest.raises(PresenceUnavailable):
        await registry.connect(next(name for name in names if name not in here), "c", "s")
    await registry.close()


async def test_the_log_is_kept_for_the_retention(redis_server: RedisServer) -> None:
    terms = Terms(lease=0.02, grace=0.02, claim=0.02, retention=0.02)
    registry = RedisRegistry([redis_server.url], terms, prefix="short-memory")
    cursor = (await registry.changed_since(None)).cursor
    await registry.connect(ALICE, "c1", "s1")
    await registry.logout(ALICE, "s1")
    while (await registry.changed_since(cursor)).complete:
        await registry.sweep(10)
    await registry.close()


@pytest.mark.parametrize("name", ["", "a b", "a\tb"])
async def test_names_that_would_be_misread_are_refused(first: RedisRegistry, name: str) -> None:
    with pytest.raises(ValueError, match="white space"):
        await first.connect(name, "c1", "s1")
    with pytest.raises(ValueError, match="white space"):
        await first.connect(ALICE, "c1", name)


async def test_the_reader_reads_the_same_from_threads(redis_world: RedisWorld, first: RedisRegistry) -> None:
    names = [ALICE, BOB, "carol"]
    await first.refresh(ON_ALICE)
    await first.refresh(ON_BOB)
    await first.logout(BOB, "s2")
    reader = RedisReader(redis_world.urls, TERMS, prefix=redis_world.prefix)
    read = await asyncio.gather(*(asyncio.to_thread(reader.read, names) for _ in range(4)))
    assert read == [await first.read(names)] * 4
    redis_world.lose_memory()
    assert await asyncio.to_thread(reader.read, names) == {}
    reader.close()


async def test_the_reader_says_nothing_of_a_host_that_does_not_answer(own_server: RedisServer) -> None:
    reader = RedisReader([own_server.url], TERMS, prefix="test", timeout=0.3)
    assert set(reader.read([ALICE])) == {ALICE}
    own_server.pause()
    assert reader.read([ALICE]) == {}
    own_server.resume()
    reader.close()
