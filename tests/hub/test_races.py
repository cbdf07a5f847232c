"""Each race that docs/architecture.md names, with its interleaving forced."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from django.conf import settings
from django.db import connection, transaction

from accounts.models import User
from chatbe.core import clock
from chatbe.hub import fanout
from chatbe.hub.consumer import SocketConsumer
from chatbe.hub.registry import Identity
from chatbe.wire import codec, frames
from chatbe.wire.codes import CloseCode
from chatbe.wire.websocket import encode_text_frame
from messaging import selectors
from messaging.models import Conversation, Epoch, Message
from tests.support import hubs
from tests.support.hubs import Frame, Process, Wire, World

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def world() -> Iterator[World]:
    with hubs.world() as made:
        yield made


def say(wire: Wire, to: User, body: str, *, client_id: str = "") -> None:
    wire.send(
        type="send",
        ref=body[:64],
        to={"username": to.username},
        client_id=client_id or str(uuid.uuid4()),
        body=body,
    )


def said(world: World, wire: Wire, to: User, *bodies: str) -> str:
    """Say all of it and let it be stored and told; returns the conversation."""
    for body in bodies:
        say(wire, to, body)
        world.pass_time(0.2)
    return str(wire.of_type("ack")[-1]["conversation"])


def stream(wire: Wire) -> list[str]:
    """What the socket's stream had, in order: bodies of messages, `ack <body>`, `(ack <body>)` for duplicates."""
    names = []
    for frame in wire.frames:
        if frame["type"] == "message":
            names.append(frame["message"]["body"])
        elif frame["type"] == "ack":
            names.append(f"(ack {frame['ref']})" if frame["duplicate"] else f"ack {frame['ref']}")
    return names


def begin_sync(world: World, wire: Wire, **revs: Any) -> None:
    wire.send(type="sync", ref="sync", **{"conversations": {}, **revs})
    world.pass_time(0.0)


# --- the way into the stream -------------------------------------------------------------------------


def test_an_event_between_the_read_of_memberships_and_the_joining(world: World) -> None:
    """Alice is live on the same process, so its position is past what bob's read knew."""
    here = world.process()
    alice, bob = world.friends(2)
    a = world.live(here, alice)
    conversation = said(world, a, bob, "1", "2")
    b = world.connect(here, bob)
    gate = world.hold(here, "streams_of")
    begin_sync(world, b, conversations={conversation: 2})
    world.run(gate.reached())
    said(world, a, bob, "3", "4")
    gate.open()
    world.pass_time()
    assert stream(b) == ["3", "4"]
    said(world, a, bob, "5")
    assert stream(b) == ["3", "4", "5"]


def test_a_conversation_that_begins_while_a_member_joins(world: World) -> None:
    here = world.process()
    alice, bob = world.friends(2)
    a = world.live(here, alice)
    b = world.connect(here, bob)
    gate = world.hold(here, "streams_of")
    begin_sync(world, b)
    world.run(gate.reached())
    said(world, a, bob, "1", "2")
    gate.open()
    world.pass_time()
    # What the state event tells of needs no message: its rev is where the stream goes on from.
    state = [frame["conversation"] for frame in b.of_type("conversation") if frame["conversation"]["rev"]]
    start = state[0]["rev"] if state else 0
    assert stream(b) == ["1", "2"][start:]
    said(world, a, bob, "3")
    assert stream(b)[-1] == "3"


def test_an_event_of_a_group_between_the_read_and_the_joining(world: World) -> None:
    here, there = world.process(), world.process()
    alice, bob = world.friends(2)
    group = world.group(alice, bob)
    a = world.live(there, alice)
    b = world.connect(here, bob)
    gate = world.hold(here, "streams_of")
    begin_sync(world, b, conversations={str(group.pk): 1})
    world.run(gate.reached())
    a.send(type="send", ref="1", to={"conversation": str(group.pk)}, client_id=str(uuid.uuid4()), body="1")
    world.pass_time(0.2)
    gate.open()
    world.pass_time()
    assert stream(b) == ["1"]


