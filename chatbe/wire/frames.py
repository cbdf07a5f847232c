"""Every frame of the socket protocol, one Struct each, told apart by `type`.

Pure data: no Django, no asyncio, no I/O. `docs/protocol.md` and the AsyncAPI document are
generated from this file, so every docstring below is read by those who write clients.
"""

from typing import Annotated
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType, field

MAX_UP_BYTES = 64 * 1024
"""The largest frame that a client may send."""
MAX_DOWN_BYTES = 256 * 1024
"""The largest frame that the server sends."""
MAX_BODY_CHARACTERS = 4000
MAX_REACTION_KINDS = 20
"""Different emoji on one message."""
REACTION_NAMES = 50
"""So many who reacted with one emoji are named."""
MAX_ATTACHMENTS = 10
"""So many files one message has."""

Ref = Annotated[str, Meta(max_length=64, description="Chosen by the client, repeated in the answer.")]
Seq = Annotated[int, Meta(ge=1, le=2**53 - 1, description="A message's place in its conversation.")]
Rev = Annotated[int, Meta(ge=0, le=2**53 - 1, description="The count of a conversation's changes.")]
Body = Annotated[
    str, Meta(max_length=MAX_BODY_CHARACTERS, description="Text without U+0000; empty only with attachments.")
]
Emoji = Annotated[str, Meta(min_length=1, max_length=64)]
Time = Annotated[
    str, Meta(extra_json_schema={"format": "date-time"}, description="RFC 3339, UTC, microseconds.")
]
Id = Annotated[str, Meta(extra_json_schema={"format": "uuid"}, description="A UUID in its canonical form.")]
Username = Annotated[str, Meta(min_length=1, max_length=64)]


# --- objects ---------------------------------------------------------------------------------------


class Reaction(Struct):
    """Who reacted with one emoji: how many, and at most 50 of their names."""

    count: int
    usernames: list[str]


class Attachment(Struct):
    """A file of a message. `width` and `height` are of images, in pixels, else null.

    Its content is fetched by addresses that `GET /v1/attachments/{id}` gives for a short time.
    """

    id: Id
    name: str
    content_type: str
    size: int
    width: int | None
    height: int | None
    thumbnail: bool
    """Whether there is a small picture of it."""


class MessageObject(Struct):
    """A message in its latest state. A deleted one has a null body; an erased account's a null sender.

    The body is empty only where there are attachments. `mentions` names the members whom the body
    mentions, `all` for everyone; it is left out where there are none.
    """

    id: Id
    conversation: Id
    seq: Seq
    rev: Rev
    kind: str
    sender: str | None
    body: str | None
    client_id: Id | None
    reply_to: int | None
    reactions: dict[str, Reaction]
    created_at: Time
    edited_at: Time | None
    deleted_at: Time | None
    attachments: list[Attachment] = field(default_factory=list)
    mentions: list[str] | UnsetType = UNSET


class Member(Struct):
    """One member of a conversation and their role: owner, admin or member."""

    username: str
    role: str


class ConversationObject(Struct):
    """A conversation as all its members see it; `members` names up to 100 of them.

    `history` says what who joins a group may read: `joined` (from joining on) or `all`. Messages up to
    `purged_seq` are gone for good, as they were older than this server keeps them: drop those too that
    were received before. `last_seq` may be ahead of `rev`: it is as it was when the object was read,
    and the messages up to it follow in the stream.
    """

    id: Id
    kind: str
    title: str | None
    rev: Rev
    last_seq: int
    member_count: int
    members: list[Member]
    created_at: Time
    description: str
    history: str | None
    purged_seq: int


class Friend(Struct):
    """The status of one mutual contact."""

    username: str
    online: bool
    last_seen: Time | None


class Limits(Struct):
    """What this server takes: bytes of a frame, characters of a body, frames unanswered at a time."""

    max_frame_bytes: int
    max_body_characters: int
    max_unanswered: int


# --- client to server ------------------------------------------------------------------------------


class Command(Struct, tag_field="type"):
    """Base of the frames that clients send."""


class Target(Struct):
    """Where a message goes: exactly one of `username` (direct, made if need be) and `conversation`."""

    username: Username | None = None
    conversation: UUID | None = None


class Send(Command, tag="send"):
    """Send a message; answered by `ack` after the commit. `attachments` are ids from `POST /v1/attachments`."""

    to: Target
    client_id: UUID
    body: Body
    ref: Ref | None = None
    reply_to: Seq | None = None
    attachments: Annotated[list[UUID], Meta(max_length=MAX_ATTACHMENTS)] = field(default_factory=list)


class Edit(Command, tag="edit"):
    """Replace the body of one's own message; answered by `ack`."""

    conversation: UUID
    seq: Seq
    body: Body
    ref: Ref | None = None


class Delete(Command, tag="delete"):
    """Delete a message for everyone; answered by `ack`."""

    conversation: UUID
    seq: Seq
    ref: Ref | None = None


class React(Command, tag="react"):
    """Put on (`on: true`) or take off a reaction; answered by `ack`."""

    conversation: UUID
    seq: Seq
    emoji: Emoji
    on: bool
    ref: Ref | None = None


