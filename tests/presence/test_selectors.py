"""What presence tells views, and what it keeps in the database."""

from __future__ import annotations

from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync
from pytest_django import DjangoAssertNumQueries

from accounts import selectors as accounts
from accounts.models import Contact, User
from accounts.selectors import Status
from chatbe.core import clock, ids
from presence import registry, selectors, services
from presence.registry.base import PresenceRegistry
from presence.registry.memory import MemoryRegistry

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def people() -> list[User]:
    return [User.objects.create_user(name) for name in ("alice", "bob", "carol")]


@async_to_sync
async def come_online(*users: User) -> None:
    """By whichever registry the settings choose."""
    presence = registry.build()
    for user in users:
        await presence.connect(str(user.id), f"c-{user.id}", f"session-of-{user.id}")
    await let_go(presence)


@async_to_sync
async def log_out(user: User) -> None:
    presence = registry.build()
    await presence.logout(str(user.id), f"session-of-{user.id}")
    await let_go(presence)


async def let_go(presence: PresenceRegistry) -> None:
    # The memory is the process's own; closing it would forget everyone.
    if not isinstance(presence, MemoryRegistry):
        await presence.close()


def test_statuses_are_the_registrys_and_else_the_databases(
    people: list[User], django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    alice, bob, carol = people
    seen = clock.now() - timedelta(days=2)
    services.last_seen_store(seen={carol.id: seen, alice.id: seen})
    come_online(alice, bob)
    log_out(bob)
    with django_assert_num_queries(1):
        statuses = selectors.statuses([person.id for person in people])
    assert statuses[alice.id].online
    assert not statuses[bob.id].online
    for person in (alice, bob):
        when = statuses[person.id].last_seen
        assert when is not None
        assert abs(clock.now() - when) < timedelta(seconds=30)
    assert statuses[carol.id] == Status(online=False, last_seen=seen)
    with django_assert_num_queries(0):
        assert set(selectors.statuses([alice.id])) == {alice.id}
        assert selectors.statuses([]) == {}
    assert selectors.statuses([ids.uuid7()]) == {}


def test_contacts_say_who_is_online(people: list[User]) -> None:
    alice, bob, carol = people
    Contact.objects.create(owner=alice, target=bob)
    Contact.objects.create(owner=bob, target=alice)
    Contact.objects.create(owner=alice, target=carol)
    come_online(bob, carol)
    contacts = accounts.contact_objects(
        contacts=list(accounts.contacts_of(user_id=alice.id).order_by("username"))
    )
    # Carol has not added alice.
    assert [(contact["username"], contact["online"]) for contact in contacts] == [
        ("bob", True),
        ("carol", None),
    ]


def test_last_seen_is_stored_and_never_moved_back(people: list[User]) -> None:
    alice, bob, carol = people
    early, late = clock.now() - timedelta(hours=1), clock.now()
    services.last_seen_store(seen={alice.id: early, bob.id: late})
    services.last_seen_store(seen={alice.id: late, bob.id: early})
    services.last_seen_store(seen={})
    stored = dict(User.objects.values_list("id", "last_seen_at"))
    assert stored == {alice.id: late, bob.id: late, carol.id: None}


def test_last_seen_of_many_takes_a_constant_number_of_statements(
    django_assert_max_num_queries: DjangoAssertNumQueries,
) -> None:
    crowd = User.objects.bulk_create(User(username=f"user{number}") for number in range(60))
    now = clock.now()
    # With those that begin and end the transaction.
    with django_assert_max_num_queries(4):
        services.last_seen_store(seen={user.id: now for user in crowd})
    assert User.objects.filter(last_seen_at=now).count() == 60