def test_live_events_during_a_sync_follow_what_it_reads(world: World) -> None:
    here = world.process()
    alice, bob = world.friends(2)
    a = world.live(here, alice)
    conversation = said(world, a, bob, "1", "2")
    b = world.connect(here, bob)
    gate = world.hold(here, "read")
    begin_sync(world, b, conversations={conversation: 1})
    world.run(gate.reached())
    said(world, a, bob, "3", "4")
    assert stream(b) == []
    gate.open()
    world.pass_time()
    assert stream(b) == ["2", "3", "4"]


def test_a_sync_that_reads_ahead_of_the_bus_gets_nothing_twice(world: World) -> None:
    """The skip marks: the database had it, the publish comes later."""
    here, there = world.process(), world.process()
    alice, bob = world.friends(2)
    a, other = world.live(there, alice), world.live(here, bob)
    conversation = said(world, a, bob, "1")
    world.bus.plan = lambda _envelope: [0.04]
    say(a, bob, "2")
    say(a, bob, "3")
    world.pass_time(0.01)
    b = world.connect(here, bob)
    begin_sync(world, b, conversations={conversation: 1})
    world.pass_time(0.01)
    assert stream(b) == ["2", "3"]
    assert stream(other) == ["1"]
    world.pass_time()
    assert stream(b) == ["2", "3"]
    assert stream(other) == ["1", "2", "3"]
    said(world, a, bob, "4")
    assert stream(b) == ["2", "3", "4"]


def test_a_device_that_learns_of_a_conversation_before_its_news_tells_the_others(world: World) -> None:
    here, there = world.process(), world.process()
    alice, bob = world.friends(2)
    a, first = world.live(there, alice), world.live(here, bob)
    world.bus.plan = lambda _envelope: []
    said(world, a, bob, "1", "2")
    assert stream(first) == []
    second = world.live(here, bob)
    world.pass_time()
    assert stream(first) == ["1", "2"]
    assert [frame["conversation"]["rev"] for frame in second.of_type("conversation")] == [2]
    world.bus.plan = lambda _envelope: [0.0]
    said(world, a, bob, "3")
    assert (stream(first), stream(second)) == (["1", "2", "3"], ["3"])


def test_two_sockets_of_a_user_sync_at_the_same_moment(world: World) -> None:
    """The second's read is older than the first's, and the conversation begins between them."""
    here = world.process()
    alice, bob = world.friends(2)
    a = world.live(here, alice)
    first, second = world.connect(here, bob), world.connect(here, bob)
    older = world.hold(here, "streams_of")
    begin_sync(world, second, others="all")
    world.run(older.reached())
    said(world, a, bob, "1")
    begin_sync(world, first, others="all")
    world.pass_time(1.0)
    assert stream(first) == ["1"]
    older.open()
    world.pass_time()
    said(world, a, bob, "2")
    assert stream(first) == stream(second) == ["1", "2"]


def test_a_socket_that_goes_while_it_syncs_leaves_nothing(world: World) -> None:
    here = world.process()
    alice, bob = world.friends(2)
    a = world.live(here, alice)
    said(world, a, bob, "1")
    b = world.connect(here, bob)
    gate = world.hold(here, "streams_of")
    begin_sync(world, b)
    world.run(gate.reached())
    b.drop()
    world.pass_time(0.1)
    assert str(bob.pk) not in here.hub.users
    again = world.connect(here, bob)
    gate.open()
    world.pass_time(0.1)
    begin_sync(world, again)
    world.pass_time()
    said(world, a, bob, "2")
    assert stream(again) == ["2"]
    again.drop()
    a.drop()
    world.pass_time()
    assert (here.hub.users, here.hub.topics, here.hub.sockets) == ({}, {}, {})


# --- sending while the stream begins -----------------------------------------------------------------


