"""Any sequence of calls, by several processes, against a plain model of the contract."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from presence.registry.base import Change, Cursor, Lease, PresenceRegistry
from presence.registry.redis import place_of
from tests.presence.worlds import TERMS, MemoryWorld, RedisWorld, World
from tests.support.servers import RedisServer

T = TypeVar("T")

USERS = ["alice", "bob", "dave"]
PROCESSES = [0, 1]
SESSIONS = ["laptop", "phone"]
AGES = [TERMS.grace / 2, TERMS.grace + 1, TERMS.claim + 1, TERMS.lease / 2, TERMS.lease + 1]

users = st.sampled_from(USERS)
processes = st.sampled_from(PROCESSES)


@dataclass
class ModelLease:
    session: str
    expires: float


@dataclass
class ModelUser:
    online: bool = False
    changed_at: int = 0
    """Which of the host's changes was this user's last; 0: none."""
    seen: float = 0.0
    untold_from: float | None = None
    leases: dict[str, ModelLease] = field(default_factory=dict)


@dataclass
class ModelHost:
    """What one host keeps, and what the processes know of its epoch."""

    epoch: int = 0
    """0: it is empty, and nobody has called since."""
    born: float = 0.0
    settled: float = 0.0
    changes: int = 0
    users: dict[str, ModelUser] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    known: dict[int, int] = field(default_factory=dict)


@dataclass
class Process:
    registry: PresenceRegistry
    connections: dict[str, Lease] = field(default_factory=dict)
    taken: list[Change] = field(default_factory=list)
    cursor: Cursor | None = None
    heard: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Per host the epoch and the number of changes at the cursor."""


