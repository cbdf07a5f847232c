"""This process's sockets by user, and its position in every conversation they follow.

An event reaches the hub from a local commit, over the channel layer, or from the database. In
each conversation the hub lets events through in rising rev: the next one goes out, an older one
is dropped, a later one waits a moment for the missing and then for a read of the gap. Sockets
that are catching up (see `chatbe.hub.socket`) keep positions of their own; all others share the
hub's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from chatbe.core.errors import Unavailable
from chatbe.core.ratelimit import TokenBucket
from chatbe.hub import registry
from chatbe.wire.websocket import encode_text_frame

if TYPE_CHECKING:
    from chatbe.hub.consumer import SocketConsumer
    from chatbe.hub.fanout import Envelope
    from chatbe.hub.node import Node
    from chatbe.wire import frames

logger = logging.getLogger("chatbe.hub")

GAP_PATIENCE = 0.05
"""Seconds that a later event waits for the missing one: two servers' publishes cross as a matter of course."""

WAITING_CHANGES = 256
"""Changes of one conversation that may wait for a gap to be read; over that they are read as well."""


@dataclass(slots=True)
class Change:
    """One event of a conversation: its place in the stream and its ready frame.

    `ack`, on the process of the sender only, goes to the connection `origin` in the frame's place.
    """

    rev: int
    seq: int
    frame: bytes
    origin: str = ""
    ack: frames.Ack | None = None
    opening: bytes = b""
    """The frame of an event that comes before it, also before the ack."""


@dataclass(slots=True)
class Gap:
    """What a read of the database found: changes in rising rev, and where the stream stands after them."""

    changes: list[Change]
    position: int
    complete: bool
    """Whether `position` is the conversation's head; else there is more to read."""


class Source(Protocol):
    """Reads conversations from the database; blocking, called in threads."""

    def gap(self, conversation: str, after: int) -> Gap:
        """The changes with rev > `after`."""

    def heads(self, conversations: list[str]) -> dict[str, int]:
        """The head revs of those that exist."""

    async def catch_up(self, socket: SocketConsumer) -> None:
        """Serve a lagging socket, whose transport has drained, from the database until it is live again."""


class LocalUser:
    """A user with sockets in this process."""

    __slots__ = ("bucket", "key", "loaded", "seen", "sockets", "topics")

    def __init__(self, key: str, bucket: TokenBucket) -> None:
        self.key = key
        self.bucket = bucket
        """What all of the user's sockets here may send together."""
        self.sockets: list[SocketConsumer] = []
        self.topics: set[Topic] = set()
        self.loaded = False
        """Whether `topics` has all of the user's conversations: some socket has begun its stream."""
        self.seen: dict[str, int] | None = None
        """While loading: the highest rev heard of in each conversation."""


class Topic:
    """A conversation that local users follow."""

    __slots__ = ("id", "members", "position", "repair", "target", "waiting")

    def __init__(self, conversation: str, position: int) -> None:
        self.id = conversation
        self.position = position
        """The last rev that was let through."""
        self.members: dict[LocalUser, int] = {}
        """Local members, and the seq up to which messages are not theirs to see."""
        self.waiting: dict[int, Change] | None = None
        self.target = 0
        """The database is known to have changes up to this rev."""
        self.repair: asyncio.Task[None] | None = None