@pytest.mark.parametrize("held", ["streams_of", "read", "own_of"])
def test_what_is_sent_during_a_sync_is_acked_in_its_place(world: World, held: str) -> None:
    here = world.process()
    alice, bob = world.friends(2)
    a = world.live(here, alice)
    conversation = said(world, a, bob, "1", "2")
    b = world.connect(here, bob)
    gate = world.hold(here, held)
    begin_sync(world, b, conversations={conversation: 1})
    world.run(gate.reached())
    say(b, alice, "3")
    world.pass_time(0.2)
    said(world, a, bob, "4")
    gate.open()
    world.pass_time()
    assert stream(b) == ["2", "ack 3", "4"]
    assert b.socket.unanswered == 0


def test_a_first_message_that_is_sent_during_a_sync(world: World) -> None:
    here = world.process()
    alice, bob = world.friends(2)
    a = world.connect(here, alice)
    gate = world.hold(here, "streams_of")
    begin_sync(world, a)
    world.run(gate.reached())
    say(a, bob, "1")
    say(a, bob, "2")
    world.pass_time(0.2)
    gate.open()
    world.pass_time()
    assert [name.strip("()") for name in stream(a) if name.startswith(("ack", "("))] == ["ack 1", "ack 2"]
    assert a.socket.unanswered == 0
    says = [frame["rev"] for frame in a.of_type("ack") if not frame["duplicate"]]
    revs = [frame["message"]["rev"] for frame in a.of_type("message")]
    assert not set(says) & set(revs)


# --- publishes ---------------------------------------------------------------------------------------


def test_two_processes_publishes_cross(world: World) -> None:
    here, one, other = world.process(), world.process(), world.process()
    alice, bob = world.friends(2)
    a1, a2, b = world.live(one, alice), world.live(other, alice), world.live(here, bob)
    said(world, a1, bob, "0")
    slow = iter([[0.03], [0.03]])
    world.bus.plan = lambda _envelope: next(slow, [0.0])
    say(a1, bob, "1")
    world.pass_time(0.001)
    say(a2, bob, "2")
    world.pass_time(0.02)
    assert stream(b) == ["0"]
    world.pass_time(0.02)
    assert stream(b) == ["0", "1", "2"]
    assert here.hub.gaps_read == 0


def test_a_row_that_a_repair_reads_before_its_own_ack(world: World) -> None:
    """Alice's commit is read by the gap that bob's message revealed; the writer's answer comes after it."""
    here, there = world.process(), world.process()
    alice, bob = world.friends(2)
    a, b = world.live(here, alice), world.live(there, bob)
    said(world, a, bob, "1")
    gate = world.hold(here, "store")
    say(a, bob, "2")
    world.run(gate.reached())
    said(world, b, alice, "3")
    world.pass_time(1.0)
    assert stream(a) == ["ack 1", "2", "3"]
    gate.open()
    world.pass_time()
    assert stream(a) == ["ack 1", "2", "3", "(ack 2)"]
    assert stream(b) == ["1", "2", "ack 3"]


def test_an_ack_waits_for_what_was_committed_before_it(world: World) -> None:
    here, there = world.process(), world.process()
    alice, bob = world.friends(2)
    a, b = world.live(here, alice), world.live(there, bob)
    said(world, a, bob, "1")
    world.bus.plan = lambda _envelope: []
    said(world, b, alice, "2")
    say(a, bob, "3")
    world.pass_time(0.04)
    assert stream(a) == ["ack 1"]
    world.pass_time(0.1)
    assert stream(a) == ["ack 1", "2", "ack 3"]


