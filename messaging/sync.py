"""A socket's way from where its client was to the live stream.

Live events are held from the first moment; the database is read after it. So the two overlap and
never leave a gap: what was read and what was held are told apart by rev. The same way serves a
socket that lagged.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from chatbe.core.errors import ChatError, Unavailable
from chatbe.hub import fanout
from chatbe.hub.hub import Change, Gap
from chatbe.hub.outbox import State
from chatbe.wire import codec, frames
from chatbe.wire.codes import CloseCode
from chatbe.wire.websocket import encode_text_frame
from messaging import parts, selectors, stream
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
MARKS_BYTES = 128 * 1024
READS = 5
"""Reads of where a user's conversations stand, until one is younger than the joining of all; two are enough."""
ATTEMPTS = 30
"""Tries, a second apart, to serve a lagging socket from a database that is away; then it is closed with 1011."""


@dataclass(slots=True)
class _Plan:
    """What a sync sends before the rows: events of state, and where each conversation's reading starts."""

    cursors: dict[str, int] = field(default_factory=dict)
    wanted: list[Wanted] = field(default_factory=list)
    current: list[str] = field(default_factory=list)
    reset: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


class Gone(Exception):
    """The socket was closed meanwhile."""


async def start(socket: SocketConsumer, frame: frames.Sync) -> None:
    """Begin a socket's stream as its client asked; never raises."""
    try:
        socket.begin_to_catch_up()
        streams = await _follow(socket)
        plan = _plan(
            streams, {str(key): rev for key, rev in frame.conversations.items()}, others=frame.others
        )
        heads = {item.conversation: item.head for item in streams}
        await _send_states(socket, plan, heads)
        await _serve(socket, plan.wanted, plan.cursors)
        socket.answer(frames.Synced(ref=frame.ref))
        _go_live(socket, plan.cursors)
        if socket.missed:
            for part in socket.node.parts:
                part.caught_up(socket)
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
            for part in socket.node.parts:
                part.caught_up(socket)
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


async def _follow(socket: SocketConsumer) -> list[Stream]:
    """Join the fan-out of every conversation of the user, then read where each stands."""
    node, user = socket.node, socket.user
    if not user.loaded and user.seen is None:
        user.seen = {}
    hub = node.hub
    floors: dict[str, int] = {}
    streams: list[Stream] = []
    # A conversation that others here follow may have gone on between the read and the joining, past this
    # socket; whoever reads once more after the joining misses nothing.
    for _ in range(READS):
        streams = await _streams(socket)
        _alive(socket)
        known = set()
        for item in streams:
            known.add(item.conversation)
            if item.active:
                if user.loaded and user not in hub.members(item.conversation):
                    # News of it has not come yet: the user's other sockets have not had what this one will read.
                    for other in user.sockets:
                        if other is not socket:
                            other.fall_behind(item.conversation, item.begins)
                topic = hub.follow(user, item.conversation, hidden_to=item.hidden_to, position=item.head)
                floors.setdefault(item.conversation, topic.position)
                hub.note_head(item.conversation, item.head)
        unknown = (user.seen or {}).keys() - known or {topic.id for topic in user.topics} - known
        if not unknown and all(item.head >= floors[item.conversation] for item in streams if item.active):
            break
    seen, user.seen, user.loaded = user.seen, None, True
    for conversation, rev in (seen or {}).items():
        hub.note_head(conversation, rev)
    return streams


async def _streams(socket: SocketConsumer) -> list[Stream]:
    """Where each of the user's conversations stands, read after the fan-out of all was joined."""
    node, user = socket.node, socket.user
    user_id = socket.identity.user_id
    streams = await node.call(stream.streams_of, user_id)
    joined = {topic.id for topic in user.topics}
    groups = [
        item.conversation
        for item in streams
        if item.active and not item.direct and item.conversation not in joined
    ]
    if groups:
        # Join before reading: the two must overlap.
        await node.join([fanout.conversation_group(group) for group in groups])
        streams = await node.call(stream.streams_of, user_id)
    return streams


def _plan(streams: list[Stream], named: dict[str, int], *, others: str) -> _Plan:
    """What to send of each conversation, by what the client has of it."""
    plan = _Plan()
    for item in streams:
        rev = named.get(item.conversation)
        if not item.active:
            if rev is not None:
                plan.left.append(item.conversation)
            continue
        start = item.head
        if rev is None:
            if others == "all":
                start = item.begins
            elif item.head:
                plan.current.append(item.conversation)
        elif rev > item.head:
            plan.reset.append(item.conversation)
        else:
            start = max(rev, item.begins)
        plan.cursors[item.conversation] = start
        if start < item.head:
            plan.wanted.append(_wanted_of(item, start))
    return plan


