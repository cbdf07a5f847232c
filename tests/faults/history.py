"""What was recorded of a run. Plain data; JSON and back."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Frame = dict[str, Any]


@dataclass(slots=True)
class Entry:
    """One frame: when (seconds since the run began), which way, and what."""

    at: float
    way: Literal["in", "out"]
    frame: Frame


@dataclass(slots=True)
class Connection:
    """One socket of one client, from open to close."""

    client: str
    user: str
    number: int
    url: str
    opened_at: float
    entries: list[Entry] = field(default_factory=list)
    closed_at: float | None = None
    code: int | None = None
    reason: str = ""


@dataclass(slots=True)
class Send:
    """One message that a client was told to send, and what became of it."""

    client: str
    user: str
    client_id: str
    to: str
    """The recipient's username, or a group's id."""
    body: str
    at: float
    settled_at: float | None = None
    outcome: str = "pending"
    """`pending`, `acked`, or the code that refused it."""
    out_of_line: bool = False
    """It was also sent over HTTP, or was told to try again: its place among the others is open."""
    answers: list[Frame] = field(default_factory=list)
    """Acks over HTTP: message objects."""


@dataclass(slots=True)
class Change:
    """One edit, deletion or reaction that a client was told to ask for, and what became of it."""

    client: str
    user: str
    kind: str
    """`edit`, `delete` or `react`."""
    conversation: str
    seq: int
    value: str
    """The body, or the emoji."""
    on: bool
    at: float
    outcome: str = "pending"
    """`pending`, `acked`, or the code that refused it."""
    rev: int = 0
    """As acked."""


@dataclass(slots=True)
class Member:
    """A member's row."""

    read: int
    delivered: int
    active: bool = True
    joined_seq: int = 0
    joined_rev: int = 0
    left_rev: int = 0


@dataclass(slots=True)
class StoredConversation:
    """A conversation's row and its members by username."""

    id: str
    kind: str
    head_rev: int
    last_seq: int
    state_rev: int
    members: dict[str, Member]

    def visible_head(self, username: str, revs: Mapping[int, int]) -> int:
        """The rev of the last change that a member may see; `revs` are the messages', by seq."""
        hidden = self.members[username].joined_seq
        if not hidden:
            return self.head_rev
        return max([self.state_rev, *(rev for seq, rev in revs.items() if seq > hidden)])


@dataclass(slots=True)
class StoredMessage:
    """A message's row."""

    id: str
    conversation: str
    seq: int
    rev: int
    sender: str | None
    client_id: str
    body: str | None
    kind: str = "text"
    reactions: dict[str, list[str]] = field(default_factory=dict)
    """Emoji → who, sorted."""


@dataclass(slots=True)
class Database:
    """The tables at one moment."""

    conversations: dict[str, StoredConversation] = field(default_factory=dict)
    messages: list[StoredMessage] = field(default_factory=list)


@dataclass(slots=True)
class Held:
    """What a client holds of one conversation."""

    rev: int
    messages: dict[int, tuple[int, str, str | None]]
    """seq → (rev, id, body)."""
    marks: dict[str, tuple[int, int]]
    unread: int
    reactions: dict[int, dict[str, list[str]]] = field(default_factory=dict)
    """seq → emoji → who, sorted."""


@dataclass(slots=True)
class Snapshot:
    """What one live client holds."""

    client: str
    user: str
    complete: bool
    """Whether it asked for everything from the beginning."""
    conversations: dict[str, Held]
    friends: dict[str, bool]
    listed_unread: dict[str, int] | None = None
    """What GET /v1/conversations says is unread, if that was asked."""


@dataclass(slots=True)
class Round:
    """One fault, from before it to the quiet after it."""

    fault: str
    number: int
    started_at: float
    injected_at: float = 0.0
    healed_at: float = 0.0
    ended_at: float = 0.0
    converged_after: float | None = None
    """Seconds from when the harm was mended until every client had the database's state; None: never."""
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class History:
    """All of it."""

    seed: int
    connections: list[Connection] = field(default_factory=list)
    sends: list[Send] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    database: Database = field(default_factory=Database)
    failures: list[tuple[float, str]] = field(default_factory=list)
    """Clients that gave up, and why: when and what."""

    def lines(self) -> Iterator[dict[str, Any]]:
        """The history as JSON lines; `record` says what each is."""
        yield {"record": "run", "seed": self.seed, "failures": self.failures}
        for name, items in (
            ("round", self.rounds),
            ("connection", self.connections),
            ("send", self.sends),
            ("change", self.changes),
            ("conversation", list(self.database.conversations.values())),
            ("message", self.database.messages),
        ):
            for item in items:
                yield {"record": name, **asdict(item)}

    def write(self, path: Path) -> None:
        """Keep it as gzipped JSON lines."""
        with gzip.open(path, "wt", compresslevel=3) as file:
            for line in self.lines():
                file.write(json.dumps(line, separators=(",", ":")) + "\n")


def read(path: Path) -> History:
    """The history that `write` kept."""
    history = History(seed=0)
    with gzip.open(path, "rt") as file:
        for text in file:
            line = json.loads(text)
            match line.pop("record"):
                case "run":
                    history.seed = line["seed"]
                    history.failures = [(at, what) for at, what in line["failures"]]
                case "round":
                    history.rounds.append(Round(**line))
                case "connection":
                    entries = [Entry(**entry) for entry in line.pop("entries")]
                    history.connections.append(Connection(**line, entries=entries))
                case "send":
                    history.sends.append(Send(**line))
                case "change":
                    history.changes.append(Change(**line))
                case "conversation":
                    members = {name: Member(**member) for name, member in line.pop("members").items()}
                    history.database.conversations[line["id"]] = StoredConversation(**line, members=members)
                case "message":
                    history.database.messages.append(StoredMessage(**line))
    return history
