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
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from chatbe.core.errors import Unavailable
from chatbe.core.ratelimit import TokenBucket
from chatbe.hub import registry
from chatbe.hub.outbox import UNKNOWN
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

    `ack`, on the process of the sender only, goes to the connection `origin` in the frame's place, or
    (a `ChangeAck`) after it.
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
    gone: set[str] = field(default_factory=set)
    """Users who are no longer the members that they were."""


class Source(Protocol):
    """Reads conversations from the database; blocking, called in threads."""

    def gap(self, conversation: str, after: int, followers: dict[str, int]) -> Gap:
        """The changes with rev > `after`; `followers` are a group's local members with the rev of their joining."""

    def heads(self, conversations: list[str]) -> dict[str, int]:
        """The head revs of those that exist."""

    async def catch_up(self, socket: SocketConsumer) -> None:
        """Serve a lagging socket, whose transport has drained, from the database until it is live again."""


class LocalUser:
    """A user with sockets in this process."""

    __slots__ = ("bucket", "key", "loaded", "reserved", "seen", "sockets", "stale", "topics")

    def __init__(self, key: str, bucket: TokenBucket) -> None:
        self.key = key
        self.bucket = bucket
        """What all of the user's sockets here may send together."""
        self.sockets: list[SocketConsumer] = []
        self.topics: set[Topic] = set()
        self.loaded = False
        """Whether `topics` has all of the user's conversations: some socket has begun its stream."""
        self.seen: dict[str, int] | None = None
        """While loading: the highest rev heard of in each direct conversation."""
        self.stale = False
        """Whether memberships have changed while loading."""
        self.reserved = False
        """Whether events that come in two forms reach this user in the reserved one."""

    def sockets_changed(self) -> None:
        """Have the conversations that the user follows see it."""
        for topic in self.topics:
            topic.receivers = None


class Topic:
    """A conversation that local users follow."""

    __slots__ = (
        "id",
        "leaving",
        "members",
        "newcomers",
        "position",
        "receivers",
        "repair",
        "since",
        "target",
        "unsettled",
        "veiled",
        "waiting",
    )

    def __init__(self, conversation: str, position: int) -> None:
        self.id = conversation
        self.position = position
        """The last rev that was let through."""
        self.members: dict[LocalUser, int] = {}
        """Local members, and the seq up to which messages are not theirs to see."""
        self.veiled = 0
        """No member is kept from a message with a higher seq."""
        self.receivers: tuple[SocketConsumer, ...] | None = None
        """All sockets of all members, as the last change found them; None since they are others."""
        self.since: dict[LocalUser, int] | None = None
        """Of a group: the rev at which each of them joined."""
        self.leaving: dict[LocalUser, tuple[int, bytes]] = {}
        """Members whose stream ends at a rev, and its last frame."""
        self.newcomers: set[LocalUser] = set()
        """Members who have not been told of the group itself."""
        self.unsettled = False
        """Whether there are any of these two."""
        self.waiting: dict[int, Change] | None = None
        self.target = 0
        """The database is known to have changes up to this rev."""
        self.repair: asyncio.Task[None] | None = None

    def receivers_of(self, seq: int) -> Iterable[SocketConsumer]:
        """The sockets whose users may see the message with this seq, or with 0 a change that is no message.

        All of them, as a rule: then nothing is looked up for each user.
        """
        if 0 < seq <= self.veiled:
            return [
                socket
                for user, hidden_to in self.members.items()
                if seq > hidden_to
                for socket in user.sockets
            ]
        if self.receivers is None:
            self.receivers = tuple(socket for user in self.members for socket in user.sockets)
        return self.receivers


