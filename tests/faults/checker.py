"""Judges a history, as Jepsen does: from what was recorded alone, it says which promise was broken, where and when.

Pure. Each `check_…` looks at one promise and returns what breaks it; `check` runs them all.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.faults.history import (
    Change,
    Connection,
    Database,
    Frame,
    History,
    Member,
    Send,
    Snapshot,
    StoredMessage,
)

PROMISES = {
    "stored": "every acked message is stored, exactly once",
    "repeat": "a repeated client_id gets the first ack and stores nothing",
    "order": "messages of one client are stored in the order of sending",
    "stream": "each socket's stream rises in rev, nothing twice, nothing left out",
    "changes": "edits, deletions and reactions that were acked stand, and nothing that was not asked for",
    "members": "nothing of a group reaches who is not a member of it",
    "state": "every client ends with the database's state",
    "marks": "read and delivered marks and unread counts converge",
    "presence": "presence ends in the truth and never says the same twice in a row",
    "answers": "every send is answered",
}


NO_MOMENT = -1.0
"""When something is wrong that only the tables at the end show."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One promise broken once."""

    promise: str
    at: float
    what: str
    details: dict[str, Any] = field(default_factory=dict, hash=False, compare=False)


def check(history: History) -> list[Violation]:
    """Everything that can be judged from the history and the database at its end."""
    return [
        *check_database(history.database),
        *check_stored(history),
        *check_repeats(history),
        *check_order(history),
        *check_changes(history),
        *check_streams(history),
        *check_presence(history.connections),
        *check_answers(history),
    ]


# --- the database by itself ------------------------------------------------------------------------


def check_database(database: Database) -> list[Violation]:
    """Counters and rows agree: seq without a gap, no rev twice or above the head, no client_id twice."""
    found: list[Violation] = []

    def broken(what: str, **details: Any) -> None:
        found.append(Violation("stored", NO_MOMENT, what, details))

    rows: defaultdict[str, list[StoredMessage]] = defaultdict(list)
    client_ids: dict[tuple[str | None, str], str] = {}
    for message in database.messages:
        rows[message.conversation].append(message)
        key = (message.sender, message.client_id)
        if key in client_ids:
            broken(
                "a client_id is stored twice", client_id=message.client_id, ids=[client_ids[key], message.id]
            )
        client_ids[key] = message.id
    for identity, conversation in database.conversations.items():
        seqs = sorted(message.seq for message in rows[identity])
        if seqs != list(range(1, conversation.last_seq + 1)):
            broken(
                "seqs have gaps or repeats",
                conversation=identity,
                last_seq=conversation.last_seq,
                rows=len(seqs),
            )
        revs = [message.rev for message in rows[identity]]
        if len(set(revs)) != len(revs):
            broken("a rev is used twice", conversation=identity)
        if max([*revs, conversation.state_rev], default=0) != conversation.head_rev:
            broken("the head is not the highest rev", conversation=identity, head=conversation.head_rev)
    for identity in rows.keys() - database.conversations.keys():
        broken("messages without a conversation", conversation=identity)
    return found


# --- acks and the database -------------------------------------------------------------------------


def _acks(history: History) -> Iterable[tuple[float, str, Connection | None, Frame]]:
    """Every ack of a message: when, whose, on which socket (None: over HTTP), and the frame."""
    for connection in history.connections:
        changes = _change_refs(connection)
        for entry in connection.entries:
            if entry.way == "in" and entry.frame["type"] == "ack" and entry.frame["ref"] not in changes:
                yield entry.at, connection.user, connection, entry.frame
    for send in history.sends:
        for answer in send.answers:
            yield send.settled_at or send.at, send.user, None, answer


def _change_refs(connection: Connection) -> set[str]:
    """The refs of the edits, deletions and reactions that were asked for on a socket."""
    return {
        entry.frame["ref"]
        for entry in connection.entries
        if entry.way == "out" and entry.frame["type"] in {"edit", "delete", "react"}
    }


