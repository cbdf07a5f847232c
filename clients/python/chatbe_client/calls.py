"""What an account can do besides chatting: people, contacts, blocks, groups, search, files. All over HTTP."""

from __future__ import annotations

import mimetypes
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from chatbe_client.api import Api, Content
from chatbe_client.state import Friend, Message

Progress = Callable[[int, int], None]
"""Told how many bytes are on their way, of how many."""
_CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who can be written to."""

    id: str
    username: str
    display_name: str


@dataclass(frozen=True, slots=True)
class Contact:
    """Somebody whom I added. `status` is None unless they have added me too."""

    username: str
    display_name: str
    mutual: bool
    status: Friend | None


@dataclass(frozen=True, slots=True)
class Overview:
    """A conversation of mine as the list of them has it, with what is mine of it."""

    id: str
    kind: str
    title: str | None
    usernames: tuple[str, ...]
    """Its members, up to a hundred of them."""
    rev: int
    last_seq: int
    unread: int
    read_seq: int
    role: str
    muted_until: str | None
    last_message: Message | None

    @classmethod
    def from_wire(cls, value: Mapping[str, Any]) -> Overview:
        """A conversation object with my part; what is not known here is left out."""
        last = value.get("last_message")
        return cls(
            id=value["id"],
            kind=value["kind"],
            title=value["title"],
            usernames=tuple(member["username"] for member in value["members"]),
            rev=value["rev"],
            last_seq=value["last_seq"],
            unread=value["unread"],
            read_seq=value["read_seq"],
            role=value["role"],
            muted_until=value.get("muted_until"),
            last_message=None if last is None else Message.from_wire(last),
        )


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that was uploaded. `url` and `thumbnail_url` need no token, and are good for a few minutes."""

    id: str
    name: str
    content_type: str
    size: int
    width: int | None
    height: int | None
    url: str
    thumbnail_url: str | None

    @classmethod
    def from_wire(cls, value: Mapping[str, Any]) -> Attachment:
        """An attachment object; what is not known here is left out."""
        return cls(
            id=value["id"],
            name=value["name"],
            content_type=value["content_type"],
            size=value["size"],
            width=value["width"],
            height=value["height"],
            url=value["url"],
            thumbnail_url=value.get("thumbnail_url"),
        )

    def of_message(self) -> dict[str, Any]:
        """As message objects have it."""
        names = ("id", "name", "content_type", "size", "width", "height")
        return {name: getattr(self, name) for name in names} | {"thumbnail": self.thumbnail_url is not None}


@dataclass(frozen=True, slots=True)
class Found:
    """A message that a search found; `snippet` is its text in pieces, each with whether it matched."""

    message: Message
    snippet: tuple[tuple[str, bool], ...]


