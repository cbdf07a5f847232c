"""Who is told that somebody types, and for how long."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from accounts.models import Block
from messaging.handlers import TYPING_SECONDS
from messaging.models import Conversation, Membership
from tests.support import hubs
from tests.support.hubs import Wire, World

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def world() -> Iterator[World]:
    with hubs.world() as made:
        yield made


def types(wire: Wire, group: Conversation, *, on: bool = True) -> None:
    wire.send(type="typing", conversation=str(group.pk), on=on)


def told(wire: Wire) -> list[bool]:
    return [frame["on"] for frame in wire.of_type("typing")]


def test_it_is_told_once_and_ends_by_itself(world: World) -> None:
    here = world.process()
    alice, bob = world.friends(2)
    group = world.group(alice, bob)
    a, b = world.live(here, alice), world.live(here, bob)
    for _ in range(3):
        types(a, group)
        world.pass_time(TYPING_SECONDS / 2)
    assert told(b) == [True]
    world.pass_time(TYPING_SECONDS)
    assert (told(a), told(b)) == ([], [True, False])
    assert here.messaging._typing == {}


def test_a_message_ends_it(world: World) -> None:
    here = world.process()
    alice, bob = world.friends(2)
    group = world.group(alice, bob)
    a, b = world.live(here, alice), world.live(here, bob)
    types(a, group)
    world.pass_time(0.1)
    a.send(type="send", ref="1", to={"conversation": str(group.pk)}, client_id=str(uuid.uuid4()), body="1")
    world.pass_time(0.1)
    assert [frame["type"] for frame in b.frames if frame["type"] in {"typing", "message"}] == [
        "typing", "message", "typing",
    ]  # fmt: skip
    assert told(b) == [True, False]
    world.pass_time()
    assert told(b) == [True, False]


def test_no_earlier_sign_overtakes_a_later_one(world: World) -> None:
    here = world.process()
    alice, bob = world.friends(2)
    group = world.group(alice, bob)
    a, b = world.live(here, alice), world.live(here, bob)
    gate = world.hold(here, "typing_audience")
    types(a, group)
    world.run(gate.reached())
    types(a, group, on=False)
    world.pass_time(0.1)
    gate.open()
    world.pass_time(0.1)
    assert told(b) in ([], [True, False])
    types(a, group)
    world.pass_time(0.1)
    assert told(b)[-1] is True


def test_it_never_reaches_who_has_blocked_the_typist_and_is_never_stored(world: World) -> None:
    here, there = world.process(), world.process()
    alice, bob, carol = world.friends(3)
    group = world.group(alice, bob, carol)
    Block.objects.create(blocker=bob, blocked=alice)
    a, b, c = world.live(here, alice), world.live(there, bob), world.live(there, carol)
    types(a, group)
    world.pass_time()
    assert (told(b), told(c)) == ([], [True, False])
    late = world.live(there, carol)
    assert told(late) == []


def test_its_end_is_told_though_the_typist_was_removed_and_the_timer_answers_nobody(world: World) -> None:
    here = world.process()
    alice, bob = world.friends(2)
    group = world.group(alice, bob)
    a, b = world.live(here, alice), world.live(here, bob)
    types(b, group)
    world.pass_time(0.1)
    Membership.objects.filter(conversation=group, user=bob).update(active=False)
    world.pass_time()
    assert told(a) == [True, False]
    assert b.of_type("error") == []
    types(b, group)
    world.pass_time(0.1)
    assert [frame["code"] for frame in b.of_type("error")] == ["not_found"]
    assert here.messaging._typing == {}


def test_its_end_is_told_to_who_blocked_the_typist_meanwhile(world: World) -> None:
    here, there = world.process(), world.process()
    alice, bob = world.friends(2)
    a, b = world.live(here, alice), world.live(there, bob)
    a.send(type="send", ref="1", to={"username": bob.username}, client_id=str(uuid.uuid4()), body="1")
    world.pass_time()
    direct = Conversation.objects.get(kind="direct")
    types(a, direct)
    world.pass_time(0.1)
    Block.objects.create(blocker=bob, blocked=alice)
    world.pass_time()
    assert told(b) == [True, False]


def test_of_two_devices_the_last_one_ends_it(world: World) -> None:
    here = world.process()
    alice, bob = world.friends(2)
    group = world.group(alice, bob)
    one, two, b = world.live(here, alice), world.live(here, alice), world.live(here, bob)
    types(one, group)
    types(two, group)
    world.pass_time(0.1)
    types(one, group, on=False)
    world.pass_time(0.1)
    assert told(b) == [True]
    types(two, group, on=False)
    world.pass_time(0.1)
    assert told(b) == [True, False]