def check_stored(history: History) -> list[Violation]:
    """What was acked is in the database under the acked id, place and client_id; and nothing was made up."""
    found: list[Violation] = []
    rows = {message.id: message for message in history.database.messages}
    for at, user, _, ack in _acks(history):
        row = rows.get(ack["id"])
        if row is None:
            found.append(
                Violation("stored", at, "an acked message is not stored", {"ack": ack, "user": user})
            )
        elif (row.conversation, row.seq, row.client_id, row.sender) != (
            ack["conversation"], ack["seq"], ack["client_id"], user,
        ):  # fmt: skip
            found.append(Violation("stored", at, "an ack names another place than the row", {"ack": ack}))
    sent = {(send.user, send.client_id): send for send in history.sends}
    for message in history.database.messages:
        if message.kind != "text":
            continue
        send = sent.get((message.sender or "", message.client_id))
        if send is None:
            found.append(
                Violation("stored", NO_MOMENT, "a message is stored that nobody sent", {"id": message.id})
            )
        elif send.outcome not in ("acked", "pending"):
            found.append(
                Violation(
                    "stored", send.at, "a refused message is stored", {"id": message.id, "code": send.outcome}
                )
            )
    return found


def check_repeats(history: History) -> list[Violation]:
    """All acks of one client_id say the same, and at most one of them is no duplicate."""
    found: list[Violation] = []
    first: dict[tuple[str, str], Frame] = {}
    fresh: set[tuple[str, str]] = set()
    for at, user, connection, ack in sorted(_acks(history), key=lambda item: item[0]):
        key = (user, ack["client_id"])
        known = first.setdefault(key, ack)
        if any(known[name] != ack[name] for name in ("conversation", "seq", "id", "created_at")):
            found.append(Violation("repeat", at, "a repeat got another ack", {"first": known, "then": ack}))
        if connection is not None and not ack["duplicate"]:
            if key in fresh:
                found.append(Violation("repeat", at, "two acks say that they are the first", {"ack": ack}))
            fresh.add(key)
    return found


def check_changes(history: History) -> list[Violation]:
    """Of each message: the last edit that was acked is its body, what was deleted is gone, and who was acked to
    react does, once; nothing of it without having been asked for."""
    found: list[Violation] = []
    asked: defaultdict[tuple[str, int], list[Change]] = defaultdict(list)
    for change in history.changes:
        asked[change.conversation, change.seq].append(change)
    bodies = {(send.user, send.client_id): send.body for send in history.sends}
    for row in history.database.messages:
        if row.kind != "text":
            continue
        changes = asked[row.conversation, row.seq]
        sent = bodies.get((row.sender or "", row.client_id))
        for what in (*_wrong_body(row, sent, changes), *_wrong_reactions(row, changes)):
            details = {"conversation": row.conversation, "seq": row.seq}
            found.append(
                Violation("changes", max((each.at for each in changes), default=NO_MOMENT), what, details)
            )
    return found


def _wrong_body(row: StoredMessage, sent: str | None, changes: Iterable[Change]) -> Iterable[str]:
    deletions = [change for change in changes if change.kind == "delete"]
    edits = [change for change in changes if change.kind == "edit"]
    if row.body is None:
        if not any(change.outcome in {"acked", "pending"} for change in deletions):
            yield "a message is gone that nobody deleted"
        return
    if any(change.outcome == "acked" for change in deletions):
        yield "a deleted message is there again"
    # Whose commit is unknown, may stand or not.
    possible = {change.value for change in edits if change.outcome not in {"acked", "forbidden", "conflict"}}
    acked = sorted((change for change in edits if change.outcome == "acked"), key=lambda change: change.rev)
    last = acked[-1].value if acked else sent
    if row.body != last and row.body not in possible:
        yield "an edit is lost" if acked else "a message is stored with another body"