class Calls:
    """The HTTP calls; all raise `Refused`, `Unreachable` or `SignedOut`."""

    api: Api

    # --- people ------------------------------------------------------------------------------------

    async def people(self, prefix: str) -> list[Person]:
        """The first page of those whose username begins so."""
        page = await self.api.call("GET", "/v1/users", params={"search": prefix})
        return [Person(value["id"], value["username"], value["display_name"]) for value in page["results"]]

    async def contacts(self) -> list[Contact]:
        """All whom I added."""
        return [_contact(value) async for value in self._pages("/v1/contacts")]

    async def add_contact(self, username: str) -> Contact:
        """Add somebody; they may do the same, and then each sees whether the other is online."""
        return _contact(await self.api.call("POST", "/v1/contacts", json={"username": username}))

    async def remove_contact(self, username: str) -> None:
        """Take somebody off my contacts."""
        await self.api.call("DELETE", f"/v1/contacts/{quote(username, safe='')}")

    async def blocks(self) -> list[str]:
        """The usernames of all whom I blocked."""
        return [value["username"] async for value in self._pages("/v1/blocks")]

    async def block(self, username: str) -> None:
        """Let somebody neither write to me directly, nor add me to groups, nor see me."""
        await self.api.call("PUT", f"/v1/blocks/{quote(username, safe='')}")

    async def unblock(self, username: str) -> None:
        """Take a block back."""
        await self.api.call("DELETE", f"/v1/blocks/{quote(username, safe='')}")

    # --- conversations -----------------------------------------------------------------------------

    async def conversations(self, *, limit: int | None = None) -> list[Overview]:
        """My conversations, the latest activity first; all of them, or the first `limit`."""
        found: list[Overview] = []
        async for value in self._pages("/v1/conversations"):
            if limit is not None and len(found) >= limit:
                break
            found.append(Overview.from_wire(value))
        return found

    async def overview(self, conversation: str) -> Overview:
        """One conversation of mine."""
        return Overview.from_wire(await self.api.call("GET", f"/v1/conversations/{conversation}"))

    async def open_direct(self, username: str) -> Overview:
        """The conversation with somebody, made if need be."""
        fields = {"kind": "direct", "username": username}
        return Overview.from_wire(await self.api.call("POST", "/v1/conversations", json=fields))

    async def create_group(
        self, title: str, usernames: Iterable[str] = (), *, description: str = "", history: str = "joined"
    ) -> Overview:
        """A group with me as its owner. Who is added later may read `history`: from joining on, or `all`."""
        fields = {
            "kind": "group",
            "title": title,
            "members": list(usernames),
            "description": description,
            "history": history,
        }
        return Overview.from_wire(await self.api.call("POST", "/v1/conversations", json=fields))

    async def change_group(self, conversation: str, **fields: str) -> None:
        """Change a group's `title`, `description` or `history`."""
        await self.api.call("PATCH", f"/v1/conversations/{conversation}", json=fields)

    async def dissolve_group(self, conversation: str) -> None:
        """End a group that I own, for everyone."""
        await self.api.call("DELETE", f"/v1/conversations/{conversation}")

    async def members(self, conversation: str) -> dict[str, str]:
        """The role of every member, by username."""
        pages = self._pages(f"/v1/conversations/{conversation}/members")
        return {value["username"]: value["role"] async for value in pages}

    async def add_members(self, conversation: str, usernames: Iterable[str]) -> None:
        """Add people to a group."""
        fields = {"usernames": list(usernames)}
        await self.api.call("POST", f"/v1/conversations/{conversation}/members", json=fields)

    async def set_role(self, conversation: str, username: str, role: str) -> None:
        """Make a member `member` or `admin`, or hand the group over: `owner`."""
        path = f"/v1/conversations/{conversation}/members/{quote(username, safe='')}"
        await self.api.call("PATCH", path, json={"role": role})

    async def remove_member(self, conversation: str, username: str) -> None:
        """Take somebody out of a group; or, with my own username, leave it."""
        await self.api.call("DELETE", f"/v1/conversations/{conversation}/members/{quote(username, safe='')}")

    async def mute(self, conversation: str, until: str | None) -> None:
        """Mute a conversation until a time (RFC 3339), or (None) no longer."""
        await self.api.call("PUT", f"/v1/conversations/{conversation}/mute", json={"until": until})

    async def readers(self, conversation: str, seq: int) -> list[str]:
        """The usernames of those who have read a message."""
        pages = self._pages(f"/v1/conversations/{conversation}/messages/{seq}/readers")
        return [value["username"] async for value in pages]

    # --- search and files --------------------------------------------------------------------------

    async def search(
        self,
        words: str,
        *,
        conversation: str | None = None,
        sender: str | None = None,
        after: str | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[Found]:
        """The newest `limit` messages of mine with these words."""
        asked = {"conversation": conversation, "sender": sender, "after": after, "before": before}
        params = {
            "q": words,
            "order": "newest",
            **{name: value for name, value in asked.items() if value is not None},
        }
        found: list[Found] = []
        async for value in self._pages("/v1/search", params):
            if len(found) >= limit:
                break
            pieces = tuple((piece["text"], piece["match"]) for piece in value["snippet"])
            found.append(Found(Message.from_wire(value["message"]), pieces))
        return found

    async def upload(
        self,
        file: Path | str | bytes,
        *,
        name: str | None = None,
        content_type: str | None = None,
        progress: Progress | None = None,
    ) -> Attachment:
        """Upload a file, or bytes with a `name`; then send its `id` with a message.

        `progress` is called as its bytes leave. Nobody sees an upload that is not sent, and it is removed in time.
        """
        form = _Form(file, name, content_type, progress)
        answer = await self.api.call("POST", "/v1/attachments", content=form.content())
        return Attachment.from_wire(answer)

    async def attachment(self, identity: str) -> Attachment:
        """A file's present addresses."""
        return Attachment.from_wire(await self.api.call("GET", f"/v1/attachments/{identity}"))

    async def _pages(
        self, path: str, params: Mapping[str, Any] | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Every result of a list, page after page."""
        page = await self.api.call("GET", path, params=dict(params or {}))
        while True:
            for value in page["results"]:
                yield value
            if page["next"] is None:
                return
            # Its host is the server's word for itself; a proxy may have led here by another.
            page = await self.api.call("GET", _without_host(page["next"]))


def _without_host(address: str) -> str:
    return "/" + address.split("://", 1)[-1].split("/", 1)[1]


def _contact(value: Mapping[str, Any]) -> Contact:
    online = value["online"]
    status = None if online is None else Friend(online, value["last_seen"])
    return Contact(value["username"], value["display_name"], value["mutual"], status)


class _Form:
    """multipart/form-data (RFC 7578) with one file, in pieces that are counted as they leave."""

    def __init__(
        self,
        file: Path | str | bytes,
        name: str | None,
        content_type: str | None,
        progress: Progress | None,
    ) -> None:
        if isinstance(file, bytes):
            if name is None:
                raise ValueError("Bytes need a name.")
            self._size = len(file)
        else:
            name = name or Path(file).name
            self._size = Path(file).stat().st_size
        kind = content_type or mimetypes.guess_type(name)[0] or "application/octet-stream"
        self._file = file
        self._progress = progress
        self._boundary = uuid.uuid4().hex
        # As browsers write names: RFC 7578, section 4.2, and the HTML standard.
        escaped = name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")
        self._head = (
            f"--{self._boundary}\r\n"
            f'Content-Disposition: form-data; name="file"; filename="{escaped}"\r\n'
            f"Content-Type: {kind}\r\n\r\n"
        ).encode()
        self._tail = f"\r\n--{self._boundary}--\r\n".encode()

    def content(self) -> Content:
        """The body, and the headers that it needs; begun anew for each try."""
        headers = {
            "Content-Type": f"multipart/form-data; boundary={self._boundary}",
            "Content-Length": str(len(self._head) + self._size + len(self._tail)),
        }
        return Content(self._body, headers)

    async def _body(self) -> AsyncIterator[bytes]:
        yield self._head
        sent = 0
        self._told(sent)
        for piece in self._pieces():
            yield piece
            sent += len(piece)
            self._told(sent)
        yield self._tail

    def _pieces(self) -> Iterable[bytes]:
        if isinstance(self._file, bytes):
            for start in range(0, self._size, _CHUNK):
                yield self._file[start : start + _CHUNK]
            return
        with Path(self._file).open("rb") as file:
            while piece := file.read(_CHUNK):
                yield piece

    def _told(self, sent: int) -> None:
        if self._progress is not None:
            self._progress(sent, self._size)