class Hub:
    """The sockets of one process. Everything here runs on one event loop and never blocks."""

    def __init__(self, node: Node, source: Source) -> None:
        self._node = node
        self._source = source
        self.users: dict[str, LocalUser] = {}
        self.topics: dict[str, Topic] = {}
        self.sockets: dict[str, SocketConsumer] = {}
        self.gaps_read = 0
        self._heard: set[tuple[str, str]] = set()
        self._heard_before: set[tuple[str, str]] = set()
        self._apply = {
            "e": self._on_event,
            "c": self._on_change,
            "t": self._on_topic_event,
            "k": self._on_control,
        }

    # --- sockets and users -------------------------------------------------------------------------

    def add(self, socket: SocketConsumer) -> bool:
        """Count a socket in; returns whether it is its user's first here."""
        self.sockets[socket.connection] = socket
        user = self.users.get(socket.user_key)
        if user is None:
            user = self.users[socket.user_key] = LocalUser(socket.user_key, socket.bucket_of_user())
        user.sockets.append(socket)
        socket.user = user
        return len(user.sockets) == 1

    def remove(self, socket: SocketConsumer) -> bool:
        """Count a socket out; returns whether it was its user's last here. Repeatable."""
        if self.sockets.pop(socket.connection, None) is None:
            return False
        user = socket.user
        user.sockets.remove(socket)
        if user.sockets:
            return False
        del self.users[user.key]
        for topic in user.topics:
            del topic.members[user]
            self._forget_if_alone(topic)
        user.topics.clear()
        return True

    def follow(self, user: LocalUser, conversation: str, *, hidden_to: int, position: int) -> Topic:
        """Let a user follow a conversation; `position` is where it stands if nobody here knew it."""
        topic = self.topics.get(conversation)
        if topic is None:
            topic = self.topics[conversation] = Topic(conversation, position)
        topic.members[user] = hidden_to
        user.topics.add(topic)
        return topic

    def members(self, conversation: str) -> Iterable[LocalUser]:
        """The local users who follow a conversation."""
        topic = self.topics.get(conversation)
        return topic.members if topic is not None else ()

    def unfollow(self, user: LocalUser, conversation: str) -> None:
        """The user is no longer a member."""
        topic = self.topics.get(conversation)
        if topic is not None and user in topic.members:
            del topic.members[user]
            user.topics.discard(topic)
            self._forget_if_alone(topic)

    def forget_all(self) -> None:
        """No position holds any more, and every socket is being closed: later ones begin afresh."""
        for topic in self.topics.values():
            if topic.repair is not None:
                topic.repair.cancel()
        self.topics.clear()
        for user in self.users.values():
            user.topics.clear()
            user.loaded, user.seen = False, None

    def _forget_if_alone(self, topic: Topic) -> None:
        if not topic.members:
            del self.topics[topic.id]
            if topic.repair is not None:
                topic.repair.cancel()

    # --- events in ---------------------------------------------------------------------------------

    def apply(self, envelope: Envelope, ack: frames.Ack | None = None) -> None:
        """Take one envelope (its kinds are in `chatbe.hub.fanout`)."""
        if ack is None:
            self._apply[envelope["k"]](envelope)
        else:
            self._on_change(envelope, ack)

    def _on_event(self, envelope: Envelope) -> None:
        user = self.users.get(envelope["u"])
        if user is None:
            return
        if "i" in envelope:
            self._heard.add((user.key, envelope["i"]))
        frame = encode_text_frame(envelope["d"])
        left_out = envelope["x"]
        in_stream = envelope.get("s", False)
        for socket in user.sockets:
            if socket.connection != left_out:
                socket.offer_event(frame, in_stream=in_stream)

    def has_heard(self, audience: str, identity: str) -> bool:
        """Whether this event to a user or a group conversation passed since the last call but one of `forget_heard`."""
        key = (audience, identity)
        return key in self._heard or key in self._heard_before

    def forget_heard(self) -> None:
        """Begin a new span of what was heard; the one before it is kept, the one before that is forgotten."""
        self._heard, self._heard_before = set(), self._heard

    def _on_topic_event(self, envelope: Envelope) -> None:
        topic = self.topics.get(envelope["c"])
        if topic is None:
            return
        if "i" in envelope:
            self._heard.add((topic.id, envelope["i"]))
        frame = encode_text_frame(envelope["d"])
        left_out = envelope["x"]
        for user in topic.members:
            if user.key != left_out:
                for socket in user.sockets:
                    socket.offer_event(frame, in_stream=True)

    def _on_control(self, envelope: Envelope) -> None:
        for receiver in registry.control_receivers(envelope["a"]):
            receiver(self._node, envelope)

    def _on_change(self, envelope: Envelope, ack: frames.Ack | None = None) -> None:
        conversation: str = envelope["c"]
        rev: int = envelope["r"]
        topic = self.topics.get(conversation)
        if envelope["u"] is not None:
            topic = self._direct_topic(topic, conversation, rev, envelope["u"])
        if topic is None:
            if ack is not None:
                self._answer_apart(envelope["o"], conversation, rev, ack)
            return
        if rev == topic.position + 1 and topic.waiting is None:
            change = _change_of(envelope, ack)
            topic.position = rev
            self._let_through(topic, change)
        elif rev > topic.position:
            change = _change_of(envelope, ack)
            if topic.waiting is None:
                topic.waiting = {}
            if ack is not None or rev not in topic.waiting:
                topic.waiting[rev] = change
            self._advance(topic)
        elif ack is not None:
            # The stream passed this rev already, read from the database: the message itself has been sent.
            ack.duplicate = True
            self._answer(envelope["o"], ack)

    def _direct_topic(
        self, topic: Topic | None, conversation: str, rev: int, users: Iterable[str]
    ) -> Topic | None:
        """The topic of a direct conversation, made or joined now if one of `users` has begun a stream here."""
        for key in users:
            user = self.users.get(key)
            if user is None or (topic is not None and user in topic.members):
                continue
            if user.loaded:
                topic = self._follow_new(user, conversation)
            elif user.seen is not None:
                user.seen[conversation] = max(rev, user.seen.get(conversation, 0))
        return topic

    def _follow_new(self, user: LocalUser, conversation: str) -> Topic:
        """Let a user follow a conversation that is new since their stream began: it starts at its beginning."""
        topic = self.follow(user, conversation, hidden_to=0, position=0)
        if topic.position:
            # Others here have had some of it already.
            for socket in user.sockets:
                socket.fall_behind(conversation, 0)
        return topic

    # --- events through ----------------------------------------------------------------------------

    def _let_through(self, topic: Topic, change: Change) -> None:
        """Offer a change to every local socket that may see it; its origin gets the ack in its place."""
        conversation, rev, seq, frame, origin = topic.id, change.rev, change.seq, change.frame, change.origin
        answered = False
        for user, hidden_to in topic.members.items():
            if 0 < seq <= hidden_to:
                continue
            for socket in user.sockets:
                if change.ack is not None and socket.connection == origin:
                    answered = True
                    socket.offer_ack(conversation, rev, change.ack, change.opening)
                else:
                    socket.offer_change(conversation, rev, frame)
        if change.ack is not None and not answered:
            self._answer_apart(origin, conversation, rev, change.ack)

    def _answer(self, connection: str, ack: frames.Ack) -> None:
        """An ack without a place in a stream."""
        socket = self.sockets.get(connection)
        if socket is not None:
            socket.answer(ack)

    def _answer_apart(self, connection: str, conversation: str, rev: int, ack: frames.Ack) -> None:
        """An ack for a change that has no place in the socket's stream yet."""
        socket = self.sockets.get(connection)
        if socket is not None:
            socket.offer_ack_apart(conversation, rev, ack)

    def _advance(self, topic: Topic) -> None:
        """Let through what waits and is next; if some still waits, see to the gap."""
        waiting = topic.waiting
        if waiting:
            self._let_next_through(topic, waiting)
        if not waiting:
            topic.waiting = None
        elif topic.repair is None:
            topic.repair = self._node.spawn(self._repair(topic, GAP_PATIENCE))
        if waiting and len(waiting) > WAITING_CHANGES:
            self._let_go(topic, waiting)

    def note_head(self, conversation: str, head: int, *, patience: float = GAP_PATIENCE) -> None:
        """The database has changes up to `head`: if the hub is behind, it reads them after `patience` seconds."""
        topic = self.topics.get(conversation)
        if topic is None or head <= topic.position:
            return
        topic.target = max(topic.target, head)
        if topic.waiting is None:
            topic.waiting = {}
        if topic.repair is None:
            topic.repair = self._node.spawn(self._repair(topic, patience))

    def discover(self, conversation: str, user: str) -> None:
        """A local user has a direct conversation whose first events were lost: read them."""
        local = self.users.get(user)
        topic = self.topics.get(conversation)
        if local is None or (topic is not None and local in topic.members):
            return
        if local.loaded:
            self._follow_new(local, conversation)
            self.note_head(conversation, 1, patience=0.0)
        elif local.seen is not None:
            local.seen.setdefault(conversation, 1)

    async def _repair(self, topic: Topic, patience: float) -> None:
        """Read what is missing from the database until nothing waits; once per process and conversation."""
        try:
            await asyncio.sleep(patience)
            while topic.waiting or topic.position < topic.target:
                target, waiting = topic.target, list(topic.waiting or ())
                try:
                    gap = await self._node.call(self._source.gap, topic.id, topic.position)
                except Unavailable:
                    await asyncio.sleep(1.0)
                    continue
                self._fill(topic, gap)
                if gap.complete:
                    self._drop_unknown(topic, waiting)
                    if topic.target == target:
                        # Not so if a further head became known meanwhile: the read may have been before it.
                        topic.target = 0
        finally:
            topic.repair = None
            if not topic.waiting:
                topic.waiting = None

    def _fill(self, topic: Topic, gap: Gap) -> None:
        self.gaps_read += 1
        waiting = topic.waiting if topic.waiting is not None else {}
        for change in gap.changes:
            if change.rev > topic.position:
                topic.position = change.rev
                late = waiting.pop(change.rev, None)
                self._let_through(topic, change if late is None or late.ack is None else late)
        topic.position = max(topic.position, gap.position)
        for rev in sorted(rev for rev in waiting if rev <= topic.position):
            late = waiting.pop(rev)
            if late.ack is not None:
                # Superseded before it went out, so the stream has the newer state.
                late.ack.duplicate = True
                self._answer(late.origin, late.ack)
        self._let_next_through(topic, waiting)

    def _let_go(self, topic: Topic, waiting: dict[int, Change]) -> None:
        """Let go of what waits: the repair under way reads on until it has come so far."""
        topic.target = max(topic.target, *waiting)
        topic.waiting = {}
        for change in waiting.values():
            if change.ack is not None:
                # The message itself follows, also to its sender.
                self._answer_apart(change.origin, topic.id, change.rev, change.ack)

    def _drop_unknown(self, topic: Topic, revs: list[int]) -> None:
        """Let go of what waited before a read that went to the head and did not reach it.

        A change is told after its commit, so the database has lost it, or its conversation.
        """
        waiting = topic.waiting or {}
        for change in [waiting.pop(rev) for rev in revs if rev in waiting]:
            logger.warning(
                "the database does not have a change",
                extra={"conversation": topic.id, "rev": change.rev, "position": topic.position},
            )
            if change.ack is not None:
                self._answer_apart(change.origin, topic.id, change.rev, change.ack)

    def _let_next_through(self, topic: Topic, waiting: dict[int, Change]) -> None:
        """Let through whatever waits and is next."""
        while topic.position + 1 in waiting:
            change = waiting.pop(topic.position + 1)
            topic.position = change.rev
            self._let_through(topic, change)

    async def check_all(self) -> None:
        """Ask the database for the head of every topic and read what is missing: the bus may have lost anything."""
        names = list(self.topics)
        for start in range(0, len(names), 1000):
            heads = await self._node.call(self._source.heads, names[start : start + 1000])
            for conversation, head in heads.items():
                self.note_head(conversation, head)

    # --- all sockets -------------------------------------------------------------------------------

    def each_of(self, user: str, act: Callable[[SocketConsumer], Any]) -> None:
        """Call `act` with each socket of a user."""
        local = self.users.get(user)
        if local is not None:
            for socket in list(local.sockets):
                act(socket)


def _change_of(envelope: Envelope, ack: frames.Ack | None) -> Change:
    frame = encode_text_frame(envelope["d"])
    opening = encode_text_frame(envelope["b"]) if "b" in envelope else b""
    return Change(envelope["r"], envelope["q"], opening + frame, envelope["o"], ack, opening)