def test_an_edit_overtakes_the_message_it_edits(world: World) -> None:
    """The edit's publish comes, the message's is lost: its rev is nobody's any more."""
    here, there = world.process(), world.process()
    alice, bob = world.friends(2)
    a, b = world.live(there, alice), world.live(here, bob)
    conversation = said(world, a, bob, "1")
    world.bus.plan = lambda _envelope: []
    say(a, bob, "2")
    world.pass_time(0.01)
    with transaction.atomic():
        row = Conversation.objects.select_for_update().get(pk=conversation)
        row.head_rev = 3
        row.save(update_fields=["head_rev"])
        Message.objects.filter(conversation=row, seq=2).update(rev=3, body="2!", edited_at=clock.now())
    world.bus.plan = lambda _envelope: [0.0]
    edited = selectors.message_from_row(
        Message.objects.values_list(*selectors.MESSAGE_FIELDS).get(conversation=row, seq=2)
    )
    there.context.copy().run(
        fanout.change, conversation, rev=3, seq=2, event=codec.encode(frames.Message(edited)),
        users=(str(alice.pk), str(bob.pk)),
    )  # fmt: skip
    world.pass_time()
    assert stream(b) == ["1", "2!"]
    assert stream(a) == ["ack 1", "ack 2", "2!"]


# --- slow sockets ------------------------------------------------------------------------------------


def test_a_slow_reader_is_resynced_and_delays_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "CHATBE_OUTBOX_BYTES", 5000)
    here = world.process()
    alice, bob = world.friends(2)
    a, slow, b = world.live(here, alice), world.live(here, bob), world.live(here, bob)
    slow.stall()
    bodies = [f"{number} {'x' * 200}" for number in range(100)]
    for body in bodies:
        say(a, bob, body)
    world.pass_time(1.0)
    assert stream(b) == bodies
    assert slow.peak < 6000
    say(slow, alice, "meanwhile")
    world.pass_time(1.0)
    slow.resume()
    world.pass_time()
    assert stream(slow) == [*bodies, "ack meanwhile"]
    said(world, a, bob, "live again")
    assert stream(slow)[-1] == "live again"


