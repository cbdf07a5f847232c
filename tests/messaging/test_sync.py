"""What one sync takes of memory and of the database, however much its client has missed."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Iterator

import pytest

from accounts.models import User
from messaging import parts, sync
from messaging.models import Conversation, Membership, Message
from messaging.parts import Part
from messaging.stream import Wanted
from tests.support import hubs
from tests.support.hubs import Wire, World

pytestmark = pytest.mark.django_db(transaction=True)

Pages = list[list[list[Part]]]
"""For each call, the parts of each reader."""


@pytest.fixture
def world() -> Iterator[World]:
    with hubs.world() as made:
        yield made


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Pages:
    """What is read, page by page."""
    read: Pages = []
    original = parts.read

    @functools.wraps(original)
    def spy(requests: list[tuple[list[Wanted], int]]) -> list[list[Part]]:
        read.append(original(requests))
        return read[-1]

    monkeypatch.setattr(parts, "read", spy)
    return read


def conversations(user: User, *, count: int, each: int, body: str = "hello") -> list[str]:
    """Groups of the user's with messages by nobody."""
    made = Conversation.objects.bulk_create([
        Conversation(kind="group", title="Group", head_rev=each, last_seq=each) for _ in range(count)
    ])  # fmt: skip
    Membership.objects.bulk_create([Membership(conversation=row, user=user) for row in made])
    Message.objects.bulk_create([
        Message(conversation=row, seq=number, rev=number, client_id=uuid.uuid4(), body=body)
        for row in made
        for number in range(1, each + 1)
    ])  # fmt: skip
    return sorted(str(row.pk) for row in made)


def received(wire: Wire) -> dict[str, list[int]]:
    """The revs of each conversation, in the order in which they came."""
    revs: dict[str, list[int]] = {}
    for frame in wire.of_type("message"):
        revs.setdefault(frame["message"]["conversation"], []).append(frame["message"]["rev"])
    return revs


def test_a_page_has_so_many_messages_at_most(
    world: World, pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "PAGE_ROWS", 10)
    here = world.process()
    alice = world.user()
    short, long = conversations(alice, count=30, each=3), conversations(alice, count=2, each=35)
    a = world.live(here, alice, others="all")
    assert received(a) == {
        **{key: [1, 2, 3] for key in short},
        **{key: list(range(1, 36)) for key in long},
    }
    sizes = [sum(len(part.payloads) for part in page) for (page,) in pages]
    assert max(sizes) == 10
    assert len(sizes) == 16


def test_pages_of_long_messages_have_fewer_of_them(
    world: World, pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "PAGE_ROWS", 20)
    monkeypatch.setattr(sync, "PAGE_BYTES", 10_000)
    here = world.process()
    alice = world.user()
    (key,) = conversations(alice, count=1, each=60, body="x" * 4000)
    a = world.live(here, alice, others="all")
    assert received(a) == {key: list(range(1, 61))}
    sizes = [sum(len(part.frames()) for part in page) for (page,) in pages]
    assert max(sizes[1:]) <= 10_000
    assert len(pages[0][0][0].payloads) == 20


def test_clients_that_come_back_together_are_read_together(world: World, pages: Pages) -> None:
    here = world.process()
    alice, bob, carol = (world.user() for _ in range(3))
    (shared,) = conversations(alice, count=1, each=5)
    Membership.objects.create(conversation_id=shared, user=bob)
    own = conversations(carol, count=2, each=5)
    wires = [world.connect(here, user) for user in (alice, bob, carol)]
    gate = world.hold(here, "read", after=False)
    first = world.connect(here, alice)
    first.send(type="sync", conversations={}, others="all")
    world.run(gate.reached())
    second_gate = world.hold(here, "read", after=False)
    for wire in wires:
        wire.send(type="sync", conversations={}, others="all")
    world.run(second_gate.reached())
    world.pass_time(0.1)
    gate.open()
    second_gate.open()
    world.pass_time(1.0)
    for wire in (first, *wires[:2]):
        assert received(wire) == {shared: [1, 2, 3, 4, 5]}
    assert received(wires[2]) == {key: [1, 2, 3, 4, 5] for key in own}
    assert len(pages) < 4