def _wrong_reactions(row: StoredMessage, changes: Iterable[Change]) -> Iterable[str]:
    asked: defaultdict[tuple[str, str], list[Change]] = defaultdict(list)
    for change in changes:
        if change.kind == "react":
            asked[change.user, change.value].append(change)
    stored = {(user, emoji) for emoji, users in row.reactions.items() for user in users}
    if any(len(set(users)) != len(users) for users in row.reactions.values()):
        yield "a reaction is stored twice"
    if stored - asked.keys():
        yield "a reaction is stored that nobody asked for"
    if row.body is None:
        return
    for key, reactions in asked.items():
        acked = sorted((each for each in reactions if each.outcome == "acked"), key=lambda each: each.rev)
        sure = all(each.outcome in {"acked", "forbidden", "conflict", "not_found"} for each in reactions)
        if acked and sure and (key in stored) is not acked[-1].on:
            yield "a reaction is lost" if acked[-1].on else "a reaction is there that was taken off"


def check_order(history: History) -> list[Violation]:
    """Per client and conversation, seq rises in the order of sending.

    A client sends what is unanswered again in the same order on its next socket, so this holds over
    all its sockets. Messages that were told to try again, that were also sent another way, or that may
    have been refused unheard may have moved and are left out.
    """
    found: list[Violation] = []
    rows = {(message.sender, message.client_id): message for message in history.database.messages}
    moved = _told_to_try_again(history) | _maybe_refused(history)
    last: dict[tuple[str, str], tuple[StoredMessage, Send]] = {}
    for send in history.sends:
        row = rows.get((send.user, send.client_id))
        if row is None or send.out_of_line or (send.user, send.client_id) in moved:
            continue
        key = (send.client, row.conversation)
        before = last.get(key)
        if before is not None and before[0].seq > row.seq:
            found.append(
                Violation(
                    "order", send.at, "a message overtook an earlier one of its client",
                    {"client": send.client, "earlier": before[0].id, "later": row.id, "seqs": [before[0].seq, row.seq]},
                )
            )  # fmt: skip
        else:
            last[key] = (row, send)
    return found


def _told_to_try_again(history: History) -> set[tuple[str, str]]:
    """The client_ids whose frame was answered with an error on some socket."""
    moved: set[tuple[str, str]] = set()
    for connection in history.connections:
        by_ref: dict[str, str] = {}
        for entry in connection.entries:
            frame = entry.frame
            if entry.way == "out" and frame["type"] == "send":
                by_ref[frame["ref"]] = frame["client_id"]
            elif entry.way == "in" and frame["type"] == "error" and frame["ref"] in by_ref:
                moved.add((connection.user, by_ref[frame["ref"]]))
    return moved


def _maybe_refused(history: History) -> set[tuple[str, str]]:
    """The client_ids that were sent again after their sender had been added to the group once more.

    Whoever is no member is refused for good. Where the socket broke before that was heard, the message is
    sent again, and by then its sender may be a member: it is stored behind what was sent after the return.
    """
    heard: dict[tuple[str, int], float] = {}
    sent: dict[tuple[str, str], list[float]] = {}
    for connection in history.connections:
        for entry in connection.entries:
            frame = entry.frame
            if entry.way == "out" and frame["type"] == "send":
                sent.setdefault((connection.user, frame["client_id"]), []).append(entry.at)
            elif entry.way == "in" and frame["type"] == "message" and frame["message"]["kind"] == "system":
                place = frame["message"]["conversation"], frame["message"]["seq"]
                heard[place] = min(entry.at, heard.get(place, entry.at))
    added: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row in history.database.messages:
        if row.kind == "system" and row.body is not None and " added " in row.body:
            at = heard.get((row.conversation, row.seq), float("inf"))
            for user in row.body.partition(" added ")[2].split(", "):
                added.setdefault((row.conversation, user), []).append((row.seq, at))
    return {
        (row.sender, row.client_id)
        for row in history.database.messages
        if row.sender is not None and len(times := sent.get((row.sender, row.client_id), [])) > 1
        if any(seq < row.seq and at > min(times) for seq, at in added.get((row.conversation, row.sender), []))
    }


