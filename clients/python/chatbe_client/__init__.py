"""An async client for chatbe: it knows the wire, and nothing of the server's code."""

from chatbe_client.api import Tokens
from chatbe_client.calls import Attachment, Contact, Found, Overview, Person
from chatbe_client.client import Client, Options
from chatbe_client.errors import ChatError, Closed, Refused, SignedOut, Unreachable
from chatbe_client.events import (
    Connected,
    ContactChanged,
    ConversationChanged,
    Disconnected,
    Event,
    FriendsTold,
    MarksTold,
    MessageReceived,
    Muted,
    PresenceChanged,
    ReceiptReceived,
    Refusal,
    Sent,
    StartedAfresh,
    Synced,
    TypingChanged,
)
from chatbe_client.recorder import Recorder
from chatbe_client.state import Ack, ChatState, Conversation, Friend, Message
from chatbe_client.storage import FileStorage, MemoryStorage, Storage

__all__ = [
    "Ack",
    "Attachment",
    "ChatError",
    "ChatState",
    "Client",
    "Closed",
    "Connected",
    "Contact",
    "ContactChanged",
    "Conversation",
    "ConversationChanged",
    "Disconnected",
    "Event",
    "FileStorage",
    "Found",
    "Friend",
    "FriendsTold",
    "MarksTold",
    "MemoryStorage",
    "Message",
    "MessageReceived",
    "Muted",
    "Options",
    "Overview",
    "Person",
    "PresenceChanged",
    "ReceiptReceived",
    "Recorder",
    "Refusal",
    "Refused",
    "Sent",
    "SignedOut",
    "StartedAfresh",
    "Storage",
    "Synced",
    "Tokens",
    "TypingChanged",
    "Unreachable",
]
