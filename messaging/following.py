"""Whom this process lets follow which conversations: at a stream's beginning, and as memberships change.

Joining the fan-out always comes before reading the database: the two overlap and leave no gap.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, ParamSpec, TypeVar
from uuid import UUID

from chatbe.core.errors import Unavailable
from chatbe.hub import registry
from chatbe.hub.hub import GAP_PATIENCE
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

P = ParamSpec("P")
T = TypeVar("T")


@asynccontextmanager
async def memberships(
    node: Node, read: Callable[P, list[Stream]], *args: P.args, **kwargs: P.kwargs
) -> AsyncIterator[list[Stream]]:
    """Memberships, read after the fan-out of every group in them was joined.

    They are to be settled in the same turn of the loop, within the block: so no change falls between.
    """
    with ExitStack() as joined:
        names: set[str] = set()
        while True:
            streams = await node.call(read, *args, **kwargs)
            missing = {
                item.conversation
                for item in streams
                if item.active and not item.direct and item.conversation not in node.hub.topics
            } - names
            if not missing:
                break
            await node.join(joined.enter_context(node.joining(missing)))
            names |= missing
        yield streams


def settle(node: Node, user: LocalUser, item: Stream, reader: SocketConsumer | None = None) -> bool:
    """Let a user follow a conversation as the membership says that was read in this turn; whether they are new.

    The hub follows for a user the latest membership that anybody here has read, each known by the rev
    of its joining. `reader` is the socket that reads for itself; the user's others begin as
    the hub has them (`Hub.introduce`), and where a membership is over, each goes on from where it stands
    (`Hub.cut`), unless the hub has yet to come to the end.
    """
    hub = node.hub
    since = hub.member_since(user, item.conversation)
    if since is not None:
        if item.direct or since >= (item.joined_rev if item.active else item.left_rev):
            # As it was read, or later.
            return False
        if not item.active and item.left_rev > hub.topics[item.conversation].position:
            last = stream.ended(item.conversation, rev=item.left_rev, created_at=item.created_at)
            hub.expel(user, item.conversation, item.left_rev, encode_text_frame(codec.encode(last)))
            return False
        hub.cut(user, item.conversation, reader=reader)
    if not item.active:
        return False
    hub.follow(
        user,
        item.conversation,
        hidden_to=item.hidden_to,
        position=item.head if reader is not None else max(item.joined_rev - 1, 0),
        since=item.joined_rev,
    )
    hub.introduce(user, item.conversation, head=item.head, reader=reader)
    # If more was heard of meanwhile, what was read is older: the hub reads on, and finds who is no longer a member.
    head = max(item.head, hub.awaited.get(item.conversation, 0))
    hub.note_head(item.conversation, head, patience=GAP_PATIENCE if reader is not None else 0.0)
    if reader is not None and any(socket.is_live for socket in user.sockets):
        node.spawn(tell_marks(node, [item]))
    return True


def outdated(node: Node, user: LocalUser, item: Stream) -> bool:
    """Whether the user follows as a later member than the one that was read: another read was faster."""
    since = node.hub.member_since(user, item.conversation)
    return since is not None and since > (item.joined_rev if item.active else item.left_rev)


async def follow_all(socket: SocketConsumer, then: Callable[[list[Stream]], T]) -> T | None:
    """Let a socket's user follow every conversation of theirs; `then` gets where each stands, in the same turn.

    None if the socket is gone.
    """
    node, user = socket.node, socket.user
    for read in range(1, READS + 1):
        if not user.loaded and user.seen is None:
            user.seen = {}
        reserved = await node.call(stream.reserved_among, [user.key])
        async with memberships(node, stream.streams_of, socket.identity.user_id) as streams:
            if socket.closed:
                return None
            user.reserved = user.key in reserved
            for item in streams:
                settle(node, user, item, reader=socket)
            if user.loaded or _load(node, user, streams, last=read == READS):
                return then(streams)
    return None


def _load(node: Node, user: LocalUser, streams: list[Stream], *, last: bool) -> bool:
    """Begin the user's stream; not so if what was heard of meanwhile is not in what was read: it is read once more.

    Of memberships that have changed meanwhile, the notices come too early: they are looked at again.
    """
    heads = {item.conversation: item.head for item in streams}
    seen = user.seen or {}
    if not last and any(rev > heads.get(conversation, 0) for conversation, rev in seen.items()):
        user.seen = {}
        return False
    user.seen, user.loaded = None, True
    for conversation, rev in seen.items():
        node.hub.note_head(conversation, min(rev, heads.get(conversation, rev)))
    if user.stale:
        user.stale = False
        look_again(node, user.key)
    return True


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
            # What is being read now may be older than the change.
            local.stale = True
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
        if named is None:
            await self._look_at_settings(list(wanted))
        joined = []
        async with memberships(node, stream.group_streams, list(wanted), named) as streams:
            for item in streams:
                local = node.hub.users.get(item.user)
                if local is not None and local.loaded and settle(node, local, item):
                    joined.append(item)
        if joined:
            await tell_marks(node, joined)

    async def _look_at_settings(self, users: list[str]) -> None:
        """Whether the users see others' read marks; who sees them from now on is told them."""
        reserved = await self._node.call(stream.reserved_among, users)
        for user in users:
            local = self._node.hub.users.get(user)
            if local is not None and local.reserved != (user in reserved):
                local.reserved = user in reserved
                _offer_marks(local, await self._node.call_together(stream.marks_of, UUID(user)))


async def tell_marks(node: Node, joined: list[Stream]) -> None:
    """Give new followers the marks of the groups that they have joined, after the groups themselves."""
    hub = node.hub
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
    marks = await node.call(_marks_of_several, by_user)
    for user, told in marks.items():
        local = hub.users.get(user)
        if local is not None and told:
            _offer_marks(local, told)


def _marks_of_several(by_user: dict[str, set[str]]) -> dict[str, dict[str, selectors.Marks]]:
    """What each user may know of the marks in some conversations; blocking, at one go."""
    found = stream.marks_of([UUID(user) for user in by_user], set().union(*by_user.values()))
    return {
        user: {conversation: members for conversation, members in marks.items() if conversation in asked}
        for (user, asked), marks in zip(by_user.items(), found, strict=True)
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


def look_again(node: Node, user: str, conversation: str | None = None) -> None:
    """The user's membership in a conversation, or (None) all of them and their settings, may have changed."""
    following = _following(node)
    if following is not None:
        following.look_again(user, conversation)


def memberships_changed(node: Node, notice: dict[str, str]) -> None:
    """A notice for this process's hub: look at the user's membership in a conversation."""
    look_again(node, notice["u"], notice["conversation"])


def settings_changed(node: Node, notice: dict[str, str]) -> None:
    """A notice for this process's hub: look at what the user lets others see."""
    look_again(node, notice["u"])


registry.on_control("memberships_changed", memberships_changed)
registry.on_control("settings_changed", settings_changed)