# --- streams ---------------------------------------------------------------------------------------


class _Committed:
    """What the whole history says of one conversation: its rows, and when which rev was known to be committed."""

    def __init__(self) -> None:
        self.revs: list[int] = []
        """The revs of the rows at the end, rising; the conversation's own last change among them."""
        self.rows: dict[int, StoredMessage] = {}
        """By seq."""
        self.known: list[tuple[float, int]] = []
        """(when, rev): from then on some client knew that this rev is committed; both rise."""


def _committed(history: History) -> dict[str, _Committed]:
    all_of: defaultdict[str, _Committed] = defaultdict(_Committed)
    for message in history.database.messages:
        all_of[message.conversation].revs.append(message.rev)
        all_of[message.conversation].rows[message.seq] = message
    for identity, conversation in history.database.conversations.items():
        if conversation.state_rev:
            all_of[identity].revs.append(conversation.state_rev)
        all_of[identity].revs.sort()
    known: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    for connection in history.connections:
        for entry in connection.entries:
            if entry.way == "in" and (place := _place(entry.frame)) is not None:
                known[place[0]].append((entry.at, place[1]))
    for identity, moments in known.items():
        highest = 0
        for at, rev in sorted(moments):
            if rev > highest:
                highest = rev
                all_of[identity].known.append((at, rev))
    return all_of


def _place(frame: Frame) -> tuple[str, int] | None:
    """The conversation and rev that a frame stands for in the stream, if it does."""
    match frame["type"]:
        case "message":
            return frame["message"]["conversation"], frame["message"]["rev"]
        case "ack" if not frame["duplicate"]:
            return frame["conversation"], frame["rev"]
        case "conversation" if frame.get("member") is not False:
            return frame["conversation"]["id"], frame["conversation"]["rev"]
    return None


def check_streams(history: History) -> list[Violation]:
    """Every socket's stream, one conversation at a time, from its sync on."""
    found: list[Violation] = []
    committed = _committed(history)
    for connection in history.connections:
        found += _Stream(connection, history.database, committed).judge()
    return found


