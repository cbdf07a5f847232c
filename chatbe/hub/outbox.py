"""What one socket is owed, and how little of it waits in memory.

Frames go straight to the transport. There is no queue of events behind it: when the transport
holds more than `limit` bytes, the socket *lags*: from then on only the place where each
conversation's stream was cut is kept, and when the transport has drained the socket catches up
from the database. So a reader that stops costs a bounded number of bytes, however much it misses.
Answers are bounded by the number of frames that may be unanswered.
"""

from __future__ import annotations

import time
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from chatbe.wire import codec, frames
from chatbe.wire.websocket import encode_text_frame

if TYPE_CHECKING:
    from chatbe.hub.transport import Transport

HELD_FRAMES = 512
"""Live events that may wait for a socket's catching-up to end; over that they are read again."""


class State(IntEnum):
    """Where a socket is on its way to the live stream."""

    WAITING = 0
    """Its stream has not begun: no conversation event is sent."""
    CATCHING_UP = 1
    """It is being served from the database; live events are held."""
    LIVE = 2
    LAGGING = 3
    """It reads too slowly; waits for the transport to drain."""
    CLOSED = 4


LIVE: Final = State.LIVE
"""For the path of every delivery: looking a member of an enumeration up costs more than the rest of an offer."""
UNKNOWN = -1
"""In place of a rev: the socket's client does not have the conversation, since its user is new in it."""
ACKS_KEPT = 256
"""Acks that may wait for their place; at that many the socket is not read."""

Held = tuple[str, int, bytes]
"""Conversation, rev, frame; an event without a rev has an empty conversation, an ack's place an empty frame."""


