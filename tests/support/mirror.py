"""A client's state, kept by the contract's rules from the frames that its socket was sent, to be held against the
state that is fetched afresh."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.people import PATIENCE, Frame, Person, Socket

_SHARED = ("kind", "title", "description", "history", "member_count", "purged_seq")


@dataclass
class Held:
    """One conversation."""

    rev: int = 0
    info: Frame = field(default_factory=dict)
    messages: dict[int, Frame] = field(default_factory=dict)
    marks: dict[str, list[int]] = field(default_factory=dict)
    muted: str | None = None

    def keep(self, message: Frame) -> None:
        """Per seq, the highest rev wins."""
        known = self.messages.get(message["seq"])
        if known is None or known["rev"] < message["rev"]:
            self.messages[message["seq"]] = message
        if message["sender"] is not None and message["kind"] == "text":
            self.mark(message["sender"], message["seq"], message["seq"])

    def inform(self, info: Frame) -> None:
        """What the conversation is now; what is purged is dropped."""
        self.info = info
        for seq in [seq for seq in self.messages if seq <= info["purged_seq"]]:
            del self.messages[seq]

    def mark(self, username: str, read: int, delivered: int) -> None:
        """Marks only rise."""
        known = self.marks.get(username, [0, 0])
        self.marks[username] = [max(known[0], read), max(known[1], delivered)]

    def comparable(self) -> Frame:
        """What two states of the same moment have in common. Not the rev: a change that a member may not see
        does not move their stream."""
        members = {member["username"]: member["role"] for member in self.info["members"]}
        return {
            **{name: self.info[name] for name in _SHARED},
            "members": members,
            "messages": self.messages,
            "marks": {name: self.marks.get(name, [0, 0]) for name in sorted(members)},
            "muted": self.muted,
        }


@dataclass
class Snapshot:
    """What a client held of one conversation when its stream had reached `held.rev`."""

    conversation: str
    held: Held


class Mirror:
    """Follows one socket. Raises AssertionError for what the contract does not allow in a stream."""

    def __init__(self, person: Person, socket: Socket) -> None:
        self.person = person
        self.socket = socket
        self.state: dict[str, Held] = {}
        self.sent: dict[str, Frame] = {}
        """The `send` frames of this socket, by ref."""
        self.files: dict[str, Frame] = {}
        """What was uploaded, described as in messages."""
        self.snapshots: list[Snapshot] = []
        self._early: dict[str, Held] = {}
        """Marks and mutes of conversations whose own event is still to come."""
        self._taken = 0

    def take(self) -> None:
        """Apply what has come in."""
        while self._taken < len(self.socket.frames):
            frame = self.socket.frames[self._taken]
            self._taken += 1
            apply = getattr(self, f"_on_{frame['type']}", None)
            if apply is not None:
                apply(copy.deepcopy(frame))

    def until(self, reached: Callable[[], bool]) -> bool:
        """Receive until it is so; whether it became so."""
        deadline = time.monotonic() + PATIENCE
        self.take()
        while not reached():
            try:
                self.socket.receive(max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                return False
            self.take()
        return True

    def holds(self, conversation: str, expected: Held | None) -> bool:
        """Receive until what is held of a conversation is `expected`; fails showing the difference."""

        def held() -> Frame | None:
            found = self.state.get(conversation)
            return None if found is None else found.comparable()

        wanted = None if expected is None else expected.comparable()
        if not self.until(lambda: held() == wanted):
            assert held() == wanted, self.person.username
        return True

    def knows(self, conversation: str) -> bool:
        """Receive until a conversation is held; whether it is."""
        return self.until(lambda: conversation in self.state)

    def send(self, conversation: str, body: str, **fields: Any) -> Frame:
        """Send a message and wait for its answer."""
        import uuid

        ref = f"m{len(self.sent)}"
        frame = {
            "type": "send", "ref": ref, "to": {"conversation": conversation},
            "client_id": str(uuid.uuid4()), "body": body, **fields,
        }  # fmt: skip
        self.sent[ref] = frame
        self.socket.send(**frame)
        return self.socket.answer(ref)

    def upload(self, text: bytes) -> str:
        """Upload a text to be sent; returns its id."""
        answer = self.person.http.post("/v1/attachments", files={"file": ("a.txt", text)})
        assert answer.status_code == 201, answer.text
        links = answer.json()
        described = ("id", "name", "content_type", "size", "width", "height", "thumbnail")
        self.files[links["id"]] = {name: links[name] for name in described}
        return str(links["id"])

    def change(self, **frame: Any) -> Frame:
        """Edit, delete or react, and wait for the answer."""
        ref = f"c{len(self.socket.frames)}"
        self.socket.send(ref=ref, **frame)
        return self.socket.answer(ref)

    # --- events ------------------------------------------------------------------------------------

    def _rise(self, conversation: str, rev: int) -> Held:
        held = self.state[conversation]
        assert rev > held.rev, f"rev {rev} after {held.rev} in {conversation}"
        held.rev = rev
        return held

    def _snapshot(self, conversation: str) -> None:
        self.snapshots.append(Snapshot(conversation, copy.deepcopy(self.state[conversation])))

    def _on_conversation(self, frame: Frame) -> None:
        value = frame["conversation"]
        key = value["id"]
        if frame.get("member") is False:
            held = self.state.pop(key, None)
            self._early.pop(key, None)
            assert value["members"] == []
            assert value["title"] is None
            assert held is None or value["rev"] > held.rev
            return
        if key not in self.state or frame.get("reset"):
            held = self.state[key] = self._early.pop(key, Held())
            held.rev, held.info = value["rev"], value
            if value["rev"]:
                for message in fetch_messages(self.person, key):
                    held.keep(message)
        else:
            self._rise(key, value["rev"]).inform(value)
        self._snapshot(key)

    def _on_message(self, frame: Frame) -> None:
        message = frame["message"]
        self._rise(message["conversation"], message["rev"]).keep(message)
        self._snapshot(message["conversation"])

    def _on_ack(self, ack: Frame) -> None:
        sent = self.sent.get(ack["ref"])
        if sent is None:
            # The change itself came before.
            assert self.state[ack["conversation"]].rev >= ack["rev"]
            return
        held = self._rise(ack["conversation"], ack["rev"])
        mentions = {"mentions": ack["mentions"]} if "mentions" in ack else {}
        held.keep({
            "id": ack["id"], "conversation": ack["conversation"], "seq": ack["seq"], "rev": ack["rev"],
            "kind": "text", "sender": self.person.username, "body": sent["body"],
            "client_id": ack["client_id"], "reply_to": sent.get("reply_to"), "reactions": {},
            "created_at": ack["created_at"], "edited_at": None, "deleted_at": None,
            "attachments": [self.files[each] for each in sent.get("attachments", ())], **mentions,
        })  # fmt: skip
        self._snapshot(ack["conversation"])

    def _on_receipt(self, frame: Frame) -> None:
        self._known(frame["conversation"]).mark(frame["username"], frame["read"], frame["delivered"])

    def _on_marks(self, frame: Frame) -> None:
        for key, marks in frame["marks"].items():
            for username, (read, delivered) in marks.items():
                self._known(key).mark(username, read, delivered)

    def _on_muted(self, frame: Frame) -> None:
        self._known(frame["conversation"]).muted = frame["until"]

    def _known(self, key: str) -> Held:
        held = self.state.get(key)
        return self._early.setdefault(key, Held()) if held is None else held


def pages(person: Person, path: str, follow: str = "next", **query: Any) -> list[Frame]:
    """All results of a list."""
    results: list[Frame] = []
    url: str | None = path
    while url is not None:
        answer = person.http.get(url, params=query or None)
        if answer.status_code == 404:
            # No longer a member; the frame that says so is on its way.
            break
        assert answer.status_code == 200, answer.text
        results += answer.json()["results"]
        url, query = answer.json()[follow], {}
    return results


def fetch_messages(person: Person, conversation: str) -> list[Frame]:
    """The whole history."""
    return pages(person, f"/v1/conversations/{conversation}/messages", "previous", limit=200)


def fetch(person: Person, conversation: str, socket_url: str | None = None) -> Held | None:
    """A conversation as it is now, for a client that knew nothing; None for who is not a member."""
    answer = person.http.get(f"/v1/conversations/{conversation}")
    if answer.status_code == 404:
        return None
    info = answer.json()
    held = Held(info["rev"], info)
    for message in fetch_messages(person, conversation):
        held.keep(message)
    members = pages(person, f"/v1/conversations/{conversation}/members", limit=200)
    assert len(members) == info["member_count"]
    info["members"] = [{"username": each["username"], "role": each["role"]} for each in members][:100]
    held.muted = info["muted_until"]
    with person.socket(socket_url) as socket:
        for frame in socket.sync():
            if frame["type"] == "marks":
                for username, (read, delivered) in frame["marks"].get(conversation, {}).items():
                    held.mark(username, read, delivered)
    return held


def resync(person: Person, snapshot: Snapshot, socket_url: str | None = None) -> Held | None:
    """What a client holds that comes back with a snapshot's state."""
    with person.socket(socket_url) as socket:
        mirror = Mirror(person, socket)
        mirror.state[snapshot.conversation] = copy.deepcopy(snapshot.held)
        mirror.state[snapshot.conversation].muted = None
        socket.sync({snapshot.conversation: snapshot.held.rev}, others="state")
        mirror.take()
        return mirror.state.get(snapshot.conversation)


def catch_up(person: Person, snapshot: Snapshot) -> Held | None:
    """What a client holds that asks `changes` over HTTP instead; its marks are not told there."""
    held: Held | None = copy.deepcopy(snapshot.held)
    rev, more = snapshot.held.rev, True
    while more:
        answer = person.http.get(
            f"/v1/conversations/{snapshot.conversation}/changes", params={"since": rev, "limit": 3}
        )
        if answer.status_code == 404:
            return None
        page = answer.json()
        for event in page["results"]:
            if event["type"] == "message":
                assert held is not None
                held.keep(event["message"])
            elif event.get("member") is False:
                held = None
            elif held is None:
                held = Held(0, event["conversation"])
                for message in fetch_messages(person, snapshot.conversation):
                    held.keep(message)
            else:
                held.inform(event["conversation"])
        assert page["rev"] >= rev
        rev, more = page["rev"], page["more"]
    assert held is not None
    held.rev = rev
    return held
