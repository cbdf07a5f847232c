"""A socket's way from where its client was to the live stream.

Live events are held from the first moment; the database is read after it. So the two overlap and
never leave a gap: what was read and what was held are told apart by rev. The same way serves a
socket that lagged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING
from uuid import UUID

from chatbe.core.errors import ChatError, Unavailable
from chatbe.hub.hub import Change, Gap
from chatbe.hub.outbox import UNKNOWN, State
from chatbe.wire import codec, frames
from chatbe.wire.codes import CloseCode
from chatbe.wire.websocket import encode_text_frame
from messaging import following, parts, selectors, stream
from messaging.parts import Part
from messaging.stream import Stream, Wanted

if TYPE_CHECKING:
    from chatbe.hub.consumer import SocketConsumer

logger = logging.getLogger("messaging.sync")

PAGE_CONVERSATIONS = 100
"""Parts of a page at most."""
PAGE_ROWS = 250
"""Messages of a page at most: usually some 100 KiB."""
PAGE_BYTES = 256 * 1024
"""After a page of more bytes the next has fewer messages in proportion."""
GAP_ROWS = 500
STATES_AT_ONCE = 200
ATTEMPTS = 30
"""Tries, a second apart, to serve a lagging socket from a database that is away; then it is closed with 1011."""


class Standing(Enum):
    """Why a conversation's state is sent before any row."""

    OPENED = "opened"
    """What follows begins with the user's joining, or with the conversation."""
    CURRENT = "current"
    """The stream goes on from its head."""
    RESET = "reset"
    """The client is ahead of the database."""


@dataclass(slots=True)
class _Plan:
    """What a sync sends before the rows: events of state, and where each conversation's reading starts."""

    cursors: dict[str, int] = field(default_factory=dict)
    wanted: list[Wanted] = field(default_factory=list)
    states: dict[str, tuple[Standing, int]] = field(default_factory=dict)
    """Conversations whose state stands before any row, and at which rev."""
    ended: list[frames.Conversation] = field(default_factory=list)
    """The last events of what the user has left."""


class Gone(Exception):
    """The socket was closed meanwhile."""


async def start(socket: SocketConsumer, frame: frames.Sync) -> None:
    """Begin a socket's stream as its client asked; never raises."""
    try:
        socket.begin_to_catch_up()
        named = {str(key): rev for key, rev in frame.conversations.items()}
        plan = await following.follow_all(
            socket, lambda streams: _plan(socket, streams, named, others=frame.others)
        )
        if plan is None:
            return
        await _send_states(socket, plan)
        await _serve(socket, plan.wanted, plan.cursors)
        socket.answer(frames.Synced(ref=frame.ref))
        _go_live(socket, plan.cursors)
    except Gone:
        return
    except ChatError as error:
        # Part of the stream may be sent: the client comes back on a new socket and asks again.
        socket.refuse_with(frame.ref, error)
        socket.close(CloseCode.INTERNAL_ERROR)
    except Exception:
        logger.exception("sync failed", extra={"connection": socket.connection})
        socket.close(CloseCode.INTERNAL_ERROR)
    finally:
        socket.end_command()


async def catch_up(socket: SocketConsumer) -> None:
    """Serve a socket that had lagged and has drained; never raises."""
    pending: dict[str, int] = {}
    for _ in range(ATTEMPTS):
        if socket.state is State.CLOSED:
            return
        try:
            for conversation, rev in socket.begin_to_catch_up().items():
                pending.setdefault(conversation, rev)
            wanted = await _wanted(socket, pending)
            await _serve(socket, wanted, pending)
            _go_live(socket, pending)
        except Gone:
            return
        except Unavailable:
            # `pending` has moved with what was sent.
            await asyncio.sleep(1.0)
        else:
            return
    socket.close(CloseCode.INTERNAL_ERROR)


def _alive(socket: SocketConsumer) -> None:
    if socket.state is State.CLOSED:
        raise Gone


