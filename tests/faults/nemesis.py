"""The faults. Each does its harm for a few seconds and mends it; then everyone must find the way back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import psutil
import redis

from tests.faults.proxy import Link, Way
from tests.faults.workload import Workload
from tests.faults.world import Device, Server, World

Harm = Callable[[World, Workload], Awaitable[dict[str, Any]]]
"""Does harm and mends it; returns notes for the report."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of harm."""

    name: str
    harm: Harm
    what: str


FAULTS: dict[str, Fault] = {}


def fault(name: str) -> Callable[[Harm], Harm]:
    """Register a fault under a name; its docstring says what it does."""

    def register(harm: Harm) -> Harm:
        FAULTS[name] = Fault(name, harm, (harm.__doc__ or "").strip().splitlines()[0])
        return harm

    return register


def _some(world: World, things: list[Any], share: float) -> list[Any]:
    return world.random.sample(things, max(1, round(len(things) * share)))


def _links(devices: list[Device]) -> list[Link]:
    return [link for device in devices for link in device.links]


async def _pause(thing: Any, seconds: float) -> None:
    await asyncio.to_thread(thing.pause)
    try:
        await asyncio.sleep(seconds)
    finally:
        await asyncio.to_thread(thing.resume)


@fault("calm")
async def calm(world: World, workload: Workload) -> dict[str, Any]:
    """Nothing at all: the measure of the rest."""
    await asyncio.sleep(1.5)
    return {}


@fault("kill-server")
async def kill_server(world: World, workload: Workload) -> dict[str, Any]:
    """kill -9 a server with its workers, and start it again."""
    server = world.random.choice(world.servers)
    await asyncio.to_thread(server.app.kill)
    await asyncio.sleep(world.random.uniform(0.5, 2.5))
    await asyncio.to_thread(server.app.start)
    return {"server": world.servers.index(server)}


@fault("kill-worker")
async def kill_worker(world: World, workload: Workload) -> dict[str, Any]:
    """kill -9 one worker; its supervisor starts another. Needs --workers."""
    server = world.random.choice(world.servers)
    family = server.app.family()
    if len(family) < 3:
        return {"left out": "there are no workers"}
    world.random.choice(family[1:]).kill()
    await asyncio.sleep(2.5)
    return {"server": world.servers.index(server), "processes": len(server.app.family())}


@fault("rolling-restart")
async def rolling_restart(world: World, workload: Workload) -> dict[str, Any]:
    """SIGTERM all servers, one after another; each drains and comes back before the next goes."""
    codes = []
    for server in world.servers:
        codes.append(await asyncio.to_thread(server.app.terminate))
        await asyncio.to_thread(server.app.start)
    return {"exit codes": codes}


@fault("kill-redis")
async def kill_redis(world: World, workload: Workload) -> dict[str, Any]:
    """kill -9 Redis; it comes back empty."""
    await asyncio.to_thread(world.redis.kill)
    await asyncio.sleep(world.random.uniform(0.3, 2.5))
    await asyncio.to_thread(world.redis.start)
    return {}


@fault("flush-redis")
async def flush_redis(world: World, workload: Workload) -> dict[str, Any]:
    """Redis is emptied while everyone stays connected to it."""
    await _redis(world, "FLUSHALL")
    await asyncio.sleep(1.0)
    return {}


@fault("restart-postgres")
async def restart_postgres(world: World, workload: Workload) -> dict[str, Any]:
    """PostgreSQL is restarted in order (fast shutdown)."""
    await asyncio.to_thread(world.postgres.stop)
    await asyncio.sleep(world.random.uniform(0.1, 1.5))
    await asyncio.to_thread(world.postgres.start)
    return {}


@fault("kill-postgres")
async def kill_postgres(world: World, workload: Workload) -> dict[str, Any]:
    """kill -9 PostgreSQL; it recovers from its log."""
    await asyncio.to_thread(world.postgres.kill)
    await asyncio.sleep(world.random.uniform(0.1, 1.5))
    await asyncio.to_thread(world.postgres.start)
    return {}


@fault("pause-server")
async def pause_server(world: World, workload: Workload) -> dict[str, Any]:
    """SIGSTOP a server for longer than a lease, or shorter."""
    server = world.random.choice(world.servers)
    seconds = world.random.choice((1.5, 7.0))
    await _pause(server.app, seconds)
    return {"seconds": seconds}


@fault("pause-redis")
async def pause_redis(world: World, workload: Workload) -> dict[str, Any]:
    """SIGSTOP Redis for a few seconds."""
    seconds = world.random.uniform(1.0, 6.0)
    await _pause(world.redis, seconds)
    return {"seconds": round(seconds, 1)}


@fault("pause-postgres")
async def pause_postgres(world: World, workload: Workload) -> dict[str, Any]:
    """SIGSTOP PostgreSQL for a few seconds."""
    seconds = world.random.uniform(1.0, 5.0)
    await _pause(world.postgres, seconds)
    return {"seconds": round(seconds, 1)}


