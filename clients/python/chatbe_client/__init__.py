"""An async client for chatbe: it knows the wire, and nothing of the server's code."""

from chatbe_client.api import Tokens
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
    PresenceChanged,
    ReceiptReceived,
    Refusal,
    StartedAfresh,
    Synced,
    TypingChanged,
)
from chatbe_client.recorder import Recorder
from chatbe_client.state import Ack, ChatState, Conversation, Friend, Message

__all__ = [
    "Ack",
    "ChatError",
    "ChatState",
    "Client",
    "Closed",
    "Connected",
    "ContactChanged",
    "Conversation",
    "ConversationChanged",
    "Disconnected",
    "Event",
    "Friend",
    "FriendsTold",
    "MarksTold",
    "Message",
    "MessageReceived",
    "Options",
    "PresenceChanged",
    "ReceiptReceived",
    "Recorder",
    "Refusal",
    "Refused",
    "SignedOut",
    "StartedAfresh",
    "Synced",
    "Tokens",
    "TypingChanged",
    "Unreachable",
]
