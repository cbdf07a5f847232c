"""One event to many sockets of one process: of one user, and of a group's members."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

from benchmarks.errors import TargetError
from benchmarks.load import PATIENCE, Client, Tally, close_all, open_clients
from benchmarks.measure import Meter, added, percentiles
from benchmarks.targets import Target

BODY = b"x" * 100
TURNS = 10
"""Pieces in which the messages to one crowd are sent, between those to the other."""


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


class Crowd:
    """So many sockets, of one user or of as many members of a group, and who writes to them."""

    def __init__(self, target: Target, *, sockets: int, group: str = "") -> None:
        self.sockets = sockets
        self.durations: list[float] = []
        """From each message until all have it, in seconds."""
        self.events = 0
        self._target = target
        self._group = group.encode()
        self._tally = Tally()
        self._wake, self._remaining = asyncio.Event(), [0]
        self._receivers: list[Client] = []
        self._sender: Client

    async def gather(self) -> None:
        """Connect them all, and send some messages ahead of the measurement."""
        users = group_members(self.sockets) if self._group else ["fanout-crowd"] * self.sockets
        self._receivers = await open_clients(self._target.urls(users), self._receiver)
        writes = "fanout-owner" if self._group else "fanout-sender"
        (self._sender,) = await open_clients(
            self._target.urls([writes]), lambda: Client(self._target.dialect, self._tally)
        )
        self._sender.peer = "fanout-crowd"
        await self.tell(3)
        self.durations.clear()

    def _receiver(self) -> Receiver:
        dialect = self._target.dialect
        client = Receiver(dialect, self._tally)
        client.prefix, client.prefix_length = dialect.message, len(dialect.message)
        client.wake, client.remaining = self._wake, self._remaining
        return client

    async def tell(self, events: int) -> None:
        """So many messages, each once all have the one before."""
        for _ in range(events):
            self._wake.clear()
            self._remaining[0] = self.sockets
            start = time.perf_counter()
            if self._group:
                self._sender.say(
                    b'{"type":"send","ref":"r","to":{"conversation":"%b"},"client_id":"%b","body":"%b"}'
                    % (self._group, str(uuid.uuid4()).encode(), BODY)
                )
            else:
                self._sender.send_message(BODY)
            await asyncio.wait_for(self._wake.wait(), PATIENCE)
            self.durations.append(time.perf_counter() - start)
        self.events += events

    async def leave(self) -> None:
        """Disconnect. Raises `TargetError` unless each socket has had each message once."""
        wrong = sum(
            isinstance(client, Receiver) and client.count != self.events for client in self._receivers
        )
        await close_all([*self._receivers, self._sender])
        if wrong or self._tally.errors:
            raise TargetError(
                f"{self._target.name}: {wrong} of {self.sockets} sockets did not get each event once;"
                f" {self._tally.errors[:1]}"
            )


async def crowds(target: Target, *, sockets: int, events: int, group: str = "") -> dict[str, Any]:
    """CPU per delivery of `events` messages, one after another, to `sockets` sockets of one user (`to_…`), and if
    there is a `group`, to its members (`group_…`).

    The two take turns of a few messages, so that what disturbs the one disturbs the other.
    """
    both = {f"to_{sockets}": Crowd(target, sockets=sockets)}
    if group:
        both[f"group_{sockets}"] = Crowd(target, sockets=sockets, group=group)
    for one in both.values():
        await one.gather()
    turns = 1 if target.profile else min(TURNS, events)
    meters: dict[str, list[Meter]] = {name: [] for name in both}
    for turn in range(turns):
        share = events * (turn + 1) // turns - events * turn // turns
        for name, one in both.items():
            with target.measured() as meter:
                await one.tell(share)
            meters[name].append(meter)
    for one in both.values():
        await one.leave()
    return {
        name: {
            "cpu_us_per_delivery": added(meters[name]).micros_per(events * sockets),
            "sockets": sockets,
            "events": events,
            "until_all_have_it_ms": percentiles(one.durations),
        }
        for name, one in both.items()
    }
