"""A run: one round per fault. In each, everyone chats, harm is done and mended, and in the quiet after it
every client must have the database's state."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults import checker, report
from tests.faults.checker import Violation
from tests.faults.history import History, Round
from tests.faults.nemesis import FAULTS, Fault
from tests.faults.workload import Workload
from tests.faults.world import Size, World

SETTLE_PATIENCE = 40.0
"""Seconds in which everything that was sent must be answered once the harm is mended."""
CONVERGE_PATIENCE = 25.0
"""Seconds in which every client must then have the database's state."""


@dataclass(slots=True)
class Result:
    """What came of a run."""

    history: History
    violations: list[Violation]
    verdict: Path


async def run(
    faults: Sequence[str],
    *,
    seed: int,
    folder: Path,
    size: Size,
    seconds: float | None = None,
    say: Callable[[str], None],
) -> Result:
    """Run these faults in turn, or, for `seconds`, again and again in an order that the seed gives."""
    async with World(seed=seed, size=size, folder=folder) as world:
        say(f"{len(world.devices)} clients of {len(world.users)} people on {len(world.servers)} servers")
        workload = Workload(world)
        await workload.found_groups()
        violations: list[Violation] = []
        ends = None if seconds is None else time.monotonic() + seconds
        try:
            number = 0
            while number < len(faults) or (ends is not None and time.monotonic() < ends):
                if ends is not None and number and time.monotonic() >= ends:
                    break
                name = faults[number] if number < len(faults) else world.random.choice(faults)
                violations += await _round(world, workload, FAULTS[name], number)
                say(_line(world.history.rounds[-1]))
                number += 1
            violations += await _last_round(world, workload, number)
        finally:
            await workload.close()
        world.history.database = await world.read_database()
        violations += checker.check(world.history)
        verdict = report.write(folder, world.history, violations, world.describe())
        return Result(world.history, violations, verdict)


async def _round(world: World, workload: Workload, fault: Fault, number: int) -> list[Violation]:
    record = Round(fault.name, number, world.now())
    world.history.rounds.append(record)
    for device in world.devices:
        if device.asleep:
            device.wake()
    workload.start()
    await asyncio.sleep(0.7)
    # Some go away and miss what follows.
    sleepers = world.random.sample(world.devices, max(1, len(world.devices) // 6))
    for device in sleepers:
        await device.sleep()
    record.injected_at = world.now()
    record.notes = await fault.harm(world, workload)
    record.healed_at = world.now()
    # Some of them come back into the middle of it.
    for device in sleepers[::2]:
        device.wake()
    await asyncio.sleep(0.7)
    await workload.stop()
    if not await workload.settle(SETTLE_PATIENCE):
        record.notes["unanswered"] = sum(len(device.sends) for device in world.awake())
    found = await _converge(world, record)
    record.ended_at = world.now()
    return found


async def _last_round(world: World, workload: Workload, number: int) -> list[Violation]:
    """Everyone comes back, nobody writes: what is unanswered gets its answer."""
    now = world.now()
    record = Round("at the end", number, now, now, now)
    world.history.rounds.append(record)
    for device in world.devices:
        if device.asleep:
            device.wake()
    await workload.settle(SETTLE_PATIENCE)
    found = await _converge(world, record)
    record.ended_at = world.now()
    return found


async def _converge(world: World, record: Round) -> list[Violation]:
    """Wait until every client has the database's state, or until it is clear that it will not."""
    began = time.monotonic()
    while True:
        world.note_failures()
        behind = world.behind(await world.read_database(messages=False))
        waited = time.monotonic() - began
        if not behind:
            record.converged_after = round(world.now() - record.healed_at, 2)
            break
        if waited > CONVERGE_PATIENCE:
            record.notes["behind"] = behind
            break
        await asyncio.sleep(0.1)
    return checker.check_converged(
        await world.snapshots(), await world.read_database(), world.online(), at=world.now()
    )


def _line(record: Round) -> str:
    settled = (
        "did not settle"
        if record.converged_after is None
        else f"settled after {record.converged_after:.1f} s"
    )
    notes = ", ".join(f"{name} {value}" for name, value in record.notes.items())
    return f"{record.fault}: {settled}" + (f" ({notes})" if notes else "")