class Hub:
    """The sockets of one process. Everything here runs on one event loop and never blocks."""

    def __init__(self, node: Node, source: Source) -> None:
        self._node = node
        self._source = source
        self.users: dict[str, LocalUser] = {}
        self.topics: dict[str, Topic] = {}
        self.sockets: dict[str, SocketConsumer] = {}
        self.awaited: dict[str, int] = {}
        """Groups whose fan-out is being joined, and the highest rev heard of while nobody here follows them yet."""
        self.gaps_read = 0
        self._doubted: set[str] = set()
        """Conversations of whose head less was heard than the hub has let through: as a rule, old news."""
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
        user.sockets_changed()
        socket.user = user
        return len(user.sockets) == 1

    def remove(self, socket: SocketConsumer) -> bool:
        """Count a socket out; returns whether it was its user's last here. Repeatable."""
        if self.sockets.pop(socket.connection, None) is None:
            return False
        user = socket.user
        user.sockets.remove(socket)
        if user.sockets:
            user.sockets_changed()
            return False
        del self.users[user.key]
        for topic in user.topics:
            self._drop(topic, user)
        user.topics.clear()
        return True

    def follow(
        self, user: LocalUser, conversation: str, *, hidden_to: int, position: int, since: int = 0
    ) -> Topic:
        """Let a user follow a conversation; `position` is where it stands if nobody here knew it.

        `since` is the rev at which they joined a group; 0 in a direct conversation.
        """
        topic = self.topics.get(conversation)
        if topic is None:
            topic = self.topics[conversation] = Topic(conversation, position)
        topic.members[user] = hidden_to
        topic.veiled = max(topic.veiled, hidden_to)
        topic.receivers = None
        if since:
            if topic.since is None:
                topic.since = {}
            topic.since[user] = since
        user.topics.add(topic)
        return topic

    def members(self, conversation: str) -> Iterable[LocalUser]:
        """The local users who follow a conversation."""
        topic = self.topics.get(conversation)
        return topic.members if topic is not None else ()

    def member_since(self, user: LocalUser, conversation: str) -> int | None:
        """The rev of the joining with which a user follows a group here (0 in a direct one); None: they do not."""
        topic = self.topics.get(conversation)
        if topic is None or user not in topic.members:
            return None
        return topic.since.get(user, 0) if topic.since is not None else 0

    def cut(self, user: LocalUser, conversation: str, *, reader: SocketConsumer | None = None) -> None:
        """The user is not the member any more as whom they follow: each socket reads on from where it stands.

        `reader` is a socket that is reading already.
        """
        topic = self.topics.get(conversation)
        if topic is None or user not in topic.members:
            return
        for socket in user.sockets:
            if socket is reader:
                socket.let_go(conversation)
            else:
                socket.go_on_from(conversation, _place(topic, user, socket))
        self._unfollow(topic, user)

    def _unfollow(self, topic: Topic, user: LocalUser) -> None:
        user.topics.discard(topic)
        self._drop(topic, user)

    def forget_all(self) -> None:
        """No position holds any more, and every socket is being closed: later ones begin afresh."""
        for topic in self.topics.values():
            if topic.repair is not None:
                topic.repair.cancel()
        self.topics.clear()
        self._doubted.clear()
        for user in self.users.values():
            user.topics.clear()
            user.loaded, user.seen, user.stale = False, None, False

    def _drop(self, topic: Topic, user: LocalUser) -> None:
        """Take a member off a topic; one that nobody here follows any more is forgotten."""
        del topic.members[user]
        topic.receivers = None
        if topic.since is not None:
            topic.since.pop(user, None)
        topic.leaving.pop(user, None)
        topic.newcomers.discard(user)
        if not topic.members:
            del self.topics[topic.id]
            if topic.repair is not None:
                topic.repair.cancel()
            waiting, topic.waiting = topic.waiting or {}, None
            for late in waiting.values():
                if late.ack is not None:
                    late.ack.duplicate = True
                    self._answer(late.origin, late.ack)
            if topic.since is not None:
                self._node.abandon(topic.id)

    def expel(self, user: LocalUser, conversation: str, rev: int, frame: bytes) -> None:
        """End a former member's stream with `frame` when the hub comes to `rev`, which is ahead of it."""
        topic = self.topics[conversation]
        topic.leaving[user] = (rev, frame)
        topic.unsettled = True
        self.note_head(conversation, rev)

    def _expel(self, topic: Topic, position: int) -> None:
        """End the streams that are over at `position`."""
        for user, (rev, frame) in list(topic.leaving.items()):
            if rev <= position:
                for socket in user.sockets:
                    socket.offer_change(topic.id, rev, frame)
                    socket.skip.pop(topic.id, None)
                self._unfollow(topic, user)
        topic.unsettled = bool(topic.leaving or topic.newcomers)

    def introduce(
        self, user: LocalUser, conversation: str, *, head: int, reader: SocketConsumer | None = None
    ) -> None:
        """A follower is new here, found by a read at `head`: have each of their sockets begin the stream.

        `reader` is the socket that reads; it has all up to `head`. A live socket waits for the event of the
        joining, if that is still to come; then nothing of this membership has passed. Else it reads
        the conversation from the database, now that the user follows, and so does a reader whose read is
        behind: whatever ended the membership before this moment, they find.
        """
        topic = self.topics[conversation]
        since = topic.since.get(user, 0) if topic.since is not None else 0
        to_come = topic.position < since
        for socket in user.sockets:
            if socket is reader:
                if topic.position > head:
                    socket.go_on_from(conversation, UNKNOWN)
            elif not (to_come and socket.is_live):
                socket.go_on_from(conversation, UNKNOWN)
            elif topic.position < since - 1:
                # What others here have yet to get is from before.
                socket.skip[conversation] = since - 1
        if to_come:
            topic.newcomers.add(user)
            topic.unsettled = True

    def _introduce(self, topic: Topic, change: Change) -> None:
        """The next change is the first that newcomers see; unless it is the group's state, they read that first."""
        since = topic.since or {}
        for user in [user for user in topic.newcomers if change.rev >= since.get(user, 0)]:
            for socket in user.sockets:
                unknown = _place(topic, user, socket) == UNKNOWN
                if unknown and (change.seq or not socket.is_live):
                    socket.go_on_from(topic.id, UNKNOWN)
            topic.newcomers.discard(user)

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
        data = envelope.get("w", envelope["d"]) if user.reserved else envelope["d"]
        if not data:
            return
        frame = encode_text_frame(data)
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
            self._heard.update((topic.id, identity) for identity in envelope["i"].split(" "))
        data = envelope["d"]
        frame = encode_text_frame(data) if data else b""
        reserved_data = envelope.get("w", data)
        reserved = encode_text_frame(reserved_data) if reserved_data else b""
        left_out: list[str] = envelope["x"]
        for user in topic.members:
            chosen = reserved if user.reserved else frame
            if chosen and user.key not in left_out:
                for socket in user.sockets:
                    socket.offer_event(chosen, in_stream=True)

    def _on_control(self, envelope: Envelope) -> None:
        for receiver in registry.control_receivers(envelope["a"]):
            receiver(self._node, envelope)

    def _on_change(self, envelope: Envelope, ack: frames.Ack | None = None) -> None:
        conversation: str = envelope["c"]
        rev: int = envelope["r"]
        topic = self.topics.get(conversation)
        if envelope["u"] is not None:
            topic = self._direct_topic(topic, conversation, rev, envelope["u"])
        elif topic is not None and "g" in envelope:
            self._note_leaving(topic, envelope)
        if topic is None:
            self._hear_of(conversation, rev)
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
        else:
            # The last rev itself comes twice where both users of a direct conversation are here.
            if rev < topic.position:
                self._doubted.add(conversation)
            if ack is not None:
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

    def _note_leaving(self, topic: Topic, envelope: Envelope) -> None:
        """The change at this rev ends the membership of some (`g`), or with None of all."""
        rev: int = envelope["r"]
        if rev <= topic.position or topic.since is None:
            # What was read from the database has told them already.
            return
        gone: list[str] | None = envelope["g"]
        users = (
            list(topic.members) if gone is None else [self.users[key] for key in gone if key in self.users]
        )
        frame = encode_text_frame(envelope["h"])
        for user in users:
            # Who joined again since is another member.
            if user in topic.members and topic.since.get(user, 0) < rev:
                topic.leaving[user] = (rev, frame)
                topic.unsettled = True

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
        if topic.unsettled:
            self._introduce(topic, change)
            self._expel(topic, change.rev)
        conversation, rev, frame, ack = topic.id, change.rev, change.frame, change.ack
        sender = self.sockets.get(change.origin) if ack is not None else None
        answered = False
        for socket in topic.receivers_of(change.seq):
            if socket is sender and ack is not None:
                answered = True
                socket.offer_ack(conversation, rev, ack, change.opening, frame)
            else:
                socket.offer_change(conversation, rev, frame)
        if ack is not None and not answered:
            self._answer_apart(change.origin, conversation, rev, ack)

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
        if topic is None:
            self._hear_of(conversation, head)
            return
        if head <= topic.position:
            if head < topic.position:
                self._doubted.add(conversation)
            return
        topic.target = max(topic.target, head)
        if topic.waiting is None:
            topic.waiting = {}
        if topic.repair is None:
            topic.repair = self._node.spawn(self._repair(topic, patience))

    def _hear_of(self, conversation: str, rev: int) -> None:
        """Who is about to follow a group may have read it before this change, and then has to read on."""
        if conversation in self.awaited:
            self.awaited[conversation] = max(rev, self.awaited[conversation])

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
            complete = True
            while topic.waiting or topic.position < topic.target or not complete:
                target, waiting = topic.target, list(topic.waiting or ())
                try:
                    followers = {user.key: since for user, since in (topic.since or {}).items()}
                    gap = await self._node.call(self._source.gap, topic.id, topic.position, followers)
                except Unavailable:
                    await asyncio.sleep(1.0)
                    continue
                self._fill(topic, gap, followers)
                if not topic.members:
                    # That was the last who followed it here: nothing is read for nobody.
                    return
                # A page may reach the target and end before the head, of which nobody has told.
                complete = gap.complete
                if complete:
                    self._drop_unknown(topic, waiting)
                    if topic.target == target:
                        # Not so if a further head became known meanwhile: the read may have been before it.
                        topic.target = 0
        finally:
            topic.repair = None
            if not topic.waiting:
                topic.waiting = None

    def _fill(self, topic: Topic, gap: Gap, followers: dict[str, int]) -> None:
        self.gaps_read += 1
        for key in gap.gone:
            user = self.users.get(key)
            # Unless they have been found to be back while the database was read.
            if user is not None and (topic.since or {}).get(user) == followers.get(key):
                self.cut(user, topic.id)
        if not topic.members:
            # That was the last who followed it here.
            return
        waiting = topic.waiting if topic.waiting is not None else {}
        for change in gap.changes:
            if change.rev > topic.position:
                topic.position = change.rev
                late = waiting.pop(change.rev, None)
                self._let_through(topic, change if late is None or late.ack is None else late)
        topic.position = max(topic.position, gap.position)
        if topic.unsettled:
            self._expel(topic, topic.position)
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

    async def is_ahead(self) -> bool:
        """Whether the database has a head behind a position of this process, and so went back to an older state.

        Only conversations are looked at of which old news came: whoever writes there again takes revs that have passed.
        """
        positions = {name: topic.position for name in self._doubted if (topic := self.topics.get(name))}
        self._doubted.clear()
        names = list(positions)
        for start in range(0, len(names), 1000):
            try:
                heads = await self._node.call(self._source.heads, names[start : start + 1000])
            except Unavailable:
                self._doubted.update(names)
                raise
            # A position is that of a commit, so no head that is read after it can be lower.
            if any(head < positions[conversation] for conversation, head in heads.items()):
                return True
        return False

    # --- all sockets -------------------------------------------------------------------------------

    def each_of(self, user: str, act: Callable[[SocketConsumer], Any]) -> None:
        """Call `act` with each socket of a user."""
        local = self.users.get(user)
        if local is not None:
            for socket in list(local.sockets):
                act(socket)


def _place(topic: Topic, user: LocalUser, socket: SocketConsumer) -> int:
    """Where a socket that is live stands in a conversation that its user follows."""
    ahead = socket.skip.get(topic.id, UNKNOWN)
    if user not in topic.newcomers:
        return max(topic.position, ahead)
    # It has not had the joining, unless it read ahead.
    return ahead if topic.since is not None and ahead >= topic.since[user] else UNKNOWN


def _change_of(envelope: Envelope, ack: frames.Ack | None) -> Change:
    frame = encode_text_frame(envelope["d"])
    opening = encode_text_frame(envelope["b"]) if "b" in envelope else b""
    return Change(envelope["r"], envelope["q"], opening + frame, envelope["o"], ack, opening)