class _Stream:
    """One socket's stream."""

    def __init__(
        self, connection: Connection, database: Database, committed: Mapping[str, _Committed]
    ) -> None:
        self.connection = connection
        self.database = database
        self.committed = committed
        self.found: list[Violation] = []
        self.positions: dict[str, int] = {}
        self.synced_from: float | None = None
        self.others = "state"
        self.marks_told = False
        self.synced = False
        self.changes = _change_refs(connection)
        self.ended: dict[str, int] = {}
        """Groups that the user was told to have left, and at which rev."""
        self.tombstones: set[tuple[str, int]] = set()

    def judge(self) -> list[Violation]:
        for entry in self.connection.entries:
            frame = entry.frame
            kind = frame["type"]
            if entry.way == "out":
                if kind == "sync":
                    self.synced_from = entry.at
                    self.positions = dict(frame["conversations"])
                    self.others = frame.get("others", "state")
                continue
            if kind in ("message", "conversation", "receipt", "typing", "marks") and self.synced_from is None:
                self.broken(entry.at, "an event came before the sync", frame=frame)
            if kind == "marks":
                self.marks_told = True
            elif kind == "synced":
                self.on_synced(entry.at)
            elif kind == "conversation":
                self.on_conversation(entry.at, frame)
            elif kind == "message":
                self.on_change(entry.at, frame["message"]["conversation"], frame["message"]["rev"])
                self.compare(entry.at, frame["message"])
                self.look_at(entry.at, frame["message"])
            elif kind == "ack" and not frame["duplicate"] and frame["ref"] not in self.changes:
                self.on_change(entry.at, frame["conversation"], frame["rev"])
        return self.found

    def broken(self, at: float, what: str, **details: Any) -> None:
        where = {"client": self.connection.client, "connection": self.connection.number}
        self.found.append(Violation("stream", at, what, {**where, **details}))

    def foreign(self, at: float, conversation: str, rev: int) -> None:
        """Nothing of a group comes between the end of a membership and its return."""
        if conversation in self.ended:
            self.members_broken(at, conversation, rev)
            return
        member = self.member(conversation)
        if (
            member is not None
            and 0 < member.left_rev < rev
            and not (member.active and rev >= member.joined_rev)
        ):
            self.members_broken(at, conversation, rev)

    def members_broken(self, at: float, conversation: str, rev: int) -> None:
        details = {"client": self.connection.client, "conversation": conversation, "rev": rev}
        self.found.append(Violation("members", at, "something reached a user who is not a member", details))

    def member(self, conversation: str) -> Member | None:
        """The user's membership at the end."""
        stored = self.database.conversations.get(conversation)
        return stored.members.get(self.connection.user) if stored is not None else None

    def look_at(self, at: float, message: Frame) -> None:
        """What is deleted stays so, and everybody reacts once."""
        place = (message["conversation"], message["seq"])
        if message["body"] is None:
            self.tombstones.add(place)
        elif place in self.tombstones:
            self.broken(at, "a deleted message came back", message=message)
        for emoji, told in message.get("reactions", {}).items():
            names = told["usernames"]
            if (
                len(set(names)) != len(names)
                or told["count"] < len(names)
                or len(names) < min(told["count"], 50)
            ):
                self.broken(at, "a reaction is counted wrongly", emoji=emoji, message=message)

    def on_change(self, at: float, conversation: str, rev: int) -> None:
        """The stream reaches a rev: it rises, and what it passes over is not there any more, or not to be seen."""
        self.foreign(at, conversation, rev)
        position = self.positions.setdefault(conversation, self.beginning(conversation))
        if rev <= position:
            self.broken(at, "a rev came twice or late", conversation=conversation, rev=rev, after=position)
            return
        self.passes(at, conversation, position, rev - 1)
        self.positions[conversation] = rev

    def passes(self, at: float, conversation: str, position: int, to: int) -> None:
        """Nothing that this member may see stands at the revs after `position` up to `to`."""
        committed = self.committed.get(conversation)
        if committed is None or to <= position:
            return
        member = self.member(conversation)
        if member is not None and member.left_rev and not (member.active and position >= member.joined_rev):
            # Of memberships before the last one, nobody knows any more what belonged to them.
            return
        left_out = committed.revs[
            bisect.bisect_right(committed.revs, position) : bisect.bisect_right(committed.revs, to)
        ]
        if left_out and (hidden := self.hidden_to(conversation)):
            visible = {row.rev for seq, row in committed.rows.items() if seq > hidden}
            left_out = [rev for rev in left_out if rev in visible]
        if left_out:
            self.broken(
                at, "revs were left out", conversation=conversation, after=position, revs=left_out[:20]
            )

    def hidden_to(self, conversation: str) -> int:
        member = self.member(conversation)
        return member.joined_seq if member is not None else 0

    def beginning(self, conversation: str) -> int:
        """Where the stream of a conversation begins that the sync did not name."""
        member = self.member(conversation)
        if member is not None and member.joined_rev:
            return 0 if member.left_rev else member.joined_rev - 1
        hidden = self.hidden_to(conversation)
        committed = self.committed.get(conversation)
        if not hidden or committed is None:
            return 0
        return min((row.rev for seq, row in committed.rows.items() if seq > hidden), default=1) - 1

    def on_conversation(self, at: float, frame: Frame) -> None:
        value = frame["conversation"]
        identity, rev = value["id"], value["rev"]
        if frame.get("member") is False:
            if rev <= self.positions.pop(identity, 0):
                self.broken(at, "the end of a membership came late", conversation=identity, rev=rev)
            self.ended[identity] = rev
            return
        if rev <= self.ended.pop(identity, -1):
            self.broken(at, "a group came back late", conversation=identity, rev=rev)
        if rev:
            self.foreign(at, identity, rev)
        if frame.get("reset"):
            self.positions[identity] = rev
        elif rev == 0:
            # A direct conversation opens: no change of its own, but it stands before all of them.
            if self.positions.setdefault(identity, 0) > 0:
                self.broken(
                    at, "a conversation opened late", conversation=identity, after=self.positions[identity]
                )
        elif identity not in self.positions and not self.synced and self.others == "state":
            self.positions[identity] = rev
        else:
            self.on_change(at, identity, rev)

    def on_synced(self, at: float) -> None:
        """After a sync the stream has reached all that anybody knew to be committed when it was asked for."""
        self.synced = True
        if self.synced_from is None:
            self.broken(at, "synced without a sync")
            return
        if not self.marks_told:
            self.broken(at, "synced without marks")
        for identity, stored in self.database.conversations.items():
            member = stored.members.get(self.connection.user)
            if member is None or member.left_rev or identity not in self.committed:
                continue
            known = self.committed[identity].known
            index = bisect.bisect_left(known, (self.synced_from, 0))
            if index:
                self.passes(at, identity, self.positions.get(identity, 0), known[index - 1][1])

    def compare(self, at: float, message: Frame) -> None:
        """What a message says is what is stored, or was before a later change."""
        committed = self.committed.get(message["conversation"])
        row = committed.rows.get(message["seq"]) if committed is not None else None
        if row is None or row.id != message["id"] or row.client_id != message["client_id"]:
            self.broken(at, "a message is not the one that is stored at its place", message=message)
        elif row.rev < message["rev"]:
            self.broken(at, "a message has a rev that is not stored", message=message, stored=row.rev)
        elif row.rev == message["rev"] and (row.body, row.sender) != (message["body"], message["sender"]):
            self.broken(at, "a message says something else than what is stored", message=message)


