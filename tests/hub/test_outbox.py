"""One socket's way through its states, and what each state does with events and acks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from chatbe.hub import outbox
from chatbe.hub.outbox import UNKNOWN, Outbox, State
from chatbe.hub.transport import payloads
from chatbe.wire import codec, frames
from chatbe.wire.websocket import encode_text_frame

pytestmark = pytest.mark.pure

LIMIT = 1000
C = "c"


class Pipe:
    """A transport that takes everything, and keeps it buffered while it is `full`."""

    last_inbound = 0.0

    def __init__(self) -> None:
        self.buffered = 0
        self.full = False
        self.frames: list[dict[str, Any]] = []

    def write_frames(self, data: bytes) -> None:
        self.frames += [msgspec.json.decode(payload) for payload in payloads(data)]
        if self.full:
            self.buffered += len(data)

    def set_drain(self, on_drain: Callable[[], None]) -> None: ...
    def set_receiver(self, on_text: Any, on_binary: Any, on_lost: Any) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def close(self, code: int, reason: str = "") -> None: ...
    def abort(self) -> None: ...


class Box(Outbox):
    """An outbox, and what it asked of its consumer."""

    def __init__(self) -> None:
        self.pipe = Pipe()
        self.asked: list[str] = []
        self.open_outbox(self.pipe, LIMIT)

    def drained(self) -> None:
        self.asked.append("drained")

    def lags(self) -> None:
        self.asked.append("lags")

    def crowded(self) -> None:
        self.asked.append("crowded")

    def relieved(self) -> None: ...

    def live(self) -> Box:
        self.begin_to_catch_up()
        self.go_live({})
        return self

    def fill(self) -> None:
        """Let the transport hold more than the limit."""
        self.pipe.full = True
        self.pipe.buffered = LIMIT + 1

    def drain(self) -> None:
        self.pipe.full = False
        self.pipe.buffered = 0

    def sent(self) -> list[Any]:
        """What went out: revs of events, `a<rev>` for acks, `d<rev>` for acks of duplicates, or types."""
        names = []
        for frame in self.pipe.frames:
            if frame["type"] == "ack":
                names.append(f"{'d' if frame['duplicate'] else 'a'}{frame['rev']}")
            else:
                names.append(frame.get("r", frame["type"]))
        return names


def event(rev: int) -> bytes:
    return encode_text_frame(msgspec.json.encode({"type": "message", "r": rev}))


RECEIPT = encode_text_frame(codec.encode(frames.Receipt(C, "bob", 1, 1)))


def ack(rev: int) -> frames.Ack:
    return frames.Ack("ref", C, rev, rev, "", "", "")


@pytest.fixture
def box() -> Box:
    return Box()


def test_before_its_stream_begins_a_socket_gets_no_event_of_it(box: Box) -> None:
    box.offer_change(C, 1, event(1))
    box.offer_event(RECEIPT, in_stream=True)
    assert box.sent() == []
    box.offer_event(RECEIPT, in_stream=False)
    box.offer_ack(C, 2, ack(2))
    assert box.sent() == ["receipt", "a2"]


def test_live_events_are_held_while_it_catches_up_and_follow_what_was_read(box: Box) -> None:
    assert box.begin_to_catch_up() == {}
    for rev in (4, 5, 6):
        box.offer_change(C, rev, event(rev))
    box.offer_event(RECEIPT, in_stream=True)
    assert box.sent() == []
    box.go_live({C: 5})
    assert box.sent() == [6, "receipt"]
    box.offer_change(C, 7, event(7))
    assert box.sent()[2:] == [7]


def test_an_ack_keeps_its_place_among_held_events(box: Box) -> None:
    box.begin_to_catch_up()
    box.offer_change(C, 1, event(1))
    box.offer_ack(C, 2, ack(2))
    box.offer_change(C, 3, event(3))
    box.go_live({C: 0})
    assert box.sent() == [1, "a2", 3]


def test_what_opens_a_conversation_goes_before_its_first_ack_and_only_if_that_was_not_read(box: Box) -> None:
    box.begin_to_catch_up()
    box.offer_ack(C, 1, ack(1), RECEIPT)
    box.offer_ack(C, 2, ack(2))
    box.go_live({C: 0})
    assert box.sent() == ["receipt", "a1", "a2"]
    box.begin_to_catch_up()
    box.offer_ack(C, 1, ack(1), RECEIPT)
    box.go_live({C: 1})
    assert box.sent()[3:] == ["d1"]


def test_an_ack_is_taken_in_place_of_the_row_that_was_read_and_sent_once(box: Box) -> None:
    box.begin_to_catch_up()
    box.offer_ack(C, 2, ack(2))
    box.offer_change(C, 3, event(3))
    taken = box.take_ack(C, 2)
    assert taken is not None
    assert not taken.duplicate
    assert box.take_ack(C, 2) is None
    assert box.take_ack("other", 3) is None
    box.go_live({C: 2})
    assert box.sent() == [3]


def test_an_ack_whose_change_was_superseded_stands_for_nothing(box: Box) -> None:
    box.begin_to_catch_up()
    box.offer_ack(C, 2, ack(2))
    box.go_live({C: 4})
    assert box.sent() == ["d2"]


def test_an_ack_that_the_hub_cannot_place(box: Box) -> None:
    box.begin_to_catch_up()
    box.offer_ack_apart(C, 2, ack(2))
    box.offer_change(C, 2, event(2))
    box.go_live({C: 1})
    assert box.sent() == ["a2"], "in the place of its event"
    box.offer_ack_apart(C, 9, ack(9))
    assert box.sent() == ["a2", "d9"], "a live socket gets the event itself"


def test_over_the_limit_it_lags_and_keeps_only_where_each_stream_was_cut(box: Box) -> None:
    box.live()
    box.fill()
    for rev in range(5, 5000):
        box.offer_change(C, rev, event(rev))
        box.offer_change("other", rev + 10, event(rev))
        box.offer_event(RECEIPT, in_stream=True)
    assert box.state is State.LAGGING
    assert box.lag == {C: 4, "other": 14}
    assert box.asked == ["lags"]
    assert box.pipe.buffered == LIMIT + 1
    box.drain()
    assert box.begin_to_catch_up() == {C: 4, "other": 14}
    assert box.lag == {}


def test_acks_of_a_lagging_socket_wait_for_their_place(box: Box) -> None:
    box.live()
    box.fill()
    box.offer_ack(C, 2, ack(2))
    assert box.sent() == ["a2"], "an answer is bounded by what may be unanswered"
    box.offer_change(C, 3, event(3))
    box.offer_ack(C, 4, ack(4))
    box.offer_ack(C, 5, ack(5))
    box.drain()
    assert box.begin_to_catch_up() == {C: 2}
    taken = box.take_ack(C, 4)
    assert taken is not None
    box.go_live({C: 5})
    assert box.sent() == ["a2", "d5"]


def test_whoever_reads_no_answers_is_not_read(box: Box) -> None:
    box.live()
    box.pipe.full = True
    for _ in range(100):
        box.answer(frames.HeartbeatEvent(time=""))
    assert "crowded" in box.asked
    box.asked.clear()
    box.fill()
    for rev in range(outbox.ACKS_KEPT + 2):
        box.offer_change(C, 2 * rev, event(2 * rev))
        box.offer_ack(C, 2 * rev + 1, ack(2 * rev + 1))
    assert box.asked[:2] == ["lags", "crowded"]


def test_holding_is_given_up_when_it_is_too_much_and_nothing_is_lost_by_it(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "HELD_FRAMES", 3)
    box.begin_to_catch_up()
    box.offer_ack(C, 4, ack(4))
    box.offer_event(RECEIPT, in_stream=True)
    box.offer_change(C, 5, event(5))
    box.offer_change("other", 8, event(8))
    assert box.held == []
    assert box.lag == {C: 3, "other": 7}
    assert box.missed_marks, "a receipt has no rev to be read again by"
    box.offer_change(C, 6, event(6))
    assert box.begin_to_catch_up() == {C: 3, "other": 7}
    assert box.take_ack(C, 4) is not None
    box.go_live({C: 5, "other": 8})
    assert box.sent() == [6]


def test_a_socket_ahead_of_the_hub_gets_nothing_twice(box: Box) -> None:
    box.live()
    box.skip[C] = 7
    for rev in (5, 6):
        box.offer_change(C, rev, event(rev))
    box.offer_ack(C, 7, ack(7))
    assert box.skip == {}
    box.offer_change(C, 8, event(8))
    assert box.sent() == ["d7", 8]


def test_a_socket_ahead_of_the_hub_in_one_conversation_catches_up_in_another(box: Box) -> None:
    box.live()
    box.skip[C] = 7
    box.fill()
    box.offer_change("other", 3, event(3))
    box.drain()
    assert box.begin_to_catch_up() == {"other": 2}
    box.offer_change(C, 6, event(6))
    box.offer_ack(C, 7, ack(7))
    box.offer_change(C, 8, event(8))
    box.go_live({"other": 3})
    assert box.sent() == ["d7", 8]


def test_lagging_begins_where_a_socket_ahead_of_the_hub_stands(box: Box) -> None:
    box.live()
    box.skip[C] = 7
    box.fill()
    box.offer_change("other", 1, event(1))
    box.offer_change(C, 5, event(5))
    assert box.lag == {"other": 0, C: 7}


def test_falling_behind_in_one_conversation(box: Box) -> None:
    box.fall_behind(C, 0)
    assert box.state is State.WAITING, "its sync will read all"
    box.live()
    box.fall_behind(C, 0)
    assert (box.state, box.lag, box.asked) == (State.LAGGING, {C: 0}, ["lags", "drained"])
    box.fall_behind(C, 3)
    assert box.lag == {C: 0}
    box.begin_to_catch_up()
    box.fall_behind("new", 0)
    assert box.lag == {"new": 0}, "to be read before it goes live"


def test_falling_behind_with_a_full_transport_waits_for_its_drain(box: Box) -> None:
    box.live()
    box.fill()
    box.fall_behind(C, 0)
    assert box.asked == ["lags"]


def test_what_is_left_out_before_the_stream_is_remembered(box: Box) -> None:
    box.fill()
    box.offer_event(RECEIPT, in_stream=False)
    assert box.missed
    assert box.sent() == []


def test_what_is_left_out_while_it_lags_is_remembered(box: Box) -> None:
    box.live()
    box.go_on_from(C, 7)
    assert (box.state, box.missed) == (State.LAGGING, False), "nothing has been left out yet"
    box.offer_event(RECEIPT, in_stream=True)
    assert not box.missed, "the marks are read anyway"
    box.offer_event(RECEIPT, in_stream=False)
    assert box.missed


@pytest.mark.parametrize("what", ["change", "event"])
def test_who_does_not_read_may_have_missed_something(box: Box, what: str) -> None:
    box.live()
    box.fill()
    if what == "change":
        box.offer_change(C, 1, event(1))
    else:
        box.offer_event(RECEIPT, in_stream=True)
    assert (box.state, box.missed) == (State.LAGGING, True)


def test_a_closed_socket_takes_nothing(box: Box) -> None:
    box.live()
    box.state = State.CLOSED
    box.offer_change(C, 1, event(1))
    box.offer_ack(C, 2, ack(2))
    box.offer_ack_apart(C, 2, ack(2))
    box.offer_event(RECEIPT, in_stream=True)
    box.fall_behind(C, 0)
    assert (box.sent(), box.lag) == ([], {})


def test_a_conversation_that_is_read_instead_goes_on_from_where_each_state_has_it() -> None:
    live = Box().live()
    live.go_on_from(C, 7)
    assert (live.lag, live.asked) == ({C: 7}, ["lags", "drained"])

    lagging = Box().live()
    lagging.fill()
    lagging.offer_change(C, 4, event(4))
    lagging.go_on_from(C, 9)
    lagging.go_on_from("new", UNKNOWN)
    assert lagging.lag == {C: 3, "new": UNKNOWN}

    catching_up = Box()
    catching_up.begin_to_catch_up()
    catching_up.offer_change(C, 5, event(5))
    catching_up.offer_change("other", 1, event(1))
    catching_up.offer_change(C, 6, event(6))
    catching_up.go_on_from(C, 9)
    assert catching_up.lag == {C: 4}
    assert [entry[:2] for entry in catching_up.held or ()] == [("other", 1)]