def test_a_slow_reader_who_has_not_asked_for_the_stream_is_told_the_truth_afresh(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Presence comes without a `sync`, so what is left out of it cannot wait for one."""
    monkeypatch.setattr(settings, "CHATBE_OUTBOX_BYTES", 1000)
    here = world.process()
    told = Told()
    part: Any = told
    here.parts.append(part)
    bob = world.user()
    b = world.connect(here, bob)
    b.stall()
    for _ in range(40):
        told.tell(b, online=False)
    told.tell(b, online=True)
    assert b.peak < 2000
    b.resume()
    world.pass_time(1.0)
    assert b.of_type("presence")[-1]["online"] is True
    b.stall()
    b.resume()
    world.pass_time(1.0)
    assert told.afresh == 1


class Told:
    """A part that tells something which is not of the stream, and the last of it again when it may have been missed."""

    handlers: ClassVar[dict[Any, Any]] = {}
    afresh = 0
    online = False

    def tell(self, wire: Wire, *, online: bool) -> None:
        self.online = online
        event = frames.Presence(username="carol", online=online, last_seen=None)
        wire.socket.offer_event(encode_text_frame(codec.encode(event)), in_stream=False)

    def caught_up(self, socket: SocketConsumer) -> None:
        self.afresh += 1
        event = frames.Presence(username="carol", online=self.online, last_seen=None)
        socket.offer_event(encode_text_frame(codec.encode(event)), in_stream=False)

    def arriving(self, socket: SocketConsumer) -> None: ...
    async def connected(self, socket: SocketConsumer) -> None: ...
    def disconnected(self, socket: SocketConsumer) -> None: ...
    async def stop(self) -> None: ...


def test_a_reader_that_takes_nothing_is_closed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "CHATBE_OUTBOX_BYTES", 1000)
    here = world.process()
    alice, bob = world.friends(2)
    a, slow = world.live(here, alice), world.live(here, bob)
    slow.stall()
    for number in range(20):
        say(a, bob, f"{number}")
    world.pass_time(1.0)
    slow.socket.judge_slowness(world.loop.now + settings.CHATBE_SLOW_READER_TIMEOUT - 2)
    assert slow.code is None
    slow.socket.judge_slowness(world.loop.now + settings.CHATBE_SLOW_READER_TIMEOUT + 1)
    assert slow.code == CloseCode.TOO_SLOW


def test_a_client_that_reads_no_answers_is_not_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "CHATBE_OUTBOX_BYTES", 2000)
    here = world.process()
    (alice,) = world.friends(1)
    a = world.live(here, alice)
    a.stall()
    for number in range(1000):
        a.send(type="heartbeat", ref=str(number))
    world.pass_time(1.0)
    assert a.paused
    assert a.peak < 3000
    for _ in range(100):
        a.resume()
        a.stall()
        world.pass_time(0.1)
    a.resume()
    world.pass_time(1.0)
    assert [frame["ref"] for frame in a.of_type("heartbeat")] == [str(number) for number in range(1000)]
    assert not a.paused


def test_a_client_that_reads_no_answers_leaves_nothing_on_a_plain_asgi_server(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end comes by `receive`, which must be called again for it."""
    monkeypatch.setattr(settings, "CHATBE_OUTBOX_BYTES", 1000)
    here = world.process()
    bob = world.user()
    world.identities["otp"] = Identity(bob.pk, bob.username, uuid.uuid4(), hubs.FOREVER)
    socket, inbox, gone = SocketConsumer(), asyncio.Queue[Frame](), asyncio.Event()
    inbox.put_nowait({"type": "websocket.connect"})

    async def send(message: Frame) -> None:
        if "heartbeat" in json.loads(message.get("text", "{}")).get("type", ""):
            await gone.wait()
            raise ConnectionResetError

    async def serve() -> None:
        scope = {"type": "websocket", "query_string": f"otp=otp&username={bob.username}".encode()}
        await socket(scope, inbox.get, send)

    served = here.spawn(serve())
    for _ in range(100):
        inbox.put_nowait({"type": "websocket.receive", "text": '{"type": "heartbeat"}'})
    world.pass_time(1.0)
    assert socket.choked
    socket.judge_slowness(world.loop.time())
    socket.judge_slowness(world.loop.time() + settings.CHATBE_SLOW_READER_TIMEOUT + 1)
    assert socket.closed
    inbox.put_nowait({"type": "websocket.disconnect", "code": 1006})
    world.run(_soon(gone.set))
    world.pass_time()
    assert served.done()
    assert not here.hub.sockets


async def _soon(act: Callable[[], None]) -> None:
    act()


def test_a_burst_is_read_no_further_than_answers_are_owed(world: World) -> None:
    here = world.process()
    alice, bob = world.friends(2)
    a, b = world.live(here, alice), world.live(here, bob)
    said(world, a, bob, "first")
    gate = world.hold(here, "store", after=False)
    bodies = [str(number) for number in range(500)]
    for body in bodies:
        say(a, bob, body)
    world.run(gate.reached())
    assert a.socket.unanswered == here.max_unanswered
    assert a.paused
    gate.open()
    world.pass_time()
    assert stream(b) == ["first", *bodies]
    assert stream(a) == [f"ack {body}" for body in ("first", *bodies)]
    assert (a.socket.unanswered, a.paused) == (0, False)


def test_a_lagging_socket_catches_up_across_a_database_that_goes_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "CHATBE_OUTBOX_BYTES", 1000)
    monkeypatch.setattr("messaging.sync.PAGE_ROWS", 3)
    here = world.process()
    alice, bob = world.friends(2)
    a, slow = world.live(here, alice), world.live(here, bob)
    slow.stall()
    bodies = [f"{number} {'x' * 200}" for number in range(30)]
    for body in bodies:
        say(a, bob, body)
    world.pass_time(1.0)
    answers = iter([False] * 4 + [True] * 3)
    world.database_away = lambda: next(answers, False)
    slow.resume()
    world.pass_time()
    assert stream(slow) == bodies


# --- sessions ----------------------------------------------------------------------------------------


