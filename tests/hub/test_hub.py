"""Positions of one process in the conversations that its sockets follow: order, gaps, and who sees what."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any

import msgspec
import pytest

from chatbe.core.errors import Unavailable
from chatbe.hub import hub as hubs
from chatbe.hub.hub import Change, Gap, Hub, LocalUser
from chatbe.hub.outbox import UNKNOWN
from chatbe.wire import frames
from chatbe.wire.websocket import encode_text_frame
from tests.hub.test_outbox import Box
from tests.support.hubs import VirtualLoop

pytestmark = pytest.mark.pure

C = "c"


def body(rev: int) -> bytes:
    return msgspec.json.encode({"type": "message", "r": rev})


class Database:
    """Changes by rev: the hub's source, which can be away and slow."""

    def __init__(self) -> None:
        self.changes: dict[int, int] = {}
        """rev → seq"""
        self.away = 0
        self.reads: list[int] = []
        self.page = 100

    def gap(self, conversation: str, after: int, followers: dict[str, int]) -> Gap:
        self.reads.append(after)
        if self.away:
            self.away -= 1
            raise Unavailable
        revs = sorted(rev for rev in self.changes if rev > after)
        head = revs[-1] if revs else after
        page = revs[: self.page]
        found = [Change(rev, self.changes[rev], encode_text_frame(body(rev))) for rev in page]
        position = page[-1] if page else after
        return Gap(found, position, complete=position == head)

    def heads(self, conversations: list[str]) -> dict[str, int]:
        return dict.fromkeys(conversations, max(self.changes, default=0))

    async def catch_up(self, socket: Any) -> None:
        raise AssertionError


class Place:
    """The hub's node: tasks on the loop, database work inline; `slow` seconds between its read and its answer."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.slow = 0.0
        self.failures: list[BaseException] = []

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self._loop.create_task(coroutine)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failures.append(error)

    async def call(self, function: Any, *args: Any) -> Any:
        found = function(*args)
        await asyncio.sleep(self.slow)
        return found


class Socket(Box):
    """A socket of a user, live."""

    user: LocalUser

    def __init__(self, user_key: str, connection: str) -> None:
        super().__init__()
        self.user_key, self.connection = user_key, connection

    def bucket_of_user(self) -> None: ...


class Room:
    """A hub with sockets in it."""

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.database = Database()
        self.place = Place(self.loop)
        # What the hub needs of a node and of consumers, not all of them.
        node: Any = self.place
        self.hub: Any = Hub(node, self.database)

    def socket(self, user: str, connection: str = "") -> Socket:
        socket = Socket(user, connection or user)
        self.hub.add(socket)
        socket.live()
        socket.user.loaded = True
        return socket

    def follow(self, socket: Socket, position: int = 0, hidden_to: int = 0) -> None:
        self.hub.follow(socket.user, C, hidden_to=hidden_to, position=position)

    def change(
        self, rev: int, *, seq: int = 0, users: tuple[str, ...] | None = None, store: bool = True, **ack: Any
    ) -> None:
        """An envelope arrives; with `origin`, from a local commit."""
        if store:
            self.database.changes[rev] = seq
        origin = ack.get("origin", "")
        self.hub.apply(
            {"k": "c", "c": C, "r": rev, "q": seq, "d": body(rev), "u": users, "o": origin},
            frames.Ack("ref", C, rev, rev, "", "", "") if origin else None,
        )

    def pass_time(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))


@pytest.fixture
def room() -> Iterator[Room]:
    made = Room()
    yield made
    made.pass_time(1.0)
    made.loop.close()
    assert not made.place.failures


@pytest.fixture
def alice(room: Room) -> Socket:
    socket = room.socket("alice")
    room.follow(socket)
    return socket


def test_events_go_out_in_order_and_each_once(room: Room, alice: Socket) -> None:
    for rev in (1, 2, 2, 1, 3, 3):
        room.change(rev)
    assert alice.sent() == [1, 2, 3]
    assert room.database.reads == []


def test_two_publishes_that_cross_cost_no_read(room: Room, alice: Socket) -> None:
    room.change(1)
    room.change(3)
    room.pass_time(hubs.GAP_PATIENCE / 2)
    assert alice.sent() == [1]
    room.change(2)
    assert alice.sent() == [1, 2, 3]
    room.pass_time(1.0)
    assert room.database.reads == []


def test_a_gap_is_read_once_for_all_sockets_of_a_conversation(room: Room, alice: Socket) -> None:
    others = [room.socket(f"user {number}") for number in range(5)]
    for other in others:
        room.follow(other)
    room.database.changes.update({1: 1, 2: 2})
    room.change(3, seq=3)
    room.change(5, seq=5)
    room.database.changes[4] = 4
    room.pass_time(hubs.GAP_PATIENCE * 0.9)
    assert room.database.reads == []
    room.pass_time(1.0)
    assert room.database.reads == [0]
    for socket in (alice, *others):
        assert socket.sent() == [1, 2, 3, 4, 5]


def test_a_long_gap_is_read_page_by_page(room: Room, alice: Socket) -> None:
    room.database.page = 10
    room.database.changes.update({rev: rev for rev in range(1, 35)})
    room.change(35)
    room.pass_time(1.0)
    assert room.database.reads == [0, 10, 20, 30]
    assert alice.sent() == list(range(1, 36))


def test_superseded_revs_are_left_out(room: Room, alice: Socket) -> None:
    """Messages 1 and 2 were edited: revs 1 and 2 are nobody's any more."""
    room.database.changes.update({3: 1, 4: 2})
    room.change(4, seq=2)
    room.pass_time(1.0)
    room.change(1)
    room.change(5)
    assert alice.sent() == [3, 4, 5]


