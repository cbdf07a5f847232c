"""What sockets are told, with processes that die, pause, are deaf, and a registry that fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest
import pytest_asyncio

from chatbe.core import clock
from chatbe.core.errors import Unavailable
from chatbe.wire import codec, frames
from presence import services
from presence.registry.base import PresenceUnavailable
from tests.presence.cluster import Cluster
from tests.presence.worlds import TERMS, MemoryWorld, RedisWorld, World
from tests.support.servers import RedisServer

pytestmark = [pytest.mark.asyncio, pytest.mark.pure]


@pytest_asyncio.fixture
async def cluster(world: World) -> AsyncIterator[Cluster]:
    cluster = Cluster(world)
    yield cluster
    await cluster.close()


async def test_friends_comes_first_and_then_what_changes(cluster: Cluster) -> None:
    here, there = cluster.process(), cluster.process()
    alice, bob, carol = (cluster.contacts.person(name) for name in ("alice", "bob", "carol"))
    stranger = cluster.contacts.person("stranger")
    cluster.contacts.befriend(alice, bob)
    cluster.contacts.befriend(alice, carol)
    await there.connect(bob, "b1")
    await here.connect(stranger, "s1")
    await here.connect(alice, "a1")
    (friends,) = here.sent["a1"]
    assert isinstance(friends, frames.Friends)
    assert (friends.total, friends.online) == (2, 1)
    assert [(friend.username, friend.online) for friend in friends.friends] == [
        ("bob", True),
        ("carol", False),
    ]
    assert friends.friends[0].last_seen is not None
    assert friends.friends[1].last_seen is None

    await there.connect(carol, "c1")
    await cluster.settle()
    assert here.heard("a1") == [("carol", True)]
    # Bob knows alice and not carol; the stranger knows nobody.
    assert there.heard("b1") == [("alice", True)]
    assert here.heard("s1") == []
    assert there.friends("c1") == {"alice": True}


async def test_who_is_not_admitted_leaves_nothing_behind(cluster: Cluster) -> None:
    here, there = cluster.process(), cluster.process()
    alice, bob = cluster.contacts.person("alice"), cluster.contacts.person("bob")
    cluster.contacts.befriend(alice, bob)
    await there.connect(alice, "a1")
    here.service.arriving(user=bob.key, connection="b1")
    here.service.logged_out(user=bob.key, session=None)
    here.service.contacts_changed(bob.key)
    here.service.disconnected("b1")
    cluster.contacts.down = True
    here.service.arriving(user=bob.key, connection="b2")
    # Until its reading has failed.
    await asyncio.sleep(0.01)
    here.service.disconnected("b2")
    cluster.contacts.down = False
    await cluster.settle()
    assert there.heard("a1") == []
    assert here.sent == {}
    await here.connect(bob, "b3")
    assert here.known("b3") == {"alice": True}


@pytest.mark.parametrize("told", [True, False], ids=["told", "not-told"])
async def test_contacts_that_change_while_a_socket_is_judged_are_read_again(
    cluster: Cluster, told: bool
) -> None:
    here = cluster.process()
    alice, bob = cluster.contacts.person("alice"), cluster.contacts.person("bob")
    cluster.contacts.befriend(alice, bob)
    here.service.arriving(user=alice.key, connection="a1")
    # Until the contacts have been read.
    await asyncio.sleep(0.01)
    cluster.contacts.part(alice, bob)
    if told:
        here.service.contacts_changed(alice.key)
    await here.service.connected(user=alice.key, connection="a1", session="s")
    assert here.known("a1") == ({} if told else {"bob": False})
    here.service.contacts_changed(alice.key)
    await here.idle()
    assert here.known("a1") == {}


async def test_someone_who_leaves_is_told_once_after_the_grace(cluster: Cluster) -> None:
    here, there = cluster.process(), cluster.process()
    alice, bob = cluster.contacts.person("alice"), cluster.contacts.person("bob")
    cluster.contacts.befriend(alice, bob)
    await here.connect(alice, "a1")
    await there.connect(bob, "b1")
    await cluster.settle()
    there.service.disconnected("b1")
    await cluster.settle()
    assert here.heard("a1") == [("bob", True)]
    left = cluster.world.now()
    await cluster.passes(TERMS.grace + 1)
    await cluster.settle()
    await cluster.settle()
    assert here.heard("a1") == [("bob", True), ("bob", False)]
    told = here.sent["a1"][-1]
    assert isinstance(told, frames.Presence)
    assert told.last_seen is not None
    assert datetime.fromisoformat(told.last_seen) == cluster.contacts.seen[bob.key]
    if isinstance(cluster.world, MemoryWorld):
        assert abs(datetime.fromisoformat(told.last_seen) - left) < timedelta(seconds=30)


async def test_who_reconnects_within_the_grace_was_never_away(cluster: Cluster) -> None:
    here, there = cluster.process(), cluster.process()
    alice, bob = cluster.contacts.person("alice"), cluster.contacts.person("bob")
    cluster.contacts.befriend(alice, bob)
    await here.connect(alice, "a1")
    await there.connect(bob, "b1")
    await cluster.settle()
    there.service.disconnected("b1")
    await here.connect(bob, "b2")
    await cluster.passes(TERMS.grace + 1)
    await cluster.settle()
    assert here.heard("a1") == [("bob", True)]


async def test_two_devices_are_one_presence_and_both_are_told(cluster: Cluster) -> None:
    here, there = cluster.process(), cluster.process()
    alice, bob = cluster.contacts.person("alice"), cluster.contacts.person("bob")
    cluster.contacts.befriend(alice, bob)
    await here.connect(alice, "a1")
    await there.connect(alice, "a2")
    await here.connect(bob, "b1", "phone")
    await there.connect(bob, "b2", "laptop")
    await cluster.settle()
    here.service.disconnected("b1")
    await cluster.passes(TERMS.grace + 1)
    await cluster.settle()
    assert here.heard("a1") == there.heard("a2") == [("bob", True)]
    there.service.logged_out(user=bob.key, session="laptop")
    await cluster.settle()
    assert here.heard("a1") == there.heard("a2") == [("bob", True), ("bob", False)]


async def test_logout_is_told_at_once_and_no_late_refresh_undoes_it(cluster: Cluster) -> None:
    here, there = cluster.process(), cluster.process()
    alice, bob = cluster.contacts.person("alice"), cluster.contacts.person("bob")
    cluster.contacts.befriend(alice, bob)
    await here.connect(alice, "a1")
    await here.connect(bob, "b1", "s")
    await there.connect(bob, "b2", "s")
    await cluster.settle()
    here.service.logged_out(user=bob.key, session="s")
    await here.settle()
    # The other process has not heard of it and refreshes its connection of the same session.
    await there.settle()
    await here.settle()
    assert here.heard("a1") == [("bob", True), ("bob", False)]
    # The hub closes the sockets afterwards.
    there.service.logged_out(user=bob.key, session=None)
    for process, connection in ((here, "b1"), (there, "b2")):
        process.service.disconnected(connection)
    await cluster.settle()
    assert here.known("a1") == {"bob": False}


async def test_a_socket_of_another_session_stays_through_a_logout(cluster: Cluster) -> None:
    here = cluster.process()
    alice, bob = cluster.contacts.person("alice"), cluster.contacts.person("bob")
    cluster.contacts.befriend(alice, bob)
    await here.connect(alice, "a1")
    await here.connect(bob, "b1", "phone")
    await here.connect(bob, "b2", "laptop")
    await cluster.settle()
    here.service.logged_out(user=bob.key, session="phone")
    here.service.logged_out(user="nobody", session="phone")
    await cluster.settle()
    assert here.heard("a1") == [("bob", True)]
    here.service.disconnected("a1")
    await cluster.passes(TERMS.grace + 1)
    await cluster.settle()
    # The session that is left goes on being told, the ended one no more.
    assert here.heard("b2")[-1] == ("alice", False)
    assert here.heard("b1") == []


async def test_a_killed_process_is_told_of_by_another_once(cluster: Cluster) -> None:
    here, there, third = cluster.process(), cluster.process(), cluster.process()
    alice, bob = cluster.contacts.person("alice"), cluster.contacts.person("bob")
    cluster.contacts.befriend(alice, bob)
    await here.connect(alice, "a1")
    await there.connect(bob, "b1")
    await cluster.settle()
    await cluster.kill(there)
    await cluster.passes(TERMS.lease / 2)
    await cluster.settle()
    assert here.heard("a1") == [("bob", True)]
    await cluster.passes(TERMS.lease / 2 + 1)
    await asyncio.gather(here.settle(), third.settle())
    await cluster.settle()
    assert here.heard("a1") == [("bob", True), ("bob", False)]
    assert bob.key in cluster.contacts.seen


async def test_a_sweeper_killed_between_taking_and_telling_hides_nothing(cluster: Cluster) -> None:
    here, there = cluster.process(), cluster.process()
    alice, bob = cluster.contacts.person("alice"), cluster.contacts.person("bob")
    cluster.contacts.befriend(alice, bob)
    await here.connect(alice, "a1")
    await here.connect(bob, "b1")
    await cluster.settle()
    here.service.disconnected("b1")
    await cluster.settle()
    await cluster.passes(TERMS.grace + 1)
    assert await there.registry.sweep(10) == 1
    assert [change.user for change in await there.registry.take_changed(10)] == [bob.key]
    await cluster.kill(there)
    # Not given to another yet, but anyone who asks what changed hears it,
    await here.service.tell()
    assert here.heard("a1") == [("bob", True)]
    await here.service.keep()
    assert here.heard("a1") == [("bob", True), ("bob", False)]
    assert bob.key not in cluster.contacts.seen
    # and when the claim has passed, it is published and stored after all.
    await cluster.passes(TERMS.claim + 1)
    await cluster.settle()
    assert bob.key in cluster.contacts.seen
    assert here.known("a1") == {"bob": False}


async def test_a_paused_process_comes_back_and_the_truth_is_told(cluster: Cluster) -> None:
    here, there = cluster.process(), cluster.process()
    alice, bob = cluster.contacts.person("alice"), cluster.contacts.person("bob")
    cluster.contacts.befriend(alice, bob)
    await here.connect(alice, "a1")
    await there.connect(bob, "b1")
    await cluster.settle()
    there.deaf = True
    await cluster.passes(TERMS.lease / 2)
    await here.settle()
    await cluster.passes(TERMS.lease / 2 + 1)
    await here.settle()
    assert here.heard("a1") == [("bob", True), ("bob", False)]
    here.service.disconnected("a1")
    await here.settle()
    await cluster.passes(TERMS.grace + 1)
    await here.settle()
    there.deaf = False
    await cluster.settle()
    # Bob is back, for whoever asks; and the paused process has told him that alice is not there.
    await here.connect(alice, "a2")
    assert here.friends("a2") == {"bob": True}
    assert there.heard("b1") == [("alice", False)]
    await cluster.settle()
    assert there.known("b1") == {"alice": True}


async def test_an_old_message_of_a_paused_process_is_not_believed(cluster: Cluster) -> None:
    here, there = cluster.process(), cluster.process()
    alice, bob = cluster.contacts.person("alice"), cluster.contacts.person("bob")
    cluster.contacts.befriend(alice, bob)
    await here.connect(alice, "a1")
    await there.connect(bob, "b1", "s")
    # Paused after taking, before publishing.
    taken = await there.registry.take_changed(10)
    there.service.logged_out(user=bob.key, session="s")
    await cluster.settle()
    assert here.known("a1") == {"bob": False}
    there.publish(taken)
    await there.registry.confirm(taken)
    await cluster.settle()
    assert here.heard("a1") == []


async def test_what_the_bus_lost_is_found(cluster: Cluster) -> None:
    here, there = cluster.process(), cluster.process()
    alice, bob, carol = (cluster.contacts.person(name) for name in ("alice", "bob", "carol"))
    cluster.contacts.befriend(alice, bob, carol)
    await here.connect(alice, "a1")
    await there.connect(bob, "b1", "s")
    await cluster.settle()
    here.deaf = True
    await there.connect(carol, "c1")
    there.service.logged_out(user=bob.key, session="s")
    await there.settle()
    assert here.heard("a1") == [("bob", True)]
    here.deaf = False
    await here.service.keep()
    assert sorted(here.heard("a1")[1:]) == [("bob", False), ("carol", True)]


async def test_a_quick_change_between_two_looks_is_no_change(cluster: Cluster) -> None:
    here, there = cluster.process(), cluster.process()
    alice, bob = cluster.contacts.person("alice"), cluster.contacts.person("bob")
    cluster.contacts.befriend(alice, bob)
    await here.connect(alice, "a1")
    await there.connect(bob, "b1", "s1")
    await cluster.settle()
    here.deaf = True
    there.service.logged_out(user=bob.key, session="s1")
    await there.settle()
    await there.connect(bob, "b2", "s2")
    await there.settle()
    here.deaf = False
    await cluster.settle()
    assert here.heard("a1") == [("bob", True)]


async def test_a_second_socket_hears_what_the_first_knows_and_both_hear_the_same(cluster: Cluster) -> None:
    here, there = cluster.process(), cluster.process()
    alice, bob, carol = (cluster.contacts.person(name) for name in ("alice", "bob", "carol"))
    cluster.contacts.befriend(alice, bob, carol)
    await here.connect(alice, "a1")
    here.deaf = True
    await there.connect(bob, "b1")
    await cluster.settle()
    here.deaf = False
    await here.connect(carol, "c1")
    await here.connect(alice, "a2")
    await cluster.settle()
    assert here.known("a1") == here.known("a2") == {"bob": True, "carol": True}
    assert here.known("c1") == {"alice": True, "bob": True}


async def test_becoming_mutual_and_ceasing_to_be(cluster: Cluster) -> None:
    here, there = cluster.process(), cluster.process()
    alice, bob, carol = (cluster.contacts.person(name) for name in ("alice", "bob", "carol"))
    await here.connect(alice, "a1")
    await here.connect(alice, "a2")
    await there.connect(bob, "b1")

    async def changed(*people: object) -> None:
        for process in (here, there):
            for person in (alice, bob, carol):
                process.service.contacts_changed(person.key)
        await here.idle()
        await there.idle()

    cluster.contacts.befriend(alice, bob)
    cluster.contacts.befriend(alice, carol)
    await changed()
    assert sorted(here.heard("a1")) == sorted(here.heard("a2")) == [("bob", True), ("carol", False)]
    assert there.heard("b1") == [("alice", True)]

    # One blocks the other, or removes them.
    cluster.contacts.part(alice, bob)
    await changed()
    assert here.heard("a1")[2:] == [("bob", None)]
    assert there.heard("b1") == [("alice", True), ("alice", None)]
    there.service.logged_out(user=bob.key, session=None)
    await cluster.settle()
    assert here.heard("a1")[2:] == [("bob", None)]

    cluster.contacts.befriend(alice, bob)
    await changed()
    assert here.heard("a1")[3:] == [("bob", False)]
    await changed()
    assert here.heard("a1")[4:] == []


async def test_changed_contacts_are_told_when_the_database_is_back(cluster: Cluster) -> None:
    here = cluster.process()
    alice, bob = cluster.contacts.person("alice"), cluster.contacts.person("bob")
    await here.connect(alice, "a1")
    cluster.contacts.befriend(alice, bob)
    cluster.contacts.down = True
    here.service.contacts_changed(alice.key)
    await cluster.settle()
    assert here.known("a1") == {}
    cluster.contacts.down = False
    await cluster.settle()
    assert here.known("a1") == {"bob": False}


async def test_contacts_that_change_while_they_are_read_are_read_again(cluster: Cluster) -> None:
    here = cluster.process()
    alice, bob = cluster.contacts.person("alice"), cluster.contacts.person("bob")
    connecting = asyncio.create_task(here.connect(alice, "a1"))
    await asyncio.sleep(0)
    # The query has begun; what it does not see any more is told by a notice.
    cluster.contacts.befriend(alice, bob)
    here.service.contacts_changed(alice.key)
    await connecting
    await here.idle()
    assert here.known("a1") == {"bob": False}


async def test_friends_are_told_again_to_a_socket_that_may_have_missed_something(cluster: Cluster) -> None:
    here, there = cluster.process(), cluster.process()
    alice, bob = cluster.contacts.person("alice"), cluster.contacts.person("bob")
    cluster.contacts.befriend(alice, bob)
    await here.connect(alice, "a1")
    await there.connect(bob, "b1")
    await cluster.settle()
    here.service.friends_again("a1")
    here.service.friends_again("unknown")
    assert here.friends("a1") == {"bob": True}
    assert len(here.sent["a1"]) == 3


async def test_a_crowd_of_contacts_fits_into_a_frame(cluster: Cluster) -> None:
    here, there = cluster.process(), cluster.process()
    alice = cluster.contacts.person("alice")
    crowd = [cluster.contacts.person(f"{number:032}") for number in range(services.FRIENDS_LISTED + 5)]
    for person in crowd:
        cluster.contacts.befriend(alice, person)
    for number, person in enumerate(crowd):
        await there.connect(person, f"c{number}")
    await here.connect(alice, "a1")
    friends, *rest = here.sent["a1"]
    assert isinstance(friends, frames.Friends)
    assert (friends.total, friends.online) == (len(crowd), len(crowd))
    assert len(codec.encode(friends)) < frames.MAX_DOWN_BYTES
    told = {friend.username for friend in friends.friends} | {username for username, _ in here.heard("a1")}
    assert len(rest) == 5
    assert told == {person.username for person in crowd}


async def test_a_socket_that_goes_while_it_comes_leaves_nothing(cluster: Cluster) -> None:
    here = cluster.process()
    alice, bob = cluster.contacts.person("alice"), cluster.contacts.person("bob")
    cluster.contacts.befriend(alice, bob)
    connecting = asyncio.create_task(here.connect(alice, "a1"))
    await asyncio.sleep(0)
    here.service.disconnected("a1")
    here.service.disconnected("a1")
    await connecting
    await cluster.settle()
    assert here.sent == {}
    await here.connect(bob, "b1")
    assert here.friends("b1") == {"alice": False}


async def test_without_the_database_a_socket_is_refused_and_forgotten(cluster: Cluster) -> None:
    here = cluster.process()
    alice, bob = cluster.contacts.person("alice"), cluster.contacts.person("bob")
    cluster.contacts.befriend(alice, bob)
    cluster.contacts.down = True
    with pytest.raises(Unavailable):
        await here.connect(alice, "a1")
    here.service.disconnected("a1")
    cluster.contacts.down = False
    await here.connect(bob, "b1")
    await cluster.settle()
    assert here.known("b1") == {"alice": False}


async def test_last_seen_is_stored_even_if_the_database_was_away(cluster: Cluster) -> None:
    here = cluster.process()
    bob = cluster.contacts.person("bob")
    await here.connect(bob, "b1", "s")
    here.service.logged_out(user=bob.key, session="s")
    await here.idle()
    cluster.contacts.down = True
    await here.service.tell()
    with pytest.raises(Unavailable):
        await here.service.store()
    cluster.contacts.down = False
    await here.service.store()
    assert bob.key in cluster.contacts.seen
    cluster.contacts.seen.clear()
    # Confirmed, so nobody is given it again.
    await cluster.passes(TERMS.claim + 1)
    await cluster.settle()
    assert cluster.contacts.seen == {}


async def test_a_drained_process_leaves_its_leases_to_those_who_come_back(cluster: Cluster) -> None:
    here, there = cluster.process(), cluster.process()
    alice, bob = cluster.contacts.person("alice"), cluster.contacts.person("bob")
    cluster.contacts.befriend(alice, bob)
    await here.connect(alice, "a1")
    await there.connect(bob, "b1")
    await cluster.settle()
    there.service.drain()
    there.service.disconnected("b1")
    await there.idle()
    await cluster.passes(TERMS.grace + 1)
    await here.settle()
    await here.connect(bob, "b2")
    await cluster.passes(TERMS.lease - TERMS.grace)
    await here.settle()
    assert here.heard("a1") == [("bob", True)]
    here.service.drain()
    if isinstance(cluster.world, RedisWorld):
        await here.service.stop()
        assert {alice.key, bob.key} <= set(cluster.contacts.seen)


# --- a registry that fails ------------------------------------------------------------------------------


async def test_an_emptied_redis_is_noticed_by_nobody(redis_world: RedisWorld) -> None:
    cluster = Cluster(redis_world)
    here, there = cluster.process(), cluster.process()
    alice, bob, carol = (cluster.contacts.person(name) for name in ("alice", "bob", "carol"))
    cluster.contacts.befriend(alice, bob, carol)
    await here.connect(alice, "a1")
    await there.connect(bob, "b1")
    await there.connect(carol, "c1")
    await cluster.settle()
    heard = here.heard("a1")

    redis_world.lose_memory()
    await here.settle()
    # A new socket is told what its process knows.
    await here.connect(alice, "a2")
    assert here.friends("a2") == {"bob": True, "carol": True}
    await cluster.settle()
    # Carol's process dies before it could register her again: nobody else knows that she was there.
    there.service._forget("c1")
    redis_world.lose_memory()
    await cluster.settle()
    assert here.heard("a1") == heard
    await cluster.passes(TERMS.lease / 2)
    await cluster.settle()
    await cluster.passes(TERMS.lease / 2 + 1)
    await cluster.settle()
    assert here.heard("a1") == [*heard, ("carol", False)]
    assert here.known("a1") == here.known("a2") == {"bob": True, "carol": False}
    assert there.known("b1") == {"alice": True, "carol": False}
    await cluster.close()


async def test_while_redis_is_away_the_last_known_is_told_and_then_the_truth(own_server: RedisServer) -> None:
    world = RedisWorld([own_server.url])
    cluster = Cluster(world)
    here, there = cluster.process(), cluster.process()
    seen = clock.now() - timedelta(days=3)
    alice, bob = cluster.contacts.person("alice"), cluster.contacts.person("bob")
    carol = cluster.contacts.person("carol", seen)
    cluster.contacts.befriend(alice, bob, carol)
    await here.connect(alice, "a1")
    await there.connect(bob, "b1")
    await cluster.settle()
    own_server.kill()
    with pytest.raises(PresenceUnavailable):
        await here.service.keep()
    await here.connect(alice, "a2")
    assert here.friends("a2") == {"bob": True, "carol": False}
    # A process that knew nobody falls back to the database.
    third = cluster.process()
    await third.connect(carol, "c1")
    await third.connect(alice, "a3")
    (friends,) = third.sent["a3"]
    assert isinstance(friends, frames.Friends)
    assert [(friend.online, friend.last_seen) for friend in friends.friends] == [
        (False, None),
        (False, clock.timestamp(seen)),
    ]
    there.service.disconnected("b1")
    own_server.start()
    while True:
        try:
            await cluster.settle()
        except PresenceUnavailable:
            await asyncio.sleep(0.02)
        else:
            break
    await cluster.passes(TERMS.lease + 1)
    await cluster.settle()
    assert here.known("a1") == here.known("a2") == {"bob": False, "carol": True}
    assert third.known("a3") == {"bob": False, "carol": True}
    assert third.known("c1") == {"alice": True, "bob": False}
    await cluster.close()
    world.close()


# --- by itself --------------------------------------------------------------------------------------------


async def test_it_all_happens_by_itself(world: World) -> None:
    cluster = Cluster(world, refresh_every=0.05, sweep_every=0.05)
    here, there = cluster.process(), cluster.process()
    alice, bob = cluster.contacts.person("alice"), cluster.contacts.person("bob")
    cluster.contacts.befriend(alice, bob)
    for process in cluster.processes:
        await process.service.start()
    async with asyncio.timeout(20):
        await here.connect(alice, "a1")
        await there.connect(bob, "b1", "s")
        await cluster.until(lambda: here.heard("a1") == [("bob", True)])
        there.service.logged_out(user=bob.key, session="s")
        await cluster.until(lambda: here.heard("a1") == [("bob", True), ("bob", False)])
        here.deaf = True
        await there.connect(bob, "b2", "s2")
        here.service.bus_interrupted()
        await cluster.until(lambda: here.heard("a1")[2:] == [("bob", True)])
        await cluster.contacts.stored.wait()
        assert bob.key in cluster.contacts.seen
    for process in cluster.processes:
        await process.service.stop()