def connect_held(
    world: World, process: Process, user: User, at: str, meanwhile: Callable[[uuid.UUID], None]
) -> Wire:
    """Connect, and let something happen while the sign-in stands at `at`."""
    gate = world.hold(process, at)
    wire: list[Wire] = []

    async def go() -> None:
        context = process.context.copy()
        made = Wire(context)
        wire.append(made)
        task = asyncio.get_running_loop().create_task(world._connect(process, user, made, context))
        await gate.reached()
        meanwhile(list(world.identities.values())[-1].session_id)
        gate.open()
        await task

    world.run(go())
    return wire[0]


def end_session(world: World, process: Process, user: User, *, told: bool) -> Callable[[uuid.UUID], None]:
    def end(session: uuid.UUID) -> None:
        world.ended[session] = CloseCode.SESSION_ENDED
        if told:
            process.context.copy().run(fanout.control, user.pk, "session_ended", session=str(session))

    return end


@pytest.mark.parametrize(
    ("at", "told"),
    [
        ("authenticate", True),  # before the joining: only the read can find it
        ("join", True),  # joined: the read finds it, and the news may come first
        ("join", False),
        ("admit", True),  # after the read: only the news can tell
    ],
)
def test_no_revocation_slips_between_the_ticket_and_the_welcome(world: World, at: str, *, told: bool) -> None:
    here, there = world.process(), world.process()
    (alice,) = world.friends(1)
    wire = connect_held(world, here, alice, at, end_session(world, there, alice, told=told))
    world.pass_time(1.0)
    assert wire.code == 4001
    assert str(alice.pk) not in here.hub.users


def test_the_silent_and_those_whose_session_has_run_out_are_closed(world: World) -> None:
    here = world.process()
    wires = [world.live(here, user) for user in world.friends(3)]
    for wire in wires[:2]:
        wire.send(type="heartbeat", ref="h")
    world.pass_time(0.1)
    beating, silent, other = here.hub.sockets.values()
    now = time.monotonic()
    beating.last_frame, silent.last_frame, other.last_frame = now - 40, now - 80, now - 500
    ends = [socket.identity.expires_at for socket in (beating, silent, other)]
    assert here._first_expiry == min(ends)
    # Who never sent a heartbeat owes none.
    assert here._close_the_ended(now, clock.now(), 75.0) == now - 40
    assert [wire.code for wire in wires] == [None, 4010, None]
    assert here._first_expiry == min(ends[0], ends[2])
    world.pass_time(0.1)
    here._close_the_ended(now, max(ends), 75.0)
    assert [wire.code for wire in wires] == [4001, 4010, 4001]


def test_a_suspension_closes_every_socket(world: World) -> None:
    here, there = world.process(), world.process()
    alice, bob = world.friends(2)
    wires = [world.live(here, alice), world.live(there, alice)]
    other = world.live(here, bob)
    here.context.copy().run(fanout.control, alice.pk, "suspended")
    world.pass_time(0.1)
    assert [wire.code for wire in wires] == [4003, 4003]
    assert other.code is None


def test_what_was_heard_is_kept_for_a_while_only(world: World) -> None:
    here = world.process()
    alice, bob = world.friends(2)
    a, b = world.live(here, alice), world.live(here, bob)
    kept = []
    for seq in range(1, 9):
        conversation = said(world, a, bob, str(seq))
        b.send(type="read", conversation=conversation, seq=seq)
        world.pass_time(1.0)
        world.run(here.look())
        kept.append(len(here.hub._heard) + len(here.hub._heard_before))
    assert a.of_type("receipt")[-1]["read"] == 8
    assert max(kept) <= 4, "two spans of one receipt for each of the two"