class Read(Command, tag="read"):
    """Move my read mark up to `seq`; the others and my other devices get `receipt`."""

    conversation: UUID
    seq: Seq
    ref: Ref | None = None


class Delivered(Command, tag="delivered"):
    """Move my delivered mark up to `seq`; the others and my other devices get `receipt`."""

    conversation: UUID
    seq: Seq
    ref: Ref | None = None


class Typing(Command, tag="typing"):
    """I am (no longer) typing; ends by itself after 5 s."""

    conversation: UUID
    on: bool
    ref: Ref | None = None


class Heartbeat(Command, tag="heartbeat"):
    """A sign of life; answered by `heartbeat` with the server's time."""

    ref: Ref | None = None


class Sync(Command, tag="sync"):
    """Start this socket's stream: `conversations` maps ids to the highest rev that the client's stream reached.

    `others` says what to send for conversations not named: `state` (one `conversation` event each,
    the default) or `all` (everything from the beginning).
    """

    conversations: dict[UUID, Rev] = field(default_factory=dict)
    others: str = "state"
    ref: Ref | None = None


# --- server to client ------------------------------------------------------------------------------


class Event(Struct, tag_field="type"):
    """Base of the frames that the server sends."""


class Welcome(Event, tag="welcome"):
    """The first frame: who the socket belongs to, and what this server expects."""

    user: str
    session_id: Id
    connection: str
    server: str
    epoch: str
    heartbeat_interval: float
    time: Time
    limits: Limits


class Friends(Event, tag="friends"):
    """The status of my mutual contacts: the second frame, and again whenever the server is not sure that I know."""

    total: int
    online: int
    friends: list[Friend]


class Message(Event, tag="message"):
    """A new, edited, deleted or reacted-to message. Keep, per (conversation, seq), the highest rev."""

    message: MessageObject


class Ack(Event, tag="ack"):
    """The answer to `send`, `edit`, `delete` and `react`, after the commit.

    To a `send` and with `duplicate: false` it stands for the event with that rev in this socket's
    stream; the others' change itself comes as `message`, before its ack. With `true` nothing was
    changed: its rev is the message's present one and stands for nothing. `mentions` is the message's.
    """

    ref: str | None
    conversation: Id
    seq: int
    rev: int
    id: Id
    client_id: Id | None
    created_at: Time
    duplicate: bool = False
    mentions: list[str] | UnsetType = UNSET


class ChangeAck(Ack, tag="ack"):
    """An ack that does not stand for its change: the change's event goes out before it."""


class Conversation(Event, tag="conversation"):
    """A conversation was made, renamed, or its members changed.

    `member: false`: I am no longer in it, drop what I hold of it; then the object names neither
    title nor members. `reset: true`: my rev was ahead of the database; drop
    what I hold of it and page the history.
    """

    conversation: ConversationObject
    member: bool | UnsetType = UNSET
    reset: bool | UnsetType = UNSET


class Presence(Event, tag="presence"):
    """A mutual contact's status changed; `online: null` when we are no longer mutual contacts."""

    username: str
    online: bool | None
    last_seen: Time | None


class Contact(Event, tag="contact"):
    """Someone added me to their contacts (`added: true`) or removed me."""

    username: str
    added: bool
    mutual: bool


class Receipt(Event, tag="receipt"):
    """A member's marks: they have read and were delivered everything up to these seqs.

    Marks only rise. Where either side has turned read receipts off, `read` is 0. In groups of more
    than 100 members only one's own marks are told.
    """

    conversation: Id
    username: str
    read: int
    delivered: int


class TypingEvent(Event, tag="typing"):
    """A member is typing, or stopped. Ends by itself after 5 s."""

    conversation: Id
    username: str
    on: bool


class Marks(Event, tag="marks"):
    """Every member's marks, `{conversation: {username: [read, delivered]}}`; one or more before `synced`,
    and when somebody joins a group. As in `receipt`, some are not told."""

    marks: dict[Id, dict[str, tuple[int, int]]]


class Muted(Event, tag="muted"):
    """I muted a conversation until that time, or (null) no longer. Before `synced`, for all that ever were."""

    conversation: Id
    until: Time | None


class Synced(Event, tag="synced"):
    """The sync is complete; live events follow."""

    ref: str | None


class HeartbeatEvent(Event, tag="heartbeat"):
    """The answer to `heartbeat`."""

    time: Time
    ref: str | UnsetType = UNSET


class Error(Event, tag="error"):
    """A frame was refused; nothing was changed and the socket stays open.

    Only `unavailable` may mean that a commit is unknown: send again with the same `client_id`.
    """

    ref: str | None
    code: str
    detail: str
    retry_after: float | UnsetType = UNSET


class Bye(Event, tag="bye"):
    """The server will close this socket; come back after `reconnect_after` seconds, with `otp` if there is one."""

    code: int
    reconnect_after: float
    otp: str | UnsetType = UNSET


COMMANDS: tuple[type[Command], ...] = (Sync, Send, Edit, Delete, React, Read, Delivered, Typing, Heartbeat)
EVENTS: tuple[type[Event], ...] = (
    Welcome, Friends, Message, Ack, Conversation, Presence, Contact, Receipt, TypingEvent, Marks, Muted,
    Synced, HeartbeatEvent, Error, Bye,
)  # fmt: skip
