"""What the terminal shows: chats, the newest first, with unread counts, presence and typing. No screen, no keys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from chatbe_client import events
from chatbe_client.calls import Contact, Overview
from chatbe_client.client import Client
from chatbe_client.errors import ChatError
from chatbe_client.state import Frame, Message

PAGE = 50
TYPING_SECONDS = 5.0


@dataclass(slots=True)
class Chat:
    """A conversation, or (without an `id`) a contact to whom nobody has written yet."""

    username: str | None
    """Of the other, in a direct one."""
    id: str | None = None
    title: str = ""
    unread: int = 0
    counted: int = 0
    """The seq up to which `unread` counts."""
    last_at: str = ""
    members: tuple[str, ...] = ()
    complete: bool = False
    """Whether the first message is held."""
    paged: bool = False
    """Whether the newest page was read."""
    failures: list[str] = field(default_factory=list)
    """What could not be done here, in words."""

    @property
    def name(self) -> str:
        """What it is called."""
        return self.title or self.username or "…"


class Chats:
    """All chats of one client."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.all: list[Chat] = []
        self.open: Chat | None = None
        self.status = "connecting"
        self.retry_at = 0.0
        self._contacts: list[Contact] = []
        self._typing: dict[tuple[str, str], float] = {}

    @property
    def me(self) -> str:
        """My username."""
        return self.client.username

    # --- reading -----------------------------------------------------------------------------------

    def messages(self, chat: Chat) -> list[Message]:
        """What is held of a chat, in its order."""
        if chat.id is None:
            return []
        held = self.client.state.conversation(chat.id).messages
        return [held[seq] for seq in sorted(held)]

    def waiting(self, chat: Chat) -> list[Frame]:
        """My messages that no ack has come for."""
        return [
            frame
            for frame in self.client.unsent
            if (chat.id is not None and frame["to"].get("conversation") == chat.id)
            or (chat.username is not None and frame["to"].get("username") == chat.username)
        ]

    def tick(self, chat: Chat, message: Message) -> str:
        """How far a message of mine got: `stored`, `delivered` or `read`, by all the others."""
        marks = self.client.state.conversation(message.conversation).marks
        others = [marks.get(name, (0, 0)) for name in chat.members if name != self.me]
        if others and all(read >= message.seq for read, _ in others):
            return "read"
        if others and all(delivered >= message.seq for _, delivered in others):
            return "delivered"
        return "stored"

    def online(self, chat: Chat) -> bool | None:
        """Whether the other is there; None when that is not for me to know."""
        friend = self.client.state.friends.get(chat.username or "")
        return None if friend is None else friend.online

    def typists(self, chat: Chat) -> list[str]:
        """Who is typing there now."""
        now = time.monotonic()
        return sorted(
            name for (where, name), until in self._typing.items() if where == chat.id and until > now
        )

    # --- changing ----------------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Ask for the list of conversations and contacts."""
        overviews, self._contacts = await asyncio.gather(self.client.conversations(), self.client.contacts())
        known = {chat.id: chat for chat in self.all if chat.id is not None}
        unwritten = {chat.username: chat for chat in self.all if chat.id is None}
        chats = []
        for overview in overviews:
            other = self._other(overview)
            chat = known.get(overview.id) or unwritten.pop(other, None) or Chat(other)
            self._apply(chat, overview)
            chats.append(chat)
        written = {chat.username for chat in chats}
        names = dict.fromkeys(
            [*(contact.username for contact in self._contacts), *(n for n in unwritten if n)]
        )
        chats += [unwritten.get(name) or Chat(name) for name in names if name not in written]
        self.all = chats
        if self.open is not None and self.open not in chats:
            self.open = None
        self._sort()

    def _other(self, overview: Overview) -> str | None:
        if overview.kind != "direct":
            return None
        return next((name for name in overview.usernames if name != self.me), self.me)

    def _apply(self, chat: Chat, overview: Overview) -> None:
        chat.id, chat.title, chat.members = overview.id, overview.title or "", overview.usernames
        if overview.last_seq >= chat.counted:
            chat.unread, chat.counted = overview.unread, overview.last_seq
        if chat is self.open:
            chat.unread = 0
        if overview.last_message is not None:
            chat.last_at = overview.last_message.created_at

    def _sort(self) -> None:
        # Stable: what was never written in stays behind, in the order of the contacts.
        self.all.sort(key=lambda chat: chat.last_at, reverse=True)

    def of(self, username: str) -> Chat:
        """The chat with somebody, new if need be."""
        for chat in self.all:
            if chat.username == username:
                return chat
        chat = Chat(username)
        self.all.append(chat)
        return chat

    async def show(self, chat: Chat) -> None:
        """Open a chat: read its newest page, and mark it as read."""
        self.open = chat
        if chat.id is not None and not chat.paged:
            page = await self.client.history(chat.id, limit=PAGE)
            chat.paged, chat.complete = True, len(page) < PAGE
        self._read(chat)

    async def older(self, chat: Chat) -> None:
        """Read one more page of what was said before."""
        messages = self.messages(chat)
        if chat.id is None or chat.complete or not messages:
            return
        page = await self.client.history(chat.id, before=messages[0].seq, limit=PAGE)
        chat.complete = len(page) < PAGE

    def _read(self, chat: Chat) -> None:
        messages = self.messages(chat)
        chat.unread = 0
        if chat.id is not None and messages:
            self.client.mark(chat.id, read=messages[-1].seq)

    async def hear(self, event: events.Event) -> None:
        """Follow an event of the client."""
        match event:
            case events.Synced():
                self.status = "connected"
                # Also what this client has no events for: contacts, and marks of other devices.
                await self._try_refresh()
            case events.Disconnected(retry_in=seconds):
                self.status = "offline"
                self.retry_at = time.monotonic() + seconds
            case events.StartedAfresh():
                for chat in self.all:
                    chat.paged = chat.complete = False
                await self._try_refresh()
                if self.open is not None:
                    await self.show(self.open)
            case events.MessageReceived(message=message, new=True):
                await self._came(message)
            case events.Sent(ack=ack):
                await self._was_sent(ack.conversation, ack.created_at)
            case events.ReceiptReceived(username=self.me, conversation=identity, read=read):
                self._read_elsewhere(identity, read)
            case events.TypingChanged(conversation=identity, username=username, on=on):
                self._typing[identity, username] = time.monotonic() + (TYPING_SECONDS if on else 0)
            case events.ConversationChanged() | events.ContactChanged():
                await self._try_refresh()
            case events.Refusal(sent=sent, frame=frame) if sent is not None and self.open is not None:
                self.open.failures.append(f"Not sent: “{sent['body']}”. {frame['detail']}")

    async def _try_refresh(self) -> None:
        try:
            await self.refresh()
        except ChatError:
            # The socket will be gone too, and asks again when it is back.
            self.status = "offline"

    async def _was_sent(self, conversation: str, at: str) -> None:
        chat = await self._known(conversation)
        if chat is not None:
            chat.last_at = max(chat.last_at, at)
            self._sort()

    async def _came(self, message: Message) -> None:
        chat = await self._known(message.conversation)
        if chat is None:
            return
        self._typing.pop((message.conversation, message.sender or ""), None)
        chat.last_at = max(chat.last_at, message.created_at)
        self._sort()
        self.client.mark(message.conversation, delivered=message.seq)
        if chat is self.open:
            self._read(chat)
        elif message.seq > chat.counted and message.kind == "text" and message.sender != self.me:
            # Those before are in the count that came with the list.
            chat.unread += 1
        chat.counted = max(chat.counted, message.seq)

    async def _known(self, identity: str) -> Chat | None:
        """A conversation's chat; one that is new is asked for."""
        if all(chat.id != identity for chat in self.all):
            await self._try_refresh()
        return next((chat for chat in self.all if chat.id == identity), None)

    def _read_elsewhere(self, identity: str, read: int) -> None:
        for chat in self.all:
            if chat.id == identity and all(message.seq <= read for message in self.messages(chat)):
                chat.unread = 0

    def __iter__(self) -> Iterator[Chat]:
        return iter(self.all)