def test_a_database_that_went_back_closes_every_socket(world: World) -> None:
    """Revs that are given again would be dropped as old."""
    here = world.process()
    alice, bob = world.friends(2)
    a, b = world.live(here, alice), world.live(here, bob)
    conversation = said(world, a, bob, "1", "2", "3")
    Message.objects.filter(conversation=uuid.UUID(conversation), seq__gt=1).delete()
    Conversation.objects.filter(pk=conversation).update(head_rev=1, last_seq=1)
    said(world, a, bob, "2 again")
    world.run(here.look())
    assert (a.code, b.code) == (CloseCode.RESTARTING, CloseCode.RESTARTING)
    a, b = world.live(here, alice), world.live(here, bob)
    said(world, a, bob, "3 again")
    assert (stream(a), stream(b)) == (["ack 3 again"], ["3 again"])
    world.run(here.look())
    assert (a.code, b.code) == (None, None)


def test_another_epoch_closes_every_socket(world: World) -> None:
    here = world.process()
    alice, bob = world.friends(2)
    a = world.live(here, alice)
    said(world, a, bob, "1")
    Epoch.objects.update(value="another")
    world.run(here.look())
    assert a.code == CloseCode.RESTARTING
    assert world.connect(here, alice).frames[0]["epoch"] == "another"


# --- the writer --------------------------------------------------------------------------------------


def test_a_commit_whose_answer_is_lost_is_acked_once(world: World) -> None:
    here = world.process()
    alice, bob = world.friends(2)
    a, b = world.live(here, alice), world.live(here, bob)
    lost = iter([True])
    world.answer_lost = lambda: next(lost, False)
    said(world, a, bob, "1")
    said(world, a, bob, "2")
    assert stream(a) == ["ack 1", "ack 2"]
    assert stream(b) == ["1", "2"]
    assert Message.objects.count() == 2


def test_a_commit_that_stays_in_doubt_is_refused_found_and_repeated(world: World) -> None:
    here = world.process()
    alice, bob = world.friends(2)
    a, b = world.live(here, alice), world.live(here, bob)
    said(world, a, bob, "1")
    lost = iter([True, True])
    world.answer_lost = lambda: next(lost, False)
    client_id = str(uuid.uuid4())
    say(a, bob, "2", client_id=client_id)
    world.pass_time(0.2)
    error = a.of_type("error")[0]
    assert (error["ref"], error["code"], error["retry_after"] > 0) == ("2", "unavailable", True)
    world.pass_time(2.0)
    say(a, bob, "2", client_id=client_id)
    world.pass_time(0.2)
    assert stream(a)[:2] == ["ack 1", "(ack 2)"]
    world.run(here.hub.check_all())
    world.pass_time()
    assert stream(b) == ["1", "2"]
    assert stream(a) == ["ack 1", "(ack 2)", "2"]
    assert Message.objects.count() == 2


def test_a_first_message_whose_commit_stays_in_doubt_is_found(world: World) -> None:
    here = world.process()
    alice, bob = world.friends(2)
    a, b = world.live(here, alice), world.live(here, bob)
    lost = iter([True, True])
    world.answer_lost = lambda: next(lost, False)
    say(a, bob, "1")
    world.pass_time(2.0)
    assert a.of_type("error")[0]["code"] == "unavailable"
    assert stream(b) == []
    world.run(here.look())
    world.pass_time()
    assert stream(a) == stream(b) == ["1"]
    world.run(here.look())
    world.pass_time()
    assert stream(b) == ["1"]
    assert [frame["type"] for frame in b.frames if frame["type"] == "conversation"] == ["conversation"]


