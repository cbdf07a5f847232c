"""Whom this process lets follow which conversations: at a stream's beginning, and as memberships change.

Joining the fan-out always comes before reading the database: the two overlap and leave no gap.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import UUID

from chatbe.core.errors import Unavailable
from chatbe.hub import registry
from chatbe.wire import codec, frames
from chatbe.wire.websocket import encode_text_frame
from messaging import selectors, stream
from messaging.stream import Stream

if TYPE_CHECKING:
    from chatbe.hub.consumer import SocketConsumer
    from chatbe.hub.hub import LocalUser
    from chatbe.hub.node import Node

READS = 4
"""Times that a user's conversations are read at most until what was read is all."""
RETRY_SECONDS = 1.0


async def follow_all(socket: SocketConsumer) -> list[Stream] | None:
    """Let a socket's user follow every conversation of theirs; where each stands, or None if the socket is gone."""
    node, user = socket.node, socket.user
    user_id = socket.identity.user_id
    streams: list[Stream] = []
    for read in range(READS):
        if not user.loaded and user.seen is None:
            user.seen = {}
        reserved = await node.call(stream.reserved_among, [user.key])
        streams = await node.call(stream.streams_of, user_id)
        groups = [item.conversation for item in streams if item.active and not follows(node, user, item)]
        with node.joining(groups) as names:
            if names:
                await node.join(names)
                streams = await node.call(stream.streams_of, user_id)
            if socket.closed:
                return None
            user.reserved = user.key in reserved
            if _settle_all(socket, streams, last=read == READS - 1):
                break
    return streams


def _settle_all(socket: SocketConsumer, streams: list[Stream], *, last: bool) -> bool:
    """Follow what was read; whether that is all, or has to be, so that the user's stream has begun.

    A conversation that others here follow may have gone on between the read and now, past this
    socket, and what was heard of meanwhile may not be in what was read: then it is read once more.
    """
    user, hub = socket.user, socket.node.hub
    for item in streams:
        if (
            not item.active
            and user in hub.members(item.conversation)
            and not _outdated(socket.node, user, item)
        ):
            # It ended between two reads, while the user was not yet known to follow it.
            if user.loaded:
                # The user's other sockets have it up to there; this one is told by its sync, if at all.
                socket.skip[item.conversation] = item.left_rev
                _end(socket.node, user, item, at_once=False)
            else:
                hub.unfollow(user, item.conversation)
    behind = [item for item in streams if item.active and not _follow(socket, item)]
    complete = not behind
    if {topic.id for topic in user.topics} - {item.conversation for item in streams}:
        # Another socket of the user's has read more.
        complete = False
    if user.loaded:
        return complete or last
    heads = {item.conversation: item.head for item in streams}
    seen = user.seen or {}
    if any(rev > heads.get(conversation, 0) for conversation, rev in seen.items()):
        complete = False
    if not complete and not last:
        user.seen = {}
        return False
    user.seen, user.loaded = None, True
    for conversation, rev in seen.items():
        hub.note_head(conversation, min(rev, heads.get(conversation, rev)))
    return True


def _follow(socket: SocketConsumer, item: Stream) -> bool:
    """Follow one conversation; whether what was read of it is not behind what others here have had."""
    node, user, hub = socket.node, socket.user, socket.node.hub
    if not item.direct and follows(node, user, item):
        return True
    if _outdated(node, user, item):
        return False
    if not item.direct and user in hub.members(item.conversation):
        # They have left and come back, and news of it has not come yet.
        _end(node, user, item, at_once=True)
    new = user not in hub.members(item.conversation)
    topic = hub.topics.get(item.conversation)
    behind = new and topic is not None and topic.position > item.head
    if new and user.loaded:
        # Nor has news of it: the user's other sockets have not had what this one will read.
        for other in user.sockets:
            if other is not socket and item.direct:
                other.fall_behind(item.conversation, 0)
            elif other is not socket:
                other.begin_anew(item.conversation)
    hub.follow(user, item.conversation, hidden_to=item.hidden_to, position=item.head, since=item.joined_rev)
    hub.note_head(item.conversation, item.head)
    return not behind


def _outdated(node: Node, user: LocalUser, item: Stream) -> bool:
    """Whether the user follows as a later member than the one that was read: another read was faster."""
    topic = node.hub.topics.get(item.conversation)
    since = topic.since.get(user, 0) if topic is not None and topic.since is not None else 0
    return since > (item.joined_rev if item.active else item.left_rev)


def follows(node: Node, user: LocalUser, item: Stream) -> bool:
    """Whether the user follows this conversation here, as the member that they are now."""
    topic = node.hub.topics.get(item.conversation)
    if topic is None or user not in topic.members:
        return item.direct
    return topic.since is None or topic.since.get(user) == item.joined_rev


def _end(node: Node, user: LocalUser, item: Stream, *, at_once: bool) -> None:
    """End the stream of a membership that is over, at the rev of the leaving or at once."""
    last = stream.ended(item.conversation, rev=item.left_rev, created_at=item.created_at)
    frame = encode_text_frame(codec.encode(last))
    node.hub.expel(user, item.conversation, item.left_rev, frame, at_once=at_once)


