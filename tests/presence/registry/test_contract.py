"""What every registry keeps; one suite for memory and Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import timedelta

import pytest
import pytest_asyncio

from presence.registry.base import Change, Lease, PresenceRegistry
from tests.presence.worlds import TERMS, World

pytestmark = [pytest.mark.asyncio, pytest.mark.pure]

ALICE, BOB = "alice", "bob"


@pytest_asyncio.fixture
async def registry(world: World) -> AsyncIterator[PresenceRegistry]:
    registry = world.registry()
    await registry.start()
    yield registry
    await registry.close()


async def online(registry: PresenceRegistry, user: str) -> bool:
    return (await registry.read([user]))[user].online


def about(duration: timedelta, *, seconds: float) -> bool:
    return abs(duration - timedelta(seconds=seconds)) < timedelta(seconds=30)


def users(changes: Iterable[Change]) -> list[str]:
    return sorted(change.user for change in changes)


async def test_a_user_whom_nobody_saw_is_offline_with_version_zero(registry: PresenceRegistry) -> None:
    assert (await registry.read([ALICE]))[ALICE] == (False, 0, None)


async def test_a_connection_makes_its_user_online(registry: PresenceRegistry, world: World) -> None:
    assert await registry.connect(ALICE, "c1", "s1") is True
    status = (await registry.read([ALICE, BOB]))[ALICE]
    assert status.online
    assert status.version > 0
    assert status.last_seen is not None
    assert about(world.now() - status.last_seen, seconds=0)


async def test_several_devices_are_one_presence(registry: PresenceRegistry, world: World) -> None:
    await registry.connect(ALICE, "c1", "s1")
    before = await registry.read([ALICE])
    assert await registry.connect(ALICE, "c2", "s2") is False
    await registry.disconnect(ALICE, "c1")
    world.age(TERMS.grace + 1)
    assert await registry.sweep(10) == 1
    assert (await registry.read([ALICE]))[ALICE].version == before[ALICE].version
    assert await online(registry, ALICE)


async def test_a_disconnect_is_told_after_the_grace_by_the_sweep(
    registry: PresenceRegistry, world: World
) -> None:
    await registry.connect(ALICE, "c1", "s1")
    await registry.disconnect(ALICE, "c1")
    assert await registry.sweep(10) == 0
    world.age(TERMS.grace - 1)
    assert await registry.sweep(10) == 0
    assert await online(registry, ALICE)
    world.age(2)
    assert await registry.sweep(10) == 1
    assert not await online(registry, ALICE)


async def test_who_comes_back_within_the_grace_was_never_away(
    registry: PresenceRegistry, world: World
) -> None:
    await registry.connect(ALICE, "c1", "s1")
    before = await registry.read([ALICE])
    await registry.disconnect(ALICE, "c1")
    world.age(TERMS.grace / 2)
    await registry.connect(ALICE, "c2", "s1")
    world.age(TERMS.grace)
    assert await registry.sweep(10) == 1
    assert (await registry.read([ALICE]))[ALICE].version == before[ALICE].version


async def test_a_disconnect_never_lengthens_a_lease(registry: PresenceRegistry, world: World) -> None:
    await registry.connect(ALICE, "c1", "s1")
    await registry.disconnect(ALICE, "c1")
    world.age(TERMS.grace - 1)
    await registry.disconnect(ALICE, "c1")
    await registry.disconnect(ALICE, "never-there")
    await registry.disconnect(BOB, "c1")
    world.age(2)
    assert await registry.sweep(10) == 1


async def test_a_lease_that_nobody_refreshes_runs_out(registry: PresenceRegistry, world: World) -> None:
    await registry.connect(ALICE, "c1", "s1")
    await registry.connect(BOB, "c2", "s2")
    world.age(TERMS.lease - 1)
    assert await registry.refresh({"c2": Lease(BOB, "s2")}) == set()
    world.age(2)
    assert await registry.sweep(10) == 1
    statuses = await registry.read([ALICE, BOB])
    assert not statuses[ALICE].online
    assert statuses[BOB].online
    # When the lease was last renewed, not when it was found to be over.
    seen = statuses[ALICE].last_seen
    assert seen is not None
    assert about(world.now() - seen, seconds=TERMS.lease + 1)


async def test_a_sweep_takes_no_more_than_its_limit(registry: PresenceRegistry, world: World) -> None:
    await asyncio.gather(*(registry.connect(f"user{number}", f"c{number}", "s") for number in range(7)))
    world.age(TERMS.lease + 1)
    taken = []
    while count := await registry.sweep(2):
        taken.append(count)
    assert sum(taken) == 7
    # The limit is per host, of which there are at most two.
    assert max(taken) <= 4


async def test_a_process_that_was_paused_registers_again_and_is_told_what_was_missing(
    registry: PresenceRegistry, world: World
) -> None:
    await registry.connect(ALICE, "c1", "s1")
    await registry.connect(BOB, "c2", "s2")
    world.age(TERMS.lease / 2)
    await registry.refresh({"c2": Lease(BOB, "s2")})
    world.age(TERMS.lease / 2 + 1)
    await registry.sweep(10)
    offline = (await registry.read([ALICE]))[ALICE]
    assert await registry.refresh({"c1": Lease(ALICE, "s1"), "c2": Lease(BOB, "s2")}) == {"c1"}
    again = (await registry.read([ALICE]))[ALICE]
    assert again.online
    assert again.version > offline.version
    assert await registry.refresh({"c1": Lease(ALICE, "s1")}) == set()


async def test_a_refresh_that_comes_before_the_sweep_keeps_the_user_online(
    registry: PresenceRegistry, world: World
) -> None:
    await registry.connect(ALICE, "c1", "s1")
    before = (await registry.read([ALICE]))[ALICE]
    world.age(TERMS.lease * 2)
    assert await registry.refresh({"c1": Lease(ALICE, "s1")}) == set()
    assert await registry.sweep(10) == 0
    after = (await registry.read([ALICE]))[ALICE]
    assert (after.online, after.version) == (True, before.version)


async def test_logout_makes_the_user_offline_at_once(registry: PresenceRegistry) -> None:
    await registry.connect(ALICE, "c1", "s1")
    await registry.connect(ALICE, "c2", "s1")
    online_version = (await registry.read([ALICE]))[ALICE].version
    assert await registry.logout(ALICE, "s1") is True
    status = (await registry.read([ALICE]))[ALICE]
    assert not status.online
    assert status.version > online_version
    assert await registry.logout(ALICE, "s1") is False
    assert await registry.logout(BOB, "s3") is False


async def test_logout_with_another_session_alive_changes_nothing(
    registry: PresenceRegistry, world: World
) -> None:
    await registry.connect(ALICE, "c1", "s1")
    await registry.connect(ALICE, "c2", "s2")
    assert await registry.logout(ALICE, "s1") is False
    assert await online(registry, ALICE)
    await registry.disconnect(ALICE, "c2")
    world.age(TERMS.grace + 1)
    assert await registry.sweep(10) == 1
    assert not await online(registry, ALICE)


async def test_an_ended_session_cannot_come_online_again(registry: PresenceRegistry) -> None:
    await registry.connect(ALICE, "c1", "s1")
    await registry.logout(ALICE, "s1")
    # A process that has not heard of the logout goes on refreshing.
    assert await registry.refresh({"c1": Lease(ALICE, "s1")}) == {"c1"}
    assert await registry.connect(ALICE, "c2", "s1") is False
    await registry.disconnect(ALICE, "c1")
    assert not await online(registry, ALICE)
    assert await registry.connect(ALICE, "c3", "s2") is True


async def test_changes_are_given_until_they_are_confirmed(registry: PresenceRegistry, world: World) -> None:
    await registry.connect(ALICE, "c1", "s1")
    await registry.connect(BOB, "c2", "s2")
    taken = await registry.take_changed(10)
    assert users(taken) == [ALICE, BOB]
    assert {change.user: change.status for change in taken} == await registry.read([ALICE, BOB])
    assert await registry.take_changed(10) == []
    await registry.confirm([change for change in taken if change.user == ALICE])
    # Whoever took them was killed before telling.
    world.age(TERMS.claim + 1)
    assert users(await registry.take_changed(10)) == [BOB]


async def test_a_change_during_the_telling_is_given_at_once_and_not_confirmed_by_the_older(
    registry: PresenceRegistry, world: World
) -> None:
    await registry.connect(ALICE, "c1", "s1")
    old = await registry.take_changed(10)
    await registry.logout(ALICE, "s1")
    await registry.confirm(old)
    (new,) = await registry.take_changed(10)
    assert not new.status.online
    assert new.status.version > old[0].status.version
    await registry.confirm(old)
    world.age(TERMS.claim + 1)
    assert await registry.take_changed(10) == [new._replace(status=(await registry.read([ALICE]))[ALICE])]


async def test_no_more_changes_are_taken_than_asked_for(registry: PresenceRegistry) -> None:
    await asyncio.gather(*(registry.connect(f"user{number}", f"c{number}", "s") for number in range(5)))
    taken: list[Change] = []
    while changes := await registry.take_changed(2):
        assert len(changes) <= 4
        taken += changes
    assert users(taken) == [f"user{number}" for number in range(5)]


async def test_changed_since_gives_each_users_latest_change(registry: PresenceRegistry) -> None:
    await registry.connect(BOB, "c0", "s0")
    begun = await registry.changed_since(None)
    assert begun.changes == []
    assert begun.complete
    await registry.connect(ALICE, "c1", "s1")
    await registry.logout(ALICE, "s1")
    await registry.connect("carol", "c3", "s3")
    found = await registry.changed_since(begun.cursor)
    assert found.complete
    assert users(found.changes) == [ALICE, "carol"]
    assert {change.user: change.status for change in found.changes} == await registry.read([ALICE, "carol"])
    assert (await registry.changed_since(found.cursor)).changes == []


async def test_changed_since_pages_through_any_number_of_changes(registry: PresenceRegistry) -> None:
    begun = await registry.changed_since(None)
    names = [f"user{number}" for number in range(1203)]
    await registry.refresh({f"c-{name}": Lease(name, "s") for name in names})
    assert users((await registry.changed_since(begun.cursor)).changes) == sorted(names)


async def test_the_offline_are_forgotten_after_the_retention(
    registry: PresenceRegistry, world: World
) -> None:
    await registry.connect(ALICE, "c1", "s1")
    version = (await registry.read([ALICE]))[ALICE].version
    await registry.logout(ALICE, "s1")
    world.age(TERMS.retention + 1)
    await registry.sweep(10)
    assert (await registry.read([ALICE]))[ALICE] == (False, 0, None)
    assert await registry.take_changed(10) == []
    await registry.connect(ALICE, "c1", "s2")
    assert (await registry.read([ALICE]))[ALICE].version > version


async def test_two_processes_that_sweep_at_once_share_the_work(world: World) -> None:
    first, second = world.registry(), world.registry()
    await asyncio.gather(*(first.connect(f"user{number}", f"c{number}", "s") for number in range(60)))
    taken = await first.take_changed(100)
    await first.confirm(taken)
    world.age(TERMS.lease + 1)

    async def sweep_and_take(registry: PresenceRegistry) -> tuple[int, list[Change]]:
        swept = 0
        told: list[Change] = []
        while count := await registry.sweep(7):
            swept += count
            told += await registry.take_changed(100)
        return swept, told

    (one, told_by_first), (two, told_by_second) = await asyncio.gather(
        sweep_and_take(first), sweep_and_take(second)
    )
    assert one + two == 60
    assert users([*told_by_first, *told_by_second]) == sorted(f"user{number}" for number in range(60))
    await first.close()
    await second.close()