class RegistryMachine(RuleBasedStateMachine):
    world: ClassVar[World]
    hosts: ClassVar[int]
    can_lose_memory: ClassVar[bool]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.world.clear()
        self.processes = [Process(self.world.registry()) for _ in PROCESSES]
        self.model = [ModelHost() for _ in range(self.hosts)]
        self.gone: dict[str, Lease] = {}
        self.now = 0.0
        self.names = itertools.count()
        self.epochs = itertools.count(1)
        self.versions: dict[str, tuple[tuple[int, int], int]] = {}
        """User → (epoch and number of their last change, its version)."""
        self.highest = [0] * self.hosts

    def teardown(self) -> None:
        for process in self.processes:
            self.run(process.registry.close())
        self.loop.close()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(call)

    # --- the model ---------------------------------------------------------------------------------

    def host(self, user: str) -> ModelHost:
        return self.model[place_of(user, self.hosts)]

    def calls(self, process: int, host: ModelHost) -> None:
        """A process calls a host: the first after a loss begins an epoch; one that knew another tells."""
        if not host.epoch:
            host.epoch, host.born, host.settled = next(self.epochs), self.now, 0.0
        if host.known.get(process, host.epoch) != host.epoch:
            host.settled = max(host.settled, host.born + TERMS.lease)
        host.known[process] = host.epoch

    def judge(self, host: ModelHost, user: str) -> bool:
        state = host.users[user]
        if state.online == bool(state.leases):
            return False
        state.online = not state.online
        host.changes += 1
        state.changed_at = host.changes
        state.untold_from = self.now
        if state.online:
            state.seen = self.now
        return True

    def register(self, user: str, connection: str, session: str) -> bool:
        host = self.host(user)
        if host.ended.get(session, 0.0) > self.now:
            return False
        host.users.setdefault(user, ModelUser()).leases[connection] = ModelLease(
            session, self.now + TERMS.lease
        )
        return self.judge(host, user)

    # --- what processes do -------------------------------------------------------------------------

    @rule(process=processes, user=users, session=st.sampled_from(SESSIONS))
    def connect(self, process: int, user: str, session: str) -> None:
        connection, session = f"c{next(self.names)}", f"{user}-{session}"
        self.calls(process, self.host(user))
        expected = self.register(user, connection, session)
        assert self.run(self.processes[process].registry.connect(user, connection, session)) is expected
        self.processes[process].connections[connection] = Lease(user, session)

    @rule(process=processes, data=st.data())
    def disconnect(self, process: int, data: st.DataObject) -> None:
        # Also one that was disconnected already: nothing may follow from it.
        connections = self.processes[process].connections | self.gone
        if not connections:
            return
        connection = data.draw(st.sampled_from(sorted(connections)))
        user, _ = self.gone[connection] = connections[connection]
        self.processes[process].connections.pop(connection, None)
        host = self.host(user)
        self.calls(process, host)
        state = host.users.get(user)
        if state is not None and connection in state.leases:
            lease = state.leases[connection]
            lease.expires = min(lease.expires, self.now + TERMS.grace)
            state.seen = self.now
        self.run(self.processes[process].registry.disconnect(user, connection))

    @rule(process=processes, user=users, session=st.sampled_from(SESSIONS))
    def logout(self, process: int, user: str, session: str) -> None:
        session = f"{user}-{session}"
        host = self.host(user)
        self.calls(process, host)
        host.ended[session] = self.now + 2 * TERMS.lease
        expected = False
        state = host.users.get(user)
        if state is not None:
            dropped = [name for name, lease in state.leases.items() if lease.session == session]
            for connection in dropped:
                del state.leases[connection]
            if dropped:
                state.seen = self.now
                expected = self.judge(host, user)
        assert self.run(self.processes[process].registry.logout(user, session)) is expected

    @rule(process=processes, user=users)
    def logout_everywhere(self, process: int, user: str) -> None:
        for session in SESSIONS:
            self.logout(process, user, session)

    @rule(process=processes)
    def refresh(self, process: int) -> None:
        connections = self.processes[process].connections
        missing = set()
        for connection, (user, session) in connections.items():
            host = self.host(user)
            self.calls(process, host)
            state = host.users.get(user)
            if state is not None and connection in state.leases:
                state.leases[connection].expires = self.now + TERMS.lease
            else:
                missing.add(connection)
                self.register(user, connection, session)
        assert self.run(self.processes[process].registry.refresh(connections)) == missing

    @rule(process=processes)
    def is_killed_and_started_again(self, process: int) -> None:
        self.run(self.processes[process].registry.close() if self.can_lose_memory else asyncio.sleep(0))
        self.processes[process] = Process(self.world.registry())
        for host in self.model:
            host.known.pop(process, None)

    @rule(process=processes, limit=st.sampled_from([1, 100]))
    def sweep(self, process: int, limit: int) -> None:
        expected = 0
        for host in self.model:
            self.calls(process, host)
            if self.now < host.settled:
                continue
            for user, state in host.users.items():
                for connection, lease in list(state.leases.items()):
                    if lease.expires <= self.now:
                        expected += 1
                        del state.leases[connection]
                        state.seen = max(state.seen, lease.expires - TERMS.lease)
                        self.judge(host, user)
        taken = 0
        while count := self.run(self.processes[process].registry.sweep(limit)):
            assert count <= limit * self.hosts
            taken += count
        assert taken == expected

    @rule(process=processes)
    def take(self, process: int) -> None:
        expected = set()
        for host in self.model:
            self.calls(process, host)
            for user, state in host.users.items():
                if state.untold_from is not None and state.untold_from <= self.now:
                    expected.add(user)
                    state.untold_from = self.now + TERMS.claim
        taken = self.run(self.processes[process].registry.take_changed(100))
        assert {change.user for change in taken} == expected
        for user, status in taken:
            assert status.online == self.host(user).users[user].online
        self.processes[process].taken += taken

    @rule(process=processes)
    def confirm(self, process: int) -> None:
        taken, self.processes[process].taken = self.processes[process].taken, []
        for host in self.model:
            if any(self.host(change.user) is host for change in taken):
                self.calls(process, host)
        for user, status in taken:
            state = self.host(user).users.get(user)
            if state is not None and self.versions[user][1] == status.version:
                state.untold_from = None
        self.run(self.processes[process].registry.confirm(taken))

    @rule(process=processes, user=users)
    def is_overtaken_while_telling(self, process: int, user: str) -> None:
        self.take(process)
        self.logout_everywhere(1 - process, user)
        self.what_is_read_is_what_the_model_says()
        self.confirm(process)
        self.take(process)

    @rule(process=processes)
    def hear(self, process: int) -> None:
        hearer = self.processes[process]
        expected, complete = set(), True
        for number, host in enumerate(self.model):
            self.calls(process, host)
            epoch, count = hearer.heard.get(number, (host.epoch, host.changes))
            if epoch != host.epoch:
                complete = False
            else:
                expected |= {user for user, state in host.users.items() if state.changed_at > count}
            hearer.heard[number] = (host.epoch, host.changes)
        found = self.run(hearer.registry.changed_since(hearer.cursor))
        hearer.cursor = found.cursor
        assert {change.user for change in found.changes} == expected
        assert found.complete is complete

    # --- what happens to them ------------------------------------------------------------------------

    @rule(seconds=st.sampled_from(AGES))
    def time_passes(self, seconds: float) -> None:
        self.world.age(seconds)
        self.now += seconds

    @rule(process=processes, data=st.data())
    def disconnects_again_late(self, process: int, data: st.DataObject) -> None:
        self.disconnect(process, data)
        self.time_passes(TERMS.grace + 1)
        self.disconnect(process, data)
        self.sweep(process, 100)

    @precondition(lambda self: self.can_lose_memory)
    @rule()
    def redis_is_emptied(self) -> None:
        assert isinstance(self.world, RedisWorld)
        self.world.lose_memory()
        self.model = [ModelHost(known=host.known) for host in self.model]

    # --- what always holds ---------------------------------------------------------------------------

    @invariant()
    def what_is_read_is_what_the_model_says(self) -> None:
        for user in USERS:
            self.calls(0, self.host(user))
        statuses = self.run(self.processes[0].registry.read(USERS))
        for user in USERS:
            host = self.host(user)
            state = host.users.get(user)
            if state is None or not state.changed_at:
                settled = self.now >= host.settled
                assert statuses.get(user) == ((False, 0, None) if settled else None)
                continue
            status = statuses[user]
            assert status.online is state.online
            assert status.last_seen is not None
            assert _about(status.last_seen, self.world.now() - timedelta(seconds=self.now - state.seen))
            self._check_version(user, host, state, status.version)

    def _check_version(self, user: str, host: ModelHost, state: ModelUser, version: int) -> None:
        change = (host.epoch, state.changed_at)
        if user in self.versions and self.versions[user][0] == change:
            assert version == self.versions[user][1]
            return
        if user in self.versions:
            assert version > self.versions[user][1]
        place = self.model.index(host)
        # Changes are looked at after each call; several of one call come in any order.
        assert version > 0
        self.highest[place] = max(self.highest[place], version)
        self.versions[user] = (change, version)


def _about(one: datetime, other: datetime) -> bool:
    return abs(one - other) < timedelta(seconds=60)


@pytest.fixture(params=[0, 1, 2], ids=["memory", "redis", "redis-two-hosts"])
def machine(request: pytest.FixtureRequest) -> Iterator[type[RegistryMachine]]:
    world: World
    if request.param == 0:
        world = MemoryWorld()
    else:
        server: RedisServer = request.getfixturevalue("redis_server")
        world = RedisWorld.on(server, hosts=request.param)

    class Machine(RegistryMachine):
        pass

    Machine.world = world
    Machine.hosts = max(1, request.param)
    Machine.can_lose_memory = isinstance(world, RedisWorld)
    yield Machine
    if isinstance(world, RedisWorld):
        world.close()


@pytest.mark.pure
def test_the_registry_behaves_as_its_model(machine: type[RegistryMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=50 if machine.can_lose_memory else 100,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