class Following:
    """Looks at memberships again, of many users at once, whenever somebody says that they have changed."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._wanted: dict[str, set[str] | None] = {}
        """Users, and the conversations to look at; None for all."""
        self._task: asyncio.Task[None] | None = None

    def look_again(self, user: str, conversation: str | None = None) -> None:
        """The user's membership in a conversation, or (None) all of them and their settings, may have changed."""
        local = self._node.hub.users.get(user)
        if local is None:
            return
        if not local.loaded:
            if local.seen is not None:
                # What is being read now may be older than the change.
                local.seen[conversation or ""] = 2**53
            return
        if conversation is None:
            self._wanted[user] = None
        else:
            wanted = self._wanted.setdefault(user, set())
            if wanted is not None:
                wanted.add(conversation)
        if self._task is None:
            self._task = self._node.spawn(self._run())

    async def _run(self) -> None:
        try:
            while self._wanted:
                wanted, self._wanted = self._wanted, {}
                try:
                    await self._look(wanted)
                except Unavailable:
                    await asyncio.sleep(RETRY_SECONDS)
                    for user in wanted:
                        self._wanted[user] = None
        finally:
            self._task = None

    async def _look(self, wanted: dict[str, set[str] | None]) -> None:
        node = self._node
        some = [conversations for conversations in wanted.values() if conversations is not None]
        named = set().union(*some) if len(some) == len(wanted) else None
        streams = await node.call(stream.group_streams, list(wanted), named)
        if named is None:
            await self._look_at_settings(list(wanted))
        new = {
            item.conversation
            for item in streams
            if item.active and (local := self._local(item)) is not None and not follows(node, local, item)
        }
        with node.joining(new) as names:
            if names:
                await node.join(names)
                streams = await node.call(stream.group_streams, list(wanted), named)
            joined = [item for item in streams if self._settle(item)]
        if joined:
            await self._tell_marks(joined)

    def _local(self, item: Stream) -> LocalUser | None:
        local = self._node.hub.users.get(item.user)
        return local if local is not None and local.loaded else None

    def _settle(self, item: Stream) -> bool:
        """Follow, or follow no longer, as the membership says; whether it is new here."""
        hub, local = self._node.hub, self._local(item)
        if local is None or _outdated(self._node, local, item):
            return False
        topic = hub.topics.get(item.conversation)
        known = topic is not None and local in topic.members
        if known and item.active and follows(self._node, local, item):
            return False
        if known:
            # Who has come back meanwhile is another member, whose stream begins anew.
            _end(self._node, local, item, at_once=item.active)
        if not item.active:
            return False
        begins = item.joined_rev - 1
        hub.follow(local, item.conversation, hidden_to=item.hidden_to, position=begins, since=item.joined_rev)
        hub.introduce(local, item.conversation, begins=begins)
        hub.note_head(item.conversation, item.head, patience=0.0)
        return True

    async def _tell_marks(self, joined: list[Stream]) -> None:
        """Give new followers the marks of the groups that they have joined, after the groups themselves."""
        hub = self._node.hub
        repairs = [
            topic.repair
            for conversation in {item.conversation for item in joined}
            if (topic := hub.topics.get(conversation)) is not None and topic.repair is not None
        ]
        if repairs:
            await asyncio.wait(repairs)
        by_user: dict[str, set[str]] = {}
        for item in joined:
            by_user.setdefault(item.user, set()).add(item.conversation)
        marks = await self._node.call(_marks_of_several, by_user)
        for user, told in marks.items():
            local = hub.users.get(user)
            if local is not None and told:
                _offer_marks(local, told)

    async def _look_at_settings(self, users: list[str]) -> None:
        """Whether the users see others' read marks; who sees them from now on is told them."""
        reserved = await self._node.call(stream.reserved_among, users)
        for user in users:
            local = self._node.hub.users.get(user)
            if local is not None and local.reserved != (user in reserved):
                local.reserved = user in reserved
                _offer_marks(local, await self._node.call(stream.marks_of, user=UUID(user)))


def _marks_of_several(by_user: dict[str, set[str]]) -> dict[str, dict[str, selectors.Marks]]:
    """What each user may know of the marks in some conversations; blocking."""
    return {
        user: stream.marks_of(user=UUID(user), conversations=conversations)
        for user, conversations in by_user.items()
    }


def _offer_marks(local: LocalUser, marks: dict[str, selectors.Marks]) -> None:
    for chunk in stream.marks_chunks(marks):
        frame = encode_text_frame(codec.encode(frames.Marks(chunk)))
        for socket in local.sockets:
            socket.offer_event(frame, in_stream=True)


def _following(node: Node) -> Following | None:
    for part in node.parts:
        found = getattr(part, "following", None)
        if isinstance(found, Following):
            return found
    return None


def memberships_changed(node: Node, notice: dict[str, str]) -> None:
    """A notice for this process's hub: look at the user's membership in a conversation."""
    following = _following(node)
    if following is not None:
        following.look_again(notice["u"], notice["conversation"])


def settings_changed(node: Node, notice: dict[str, str]) -> None:
    """A notice for this process's hub: look at what the user lets others see."""
    following = _following(node)
    if following is not None:
        following.look_again(notice["u"])


registry.on_control("memberships_changed", memberships_changed)
registry.on_control("settings_changed", settings_changed)