# --- presence --------------------------------------------------------------------------------------


def check_presence(connections: Iterable[Connection]) -> list[Violation]:
    """On one socket, never the same value twice in a row of one contact."""
    found: list[Violation] = []
    for connection in connections:
        told: dict[str, bool | None] = {}
        for entry in connection.entries:
            frame = entry.frame
            if entry.way != "in":
                continue
            if frame["type"] == "friends":
                told = {friend["username"]: friend["online"] for friend in frame["friends"]}
            elif frame["type"] == "presence":
                username = frame["username"]
                if username in told and told[username] is frame["online"]:
                    details = {"client": connection.client, "connection": connection.number, "frame": frame}
                    found.append(Violation("presence", entry.at, "the same status was told twice", details))
                told[username] = frame["online"]
    return found


# --- answers ---------------------------------------------------------------------------------------


def check_answers(history: History) -> list[Violation]:
    """Every send came to an end, and none was refused: the people in a history are all contacts."""
    found = [Violation("answers", at, "a client gave up", {"why": why}) for at, why in history.failures]
    for send in history.sends:
        if send.outcome == "pending":
            found.append(
                Violation("answers", send.at, "a send was never answered", {"client_id": send.client_id})
            )
        elif send.outcome == "not_found" and history.database.conversations.get(send.to):
            # To a group that its sender was no longer in.
            continue
        elif send.outcome != "acked":
            details = {"client_id": send.client_id, "code": send.outcome}
            found.append(Violation("answers", send.at, "a send was refused", details))
    return found


# --- convergence -----------------------------------------------------------------------------------


