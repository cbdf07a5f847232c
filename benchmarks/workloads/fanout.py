"""One event to many sockets of one process: of one user, and of a group's members."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

from benchmarks.errors import TargetError
from benchmarks.load import PATIENCE, Client, Tally, close_all, open_clients
from benchmarks.measure import percentiles
from benchmarks.targets import Target

BODY = b"x" * 100


def prepare(target: Target) -> None:
    """Two people; the one has many sockets, so that every message of the other has many receivers."""
    target.people([("fanout-sender", "fanout-crowd")])


def prepare_group(target: Target, *, members: int) -> str:
    """A group of a sender and so many others; its id."""
    others = group_members(members)
    target.people([], ["fanout-owner", *others])
    made: str = target.populate("group", owner="fanout-owner", members=others)["conversation"]
    return made


def group_members(count: int) -> list[str]:
    """The names of so many members of a group."""
    return [f"fanout-member{number}" for number in range(count)]


class Receiver(Client):
    """Counts messages, and nothing else, as cheaply as can be."""

    count = 0
    wake: asyncio.Event
    remaining: list[int]

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        """The last one to get it wakes the sender."""
        if frame.get_payload_as_memoryview()[: self.prefix_length] == self.prefix:
            self.count += 1
            self.remaining[0] -= 1
            if not self.remaining[0]:
                self.wake.set()
        else:
            super().on_ws_frame(transport, frame)

    prefix = b""
    prefix_length = 0


async def crowd(target: Target, *, sockets: int, events: int, group: str = "") -> dict[str, Any]:
    """CPU per delivery of `events` messages, one after another, to `sockets` sockets: of one user, or of as many
    members of a group."""
    tally = Tally()
    wake, remaining = asyncio.Event(), [0]

    def make() -> Receiver:
        client = Receiver(target.dialect, tally)
        client.prefix, client.prefix_length = target.dialect.message, len(target.dialect.message)
        client.wake, client.remaining = wake, remaining
        return client

    users = group_members(sockets) if group else ["fanout-crowd"] * sockets
    receivers: list[Client] = await open_clients(target.urls(users), make)
    writes = "fanout-owner" if group else "fanout-sender"
    (sender,) = await open_clients(target.urls([writes]), lambda: Client(target.dialect, tally))
    sender.peer = "fanout-crowd"
    durations: list[float] = []

    async def one() -> None:
        wake.clear()
        remaining[0] = sockets
        start = time.perf_counter()
        if group:
            sender.say(
                b'{"type":"send","ref":"r","to":{"conversation":"%b"},"client_id":"%b","body":"%b"}'
                % (group.encode(), str(uuid.uuid4()).encode(), BODY)
            )
        else:
            sender.send_message(BODY)
        await asyncio.wait_for(wake.wait(), PATIENCE)
        durations.append(time.perf_counter() - start)

    for _ in range(3):
        await one()
    durations.clear()
    with target.measured() as meter:
        for _ in range(events):
            await one()
    wrong = sum(isinstance(client, Receiver) and client.count != events + 3 for client in receivers)
    await close_all([*receivers, sender])
    if wrong or tally.errors:
        raise TargetError(
            f"{target.name}: {wrong} of {sockets} sockets did not get each event once; {tally.errors[:1]}"
        )
    return {
        "cpu_us_per_delivery": meter.micros_per(events * sockets),
        "sockets": sockets,
        "events": events,
        "until_all_have_it_ms": percentiles(durations),
    }