def _plan(socket: SocketConsumer, streams: list[Stream], named: dict[str, int], *, others: str) -> _Plan:
    """What to send of each conversation, by what the client has of it."""
    plan = _Plan()
    for item in streams:
        rev = named.get(item.conversation)
        if following.outdated(socket.node, socket.user, item):
            # It is read again when the rest is sent.
            plan.cursors[item.conversation] = UNKNOWN if rev is None else rev
            socket.go_on_from(item.conversation, UNKNOWN)
            continue
        if not item.active:
            if rev is not None and rev != item.left_rev:
                plan.ended.append(_ended(item))
            # What may be held of it, from before it ended, is not for this socket.
            plan.cursors[item.conversation] = item.left_rev
            continue
        if rev is None and others != "all":
            plan.cursors[item.conversation] = item.head
            if item.head:
                plan.states[item.conversation] = Standing.CURRENT, item.head
            continue
        if rev is not None and rev > item.head:
            plan.cursors[item.conversation] = item.head
            plan.states[item.conversation] = Standing.RESET, item.head
            continue
        resumption = item.from_the_beginning() if rev is None else item.resume(rev)
        plan.cursors[item.conversation] = resumption.start
        if resumption.ended:
            plan.ended.append(_ended(item))
        if resumption.opens:
            plan.states[item.conversation] = Standing.OPENED, resumption.start
        if resumption.start < item.head:
            plan.wanted.append(_wanted_of(item, resumption.start))
    return plan


def _ended(item: Stream) -> frames.Conversation:
    """What a client is told that still holds what its user has left: drop it."""
    return stream.ended(item.conversation, rev=item.left_rev, created_at=item.created_at)


async def _send_states(socket: SocketConsumer, plan: _Plan) -> None:
    """The `conversation` events that stand before any row."""
    await _write_events(socket, plan.ended)
    keys = list(plan.states)
    for first in range(0, len(keys), STATES_AT_ONCE):
        some = keys[first : first + STATES_AT_ONCE]
        objects = await socket.node.call(selectors.conversation_objects, [UUID(key) for key in some])
        await _write_events(
            socket,
            [_state_event(objects[UUID(key)], *plan.states[key]) for key in some if UUID(key) in objects],
        )


def _state_event(state: frames.ConversationObject, kind: Standing, rev: int) -> frames.Conversation:
    event = frames.Conversation(state)
    # The event stands where the stream goes on from.
    state.rev = rev
    if kind is Standing.RESET:
        event.reset = True
    return event


async def _wanted(socket: SocketConsumer, cursors: dict[str, int]) -> list[Wanted]:
    """What there is to read after each cursor now; who is no longer the member that they were is told so first."""
    if not cursors:
        return []
    wanted: list[Wanted] = []
    ended: list[frames.Conversation] = []
    opening: dict[str, int] = {}
    node, user = socket.node, socket.user
    async with following.memberships(node, stream.streams_of, socket.identity.user_id) as streams:
        for item in streams:
            conversation, cursor = item.conversation, cursors.get(item.conversation)
            following.settle(node, user, item, reader=None if cursor is None else socket)
            if cursor is None:
                continue
            if following.outdated(node, user, item):
                # Another read was faster, and this one has to be done again.
                socket.go_on_from(conversation, cursor)
            elif not item.active:
                if 0 <= cursor < item.left_rev:
                    ended.append(_ended(item))
                    cursors[conversation] = item.left_rev
            else:
                resumption = item.resume(cursor)
                cursors[conversation] = resumption.start
                if resumption.ended:
                    ended.append(_ended(item))
                if resumption.opens:
                    opening[conversation] = resumption.start
                if item.head > resumption.start:
                    wanted.append(_wanted_of(item, resumption.start))
    await _write_events(socket, ended)
    if opening:
        await _write_events(socket, await node.call(stream.opened, opening))
    return wanted


async def _write_events(socket: SocketConsumer, events: Sequence[frames.Event]) -> None:
    await _write(socket, [encode_text_frame(codec.encode(event)) for event in events])


def _wanted_of(item: Stream, after: int) -> Wanted:
    return Wanted(item.conversation, after, item.head, item.state_rev, item.hidden_to, item.direct)