def check_converged(
    snapshots: Iterable[Snapshot], database: Database, online: Mapping[str, bool], *, at: float
) -> list[Violation]:
    """What live clients hold is the database's state, and whom they hold to be online is."""
    found: list[Violation] = []
    rows: defaultdict[str, dict[int, StoredMessage]] = defaultdict(dict)
    for message in database.messages:
        rows[message.conversation][message.seq] = message
    for snapshot in snapshots:
        found += _check_state(snapshot, database, rows, at)
        found += _check_marks(snapshot, database, rows, at)
        for username, told in snapshot.friends.items():
            if told is not online[username]:
                details = {"client": snapshot.client, "of": username, "told": told}
                found.append(Violation("presence", at, "a status is not the truth", details))
        for username in online.keys() - snapshot.friends.keys() - {snapshot.user}:
            details = {"client": snapshot.client, "of": username}
            found.append(Violation("presence", at, "a status was never told", details))
    return found


def _check_state(
    snapshot: Snapshot, database: Database, rows: Mapping[str, dict[int, StoredMessage]], at: float
) -> list[Violation]:
    found: list[Violation] = []

    def broken(what: str, **details: Any) -> None:
        found.append(Violation("state", at, what, {"client": snapshot.client, **details}))

    for identity, stored in database.conversations.items():
        member = stored.members.get(snapshot.user)
        if member is None or not stored.head_rev:
            continue
        held = snapshot.conversations.get(identity)
        if not member.active:
            if held is not None:
                broken("a group is held that its user has left", conversation=identity)
            continue
        if held is None:
            broken("a conversation is missing", conversation=identity, head=stored.head_rev)
            continue
        revs = {seq: row.rev for seq, row in rows.get(identity, {}).items()}
        if not stored.visible_head(snapshot.user, revs) <= held.rev <= stored.head_rev:
            broken(
                "a stream has not reached the head", conversation=identity, rev=held.rev, head=stored.head_rev
            )
        present = rows.get(identity, {})
        wrong = [
            seq
            for seq, (rev, id_, body) in held.messages.items()
            if seq not in present
            or (present[seq].rev, present[seq].id, present[seq].body) != (rev, id_, body)
            or present[seq].reactions != held.reactions.get(seq, {})
            or (stored.kind == "group" and seq <= member.joined_seq)
        ]
        if wrong:
            broken("messages differ", conversation=identity, seqs=sorted(wrong)[:20])
        if snapshot.complete:
            missing = sorted(seq for seq in present if seq > member.joined_seq and seq not in held.messages)
            if missing:
                broken("messages are missing", conversation=identity, seqs=missing[:20])
    for identity in snapshot.conversations.keys() - database.conversations.keys():
        broken("a conversation is held that is not stored", conversation=identity)
    return found


def _check_marks(
    snapshot: Snapshot, database: Database, rows: Mapping[str, dict[int, StoredMessage]], at: float
) -> list[Violation]:
    found: list[Violation] = []
    for identity, held in snapshot.conversations.items():
        stored = database.conversations.get(identity)
        if stored is None or snapshot.user not in stored.members or not stored.members[snapshot.user].active:
            continue
        where = {"client": snapshot.client, "conversation": identity}
        for username, member in stored.members.items():
            if not member.active:
                continue
            told = held.marks.get(username, (0, 0))
            if tuple(told) != (member.read, member.delivered):
                marks = {"of": username, "told": list(told), "stored": [member.read, member.delivered]}
                found.append(Violation("marks", at, "marks differ", {**where, **marks}))
        read = stored.members[snapshot.user].read
        unread = sum(
            1
            for seq, row in rows.get(identity, {}).items()
            if seq > read and row.sender != snapshot.user and row.kind == "text" and row.body is not None
        )
        told_unread = {"listed": (snapshot.listed_unread or {}).get(identity)}
        if snapshot.complete:
            told_unread["counted"] = held.unread
        for how, count in told_unread.items():
            if count is not None and count != unread:
                counts = {how: count, "stored": unread}
                found.append(Violation("marks", at, "unread counts differ", {**where, **counts}))
    return found