@pytest.mark.cluster
def test_a_database_that_takes_no_writes_refuses_nothing_for_ever(world: World) -> None:
    """A standby is in its place, or its disk is full: it is not the message's fault."""
    here = world.process()
    alice, bob = world.friends(2)
    a, b = world.live(here, alice), world.live(here, bob)
    conversation = said(world, a, bob, "1")
    client_id = str(uuid.uuid4())
    with _no_writes():
        say(a, bob, "2", client_id=client_id)
        a.send(type="edit", ref="edit", conversation=conversation, seq=1, body="1 edited")
        b.send(type="read", ref="read", conversation=conversation, seq=1)
        world.pass_time(2.0)
    errors = {error["ref"]: error for error in [*a.of_type("error"), *b.of_type("error")]}
    assert {ref: error["code"] for ref, error in errors.items()} == dict.fromkeys(
        ("2", "edit", "read"), "unavailable"
    )
    assert all(error["retry_after"] > 0 for error in errors.values())
    say(a, bob, "2", client_id=client_id)
    b.send(type="read", conversation=conversation, seq=1)
    world.pass_time(2.0)
    assert stream(b) == ["1", "2"]
    assert a.of_type("receipt")[-1]["read"] == 1


@contextlib.contextmanager
def _no_writes() -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")
        try:
            yield
        finally:
            cursor.execute("SET default_transaction_read_only = off")


@pytest.mark.cluster
def test_a_locked_conversation_keeps_the_order_of_one_sender(world: World) -> None:
    """Another server's transaction holds one conversation; the others go on."""
    from messaging.writer import postgres

    here = world.process()
    alice, bob, carol = world.friends(3)
    a, b, c = world.live(here, alice), world.live(here, bob), world.live(here, carol)
    conversation = said(world, a, bob, "0")
    said(world, a, carol, "0'")
    holder = postgres.connect()
    holder.autocommit = False
    try:
        holder.execute("SELECT FROM messaging_conversation WHERE id = %s FOR UPDATE", [conversation])
        for number in range(1, 5):
            say(a, bob, f"{number}")
            say(a, carol, f"{number}'")
            world.pass_time(0.03)
        assert stream(c) == ["0'", "1'", "2'", "3'", "4'"]
        assert stream(b) == ["0"]
        holder.commit()
    finally:
        holder.close()
    world.pass_time()
    assert stream(b) == ["0", "1", "2", "3", "4"]
    acks: list[Frame] = a.of_type("ack")
    assert [ack["ref"] for ack in acks if ack["conversation"] == conversation] == ["0", "1", "2", "3", "4"]


# --- drain -------------------------------------------------------------------------------------------


def test_a_drain_finishes_what_was_taken_and_says_goodbye_to_all(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One socket syncs, one waits for its ack, one is being let in."""
    monkeypatch.setattr("chatbe.hub.registry.issue_otps", lambda sessions: dict.fromkeys(sessions, "ticket"))
    here = world.process()
    alice, bob = world.friends(2)
    a, b = world.live(here, alice), world.connect(here, bob)
    said(world, a, bob, "1")
    reading, storing = world.hold(here, "own_of"), world.hold(here, "store")
    begin_sync(world, b, others="all")
    say(a, bob, "2")
    world.run(reading.reached())
    world.run(storing.reached())
    drain = world.loop.create_task(here.drain(10.0))
    world.pass_time(0.5)
    assert [wire.of_type("bye")[0]["otp"] for wire in (a, b)] == ["ticket"] * 2
    assert [wire.code for wire in (a, b)] == [None, None]
    late = world.connect(here, bob)
    assert late.code == CloseCode.RESTARTING
    storing.open()
    reading.open()
    world.pass_time(2.0)
    assert drain.done()
    assert stream(a) == ["ack 1", "ack 2"]
    assert stream(b) == ["1", "2"]
    assert b.of_type("synced")
    assert [wire.code for wire in (a, b)] == [CloseCode.RESTARTING] * 2


def test_a_drain_does_not_wait_for_a_database_for_ever(world: World) -> None:
    here = world.process()
    alice, bob = world.friends(2)
    a = world.live(here, alice)
    said(world, a, bob, "1")
    world.hold(here, "issue_otps")
    world.hold(here, "store")
    say(a, bob, "2")
    world.pass_time(0.1)
    before = world.loop.now
    drain = world.loop.create_task(here.drain(8.0))
    while not drain.done():
        world.pass_time(0.5)
    assert world.loop.now - before < 10.0
    assert a.code == CloseCode.RESTARTING
