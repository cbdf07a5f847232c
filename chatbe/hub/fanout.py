"""From a committed change to every process that has sockets for it. An event is encoded once.

Services call these functions after their commit, from any thread, with or without a server in
the process (a shell, a command). Where a node runs here, its sockets get the event at once and
the others by the channel layer; otherwise the channel layer alone carries it. Delivery is
at-most-once; what is lost is found in the database (see docs/architecture.md).

Groups of the layer: `user.<id>` for a person's sockets, `conversation.<id>` for a group's members.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal
from uuid import UUID

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer

from chatbe.hub import node as nodes
from chatbe.wire import codec, frames

logger = logging.getLogger("chatbe.hub.fanout")

Envelope = dict[str, Any]
"""What travels over the layer. `type` is for Channels; `k` the kind:

`e` an event without a rev for one user's sockets: `u` user, `d` JSON bytes, `x` a connection left out,
    `s` whether it belongs to the stream and waits for a socket's `sync`;
`c` a conversation's change: `c` conversation, `r` rev, `q` seq of the message or 0, `d` JSON bytes,
    `u` the two users of a direct one or None, `o` the connection whose ack stands for it. It may have
    `b`, the JSON bytes of an event that comes before it, and where it ends memberships `g`, the users
    whose, None for all, and `h`, the JSON bytes that they get instead;
`t` an event without a rev for a group's members: `c` conversation, `d` JSON bytes, `x` users left out;
`e` and `t` may have `i`, the identity of an event that the database can tell again (of `t` also several, with blanks
    between), and `w`: JSON bytes, or none, for users who get such events in their reserved form;
`k` a notice for the hub and the apps: `u` user, `a` action, and the action's own fields.
"""


class _Same(Enum):
    SAME = "same"


SAME: Final = _Same.SAME
Reserved = frames.Event | Literal[_Same.SAME] | None
"""The reserved form of an event: another event, none, or the same."""


def user_group(user: str) -> str:
    """The layer's group of one user's sockets."""
    return f"user.{user}"


def conversation_group(conversation: str) -> str:
    """The layer's group of the processes that have members of a group conversation."""
    return f"conversation.{conversation}"


def to_users(
    users: Iterable[UUID],
    event: frames.Event,
    *,
    leave_out: str = "",
    in_stream: bool = False,
    identity: str = "",
    reserved: Reserved = SAME,
) -> None:
    """Send `event` to all sockets of `users`, but not to the connection `leave_out`.

    `in_stream`: only to sockets whose stream has begun. `identity` names an event that the database
    can tell again (see `Hub.has_heard`). `reserved` as in `to_members`.
    """
    data = codec.encode(event)
    for user in users:
        key = str(user)
        envelope = user_envelope(
            key, data, leave_out=leave_out, in_stream=in_stream, identity=identity, reserved=reserved
        )
        send([user_group(key)], envelope)


def user_envelope(
    user: str,
    event: frames.Event | bytes,
    *,
    leave_out: str = "",
    in_stream: bool = False,
    identity: str = "",
    reserved: Reserved = SAME,
) -> Envelope:
    """What `to_users` sends to one user; `event` may be encoded already."""
    data = event if isinstance(event, bytes) else codec.encode(event)
    envelope: Envelope = {
        "type": "hub.fanout",
        "k": "e",
        "u": user,
        "d": data,
        "x": leave_out,
        "s": in_stream,
    }
    _add(envelope, identity, reserved)
    return envelope


def to_members(
    conversation: str,
    event: frames.Event,
    *,
    leave_out: Iterable[UUID] = (),
    identity: str = "",
    reserved: Reserved = SAME,
) -> None:
    """Send `event` to the members of a group conversation, but not to the users `leave_out`.

    `reserved` goes to those who get such events in their reserved form (`LocalUser.reserved`), and
    nothing where it is None.
    """
    envelope = members_envelope(
        conversation, event, leave_out=leave_out, identity=identity, reserved=reserved
    )
    send([conversation_group(conversation)], envelope)


def members_envelope(
    conversation: str,
    event: frames.Event,
    *,
    leave_out: Iterable[UUID] = (),
    identity: str = "",
    reserved: Reserved = SAME,
) -> Envelope:
    """What `to_members` sends."""
    envelope: Envelope = {
        "type": "hub.fanout", "k": "t", "c": conversation, "d": codec.encode(event),
        "x": [str(user) for user in leave_out],
    }  # fmt: skip
    _add(envelope, identity, reserved)
    return envelope


def _add(envelope: Envelope, identity: str, reserved: Reserved) -> None:
    """What an envelope has only where it is needed."""
    if identity:
        envelope["i"] = identity
    if reserved is not SAME:
        envelope["w"] = codec.encode(reserved) if reserved is not None else b""


@dataclass(frozen=True, slots=True)
class Ended:
    """Memberships that a change ends: whose (None: all), and the JSON of the event that they get instead of it."""

    users: list[str] | None
    event: bytes


def control(user: UUID, action: str, **fields: Any) -> None:
    """Tell every process with sockets of `user` that something about them changed.

    Actions: `session_ended` (`session`: id), `suspended`, `contacts_changed`, `memberships_changed`
    (`conversation`: id), `settings_changed`. Values are strings, numbers or lists of them.
    """
    key = str(user)
    send([user_group(key)], {"type": "hub.fanout", "k": "k", "u": key, "a": action, **fields})


def change(
    conversation: str,
    *,
    rev: int,
    event: bytes,
    users: tuple[str, ...] | None,
    seq: int = 0,
    ended: Ended | None = None,
) -> None:
    """Send a conversation's committed change; the arguments are `change_envelope`'s."""
    send(*change_envelope(conversation, rev=rev, event=event, users=users, seq=seq, ended=ended))


def change_envelope(
    conversation: str,
    *,
    rev: int,
    event: bytes,
    users: tuple[str, ...] | None,
    seq: int = 0,
    origin: str = "",
    opening: bytes = b"",
    ended: Ended | None = None,
) -> tuple[list[str], Envelope]:
    """What `send` takes to tell of a conversation's committed change: the groups, of the two `users` of a
    direct one or of a group's members, and the envelope.

    `event` is its frame's JSON; `seq` the message's place (0: not a message); `origin` the connection
    that gets an ack instead; `opening` an event, encoded too, that all get before it; `ended` is told to
    those whom the change has removed.
    """
    envelope: Envelope = {
        "type": "hub.fanout", "k": "c", "c": conversation, "r": rev, "q": seq, "d": event, "u": users, "o": origin,
    }  # fmt: skip
    if opening:
        envelope["b"] = opening
    if ended is not None:
        envelope["g"], envelope["h"] = ended.users, ended.event
    if users is None:
        return [conversation_group(conversation)], envelope
    return [user_group(user) for user in users], envelope


def send(groups: list[str], envelope: Envelope) -> None:
    """Hand an envelope to this process's node, or to the layer where there is none."""
    running = nodes.current()
    if running is not None:
        running.publish(groups, envelope)
    else:
        async_to_sync(_send_without_node)(groups, envelope)


async def _send_without_node(groups: list[str], envelope: Envelope) -> None:
    layer: Any = get_channel_layer()
    for group in groups:
        try:
            await layer.group_send(group, envelope)
        except (OSError, ConnectionError) as error:
            # The change is committed; the servers find it in the database.
            logger.warning("fan-out failed", extra={"group": group, "reason": str(error)})
