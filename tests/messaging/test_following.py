"""Memberships that end and begin again while something else is read, with each interleaving forced."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings

from accounts.models import User
from chatbe.hub import fanout
from chatbe.hub.node import LEAVE_PATIENCE
from messaging import groups
from messaging.models import Conversation, Membership
from tests.support import hubs
from tests.support.hubs import Process, Wire, World

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def world() -> Iterator[World]:
    with hubs.world() as made:
        yield made


class Club:
    """Alice's group, of which bob is a member, and what is done in it on one process."""

    def __init__(self, world: World, process: Process, *, history: str = "joined") -> None:
        self.world, self.process = world, process
        self.alice, self.bob = world.friends(2)
        self.group = world.group(self.alice, self.bob)
        self.key = str(self.group.pk)
        Membership.objects.filter(user=self.alice).update(role="owner")
        Conversation.objects.update(history=history, member_count=2)

    def act(self, act: Callable[..., Any], *, told: bool = True, **fields: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            if not told:
                patch.setattr(fanout, "send", lambda _groups, _envelope: None)
            self.process.context.copy().run(
                lambda: act(actor=self.alice, conversation=self.group.pk, **fields)
            )

    def remove(self, user: User, *, told: bool = True) -> None:
        self.act(groups.member_remove, username=user.username, told=told)

    def add(self, user: User, *, told: bool = True) -> None:
        self.act(groups.members_add, usernames=[user.username], told=told)

    def rename(self, title: str) -> None:
        self.act(groups.group_update, title=title)

    def say(self, wire: Wire, body: str) -> None:
        wire.send(
            type="send", ref=body[:64], to={"conversation": self.key}, client_id=str(uuid.uuid4()), body=body
        )
        self.world.pass_time(0.1)


def texts(wire: Wire) -> list[str]:
    """What the stream had of the group: bodies of texts, `+` where it became known, `-` where it ended."""
    known: bool | None = None
    names: list[str] = []
    for frame in wire.frames:
        if frame["type"] == "message" and frame["message"]["kind"] == "text":
            names.append(frame["message"]["body"])
        elif frame["type"] == "conversation":
            member = frame.get("member", True)
            if member != known:
                names.append("+" if member else "-")
            known = member
    return names


def rises(wire: Wire) -> bool:
    """Whether the revs of the group rise, each at most once."""
    revs = [
        frame[frame["type"]]["rev"] for frame in wire.frames if frame["type"] in {"message", "conversation"}
    ]
    return revs == sorted(set(revs))


def begin(world: World, wire: Wire, revs: dict[str, int] | None = None) -> None:
    wire.send(type="sync", ref="sync", conversations=revs or {})
    world.pass_time(0.0)


def last_rev(wire: Wire) -> int:
    revs: list[int] = [
        frame[frame["type"]]["rev"] for frame in wire.frames if frame["type"] in {"message", "conversation"}
    ]
    return max(revs)


@pytest.mark.parametrize("back", [False, True])
def test_a_membership_that_ends_between_the_read_of_a_sync_and_its_use(world: World, *, back: bool) -> None:
    here = world.process()
    club = Club(world, here)
    a, b = world.live(here, club.alice), world.connect(here, club.bob)
    gate = world.hold(here, "streams_of")
    begin(world, b, {club.key: 1})
    world.run(gate.reached())
    club.say(a, "1")
    club.remove(club.bob)
    club.say(a, "not theirs")
    if back:
        club.add(club.bob)
    gate.open()
    world.pass_time()
    club.say(a, "2")
    world.pass_time()
    assert "not theirs" not in texts(b)
    assert rises(b)
    assert [text for text in texts(b) if text != "1"][-2:] == (["+", "2"] if back else ["-"])


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("history", ["joined", "all"])
def test_a_member_who_left_and_came_back_while_their_socket_catches_up(
    world: World, monkeypatch: pytest.MonkeyPatch, history: str, *, told: bool
) -> None:
    monkeypatch.setattr(settings, "CHATBE_OUTBOX_BYTES", 1000)
    here = world.process()
    club = Club(world, here, history=history)
    a, b = world.live(here, club.alice), world.live(here, club.bob)
    b.stall()
    for number in range(12):
        club.say(a, f"{number} {'x' * 200}")
    gate = world.hold(here, "streams_of")
    b.resume()
    world.run(gate.reached())
    club.remove(club.bob, told=told)
    club.say(a, "not theirs")
    club.add(club.bob, told=told)
    gate.open()
    world.pass_time()
    world.run(here.hub.check_all())
    world.run(here.look())
    world.pass_time()
    club.say(a, "again")
    assert texts(b)[-3:] == ["-", "+", "again"]
    assert "not theirs" not in texts(b)
    assert rises(b)


@pytest.mark.parametrize("again", [False, True])
def test_who_left_and_came_back_within_a_gap_is_begun_anew(world: World, *, again: bool) -> None:
    here, there = world.process(), world.process()
    club = Club(world, there)
    a, b = world.live(there, club.alice), world.live(here, club.bob)
    other = world.live(here, club.bob)
    world.bus.plan = lambda _envelope: []
    for _ in range(2 if again else 1):
        club.remove(club.bob)
        club.say(a, "not theirs")
        club.add(club.bob)
    club.rename("Another")
    world.bus.plan = lambda _envelope: [0.0]
    club.say(a, "again")
    world.pass_time()
    for wire in (b, other):
        assert texts(wire) == ["+", "-", "+", "again"]
        assert rises(wire)
        assert wire.of_type("conversation")[-1]["conversation"]["title"] == "Another"


def test_a_device_that_finds_a_return_before_its_news_has_the_others_begin_anew(world: World) -> None:
    here, there = world.process(), world.process()
    club = Club(world, there)
    a, first = world.live(there, club.alice), world.live(here, club.bob)
    world.bus.plan = lambda _envelope: []
    club.remove(club.bob)
    club.add(club.bob)
    club.say(a, "back")
    second = world.connect(here, club.bob)
    begin(world, second, {club.key: last_rev(first)})
    world.pass_time()
    world.bus.plan = lambda _envelope: [0.0]
    club.say(a, "again")
    world.pass_time()
    assert texts(first) == ["+", "-", "+", "back", "again"]
    assert texts(second) == ["-", "+", "back", "again"]
    assert rises(first)
    assert rises(second)


def test_the_read_of_a_slower_socket_does_not_undo_what_a_faster_one_found(world: World) -> None:
    here = world.process()
    club = Club(world, here)
    a = world.live(here, club.alice)
    slow, fast = world.connect(here, club.bob), world.connect(here, club.bob)
    gate = world.hold(here, "streams_of")
    begin(world, slow, {club.key: 1})
    world.run(gate.reached())
    club.remove(club.bob)
    club.add(club.bob)
    begin(world, fast, {club.key: 1})
    world.pass_time(1.0)
    gate.open()
    world.pass_time()
    club.say(a, "again")
    for wire in (slow, fast):
        assert texts(wire)[-3:] == ["-", "+", "again"]
        assert rises(wire)


def test_who_is_removed_while_a_notice_of_their_joining_is_looked_at(world: World) -> None:
    here, there = world.process(), world.process()
    club = Club(world, there)
    club.remove(club.bob)
    a, b = world.live(there, club.alice), world.live(here, club.bob)
    carol = world.user()
    club.add(carol)
    world.live(here, carol)
    gate = world.hold(here, "group_streams")
    club.add(club.bob)
    world.run(gate.reached())
    club.remove(club.bob)
    club.say(a, "not theirs")
    gate.open()
    world.pass_time()
    club.say(a, "nor this")
    world.pass_time()
    assert [text for text in texts(b) if text not in "+-"] == []
    assert rises(b)


@pytest.mark.parametrize("dissolved", [False, True])
def test_a_membership_that_has_ended_by_the_time_its_first_follower_here_has_read_it(
    world: World, *, dissolved: bool
) -> None:
    """The news of its end comes before anybody follows, and does not come again."""
    here, there = world.process(), world.process()
    club = Club(world, there)
    club.remove(club.bob)
    a, b = world.live(there, club.alice), world.live(here, club.bob)
    world.bus.plan = lambda _envelope: []
    club.add(club.bob)
    world.bus.plan = lambda _envelope: [0.0]
    other = world.connect(here, club.bob)
    first = world.hold(here, "streams_of")
    begin(world, other)
    world.run(first.reached())
    second = world.hold(here, "streams_of")
    first.open()
    world.run(second.reached())
    if dissolved:
        club.act(groups.group_dissolve)
    else:
        club.remove(club.bob)
        club.say(a, "not theirs")
    world.pass_time(1.0)
    second.open()
    world.pass_time()
    for wire in (b, other):
        assert texts(wire)[-1:] in ([], ["-"])
        assert "not theirs" not in texts(wire)
        assert rises(wire)
    assert club.key not in here.hub.topics


def test_a_group_of_the_bus_is_joined_once_and_left_when_nobody_here_needs_it(world: World) -> None:
    here, there = world.process(), world.process()
    club = Club(world, there)
    joined = world.bus.members[f"conversation.{club.key}"]
    assert joined == set()
    b, other = world.live(here, club.bob), world.live(here, club.bob)
    assert joined == {here}
    a = world.live(there, club.alice)
    assert joined == {here, there}
    b.drop()
    world.pass_time()
    assert joined == {here, there}
    club.say(a, "1")
    assert texts(other) == ["+", "1"]
    club.remove(club.bob)
    world.pass_time()
    assert joined == {there}
    a.drop()
    world.pass_time()
    assert joined == set()


def test_a_group_of_the_bus_is_kept_for_who_comes_back_in_time(world: World) -> None:
    here = world.process()
    club = Club(world, here)
    joined = world.bus.members[f"conversation.{club.key}"]
    b = world.live(here, club.bob)
    b.drop()
    world.pass_time(LEAVE_PATIENCE / 2)
    world.live(here, club.bob)
    world.pass_time()
    assert joined == {here}


@pytest.mark.cluster
def test_the_marks_of_a_new_member_are_told_although_the_bus_has_lost_them(world: World) -> None:
    here, there = world.process(), world.process()
    club = Club(world, here)
    club.remove(club.bob)
    a = world.live(there, club.alice)
    club.say(a, "meanwhile")
    world.pass_time(0.2)

    def told() -> list[list[int]]:
        named: dict[str, list[list[int]]] = {"receipt": [], "marks": []}
        for frame in a.frames:
            if frame["type"] == "receipt" and frame["username"] == club.bob.username:
                named["receipt"].append([frame["read"], frame["delivered"]])
            elif frame["type"] == "marks":
                named["marks"] += [
                    marks[club.bob.username]
                    for marks in frame["marks"].values()
                    if club.bob.username in marks
                ]
        return named["receipt"] + named["marks"]

    assert told() == []
    club.add(club.bob, told=False)
    row = Membership.objects.get(user=club.bob)
    world.run(there.look())
    world.pass_time(0.2)
    assert told() == [[row.read_seq, row.delivered_seq]]
    assert row.read_seq > 0
    # What has been heard is not told again.
    club.remove(club.bob)
    club.add(club.bob)
    world.pass_time(0.2)
    count = len(told())
    assert count == 2
    world.run(there.look())
    world.pass_time(0.2)
    assert len(told()) == count