def test_what_a_member_may_not_see_moves_the_position_unsent(room: Room, alice: Socket) -> None:
    late = room.socket("late")
    room.follow(late, hidden_to=2)
    room.change(1, seq=1)
    room.change(2, seq=2)
    room.change(3, seq=0)
    room.change(4, seq=3)
    room.change(5, seq=2)
    assert alice.sent() == [1, 2, 3, 4, 5]
    assert late.sent() == [3, 4]


def test_each_change_reaches_the_sockets_that_are_there_by_then(room: Room, alice: Socket) -> None:
    room.change(1, seq=1)
    tablet = room.socket("alice", "tablet")
    room.change(2, seq=2)
    bob = room.socket("bob")
    room.follow(bob)
    room.change(3, seq=3)
    room.hub.remove(alice)
    room.change(4, seq=4)
    room.hub.remove(bob)
    room.change(5, seq=5)
    assert alice.sent() == [1, 2, 3]
    assert tablet.sent() == [2, 3, 4, 5]
    assert bob.sent() == [3, 4]


def test_a_member_who_is_cut_off_gets_no_later_change(room: Room, alice: Socket) -> None:
    bob = room.socket("bob")
    room.follow(bob)
    room.change(1, seq=1)
    room.hub.cut(bob.user, C)
    room.change(2, seq=2)
    assert alice.sent() == [1, 2]
    assert bob.sent() == [1]


def test_an_ack_stands_for_its_event_in_its_place(room: Room, alice: Socket) -> None:
    phone = room.socket("alice", "phone")
    bob = room.socket("bob")
    room.follow(bob)
    room.change(2, origin="alice")
    assert alice.sent() == []
    room.change(1)
    room.change(3, origin="phone")
    assert alice.sent() == [1, "a2", 3]
    assert phone.sent() == [1, 2, "a3"]
    assert bob.sent() == [1, 2, 3]


def test_an_ack_waits_for_the_repair_before_it(room: Room, alice: Socket) -> None:
    room.database.changes[1] = 1
    room.change(2, origin="alice")
    room.pass_time(1.0)
    assert room.database.reads == [0]
    assert alice.sent() == [1, "a2"]


def test_an_ack_after_its_own_row_was_read_stands_for_nothing(room: Room, alice: Socket) -> None:
    room.database.changes.update({1: 1, 2: 2})
    room.change(3)
    room.pass_time(1.0)
    room.change(2, origin="alice")
    assert alice.sent() == [1, 2, 3, "d2"]


def test_an_ack_whose_change_was_superseded_while_it_waited(room: Room, alice: Socket) -> None:
    room.database.changes[1] = 1
    room.change(2, origin="alice", store=False)
    room.database.changes[3] = 2
    room.pass_time(1.0)
    assert alice.sent() == [1, 3, "d2"]


def test_an_ack_in_a_conversation_that_is_not_followed_is_answered(room: Room) -> None:
    alice = room.socket("alice")
    room.change(4, origin="alice")
    assert alice.sent() == ["d4"]


def test_a_slow_reader_is_cut_off_from_the_stream_and_delays_nobody(room: Room, alice: Socket) -> None:
    slow = room.socket("slow")
    room.follow(slow)
    room.change(1)
    slow.fill()
    for rev in range(2, 1000):
        room.change(rev)
    assert alice.sent() == list(range(1, 1000))
    assert slow.sent() == [1]
    assert slow.lag == {C: 1}
    assert slow.asked == ["lags"]