async def _serve(socket: SocketConsumer, wanted: list[Wanted], cursors: dict[str, int]) -> None:
    """Send all that is wanted, page by page, then the marks; on return nothing is left to read.

    `cursors` is moved to where the stream stands.
    """
    rows = PAGE_ROWS
    while True:
        while wanted:
            page = _page(wanted, rows)
            found = await socket.node.call_together(parts.read, (page, rows))
            ready = [_frames(socket, part) for part in found]
            # Where messages are long, the next page has fewer of them.
            rows = max(1, min(PAGE_ROWS, rows * PAGE_BYTES // max(1, sum(map(len, ready)))))
            await _write(socket, ready)
            unfinished = []
            for item, part in zip(page, found, strict=True):
                cursors[item.conversation] = item.after = part.end
                if part.end < item.head:
                    unfinished.append(item)
            wanted = unfinished + wanted[len(page) :]
        if not socket.lag:
            socket.missed_marks = False
            await _send_marks(socket, any_at_all=bool(cursors))
        if not socket.lag and not socket.missed_marks:
            return
        # Too much happened meanwhile to be held: read on from where holding was given up.
        for conversation, rev in socket.begin_to_catch_up().items():
            cursors.setdefault(conversation, rev)
        wanted = await _wanted(socket, cursors)


def _page(wanted: list[Wanted], rows: int) -> list[Wanted]:
    """What to read next: so many parts that `rows` messages may be in them, or `PAGE_CONVERSATIONS`."""
    for count, want in enumerate(wanted[:PAGE_CONVERSATIONS]):
        if rows <= 0:
            return wanted[:count]
        rows -= want.head - want.after
    return wanted[:PAGE_CONVERSATIONS]


def _frames(socket: SocketConsumer, part: Part) -> bytes:
    """The part's events, some with the ack that follows them on this socket, or with the one that stands for it."""
    if not socket.acks:
        return part.frames()
    ready = []
    for rev, payload in zip(part.revs, part.payloads, strict=True):
        ack = socket.take_ack(part.conversation, rev)
        if ack is None or isinstance(ack, frames.ChangeAck):
            ready.append(encode_text_frame(payload))
        if ack is not None:
            ready.append(encode_text_frame(codec.encode(ack)))
    return b"".join(ready)


async def _send_marks(socket: SocketConsumer, *, any_at_all: bool) -> None:
    """The marks in the user's conversations, if there are `any_at_all`, in frames of a bounded size, then what
    they have muted."""
    if not any_at_all:
        await _write_events(socket, [frames.Marks({})])
        return
    user_id = socket.identity.user_id
    own = await socket.node.call(stream.own_of, user_id)
    # What has been joined since is told with the group itself.
    followed = {topic.id for topic in socket.user.topics}
    known = {conversation: members for conversation, members in own.marks.items() if conversation in followed}
    for chunk in stream.marks_chunks(known):
        await _write_events(socket, [frames.Marks(chunk)])
    await _write_events(socket, [event for event in own.muted if event.conversation in followed])


async def _write(socket: SocketConsumer, ready: list[bytes]) -> None:
    """Write when the transport has room."""
    _alive(socket)
    if data := b"".join(ready):
        await socket.writable()
        _alive(socket)
        socket.transport.write_frames(data)


def _go_live(socket: SocketConsumer, cursors: dict[str, int]) -> None:
    """Join the hub's positions, in one turn of the loop, so that nothing slips between; then what was missed beside
    the stream."""
    _alive(socket)
    hub = socket.node.hub
    for conversation, rev in cursors.items():
        topic = hub.topics.get(conversation)
        if topic is not None and socket.user in topic.members and rev > topic.position:
            # The database was ahead of the bus: the socket has these already.
            socket.skip[conversation] = rev
            hub.note_head(conversation, rev)
    socket.go_live(cursors)
    if socket.missed:
        socket.tell_afresh()


class DatabaseSource:
    """The hub's reader of conversations (`chatbe.hub.hub.Source`)."""

    def gap(self, conversation: str, after: int, followers: dict[str, int]) -> Gap:
        """The changes after a rev, as every member who may see all of it gets them."""
        found = stream.heads([conversation])
        if conversation not in found:
            return Gap([], after, complete=True)
        head, state_rev, direct = found[conversation]
        if head <= after:
            return Gap([], after, complete=True)
        # Whatever has ended a membership has changed the state.
        gone = stream.no_longer_members(conversation, followers) if followers and state_rev > after else set()
        pieces, cursors = stream.read(
            [Wanted(conversation, after, head, state_rev, 0, direct)], limit=GAP_ROWS
        )
        changes = []
        opening = b""
        for piece in pieces:
            frame = encode_text_frame(codec.encode(piece.event))
            if piece.rev:
                changes.append(Change(piece.rev, piece.seq, opening + frame))
                opening = b""
            else:
                opening = frame
        position = cursors[conversation]
        return Gap(changes, position, complete=position == head, gone=gone)

    def heads(self, conversations: list[str]) -> dict[str, int]:
        """The head revs of those that exist."""
        return {conversation: head for conversation, (head, *_) in stream.heads(conversations).items()}

    async def catch_up(self, socket: SocketConsumer) -> None:
        """Serve a socket that had lagged."""
        await catch_up(socket)
