"""Whatever happens to processes, bus and Redis: no socket hears a value twice, and in the end all know the truth."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from presence.services import PresenceService
from tests.presence.cluster import Cluster, Person, Process
from tests.presence.worlds import TERMS, RedisWorld, World

pytestmark = pytest.mark.pure

T = TypeVar("T")

PROCESSES = [0, 1]
PEOPLE = [0, 1, 2]
SESSIONS = ["laptop", "phone"]

processes = st.sampled_from(PROCESSES)
people = st.sampled_from(PEOPLE)


@dataclass
class Device:
    person: Person
    session: str
    process: Process
    connection: str


class PresenceMachine(RuleBasedStateMachine):
    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.world.clear()
        self.loop = asyncio.new_event_loop()
        self.names = itertools.count()
        self.cluster = Cluster(self.world)
        for _ in PROCESSES:
            self.cluster.process()
        self.people = [self.cluster.contacts.person(f"person{number}") for number in PEOPLE]
        self.cluster.contacts.befriend(*self.people[:2])
        self.devices: list[Device] = []

    def teardown(self) -> None:
        try:
            self.run(self.converge())
            self.everyone_knows_the_truth()
        finally:
            self.run(self.cluster.close())
            self.loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    async def does(self, process: Process, what: Callable[[PresenceService], None]) -> None:
        """Tell a service something, and wait until it has done what follows."""
        what(process.service)
        await process.idle()

    async def all_hear_of_changed_contacts(self, pair: tuple[Person, Person]) -> None:
        for process in self.cluster.processes:
            for person in pair:
                process.service.contacts_changed(person.key)
            await process.idle()

    # --- people ------------------------------------------------------------------------------------

    @rule(process=processes, person=people, session=st.sampled_from(SESSIONS))
    def connect(self, process: int, person: int, session: str) -> None:
        who = self.people[person]
        number = next(self.names)
        # A session that has ended stays so: each sign-in is a new one.
        device = Device(who, f"{session}-{number}", self.cluster.processes[process], f"c{number}")
        self.devices.append(device)
        self.run(device.process.connect(who, device.connection, device.session))

    @precondition(lambda self: self.devices)
    @rule(data=st.data())
    def disconnect(self, data: st.DataObject) -> None:
        device = self.devices.pop(data.draw(st.integers(0, len(self.devices) - 1)))
        self.run(self.does(device.process, lambda service: service.disconnected(device.connection)))

    @precondition(lambda self: self.devices)
    @rule(data=st.data())
    def log_out(self, data: st.DataObject) -> None:
        device = self.devices.pop(data.draw(st.integers(0, len(self.devices) - 1)))
        self.run(
            self.does(
                device.process,
                lambda service: service.logged_out(user=device.person.key, session=device.session),
            )
        )

    @rule(one=people, other=people, mutual=st.booleans())
    def change_contacts(self, one: int, other: int, *, mutual: bool) -> None:
        if one == other:
            return
        pair = (self.people[one], self.people[other])
        if mutual:
            self.cluster.contacts.befriend(*pair)
        else:
            self.cluster.contacts.part(*pair)
        self.run(self.all_hear_of_changed_contacts(pair))

    # --- processes ---------------------------------------------------------------------------------

    @rule(process=processes)
    def does_its_duties(self, process: int) -> None:
        self.run(self.cluster.processes[process].settle())

    @rule(process=processes)
    def tells(self, process: int) -> None:
        self.run(self.cluster.processes[process].service.tell())

    @rule(process=processes)
    def dies_between_taking_and_telling(self, process: int) -> None:
        self.run(self.cluster.processes[process].registry.take_changed(100))
        self.is_killed(process)

    @rule(process=processes)
    def is_killed(self, process: int) -> None:
        dead = self.cluster.processes[process]
        self.run(self.cluster.kill(dead))
        self.devices = [device for device in self.devices if device.process is not dead]
        self.cluster.process()

    @rule(process=processes, deaf=st.booleans())
    def is_cut_off_from_the_bus(self, process: int, *, deaf: bool) -> None:
        self.cluster.processes[process].deaf = deaf

    @rule(seconds=st.sampled_from([TERMS.grace + 1, TERMS.claim + 1, TERMS.lease + 1]))
    def time_passes(self, seconds: float) -> None:
        self.run(self.cluster.passes(seconds))

    @precondition(lambda self: isinstance(self.world, RedisWorld))
    @rule()
    def redis_is_emptied(self) -> None:
        assert isinstance(self.world, RedisWorld)
        self.world.lose_memory()

    # --- what holds --------------------------------------------------------------------------------

    @invariant()
    def nobody_hears_a_value_twice(self) -> None:
        for device in self.devices:
            device.process.known(device.connection)

    async def converge(self) -> None:
        """Nothing more happens; the bus stays as it is. A lease later all must be known."""
        await self.cluster.settle()
        await self.cluster.passes(TERMS.lease / 2)
        await self.cluster.settle()
        await self.cluster.passes(TERMS.lease / 2 + 1)
        await self.cluster.settle()
        for process in self.cluster.processes:
            await process.service.keep()

    def everyone_knows_the_truth(self) -> None:
        online = {device.person.key for device in self.devices}
        for device in self.devices:
            contacts = self.run(self.cluster.contacts.mutual_contacts(device.person.key))
            assert device.process.known(device.connection) == {
                contact.username: contact.key in online for contact in contacts
            }


def test_everyone_ends_in_the_truth(world: World) -> None:
    class Machine(PresenceMachine):
        pass

    Machine.world = world
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=60, stateful_step_count=30, deadline=None)
    )