async def _send_states(socket: SocketConsumer, plan: _Plan, heads: dict[str, int]) -> None:
    """The `conversation` events that stand before any row."""
    kinds = [
        *((conversation, "current") for conversation in plan.current),
        *((conversation, "reset") for conversation in plan.reset),
        *((conversation, "left") for conversation in plan.left),
    ]
    for first in range(0, len(kinds), STATES_AT_ONCE):
        some = kinds[first : first + STATES_AT_ONCE]
        objects = await socket.node.call(selectors.conversation_objects, [UUID(key) for key, _ in some])
        await _write(socket, [
            encode_text_frame(codec.encode(_state_event(objects[UUID(key)], kind, heads[key])))
            for key, kind in some
            if UUID(key) in objects
        ])  # fmt: skip


def _state_event(state: frames.ConversationObject, kind: str, head: int) -> frames.Conversation:
    event = frames.Conversation(state)
    # The event stands where the stream goes on from.
    state.rev = head
    if kind == "reset":
        event.reset = True
    elif kind == "left":
        event.member = False
    return event


async def _wanted(socket: SocketConsumer, cursors: dict[str, int]) -> list[Wanted]:
    """What there is to read after each cursor now."""
    if not cursors:
        return []
    streams = await socket.node.call(stream.streams_of, socket.identity.user_id)
    return [
        _wanted_of(item, cursors[item.conversation])
        for item in streams
        if item.active and item.conversation in cursors and item.head > cursors[item.conversation]
    ]


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
    """The part's events, or the acks which stand for some of them on this socket."""
    if not socket.acks:
        return part.frames()
    ready = []
    for rev, payload in zip(part.revs, part.payloads, strict=True):
        ack = socket.take_ack(part.conversation, rev)
        ready.append(encode_text_frame(payload if ack is None else codec.encode(ack)))
    return b"".join(ready)


async def _send_marks(socket: SocketConsumer, *, any_at_all: bool) -> None:
    """Every member's marks in the user's conversations, if there are `any_at_all`, in frames of a bounded size."""
    marks: dict[str, dict[str, tuple[int, int]]] = {}
    if any_at_all:
        marks = await socket.node.call_together(stream.marks_of, socket.identity.user_id)
    chunk: dict[str, dict[str, tuple[int, int]]] = {}
    size = 0
    for conversation, members in marks.items():
        chunk[conversation] = members
        size += 50 + 60 * len(members)
        if size > MARKS_BYTES:
            await _write(socket, [encode_text_frame(codec.encode(frames.Marks(chunk)))])
            chunk, size = {}, 0
    await _write(socket, [encode_text_frame(codec.encode(frames.Marks(chunk)))])


async def _write(socket: SocketConsumer, ready: list[bytes]) -> None:
    """Write when the transport has room."""
    _alive(socket)
    if data := b"".join(ready):
        await socket.writable()
        _alive(socket)
        socket.transport.write_frames(data)


def _go_live(socket: SocketConsumer, cursors: dict[str, int]) -> None:
    """Join the hub's positions; in one turn of the loop, so that nothing slips between."""
    _alive(socket)
    hub = socket.node.hub
    for conversation, rev in cursors.items():
        topic = hub.topics.get(conversation)
        if topic is not None and rev > topic.position:
            # The database was ahead of the bus: the socket has these already.
            socket.skip[conversation] = rev
            hub.note_head(conversation, rev)
    socket.go_live(cursors)


class DatabaseSource:
    """The hub's reader of conversations (`chatbe.hub.hub.Source`)."""

    def gap(self, conversation: str, after: int) -> Gap:
        """The changes after a rev, as every member who may see all of it gets them."""
        found = stream.heads([conversation])
        if conversation not in found:
            return Gap([], after, complete=True)
        head, state_rev, direct = found[conversation]
        if head <= after:
            return Gap([], after, complete=True)
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
        return Gap(changes, position, complete=position == head)

    def heads(self, conversations: list[str]) -> dict[str, int]:
        """The head revs of those that exist."""
        return {conversation: head for conversation, (head, *_) in stream.heads(conversations).items()}

    async def catch_up(self, socket: SocketConsumer) -> None:
        """Serve a socket that had lagged."""
        await catch_up(socket)
