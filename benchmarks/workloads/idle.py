"""People who are there and say nothing: what their sockets cost in memory and in CPU."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from benchmarks.errors import TargetError
from benchmarks.load import Client, Tally, close_all, open_clients
from benchmarks.measure import resident_kib
from benchmarks.targets import Target

HEARTBEAT = b'{"type":"heartbeat"}'
SETTLING = 5.0
"""Seconds after the last socket was opened until memory and CPU are read."""


def names(count: int) -> list[tuple[str, str]]:
    """Pairs of people who know each other; `count` is even."""
    return [(f"ia{number}", f"ib{number}") for number in range(count // 2)]


def prepare(target: Target, *, count: int) -> None:
    """Make the people: each has one mutual contact."""
    target.people(names(count))


def _everyone(count: int) -> list[str]:
    return [name for pair in names(count) for name in pair]


async def memory(target: Target, *, first: int, last: int) -> dict[str, Any]:
    """KiB of the app per further connection between `first` and `last` of them."""
    tally = Tally()
    everyone = _everyone(last)
    urls = target.urls(everyone)
    clients = await open_clients(urls[:first], lambda: Client(target.dialect, tally))
    await asyncio.sleep(SETTLING)
    before = resident_kib(target.pid)
    clients += await open_clients(urls[first:], lambda: Client(target.dialect, tally))
    await asyncio.sleep(SETTLING)
    after = resident_kib(target.pid)
    if tally.closed:
        raise TargetError(f"{target.name} closed {tally.closed} of {last} sockets")
    await close_all(clients)
    return {
        "kib_per_connection": round((after - before) / (last - first), 2),
        "mib_at_first": round(before / 1024, 1),
        "mib_at_last": round(after / 1024, 1),
    }


async def upkeep(target: Target, *, count: int, seconds: float, interval: float) -> dict[str, Any]:
    """The share of one core that `count` idle people take, each with a heartbeat every `interval` seconds.

    Leases, sweeps and whatever else the server does by itself are included.
    """
    tally = Tally()
    redis_before = target.stage.redis_bytes()
    clients = await open_clients(target.urls(_everyone(count)), lambda: Client(target.dialect, tally))
    stopping = False

    async def beat() -> None:
        """Evenly spread, as many clients' heartbeats are; ten milliseconds' worth at a time."""
        start, sent = time.perf_counter(), 0
        while not stopping:
            due = int((time.perf_counter() - start) * count / interval)
            for number in range(sent, due):
                clients[number % count].say(HEARTBEAT)
            sent = due
            await asyncio.sleep(0.01)

    beating = asyncio.create_task(beat())
    await asyncio.sleep(SETTLING)
    with target.measured() as meter:
        await asyncio.sleep(seconds)
    memory_kib = resident_kib(target.pid)
    redis_bytes = target.stage.redis_bytes() - redis_before
    stopping = True
    await beating
    if tally.closed:
        raise TargetError(f"{target.name} closed {tally.closed} of {count} sockets")
    await close_all(clients)
    share = {name: round(cpu / meter.elapsed * 100, 2) for name, cpu in meter.seconds.items()}
    return {
        "percent_of_a_core": {**share, "total": round(sum(share.values()), 2)},
        "connections": count,
        "heartbeats_per_second": round(count / interval, 1),
        "mib": round(memory_kib / 1024, 1),
        "redis_bytes_per_user": round(redis_bytes / count),
    }