class Outbox:
    """The sending half of a socket; see the module."""

    transport: Transport
    state: State
    limit: int

    def open_outbox(self, transport: Transport, limit: int) -> None:
        """Begin, on a transport, with at most `limit` bytes waiting in it before the socket lags."""
        self.transport = transport
        self.limit = limit
        self.state = State.WAITING
        self.lag: dict[str, int] = {}
        """Conversation → the rev up to which the socket has its stream; others are complete."""
        self.skip: dict[str, int] = {}
        """Conversation → the rev up to which the socket has it already, ahead of the hub."""
        self.held: list[Held] | None = None
        self.acks: dict[tuple[str, int], frames.Ack] | None = None
        """Acks whose place in the stream has not come yet."""
        self.openings: dict[str, bytes] | None = None
        """Conversation → the frame of the event that goes before its first, which an ack stands for."""
        self.missed = False
        """Whether an event that is not of the stream was left out, or may have been."""
        self.missed_marks = False
        """Whether a receipt was left out while catching up."""
        self.lagging_since = 0.0
        self.lagging_bytes = 0

    @property
    def closed(self) -> bool:
        """Whether nothing more is sent."""
        return self.state is State.CLOSED

    @property
    def is_live(self) -> bool:
        """Whether changes go straight to the client."""
        return self.state is State.LIVE

    def drained(self) -> None:
        """The socket lagged and its transport is empty; the consumer starts to catch up."""
        raise NotImplementedError

    def lags(self) -> None:
        """The socket begins to lag; the consumer has it watched."""
        raise NotImplementedError

    def crowded(self) -> None:
        """Answers pile up; the consumer reads no more until `relieved` or `drained`."""
        raise NotImplementedError

    def relieved(self) -> None:
        """The acks that waited have left."""
        raise NotImplementedError

    # --- offers by the hub -------------------------------------------------------------------------

    def offer_change(self, conversation: str, rev: int, frame: bytes) -> None:
        """The next change of a conversation."""
        state = self.state
        if state is LIVE:
            if self.skip and self._has(conversation, rev):
                return
            if self.transport.buffered <= self.limit:
                self.transport.write_frames(frame)
            else:
                self._overflow()
                self._note(conversation, rev)
        elif state is State.CATCHING_UP:
            if not (self.skip and self._has(conversation, rev)):
                self._hold((conversation, rev, frame))
        elif state is State.LAGGING:
            self._note(conversation, rev)

    def offer_ack(
        self, conversation: str, rev: int, ack: frames.Ack, opening: bytes = b"", frame: bytes = b""
    ) -> None:
        """The ack that stands for the change with this rev; `opening` is the frame of an event before it.

        A `ChangeAck` follows the change's own `frame`.
        """
        if isinstance(ack, frames.ChangeAck):
            self._offer_change_ack(conversation, rev, ack, frame)
            return
        state = self.state
        if state is State.WAITING:
            self.answer(ack)
        elif self.skip and state is not State.LAGGING and self._has(conversation, rev):
            ack.duplicate = True
            self.answer(ack)
        elif state is State.LIVE:
            if opening:
                self.transport.write_frames(opening)
            self.answer(ack)
        elif state is State.CATCHING_UP:
            self._keep_ack(conversation, rev, ack)
            if opening:
                self.openings = {**(self.openings or {}), conversation: opening}
            self._hold((conversation, rev, b""))
        elif state is State.LAGGING:
            self._note(conversation, rev)
            self._keep_ack(conversation, rev, ack)

    def _offer_change_ack(self, conversation: str, rev: int, ack: frames.Ack, frame: bytes) -> None:
        self.offer_change(conversation, rev, frame)
        if self.state in (State.LAGGING, State.CATCHING_UP):
            # It goes out when the change does.
            self._keep_ack(conversation, rev, ack)
        else:
            self.answer(ack)

    def offer_ack_apart(self, conversation: str, rev: int, ack: frames.Ack) -> None:
        """The ack of a change that the hub cannot place in this socket's stream.

        While the socket catches up, the change comes from the database, and the ack in its place.
        """
        if self.state in (State.CATCHING_UP, State.LAGGING):
            self._keep_ack(conversation, rev, ack)
            return
        if self.state is State.LIVE:
            # The stream of this conversation begins later; then the change comes as an event.
            ack.duplicate = True
        self.answer(ack)

    def offer_event(self, frame: bytes, *, in_stream: bool) -> None:
        """An event without a rev; one that belongs to the stream (receipts, typing) waits for its beginning."""
        state = self.state
        if state is LIVE or (state in (State.CATCHING_UP, State.WAITING) and not in_stream):
            if self.transport.buffered <= self.limit:
                self.transport.write_frames(frame)
            elif state is LIVE:
                self._overflow()
            else:
                self.missed = True
        elif state is State.CATCHING_UP:
            self._hold(("", 0, frame))
        elif not in_stream:
            self.missed = True

    def fall_behind(self, conversation: str, position: int) -> None:
        """The stream of one conversation must go on from `position`, read from the database."""
        if self.state is State.LIVE:
            self._begin_to_lag()
            self.lag[conversation] = position
            if not self.transport.buffered:
                self.drained()
        elif self.state in (State.LAGGING, State.CATCHING_UP):
            self.lag[conversation] = min(position, self.lag.get(conversation, position))

    def go_on_from(self, conversation: str, place: int) -> None:
        """The stream of one conversation goes on from where this socket has it, read from the database.

        `place` is where a socket stands that is live in it, or UNKNOWN; one that lags or catches up knows better.
        """
        if self.state is State.LIVE:
            self.skip.pop(conversation, None)
            self.fall_behind(conversation, place)
        elif self.state in (State.LAGGING, State.CATCHING_UP):
            held = self.let_go(conversation)
            if conversation not in self.lag:
                self.lag[conversation] = place if held is None else held - 1
            self.skip.pop(conversation, None)

    def let_go(self, conversation: str) -> int | None:
        """Hold nothing of a conversation any more, since it is read instead; the first rev that was held."""
        revs = [rev for name, rev, _ in self.held or () if name == conversation]
        if not revs:
            return None
        self.held = [entry for entry in self.held or () if entry[0] != conversation]
        return revs[0]

    # --- answers -----------------------------------------------------------------------------------

    def answer(self, event: frames.Event) -> None:
        """Send an answer, or anything that takes no place in a stream."""
        if self.state is not State.CLOSED:
            self.transport.write_frames(encode_text_frame(codec.encode(event)))
            if self.transport.buffered > self.limit:
                self.crowded()

    # --- catching up -------------------------------------------------------------------------------

    def begin_to_catch_up(self) -> dict[str, int]:
        """Hold live events from now on; returns the places to read from (see `lag`)."""
        self.state = State.CATCHING_UP
        if self.held is None:
            self.held = []
        lag, self.lag = self.lag, {}
        return lag

    def take_ack(self, conversation: str, rev: int) -> frames.Ack | None:
        """The ack that stands for this change, if it is still to be sent."""
        return self.acks.pop((conversation, rev), None) if self.acks else None

    def go_live(self, cursors: dict[str, int]) -> None:
        """Send what was held and lies after `cursors`, then go on live. `lag` must be empty."""
        held, self.held = self.held or [], None
        self.state = State.LIVE
        for conversation, rev, frame in held:
            passed = conversation != "" and rev <= cursors.get(conversation, 0)
            ack = self.acks.pop((conversation, rev), None) if self.acks else None
            if frame and not passed and (ack is None or isinstance(ack, frames.ChangeAck)):
                self.transport.write_frames(frame)
            if ack is not None:
                if passed:
                    ack.duplicate = True
                elif self.openings and conversation in self.openings:
                    self.transport.write_frames(self.openings.pop(conversation))
                self.answer(ack)
        for ack in (self.acks or {}).values():
            # What it stood for has been superseded, and the stream has the newer state.
            ack.duplicate = True
            self.answer(ack)
        self.acks = None
        self.openings = None
        self.relieved()

    # --- inner -------------------------------------------------------------------------------------

    def _has(self, conversation: str, rev: int) -> bool:
        """Whether a socket that read ahead of the hub has this change; forgets the mark once it is passed."""
        ahead = self.skip.get(conversation)
        if ahead is None:
            return False
        if rev >= ahead:
            del self.skip[conversation]
        return rev <= ahead

    def _note(self, conversation: str, rev: int) -> None:
        if conversation not in self.lag:
            self.lag[conversation] = max(rev - 1, self.skip.pop(conversation, 0))

    def _keep_ack(self, conversation: str, rev: int, ack: frames.Ack) -> None:
        if self.acks is None:
            self.acks = {}
        self.acks[conversation, rev] = ack
        if len(self.acks) > ACKS_KEPT:
            self.crowded()

    def _hold(self, entry: Held) -> None:
        if self.held is None:
            self.held = []
        self.held.append(entry)
        if len(self.held) > HELD_FRAMES:
            held, self.held = self.held, []
            for conversation, rev, _ in held:
                if conversation:
                    self._note(conversation, rev)
                else:
                    self.missed_marks = True

    def _overflow(self) -> None:
        self.missed = True
        self._begin_to_lag()

    def _begin_to_lag(self) -> None:
        self.state = State.LAGGING
        self.lagging_since = time.monotonic()
        self.lagging_bytes = self.transport.buffered
        self.lags()
