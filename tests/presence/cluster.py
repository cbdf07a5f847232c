"""Several processes' presence services in one: a bus that can lose, sockets that remember, contacts at hand."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from chatbe.core import ids
from chatbe.core.errors import Unavailable
from chatbe.wire import frames
from presence.registry.base import Change, PresenceRegistry
from presence.services import PresenceService
from tests.presence.worlds import World


@dataclass(frozen=True)
class Person:
    id: UUID
    username: str
    last_seen_at: datetime | None = None

    @property
    def key(self) -> str:
        return str(self.id)


class Contacts:
    """`services.Directory` without a database."""

    def __init__(self) -> None:
        self.people: dict[str, Person] = {}
        self._pairs: set[frozenset[str]] = set()
        self.seen: dict[str, datetime] = {}
        self.stored = asyncio.Event()
        self.down = False

    def person(self, username: str, last_seen_at: datetime | None = None) -> Person:
        person = Person(ids.uuid7(), username, last_seen_at)
        self.people[person.key] = person
        return person

    def befriend(self, *people: Person) -> None:
        self._pairs |= {
            frozenset({one.key, other.key}) for one in people for other in people if one is not other
        }

    def part(self, one: Person, other: Person) -> None:
        self._pairs.discard(frozenset({one.key, other.key}))

    async def mutual_contacts(self, user: str) -> Sequence[Person]:
        if self.down:
            raise Unavailable
        await asyncio.sleep(0)
        return [self.people[other] for pair in self._pairs if user in pair for other in pair - {user}]

    async def store_last_seen(self, seen: Mapping[str, datetime]) -> None:
        if self.down:
            raise Unavailable
        await asyncio.sleep(0)
        self.seen.update(seen)
        self.stored.set()


class Process:
    """One server process: its service, and what each of its sockets was sent."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.deaf = False
        self.sent: dict[str, list[frames.Event]] = {}
        self.registry: PresenceRegistry = cluster.world.registry()
        self.service = PresenceService(
            registry=self.registry,
            bus=self,
            sockets=self,
            directory=cluster.contacts,
            refresh_every=cluster.refresh_every,
            sweep_every=cluster.sweep_every,
        )

    # `services.Bus`
    def publish(self, changes: Sequence[Change]) -> None:
        for process in self._cluster.processes:
            if not process.deaf:
                process.service.on_bus(changes)

    # `services.Sockets`
    def send(self, connections: Iterable[str], events: Sequence[frames.Event]) -> None:
        for connection in connections:
            self.sent.setdefault(connection, []).extend(events)
        self._cluster.told.set()

    async def connect(self, person: Person, connection: str, session: str = "") -> None:
        self.service.arriving(user=person.key, connection=connection)
        await self.service.connected(
            user=person.key, connection=connection, session=session or f"session-of-{person.username}"
        )

    def friends(self, connection: str) -> dict[str, bool]:
        """What the last `friends` frame said."""
        snapshot = next(
            event for event in reversed(self.sent[connection]) if isinstance(event, frames.Friends)
        )
        return {friend.username: friend.online for friend in snapshot.friends}

    def heard(self, connection: str) -> list[tuple[str, bool | None]]:
        """All `presence` frames so far."""
        return [
            (event.username, event.online)
            for event in self.sent[connection]
            if isinstance(event, frames.Presence)
        ]

    def known(self, connection: str) -> dict[str, bool]:
        """What a client that follows the contract holds to be true. Fails if a value was told twice in a row."""
        known: dict[str, bool] = {}
        assert isinstance(self.sent[connection][0], frames.Friends)
        for event in self.sent[connection]:
            if isinstance(event, frames.Friends):
                known = {friend.username: friend.online for friend in event.friends}
                assert event.total == len(known)
                assert event.online == sum(known.values())
            elif isinstance(event, frames.Presence):
                assert known.get(event.username) != event.online, f"{event.username} was told twice"
                if event.online is None:
                    del known[event.username]
                else:
                    known[event.username] = event.online
        return known

    async def idle(self) -> None:
        """Wait for what the service does in the background."""
        await asyncio.gather(*self.service._errands)

    async def settle(self) -> None:
        """Let this process do all of its duties once."""
        await self.idle()
        await self.service.keep()
        await self.service.tell()
        await self.service.store()


class Cluster:
    def __init__(self, world: World, *, refresh_every: float = 1000.0, sweep_every: float = 1000.0) -> None:
        self.world = world
        self.refresh_every = refresh_every
        self.sweep_every = sweep_every
        self.contacts = Contacts()
        self.processes: list[Process] = []
        self.told = asyncio.Event()

    def process(self) -> Process:
        process = Process(self)
        self.processes.append(process)
        return process

    async def kill(self, process: Process) -> None:
        """As kill -9: nothing more comes from it."""
        self.processes.remove(process)
        await self._finish(process)

    async def passes(self, seconds: float) -> None:
        """Time passes, after all that was begun is done."""
        for process in self.processes:
            await process.idle()
        self.world.age(seconds)

    async def settle(self) -> None:
        """Every process does its duties, twice: the second time for what the first one found."""
        for _ in range(2):
            for process in self.processes:
                await process.settle()

    async def until(self, condition: object) -> None:
        """Wait for something that some process will tell; `condition` is called after each frame."""
        assert callable(condition)
        while not condition():
            self.told.clear()
            await self.told.wait()

    async def close(self) -> None:
        for process in self.processes:
            await self._finish(process)

    async def _finish(self, process: Process) -> None:
        # Memory is shared by all processes of a world, and ends with it.
        if process.registry is not self.world.registry():
            await process.registry.close()