def test_a_database_that_is_away_delays_the_repair(room: Room, alice: Socket) -> None:
    room.database.away = 3
    room.database.changes[1] = 1
    room.change(2)
    room.pass_time(10.0)
    assert alice.sent() == [1, 2]
    assert len(room.database.reads) == 4
    assert room.hub.topics[C].repair is None


def test_what_the_database_does_not_have_is_let_go_of(room: Room, alice: Socket) -> None:
    """It went back, or the conversation is gone: reading again and again would find nothing."""
    room.change(5, store=False)
    room.change(6, store=False, origin="alice")
    room.pass_time(10.0)
    assert len(room.database.reads) == 1
    assert room.hub.topics[C].waiting is None
    assert alice.sent() == ["d6"]


def test_what_comes_during_a_read_is_not_taken_for_unknown(room: Room, alice: Socket) -> None:
    room.place.slow = 1.0
    room.database.changes[1] = 1
    room.change(2)
    room.pass_time(0.5)
    room.database.changes[3] = 3
    room.change(4)
    room.pass_time(10.0)
    assert alice.sent() == [1, 2, 3, 4]


@pytest.mark.parametrize("away", [0, 3])
def test_what_waits_for_a_slow_repair_is_bounded(room: Room, alice: Socket, away: int) -> None:
    """Over the bound it is read from the database, in order, and acks no longer stand for events."""
    room.place.slow = 1.0
    room.database.away = away
    room.database.changes[1] = 1
    last = 3 * hubs.WAITING_CHANGES
    most = 0
    for rev in range(2, last + 1):
        room.change(rev, seq=rev, origin="alice" if rev == 3 else "")
        most = max(most, len(room.hub.topics[C].waiting))
    assert most == hubs.WAITING_CHANGES
    assert alice.sent() == ["d3"]
    room.pass_time(30.0)
    assert alice.sent() == ["d3", *range(1, last + 1)]
    topic = room.hub.topics[C]
    assert (topic.waiting, topic.repair) == (None, None)
    room.change(last + 1)
    assert alice.sent()[-1] == last + 1


def test_what_was_let_go_of_and_the_database_does_not_have_ends_the_repair(room: Room, alice: Socket) -> None:
    for rev in range(2, hubs.WAITING_CHANGES + 10):
        room.change(rev, store=False)
    room.pass_time(10.0)
    assert len(room.database.reads) == 1
    assert room.hub.topics[C].waiting is None
    assert alice.sent() == []


def test_a_head_that_becomes_known_during_a_read_is_read_too(room: Room, alice: Socket) -> None:
    room.place.slow = 1.0
    room.database.changes[1] = 1
    room.hub.note_head(C, 1)
    room.pass_time(0.5)
    room.database.changes[2] = 2
    room.hub.note_head(C, 2)
    room.pass_time(10.0)
    assert alice.sent() == [1, 2]


def test_a_known_head_that_comes_by_itself_is_not_read(room: Room, alice: Socket) -> None:
    room.hub.note_head(C, 2)
    room.change(1)
    room.change(2)
    room.pass_time(1.0)
    assert alice.sent() == [1, 2]
    assert room.database.reads == []
    room.hub.note_head(C, 2)
    room.hub.note_head("unknown", 2)
    room.pass_time(1.0)
    assert room.database.reads == []


def test_every_topic_can_be_compared_with_the_database(room: Room, alice: Socket) -> None:
    room.database.changes.update({1: 1, 2: 2})
    room.loop.run_until_complete(room.hub.check_all())
    room.pass_time(1.0)
    assert alice.sent() == [1, 2]


def test_a_new_direct_conversation_is_followed_from_its_beginning(room: Room) -> None:
    alice, bob = room.socket("alice"), room.socket("bob")
    room.database.changes.update({1: 1, 2: 2})
    room.change(3, users=("alice", "bob"))
    room.pass_time(1.0)
    assert alice.sent() == bob.sent() == [1, 2, 3]


def test_whoever_joins_what_another_follows_here_reads_what_was_before(room: Room, alice: Socket) -> None:
    room.change(1)
    room.change(2)
    bob = room.socket("bob")
    room.change(3, users=("alice", "bob"))
    assert alice.sent() == [1, 2, 3]
    assert bob.sent() == []
    assert (bob.lag, bob.asked) == ({C: 0}, ["lags", "drained"])