@fault("cut-clients")
async def cut_clients(world: World, workload: Workload) -> dict[str, Any]:
    """Connections of clients are reset, again and again."""
    cuts = 0
    for _ in range(6):
        for link in _links(_some(world, world.devices, 0.4)):
            cuts += link.connections
            link.cut()
        await asyncio.sleep(world.random.uniform(0.1, 0.6))
    return {"cuts": cuts}


@fault("churn")
async def churn(world: World, workload: Workload) -> dict[str, Any]:
    """Clients come and go all the time, so that someone is always just beginning its stream."""
    cuts = 0
    for _ in range(60):
        for link in _links(_some(world, world.devices, 0.1)):
            cuts += link.connections
            link.cut()
        await asyncio.sleep(0.08)
    return {"cuts": cuts}


@fault("delay-clients")
async def delay_clients(world: World, workload: Workload) -> dict[str, Any]:
    """Every piece of data of half the clients takes up to 0.8 s longer; then some are cut."""
    links = _links(_some(world, world.devices, 0.5))
    for link in links:
        link.delay = world.random.uniform(0.05, 0.8)
    await asyncio.sleep(3.0)
    for link in _some(world, links, 0.3):
        link.cut()
    for link in links:
        link.heal()
    return {}


@fault("half-open")
async def half_open(world: World, workload: Workload) -> dict[str, Any]:
    """Clients' connections pass nothing one way, so that neither side hears of it, and are cut at last."""
    links = _links(_some(world, world.devices, 0.5))
    for link in links:
        link.freeze(world.random.choice(("there", "back")))
    await asyncio.sleep(world.random.choice((2.0, 8.0)))
    for link in links:
        if world.random.random() < 0.7:
            link.cut()
        link.heal()
    return {}


@fault("wave")
async def wave(world: World, workload: Workload) -> dict[str, Any]:
    """All clients are cut at the same moment and come back."""
    for link in _links(world.devices):
        link.cut()
    await asyncio.sleep(1.0)
    return {}


@fault("cut-redis")
async def cut_redis(world: World, workload: Workload) -> dict[str, Any]:
    """The links between servers and Redis are reset, one by one; one stays away for a while."""
    for _ in range(3):
        server = world.random.choice(world.servers)
        server.redis.cut()
        await asyncio.sleep(world.random.uniform(0.1, 0.5))
    server = world.random.choice(world.servers)
    server.redis.refusing = True
    server.redis.cut()
    await asyncio.sleep(world.random.uniform(1.0, 5.0))
    server.redis.heal()
    return {}


@fault("freeze-redis")
async def freeze_redis(world: World, workload: Workload) -> dict[str, Any]:
    """One server's link to Redis passes nothing one way, and goes on later."""
    return await _freeze(world, lambda server: server.redis)


@fault("cut-postgres")
async def cut_postgres(world: World, workload: Workload) -> dict[str, Any]:
    """Answers of PostgreSQL to one server are held back, then lost: commits are in doubt."""
    for _ in range(4):
        link = world.random.choice(world.servers).postgres
        link.freeze("back")
        await asyncio.sleep(world.random.uniform(0.05, 0.4))
        link.cut()
        link.heal()
        await asyncio.sleep(world.random.uniform(0.1, 0.5))
    return {}


@fault("freeze-postgres")
async def freeze_postgres(world: World, workload: Workload) -> dict[str, Any]:
    """One server's link to PostgreSQL passes nothing one way, and goes on later."""
    return await _freeze(world, lambda server: server.postgres)


async def _freeze(world: World, link_of: Callable[[Server], Link]) -> dict[str, Any]:
    link = link_of(world.random.choice(world.servers))
    way: Way = world.random.choice(("there", "back"))
    seconds = world.random.choice((1.0, 4.0, 8.0))
    link.freeze(way)
    await asyncio.sleep(seconds)
    link.thaw()
    return {"way": way, "seconds": seconds}


@fault("lost-publishes")
async def lost_publishes(world: World, workload: Workload) -> dict[str, Any]:
    """What one server publishes goes astray for a while, the last of it too; nobody hears that anything is missing."""
    link = world.random.choice(world.servers).redis
    # Of the same length, so that Redis reads on; nobody has subscribed to these names.
    astray = 0

    def misdirect(data: bytes) -> bytes:
        nonlocal astray
        if b"PUBLISH" not in data:
            return data
        astray += data.count(b"__group__")
        return data.replace(b"__group__", b"__astray_")

    link.alter = misdirect
    try:
        await asyncio.sleep(world.random.uniform(1.0, 2.5))
        await workload.stop()
        await workload.settle(10.0)
    finally:
        link.alter = None
    return {"lost": astray}


@fault("refused-publishes")
async def refused_publishes(world: World, workload: Workload) -> dict[str, Any]:
    """Redis refuses every PUBLISH for a while."""
    await _redis(world, "ACL", "SETUSER", "default", "-publish")
    try:
        await asyncio.sleep(world.random.uniform(1.0, 2.5))
        await workload.stop()
        await workload.settle(10.0)
    finally:
        await _redis(world, "ACL", "SETUSER", "default", "+publish")
    return {}


