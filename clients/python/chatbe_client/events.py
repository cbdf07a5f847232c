"""What `async for event in chat` gives."""

from __future__ import annotations

from dataclasses import dataclass

from chatbe_client.state import Ack, Conversation, Frame, Message


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True, slots=True)
class Connected(Event):
    """A socket is open; `connection` and `server` are the server's names for it and for itself."""

    connection: str
    server: str


@dataclass(frozen=True, slots=True)
class Synced(Event):
    """What was missed has been told; live events follow."""


@dataclass(frozen=True, slots=True)
class Disconnected(Event):
    """The socket is gone; the client comes back by itself after `retry_in` seconds."""

    code: int
    retry_in: float


@dataclass(frozen=True, slots=True)
class StartedAfresh(Event):
    """What was held is no longer the database's state: of one conversation, or (None) of all. Page the history."""

    conversation: str | None


@dataclass(frozen=True, slots=True)
class MessageReceived(Event):
    """A message is new, or was edited, deleted or reacted to."""

    message: Message
    new: bool
    """Whether nothing was held at its place before."""


@dataclass(frozen=True, slots=True)
class Sent(Event):
    """A message of one's own is stored; it gets no `MessageReceived` on the socket that it was sent on."""

    ack: Ack


@dataclass(frozen=True, slots=True)
class ConversationChanged(Event):
    """A conversation was made or changed; `conversation` is None when the user is no longer in it."""

    id: str
    conversation: Conversation | None


@dataclass(frozen=True, slots=True)
class PresenceChanged(Event):
    """A mutual contact came or went; None when they are no longer one."""

    username: str
    online: bool | None
    last_seen: str | None


@dataclass(frozen=True, slots=True)
class FriendsTold(Event):
    """All statuses were told anew; see `ChatState.friends`."""

    total: int
    online: int


@dataclass(frozen=True, slots=True)
class ContactChanged(Event):
    """Someone added or removed the user."""

    username: str
    added: bool
    mutual: bool


@dataclass(frozen=True, slots=True)
class ReceiptReceived(Event):
    """A member has read and was delivered everything up to these seqs."""

    conversation: str
    username: str
    read: int
    delivered: int


@dataclass(frozen=True, slots=True)
class Muted(Event):
    """One muted a conversation until a time, or (None) no longer."""

    conversation: str
    until: str | None


@dataclass(frozen=True, slots=True)
class MarksTold(Event):
    """Every member's marks in many conversations were told; see `Conversation.marks`."""

    conversations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TypingChanged(Event):
    """A member types, or stopped. Ends by itself after 5 s."""

    conversation: str
    username: str
    on: bool


@dataclass(frozen=True, slots=True)
class Refusal(Event):
    """The server refused a frame that nobody waits for."""

    frame: Frame
    """Its `error`."""
    sent: Frame | None = None
    """What it refused, where that is known: a message of an earlier run."""
