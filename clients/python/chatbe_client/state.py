"""What a client knows, and how frames change it. Pure: no sockets, no time.

The whole algorithm: per (conversation, seq) the highest rev wins, and per conversation the
highest rev that the stream reached is where the next socket's stream begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Frame = dict[str, Any]
"""A frame of the wire, decoded."""


@dataclass(slots=True)
class Message:
    """A message in the latest state that is known; see the contract for each field."""

    id: str
    conversation: str
    seq: int
    rev: int
    sender: str | None
    body: str | None
    client_id: str | None
    created_at: str
    kind: str = "text"
    reply_to: int | None = None
    reactions: dict[str, Any] = field(default_factory=dict)
    edited_at: str | None = None
    deleted_at: str | None = None
    attachments: list[dict[str, Any]] = field(default_factory=list)
    mentions: list[str] = field(default_factory=list)

    @classmethod
    def from_wire(cls, value: Mapping[str, Any]) -> Message:
        """A message object of the wire; what is not known here is left out."""
        return cls(**{name: value[name] for name in cls.__slots__ if name in value})


@dataclass(frozen=True, slots=True)
class Ack:
    """The server's word that a change is committed."""

    conversation: str
    seq: int
    rev: int
    id: str
    client_id: str | None
    created_at: str
    duplicate: bool
    mentions: tuple[str, ...] = ()
    """The members whom the message mentions."""

    @classmethod
    def from_wire(cls, value: Mapping[str, Any]) -> Ack:
        """An `ack` frame."""
        known = {name: value[name] for name in cls.__slots__ if name in value}
        return cls(**{**known, "mentions": tuple(value.get("mentions", ()))})


@dataclass(slots=True)
class Conversation:
    """A conversation as this client knows it."""

    id: str
    rev: int = 0
    """The highest rev that the stream reached."""
    messages: dict[int, Message] = field(default_factory=dict)
    marks: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Username → (read, delivered)."""
    info: Frame | None = None
    """The latest conversation object."""
    muted_until: str | None = None

    def unread(self, username: str) -> int:
        """Others' undeleted text messages after the user's read mark, among those that are held."""
        read, _ = self.marks.get(username, (0, 0))
        return sum(
            1
            for seq, message in self.messages.items()
            if seq > read
            and message.kind == "text"
            and message.deleted_at is None
            and message.sender != username
        )

    def move_marks(self, username: str, read: int, delivered: int) -> bool:
        """Raise a member's marks; whether they moved."""
        known = self.marks.get(username, (0, 0))
        moved = (max(known[0], read), max(known[1], read, delivered))
        self.marks[username] = moved
        return moved != known


@dataclass(frozen=True, slots=True)
class Friend:
    """A mutual contact's status as last told."""

    online: bool
    last_seen: str | None


@dataclass(slots=True)
class ChatState:
    """All that one client knows of one account."""

    username: str
    epoch: str = ""
    conversations: dict[str, Conversation] = field(default_factory=dict)
    friends: dict[str, Friend] = field(default_factory=dict)

    def cursors(self) -> dict[str, int]:
        """Where the next stream begins, per conversation."""
        return {conversation.id: conversation.rev for conversation in self.conversations.values()}

    def conversation(self, identity: str) -> Conversation:
        """A conversation, known or new."""
        found = self.conversations.get(identity)
        if found is None:
            found = self.conversations[identity] = Conversation(identity)
        return found

    def begin_epoch(self, epoch: str) -> bool:
        """Take the epoch of a `welcome`; on another one than before forget everything, and say so."""
        known, self.epoch = self.epoch, epoch
        if known in ("", epoch):
            return False
        self.conversations.clear()
        return True

    def keep(self, message: Message) -> bool:
        """Keep a message if its rev is the highest seen for its place; whether it was."""
        messages = self.conversation(message.conversation).messages
        known = messages.get(message.seq)
        if known is not None and known.rev >= message.rev:
            return False
        messages[message.seq] = message
        return True

    def on_message(self, value: Frame) -> tuple[Message, bool]:
        """A `message` of the stream; the message, and whether it changed what is held."""
        message = Message.from_wire(value)
        conversation = self.conversation(message.conversation)
        conversation.rev = max(conversation.rev, message.rev)
        if message.sender is not None and message.kind == "text":
            # Sending moves the sender's own marks.
            conversation.move_marks(message.sender, message.seq, message.seq)
        return message, self.keep(message)

    def on_ack(self, ack: Ack, sent: Frame | None, attachments: Sequence[Frame] = ()) -> None:
        """An ack; with `duplicate: false` it stands for its rev's event. `sent` is the frame, if it was a `send`."""
        if ack.duplicate:
            return
        conversation = self.conversation(ack.conversation)
        conversation.rev = max(conversation.rev, ack.rev)
        if sent is not None:
            conversation.move_marks(self.username, ack.seq, ack.seq)
            self.keep(
                Message(
                    id=ack.id,
                    conversation=ack.conversation,
                    seq=ack.seq,
                    rev=ack.rev,
                    sender=self.username,
                    body=sent["body"],
                    client_id=ack.client_id,
                    created_at=ack.created_at,
                    reply_to=sent.get("reply_to"),
                    attachments=list(attachments),
                    mentions=list(ack.mentions),
                )
            )

    def on_conversation(self, frame: Frame) -> Conversation | None:
        """A `conversation` event; None when the user is no longer a member."""
        value = frame["conversation"]
        if frame.get("member") is False:
            self.conversations.pop(value["id"], None)
            return None
        conversation = self.conversation(value["id"])
        if frame.get("reset"):
            conversation.messages.clear()
            conversation.marks.clear()
            conversation.rev = value["rev"]
        conversation.rev = max(conversation.rev, value["rev"])
        if conversation.info is None or value["rev"] >= conversation.info["rev"]:
            conversation.info = value
            # What the server deleted as too old is gone here too.
            for seq in [seq for seq in conversation.messages if seq <= value.get("purged_seq", 0)]:
                del conversation.messages[seq]
        return conversation

    def on_marks(self, frame: Frame) -> None:
        """The `marks` of a sync."""
        for identity, members in frame["marks"].items():
            conversation = self.conversation(identity)
            for username, (read, delivered) in members.items():
                conversation.move_marks(username, read, delivered)

    def on_friends(self, frame: Frame) -> None:
        """All statuses, told anew."""
        self.friends = {
            friend["username"]: Friend(friend["online"], friend["last_seen"]) for friend in frame["friends"]
        }

    def on_presence(self, frame: Frame) -> None:
        """One changed status; `online: null` ends it."""
        if frame["online"] is None:
            self.friends.pop(frame["username"], None)
        else:
            self.friends[frame["username"]] = Friend(frame["online"], frame["last_seen"])
