"""The workloads with their servers and sizes."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from benchmarks.targets import Target
from benchmarks.workloads import fanout, growth, history, idle, messages, presence, resync, search

Figures = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How long and how much."""

    seconds: float = 6.0
    rounds: int = 3
    idle_first: int = 2000
    idle_last: int = 5000
    visits: int = 300
    returning: int = 1000
    crowds: tuple[int, ...] = (300, 3000)
    deliveries: int = 300_000
    upkeep_users: int = 10_000
    upkeep_seconds: float = 30.0
    history_messages: int = 1_000_000
    history_requests: int = 500
    search_messages: int = 10_000_000
    search_requests: int = 300
    growth: tuple[int, ...] = (10_000, 1_000_000, 10_000_000)
    growth_rounds: int = 3


QUICK = Sizes(
    seconds=2.0,
    rounds=1,
    idle_first=200,
    idle_last=600,
    visits=40,
    returning=100,
    crowds=(300,),
    deliveries=30_000,
    upkeep_users=1000,
    upkeep_seconds=5.0,
    history_messages=100_000,
    history_requests=100,
    search_messages=30_000,
    search_requests=50,
    growth=(10_000, 100_000),
    growth_rounds=1,
)

STEADY_RATE = 300.0
HEARTBEAT_INTERVAL = 25.0
"""Seconds; what `welcome` says by default."""


class Workload:
    """One question, asked to several servers in turn."""

    name: str
    title: str
    targets: tuple[str, ...]

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes

    @property
    def rounds(self) -> int:
        """How often every server is asked."""
        return self.sizes.rounds

    def prepare(self, target: Target) -> None:
        """Fill the database; called once per database."""

    def measure(self, target: Target) -> Coroutine[Any, Any, Figures]:
        """Drive the running server."""
        raise NotImplementedError


class Saturation(Workload):
    """See `benchmarks.workloads.messages`."""

    name = "saturation"
    title = "1-on-1 messages at saturation: 100 pairs, 4 in flight each, bodies of 100 bytes"
    targets = ("chatbe", "chatbe-uvicorn", "sketch", "sketch-uvicorn", "tutorial")
    rate = 0.0
    times = 1
    """How often the usual time it lasts."""

    def prepare(self, target: Target) -> None:
        """Make the people."""
        messages.prepare(target)

    def measure(self, target: Target) -> Coroutine[Any, Any, Figures]:
        """At full speed."""
        return messages.drive(target, seconds=self.times * self.sizes.seconds, rate=self.rate)


class Steady(Saturation):
    """The same at a rate that leaves every message alone."""

    name = "steady"
    title = "1-on-1 messages at 300 per second"
    rate = STEADY_RATE
    # The server works a quarter of the time: it takes longer until as much work has been measured.
    times = 4


class Memory(Workload):
    """See `benchmarks.workloads.idle`."""

    name = "memory"
    title = "memory of the app per further idle connection"
    targets = ("chatbe", "sketch", "tutorial")

    @property
    def rounds(self) -> int:
        """It hardly varies."""
        return 1

    def prepare(self, target: Target) -> None:
        """Make the people."""
        idle.prepare(target, count=self.sizes.idle_last)

    def measure(self, target: Target) -> Coroutine[Any, Any, Figures]:
        """Open some, then more."""
        return idle.memory(target, first=self.sizes.idle_first, last=self.sizes.idle_last)


class Visits(Workload):
    """See `benchmarks.workloads.presence`."""

    name = "visits"
    title = "connect and disconnect with 20 online contacts"
    targets = ("chatbe", "tutorial")

    def prepare(self, target: Target) -> None:
        """Make the people."""
        presence.prepare(target, count=self.sizes.visits)

    def measure(self, target: Target) -> Coroutine[Any, Any, Figures]:
        """Each visitor once."""
        return presence.come_and_go(target, count=self.sizes.visits)


class Resync(Workload):
    """See `benchmarks.workloads.resync`."""

    name = "resync"
    title = "clients that missed 100 messages each, in 5 conversations"
    targets = ("chatbe",)

    def prepare(self, target: Target) -> None:
        """Make people and messages."""
        self._conversations = resync.prepare(target, count=self.sizes.returning)

    def measure(self, target: Target) -> Coroutine[Any, Any, Figures]:
        """All of them sync."""
        return resync.catch_up(target, count=self.sizes.returning, conversations=self._conversations)


