"""What the bus lost is found by a question to the database: heads, openings, rights, marks, another history."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction

from accounts import services as accounts
from accounts.models import Session, User
from chatbe.core import clock
from chatbe.wire.codes import CloseCode
from messaging import tails
from messaging.models import Conversation, Epoch
from messaging.writer import postgres
from tests.support import hubs
from tests.support.hubs import Process, Wire, World

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.cluster]


@pytest.fixture
def world() -> Iterator[World]:
    with hubs.world() as made:
        yield made


class Two:
    """Alice and bob on processes of their own, both live."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.here, self.there = world.process(), world.process()
        self.alice, self.bob = world.friends(2)
        self.a, self.b = world.live(self.here, self.alice), world.live(self.there, self.bob)

    def say(self, body: str = "hello") -> str:
        """Alice writes; returns the conversation."""
        ref = uuid.uuid4().hex
        say(self.a, self.bob, body, ref)
        self.world.pass_time(0.5)
        return next(str(ack["conversation"]) for ack in self.a.of_type("ack") if ack["ref"] == ref)

    def ask(self) -> None:
        """Both processes ask."""
        for process in (self.here, self.there):
            ask(self.world, process)


@pytest.fixture
def two(world: World) -> Two:
    return Two(world)


def say(wire: Wire, to: User, body: str, ref: str = "") -> None:
    wire.send(type="send", ref=ref, to={"username": to.username}, client_id=str(uuid.uuid4()), body=body)


def ask(world: World, process: Process) -> None:
    world.run(process.look())
    world.pass_time(1.0)


def lose_everything(world: World) -> None:
    world.bus.plan = lambda _envelope: []


def bodies(wire: Wire) -> list[str]:
    return [frame["message"]["body"] for frame in wire.of_type("message")]


def test_the_last_message_before_a_silence_is_found(two: Two) -> None:
    two.say("first")
    lose_everything(two.world)
    two.say("last")
    assert bodies(two.b) == ["first"]
    two.ask()
    assert bodies(two.b) == ["first", "last"]
    two.ask()
    assert bodies(two.b) == ["first", "last"]


def test_a_conversation_whose_first_messages_were_lost_is_found_with_its_opening(two: Two) -> None:
    lose_everything(two.world)
    two.say("first")
    two.say("second")
    two.ask()
    kinds = [frame["type"] for frame in two.b.frames if frame["type"] in {"conversation", "message"}]
    assert kinds == ["conversation", "message", "message"]
    assert bodies(two.b) == ["first", "second"]


def test_an_opening_is_found_for_one_member_while_the_other_follows_it_here(world: World) -> None:
    """Alice's sync read it, bob's news of it was lost: that somebody here follows it says nothing of bob."""
    here, there = world.process(), world.process()
    alice, bob = world.friends(2)
    b = world.live(here, bob)
    away = world.live(there, alice)
    lose_everything(world)
    say(away, bob, "hello")
    world.pass_time(0.5)
    a = world.live(here, alice)
    ask(world, here)
    assert bodies(b) == ["hello"]
    say(away, bob, "more")
    world.pass_time(0.5)
    ask(world, here)
    assert bodies(b) == ["hello", "more"]
    assert bodies(a) == ["more"]


def test_what_is_found_while_a_gap_is_being_read_is_not_forgotten(two: Two) -> None:
    """The read under way may be older than the head that the question found."""
    two.say("first")
    lose_everything(two.world)
    two.say("second")
    gate = two.world.hold(two.there, "gap")
    two.world.run(two.there.look())
    two.world.run(gate.reached())
    two.say("third")
    two.world.run(two.there.look())
    gate.open()
    two.world.pass_time(1.0)
    assert bodies(two.b) == ["first", "second", "third"]