def test_a_discovered_conversation_is_read_for_each_member(room: Room, alice: Socket) -> None:
    room.change(1)
    bob = room.socket("bob")
    room.hub.discover(C, "bob")
    assert bob.lag == {C: 0}
    room.hub.discover(C, "bob")
    room.hub.discover(C, "nobody")
    assert bob.asked == ["lags", "drained"]


def test_while_a_user_loads_only_what_was_heard_is_remembered(room: Room) -> None:
    bob = room.socket("bob")
    bob.user.loaded, bob.user.seen = False, {}
    room.change(1, users=("alice", "bob"))
    room.change(3, users=("alice", "bob"))
    room.change(2, users=("alice", "bob"))
    assert bob.user.seen == {C: 3}
    assert bob.sent() == []
    room.hub.discover("other", "bob")
    assert bob.user.seen == {C: 3, "other": 1}


def test_a_conversation_is_forgotten_with_its_last_member_here(room: Room, alice: Socket) -> None:
    phone = room.socket("alice", "phone")
    room.change(3)
    repair = room.hub.topics[C].repair
    assert repair is not None
    assert not room.hub.remove(alice)
    assert C in room.hub.topics
    assert room.hub.remove(phone)
    assert not room.hub.remove(phone)
    assert room.hub.topics == {}
    room.pass_time(1.0)
    assert repair.cancelled()


def test_who_is_no_longer_a_member_gets_nothing_more_and_reads_on_from_there(
    room: Room, alice: Socket
) -> None:
    bob = room.socket("bob")
    room.follow(bob)
    room.change(1)
    room.hub.cut(bob.user, C)
    room.change(2)
    assert (alice.sent(), bob.sent()) == ([1, 2], [1])
    assert bob.lag == {C: 1}
    room.hub.cut(alice.user, C)
    assert room.hub.topics == {}


def test_a_gap_is_read_to_the_head_also_where_less_was_known_of(room: Room, alice: Socket) -> None:
    room.database.page = 2
    for rev in range(1, 6):
        room.database.changes[rev] = rev
    room.hub.note_head(C, 1)
    room.pass_time(1.0)
    assert alice.sent() == [1, 2, 3, 4, 5]


def test_the_end_of_a_membership_comes_in_its_place(room: Room, alice: Socket) -> None:
    bob = room.socket("bob")
    room.follow(bob)
    room.hub.expel(bob.user, C, 2, encode_text_frame(body(20)))
    room.change(1)
    room.change(2)
    room.change(3)
    assert (alice.sent(), bob.sent()) == ([1, 2, 3], [1, 20])


def test_who_is_new_waits_for_the_joining_or_reads_what_has_passed(room: Room, alice: Socket) -> None:
    bob, carol = room.socket("bob"), room.socket("carol")
    room.hub.topics[C].since = {}
    room.change(1, seq=0)
    for socket, since in ((bob, 3), (carol, 1)):
        room.hub.follow(socket.user, C, hidden_to=0, position=0, since=since)
    room.hub.introduce(carol.user, C, head=1)
    room.hub.introduce(bob.user, C, head=3)
    assert (bob.lag, carol.lag) == ({}, {C: UNKNOWN})
    room.change(2)
    room.change(3, seq=0)
    assert (alice.sent(), bob.sent()) == ([1, 2, 3], [3])


def test_who_is_new_reads_the_group_first_if_it_has_changed_since(room: Room, alice: Socket) -> None:
    bob = room.socket("bob")
    room.hub.topics[C].since = {}
    room.hub.follow(bob.user, C, hidden_to=0, position=0, since=1)
    room.hub.introduce(bob.user, C, head=2)
    room.change(1, seq=1)
    assert (alice.sent(), bob.sent(), bob.lag) == ([1], [], {C: UNKNOWN})


def test_when_nothing_holds_any_more_all_is_forgotten(room: Room, alice: Socket) -> None:
    room.change(2)
    room.hub.forget_all()
    assert (room.hub.topics, alice.user.topics, alice.user.loaded) == ({}, set(), False)
    room.hub.remove(alice)


def test_the_opening_comes_before_the_first_event_and_before_its_ack(room: Room) -> None:
    alice, bob = room.socket("alice"), room.socket("bob")
    opening = msgspec.json.encode({"type": "conversation"})
    room.hub.apply(
        {"k": "c", "c": C, "r": 1, "q": 1, "d": body(1), "u": ("alice", "bob"), "o": "alice", "b": opening},
        frames.Ack("ref", C, 1, 1, "", "", ""),
    )
    assert alice.sent() == ["conversation", "a1"]
    assert bob.sent() == ["conversation", 1]