@fault("killed-subscribers")
async def killed_subscribers(world: World, workload: Workload) -> dict[str, Any]:
    """Redis throws out all subscribers, then all publishers, again and again."""
    for _ in range(4):
        for kind in ("pubsub", "normal"):
            await _redis(world, "CLIENT", "KILL", "TYPE", kind)
            await asyncio.sleep(world.random.uniform(0.05, 0.4))
    return {}


@fault("frozen-reader")
async def frozen_reader(world: World, workload: Workload) -> dict[str, Any]:
    """One client stops reading while it is flooded with megabytes; it is resynced when it goes on."""
    reader = world.random.choice(
        [device for device in world.devices if not device.asleep and device.complete]
    )
    writer = world.random.choice(
        [device for device in world.devices if device.user != reader.user and not device.asleep]
    )
    before = [_memory(server) for server in world.servers]
    reader.client.options.silence = 60.0
    for link in reader.links:
        link.freeze("back")
    began = world.now()
    batches = 40
    for _ in range(batches):
        sends = [workload.send(writer, reader.user, workload.body(4000)) for _ in range(50)]
        async with asyncio.timeout(20):
            while any(send.outcome == "pending" for send in sends):
                await asyncio.sleep(0.01)
    after = [_memory(server) for server in world.servers]
    for link in reader.links:
        link.thaw()
    await asyncio.sleep(1.0)
    reader.client.options.silence = None
    resyncs = sum(
        entry.at > began and entry.frame["type"] == "marks"
        for connection in world.history.connections
        if connection.client == reader.name and connection.closed_at is None
        for entry in connection.entries
    )
    return {
        "MB": batches * 50 * 4000 // 10**6,
        "servers grew by MiB": [b - a for a, b in zip(before, after, strict=True)],
        "resyncs": resyncs,
    }


@fault("flood")
async def flood(world: World, workload: Workload) -> dict[str, Any]:
    """One client floods a server that limits rates; it is told to wait, and delays nobody there."""
    server = await world.add_server(CHATBE_RATE_LIMITS="on")
    try:
        people = world.random.sample(world.users, 3)
        flooder, writer, reader = [
            await world.add_device(f"{user}/flood", user, servers=[server]) for user in people
        ]
        for device in (flooder, writer, reader):
            device.wake()
        async with asyncio.timeout(20):
            await asyncio.gather(*(device.client.wait_live() for device in (flooder, writer, reader)))
        floods = [workload.send(flooder, reader.user, workload.body(60)) for _ in range(900)]
        waits = []
        for _ in range(40):
            send = workload.send(writer, reader.user, workload.body(60))
            while send.outcome == "pending":
                await asyncio.sleep(0.005)
            waits.append((send.settled_at or 0.0) - send.at)
        async with asyncio.timeout(60):
            while any(send.outcome == "pending" for send in floods):
                await asyncio.sleep(0.05)
        refused = sum(
            entry.way == "in" and entry.frame["type"] == "error" and entry.frame["code"] == "rate_limited"
            for connection in world.history.connections
            if connection.client == flooder.name
            for entry in connection.entries
        )
        for device in (flooder, writer, reader):
            await device.client.close()
    finally:
        await asyncio.to_thread(server.app.terminate)
    return {"refused": refused, "others' acks, worst s": round(max(waits), 3)}


@fault("repeats")
async def repeats(world: World, workload: Workload) -> dict[str, Any]:
    """Most messages are sent several times: on the socket, later, and over HTTP on other servers."""
    before, workload.repeats = workload.repeats, 0.8
    await asyncio.sleep(3.0)
    workload.repeats = before
    return {}


FAMILIES = (
    ("kill-server", "pause-server", "rolling-restart"),
    ("kill-redis", "flush-redis", "pause-redis", "cut-redis", "killed-subscribers"),
    ("restart-postgres", "kill-postgres", "pause-postgres", "cut-postgres"),
    ("cut-clients", "delay-clients", "half-open", "wave"),
)
"""Of one family only one at a time: they would harm the same thing."""


@fault("together")
async def together(world: World, workload: Workload) -> dict[str, Any]:
    """Two or three faults at the same time."""
    names = [
        world.random.choice(family)
        for family in world.random.sample(FAMILIES, world.random.choice((2, 2, 3)))
    ]
    notes = await asyncio.gather(*(FAULTS[name].harm(world, workload) for name in names))
    return {"faults": " + ".join(names), **{key: value for note in notes for key, value in note.items()}}


async def _redis(world: World, *command: str) -> Any:
    def run() -> Any:
        with redis.Redis.from_url(world.redis.url, socket_timeout=5) as client:
            return client.execute_command(*command)

    return await asyncio.to_thread(run)


def _memory(server: Server) -> int:
    total = 0
    for process in server.app.family():
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total // 2**20