def test_a_slow_transaction_that_was_open_at_the_last_question_is_found(two: Two) -> None:
    """Its id is older than others' that the last snapshot had seen, and it commits after it."""
    conversation = two.say("first")
    lose_everything(two.world)
    slow = postgres.connect()
    slow.autocommit = False
    try:
        slow.execute("SELECT pg_current_xact_id()")
        other = two.world.friends(2)
        two.say("second")
        two.ask()
        assert bodies(two.b) == ["first", "second"]
        slow.execute(
            "UPDATE messaging_conversation SET head_rev = head_rev + 1, state_rev = head_rev + 1 WHERE id = %s",
            [conversation],
        )
        # As the writer's function does, whose session keeps the triggers silent.
        slow.execute(
            "INSERT INTO messaging_change (conversations, heads) VALUES (%s::uuid[], '{3}')", [[conversation]]
        )
        two.ask()
        User.objects.filter(pk=other[0].pk).update(control_rev=1)
        two.ask()
        slow.commit()
    finally:
        slow.close()
    before = len(two.b.of_type("conversation"))
    two.ask()
    assert [frame["conversation"]["rev"] for frame in two.b.of_type("conversation")[before:]] == [3]


def test_a_session_whose_end_was_not_heard_of_is_closed(two: Two) -> None:
    session = two.b.socket.identity.session_id
    with transaction.atomic():
        two.world.ended[session] = CloseCode.SESSION_ENDED
        User.objects.filter(pk=two.bob.pk).update(control_rev=1)
    two.ask()
    assert [wire.code for wire in (two.a, two.b)] == [None, 4001]