class Fanout(Workload):
    """See `benchmarks.workloads.fanout`."""

    name = "fanout"
    title = "one event to many sockets of one process, of one user and of a group's members"
    targets = ("chatbe", "chatbe-uvicorn", "bare")

    def prepare(self, target: Target) -> None:
        """Make the two people, and where there are groups, one of each size."""
        fanout.prepare(target)
        if target.family == "chatbe":
            self._groups = {
                sockets: fanout.prepare_group(target, members=sockets) for sockets in self.sizes.crowds
            }

    async def measure(self, target: Target) -> Figures:
        """One size after the other."""
        figures = {}
        for sockets in self.sizes.crowds:
            group = self._groups[sockets] if target.family == "chatbe" else ""
            events = max(self.sizes.deliveries // sockets, 10)
            figures.update(await fanout.crowds(target, sockets=sockets, events=events, group=group))
        return figures


class Upkeep(Workload):
    """See `benchmarks.workloads.idle`."""

    name = "upkeep"
    title = "idle users on one process, with heartbeats and leases"
    targets = ("chatbe",)

    @property
    def rounds(self) -> int:
        """It is long enough to be sure of."""
        return 1

    def prepare(self, target: Target) -> None:
        """Make the people."""
        idle.prepare(target, count=self.sizes.upkeep_users)

    def measure(self, target: Target) -> Coroutine[Any, Any, Figures]:
        """Look at them."""
        return idle.upkeep(
            target,
            count=self.sizes.upkeep_users,
            seconds=self.sizes.upkeep_seconds,
            interval=HEARTBEAT_INTERVAL,
        )


class History(Workload):
    """See `benchmarks.workloads.history`."""

    name = "history"
    title = "pages of 50 messages of a long conversation, over HTTP"
    targets = ("chatbe", "chatbe-uvicorn")

    def prepare(self, target: Target) -> None:
        """Make the conversation."""
        self._conversation = history.prepare(target, messages=self.sizes.history_messages)

    def measure(self, target: Target) -> Coroutine[Any, Any, Figures]:
        """Read it."""
        return history.pages(
            target,
            conversation=self._conversation,
            messages=self.sizes.history_messages,
            requests=self.sizes.history_requests,
        )


class Search(Workload):
    """See `benchmarks.workloads.search`."""

    name = "search"
    title = "pages of 50 found by full text, over HTTP"
    targets = ("chatbe",)

    @property
    def rounds(self) -> int:
        """Filling takes the time."""
        return 1

    def prepare(self, target: Target) -> None:
        """Make the conversations and the index."""
        self._where = search.prepare(target, messages=self.sizes.search_messages)

    def measure(self, target: Target) -> Coroutine[Any, Any, Figures]:
        """Search them."""
        return search.pages(
            target,
            where=self._where,
            messages=self.sizes.search_messages,
            requests=self.sizes.search_requests,
        )


class Growth(Workload):
    """See `benchmarks.workloads.growth`; the database grows between the stages, on a running server."""

    name = "growth"
    title = "cost of a message and of a sync as the database grows"
    targets = ("chatbe",)

    @property
    def rounds(self) -> int:
        """The database grows once; each stage has rounds of its own."""
        return 1

    def prepare(self, target: Target) -> None:
        """Make those who sync."""
        self._returning = resync.prepare(target, count=self._count)

    @property
    def _count(self) -> int:
        return min(self.sizes.returning, 200)

    async def measure(self, target: Target) -> Figures:
        """Grow and measure, stage after stage."""
        stages: Figures = {}
        conversations = 0
        for total in self.sizes.growth:
            conversations = growth.grow(target, start=conversations, total=total)
            who = growth.active(conversations)
            stages[f"{total}_messages"] = {
                "disk_bytes_per_message": round(target.table_bytes("messaging_message") / total),
                "rounds": [
                    {
                        "send": await messages.drive(target, seconds=self.sizes.seconds, who=who),
                        "sync": await resync.catch_up(
                            target, count=self._count, conversations=self._returning
                        ),
                    }
                    for _ in range(self.sizes.growth_rounds)
                ],
            }
        return stages


WORKLOADS: tuple[type[Workload], ...] = (
    Saturation, Steady, Memory, Visits, Resync, Fanout, Upkeep, History, Search, Growth,
)  # fmt: skip
