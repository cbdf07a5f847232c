"""People who come and go while all their contacts are there to be told."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

from benchmarks.errors import TargetError
from benchmarks.load import Client, Tally, bounded, close_all, open_client, open_clients, until
from benchmarks.targets import Target

CONTACTS = 20
AT_ONCE = 4
"""So many people are on their way in at a time."""


def watchers() -> list[str]:
    """The contacts of everyone who comes and goes."""
    return [f"pw{number}" for number in range(CONTACTS)]


def visitors(count: int) -> list[str]:
    """Those who come and go, each once per run."""
    return [f"pv{number}" for number in range(count)]


def prepare(target: Target, *, count: int) -> None:
    """Make the people; every visitor and every watcher are mutual contacts."""
    target.people([(visitor, watcher) for visitor in visitors(count) for watcher in watchers()])


async def come_and_go(target: Target, *, count: int) -> dict[str, Any]:
    """CPU per visit: sign-in, `friends`, `sync`, disconnect, and all that 20 online contacts are told of both.

    It is not over before every contact has heard of every coming and every going.
    """
    told, visits = Tally(), Tally()
    there = await open_clients(target.urls(watchers()), lambda: Client(target.dialect, told))
    urls = target.urls(visitors(count))
    await asyncio.sleep(1.0)
    told.presence = 0
    durations: list[float] = []

    async def visit(url: str) -> None:
        start = time.perf_counter()
        client = await open_client(url, Client(target.dialect, visits))
        durations.append(time.perf_counter() - start)
        client.close()

    expected = count * CONTACTS * 2
    with target.measured() as meter:
        await bounded([partial(visit, url) for url in urls], AT_ONCE)
        await until(lambda: told.presence >= expected, what=f"{expected} presence events of {target.name}")
    await asyncio.sleep(0.5)
    surplus = told.presence - expected
    await close_all(there)
    if surplus:
        raise TargetError(f"{target.name} told {surplus} changes too many")
    ordered = sorted(durations)
    return {
        "cpu_us_per_visit": meter.micros_per(count),
        "visits": count,
        "signing_in_ms": {
            "p50": round(ordered[count // 2] * 1e3, 2),
            "p99": round(ordered[count * 99 // 100] * 1e3, 2),
        },
        "seconds_until_all_told": round(meter.elapsed, 2),
    }