def test_services_that_change_rights_are_found_though_nothing_was_heard(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_everything(two.world)
    changed: list[str] = []
    for process in (two.here, two.there):
        monkeypatch.setattr(process.messaging, "rights_changed", changed.append)
    with monkeypatch.context() as patch:
        # As from a process without sockets.
        patch.setattr("chatbe.hub.fanout.send", lambda _groups, _envelope: None)
        accounts.block_add(blocker=two.bob, username=two.alice.username)
        two.ask()
        assert sorted(changed) == sorted([str(two.alice.pk), str(two.bob.pk)])
        changed.clear()
        accounts.user_suspend(user_id=two.bob.pk, until=clock.now() + timedelta(hours=1))
        two.ask()
        session = Session.objects.create(
            user=two.alice, refresh_jti=uuid.uuid4(), expires_at=clock.now() + timedelta(hours=1)
        )
        accounts.session_end(user_id=two.alice.pk, session_id=session.pk)
        two.ask()
    assert changed == [str(two.bob.pk), str(two.alice.pk)]


def test_a_receipt_that_was_lost_is_told(two: Two) -> None:
    conversation = two.say("hello")
    lose_everything(two.world)
    two.b.send(type="read", conversation=conversation, seq=1)
    two.world.pass_time(0.5)
    assert not two.a.of_type("receipt")
    two.ask()
    assert [frame["read"] for frame in two.a.of_type("receipt")] == [1]


def test_whoever_was_added_is_told_though_the_news_was_lost(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    carol, dave = two.world.user(), two.world.user()
    c = two.world.live(two.there, carol)
    with monkeypatch.context() as patch:
        patch.setattr("chatbe.hub.fanout.send", lambda _groups, _envelope: None)
        accounts.contact_add(owner=two.alice, username=carol.username)
        accounts.contact_add(owner=dave, username=carol.username)
        accounts.contact_remove(owner=dave, username=carol.username)
        accounts.block_add(blocker=carol, username=dave.username)
        accounts.contact_add(owner=dave, username=carol.username)
    two.ask()
    assert c.of_type("contact") == [
        {"type": "contact", "username": two.alice.username, "added": True, "mutual": False}
    ]
    two.ask()
    with monkeypatch.context() as patch:
        patch.setattr("chatbe.hub.fanout.send", lambda _groups, envelope: two.there.hub.apply(envelope))
        accounts.contact_add(owner=carol, username=two.alice.username)
        accounts.contact_add(owner=two.bob, username=carol.username)
    two.ask()
    names = [frame["username"] for frame in c.of_type("contact")]
    assert (set(names), names.count(two.bob.username)) == ({two.alice.username, two.bob.username}, 1)


def test_a_question_that_fails_is_asked_again(two: Two) -> None:
    two.say("first")
    lose_everything(two.world)
    two.say("second")
    gate = two.world.hold(two.there, "ask")
    task = two.world.loop.create_task(two.there.look())
    two.world.run(gate.reached())
    task.cancel()
    two.world.pass_time(0.1)
    two.ask()
    assert bodies(two.b) == ["first", "second"]


def test_another_history_closes_every_socket_and_forgets_every_position(two: Two) -> None:
    conversation = two.say("first")
    two.say("second")
    # Restored from an older state: the second message is gone, and the runbook changed the epoch.
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM messaging_message WHERE conversation_id = %s AND seq = 2", [conversation])
    Conversation.objects.filter(pk=conversation).update(head_rev=1, last_seq=1)
    Epoch.objects.update(value="another")
    old = (two.a, two.b)
    two.ask()
    assert [wire.code for wire in old] == [CloseCode.RESTARTING] * 2
    two.a, two.b = (
        two.world.live(two.here, two.alice),
        two.world.live(two.there, two.bob),
    )
    assert two.b.frames[0]["epoch"] == "another"
    two.say("second again")
    assert bodies(two.b) == ["second again"]


def test_another_history_has_other_conversations(two: Two) -> None:
    """What was made after the backup is gone, though this process knew the way to it."""
    lost = two.say("first")
    Conversation.objects.filter(pk=lost).delete()
    Epoch.objects.update(value="another")
    two.ask()
    two.a, two.b = two.world.live(two.here, two.alice), two.world.live(two.there, two.bob)
    assert two.say("again") != lost
    assert bodies(two.b) == ["again"]


def test_a_snapshot_from_the_future_is_another_history(two: Two) -> None:
    two.there.tails._xmax += 1_000_000
    two.ask()
    assert (two.a.code, two.b.code) == (None, 1012)


@pytest.mark.parametrize("logged", [True, False])
def test_a_head_behind_a_position_is_another_history(two: Two, *, logged: bool) -> None:
    """A standby took over that lacked the last commits: nobody changed the epoch, and by the next question the
    transaction ids have caught up."""
    conversation = two.say("1")
    two.say("2")
    two.say("3")
    two.ask()
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM messaging_message WHERE conversation_id = %s AND seq > 1", [conversation])
        Conversation.objects.filter(pk=conversation).update(head_rev=1, last_seq=1)
        cursor.execute("DELETE FROM messaging_change")
    two.say("2 again")
    assert bodies(two.b) == ["1", "2", "3"]
    if not logged:
        # Transaction ids that the last question has seen in the other history are not asked for again.
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM messaging_change")
    two.ask()
    assert (two.a.code, two.b.code) == (CloseCode.RESTARTING, CloseCode.RESTARTING)
    two.a, two.b = two.world.live(two.here, two.alice), two.world.live(two.there, two.bob)
    two.say("3 again")
    assert bodies(two.b) == ["3 again"]


def test_a_head_that_was_read_while_the_bus_went_on_is_no_other_history(two: Two) -> None:
    two.say("1")
    gate = two.world.hold(two.there, "ask")
    task = two.world.loop.create_task(two.there.look())
    two.say("2")
    two.world.run(gate.reached())
    two.say("3")
    gate.open()
    two.world.run(asyncio.wait_for(task, 5))
    two.ask()
    assert (two.a.code, two.b.code) == (None, None)
    assert bodies(two.b) == ["1", "2", "3"]


def test_whoever_could_not_ask_for_long_begins_afresh(two: Two) -> None:
    two.world.loop.now += tails.KEPT_SECONDS / 2 + 1
    ask(two.world, two.there)
    assert (two.a.code, two.b.code) == (None, 1012)


def test_rows_of_the_log_are_deleted_when_they_are_old(two: Two) -> None:
    def rows() -> list[Any]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT xid::text::bigint FROM messaging_change ORDER BY xid")
            return [row[0] for row in cursor.fetchall()]

    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM messaging_change")
    two.say("old")
    old = rows()
    assert old
    for _ in range(8):
        two.world.loop.now += tails.KEPT_SECONDS / 8
        two.ask()
        assert set(old) <= set(rows()), "kept for as long as somebody may not have asked"
    two.say("new")
    # Other tests' transactions, also in other databases, may hold back the horizon.
    for _ in range(100):
        two.world.loop.now += tails.KEPT_SECONDS / 8
        two.ask()
        if not set(old) & set(rows()):
            break
        time.sleep(0.05)
    else:
        pytest.fail("rows of the log are kept for ever")
    assert bodies(two.b) == ["old", "new"]
