"""Pairs of people who write to each other's screen: at saturation, and at a steady rate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.errors import TargetError
from benchmarks.load import Client, Tally, close_all, open_clients, until
from benchmarks.measure import percentiles
from benchmarks.targets import Target

PAIRS = 100
WINDOW = 4
BODY = b"x" * 100
WARM_UP = 2.0


Pairs = Sequence[tuple[str, str]]


def names() -> Pairs:
    """Who writes to whom; the sketch's conversations are made for the same names."""
    return [(f"aa{number}", f"bb{number}") for number in range(PAIRS)]


def prepare(target: Target) -> None:
    """Make the people: mutual contacts, who have never written to each other."""
    target.people(names())


async def drive(
    target: Target, *, seconds: float, rate: float = 0.0, who: Pairs | None = None
) -> dict[str, Any]:
    """Keep `WINDOW` messages in flight per pair, or send `rate` per second in all.

    Every message must be delivered once and acked once, else this raises.
    """
    who = who or names()
    tally = Tally()
    receivers = await open_clients(
        target.urls([other for _, other in who]), lambda: Client(target.dialect, tally)
    )
    senders = await open_clients(target.urls([one for one, _ in who]), lambda: Client(target.dialect, tally))
    for sender, (_, peer) in zip(senders, who, strict=True):
        sender.peer = peer
    # A first message opens its conversation: that is done once, and is not what is measured.
    for sender in senders:
        sender.send_message(BODY)
    await until(
        lambda: not tally.sent and tally.acked >= tally.started, what=f"the first messages of {target.name}"
    )
    stopping = False

    async def steadily() -> None:
        start = time.perf_counter()
        number = 0
        while not stopping:
            senders[number % len(senders)].send_message(BODY)
            number += 1
            await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))

    generator = None
    if rate:
        generator = asyncio.create_task(steadily())
    else:
        for sender in senders:

            def again(sender: Client = sender) -> None:
                if not stopping:
                    sender.send_message(BODY)

            sender.on_ack = again
            for _ in range(WINDOW):
                sender.send_message(BODY)
    await asyncio.sleep(WARM_UP)
    tally.latencies.clear()
    written = target.stage.written_bytes()
    with target.measured() as meter:
        first = tally.delivered
        await asyncio.sleep(seconds)
        count = tally.delivered - first
    written = target.stage.written_bytes() - written
    latencies = percentiles(tally.latencies)
    stopping = True
    if generator is not None:
        await generator
    await until(
        lambda: not tally.sent and tally.acked >= tally.started, what=f"the last messages of {target.name}"
    )
    await close_all([*senders, *receivers])
    if tally.errors or tally.unexpected:
        raise TargetError(
            f"{target.name}: {len(tally.errors)} errors {tally.errors[:1]}, {tally.unexpected} unexpected"
        )
    return {
        "messages_per_second": round(count / meter.elapsed, 1),
        "messages": count,
        "cpu_us_per_message": meter.micros_per(count),
        "latency_ms": latencies,
        "server_core_share": round(sum(meter.seconds.values()) / meter.elapsed, 3),
        "load_core_share": round(meter.own / meter.elapsed, 3),
        "wal_bytes_per_message": round(written / max(count, 1)),
        "load_us_per_message": round(meter.own / max(count, 1) * 1e6, 1),
    }
