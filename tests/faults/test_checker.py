"""The checker finds what is wrong: an honest history passes, and each fault planted in it is named."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import checker, report
from tests.faults.checker import Violation
from tests.faults.history import (
    Change,
    Connection,
    Database,
    Entry,
    Frame,
    Held,
    History,
    Member,
    Round,
    Send,
    Snapshot,
    StoredConversation,
    StoredMessage,
    read,
)

pytestmark = pytest.mark.pure

CONVERSATION = "01900000-0000-7000-8000-000000000001"


class Story:
    """Alice, with two devices, writes to bob; what each socket sees is added here, line by line."""

    def __init__(self) -> None:
        self.history = History(seed=7)
        self.now = 0.0
        self.history.rounds.append(Round("calm", 0, 0.0, 1.0, 2.0, 100.0, 0.5))
        members = {"alice": Member(0, 0), "bob": Member(0, 0)}
        self.conversation = StoredConversation(CONVERSATION, "direct", 0, 0, 0, members)
        self.history.database.conversations[CONVERSATION] = self.conversation

    def tick(self) -> float:
        self.now += 0.1
        return round(self.now, 3)

    def connect(
        self, client: str, cursors: dict[str, int] | None = None, *, others: str = "all", number: int = 1
    ) -> Connection:
        user = client.partition("/")[0]
        connection = Connection(client, user, number, "ws://here/v1/ws", self.tick())
        self.history.connections.append(connection)
        self.hear(connection, type="welcome", user=user)
        self.hear(connection, type="friends", friends=[{"username": "carol", "online": False}])
        self.say(connection, type="sync", ref="sync", conversations=cursors or {}, others=others)
        return connection

    def synced(self, connection: Connection) -> None:
        self.hear(connection, type="marks", marks={})
        self.hear(connection, type="synced", ref="sync")

    def say(self, connection: Connection, **frame: object) -> Frame:
        connection.entries.append(Entry(self.tick(), "out", dict(frame)))
        return connection.entries[-1].frame

    def hear(self, connection: Connection, **frame: object) -> Frame:
        connection.entries.append(Entry(self.tick(), "in", dict(frame)))
        return connection.entries[-1].frame

    def store(self, sender: str, body: str, client_id: str) -> StoredMessage:
        conversation = self.conversation
        conversation.head_rev += 1
        conversation.last_seq += 1
        row = StoredMessage(
            str(uuid.uuid4()),
            CONVERSATION,
            conversation.last_seq,
            conversation.head_rev,
            sender,
            client_id,
            body,
        )
        self.history.database.messages.append(row)
        conversation.members[sender] = Member(row.seq, row.seq)
        return row

    def send(self, connection: Connection, body: str) -> StoredMessage:
        """Send and store; the ack is heard with `ack`."""
        client_id = str(uuid.uuid4())
        self.say(connection, type="send", ref=body, to={"username": "bob"}, client_id=client_id, body=body)
        self.history.sends.append(
            Send(connection.client, connection.user, client_id, "bob", body, self.now, self.now, "acked")
        )
        return self.store(connection.user, body, client_id)

    def ack(self, connection: Connection, row: StoredMessage, *, duplicate: bool = False) -> Frame:
        return self.hear(
            connection, type="ack", ref=row.body, conversation=CONVERSATION, seq=row.seq, rev=row.rev, id=row.id,
            client_id=row.client_id, created_at="2026-01-01T00:00:00.000000Z", duplicate=duplicate,
        )  # fmt: skip

    def message(self, connection: Connection, row: StoredMessage) -> Frame:
        return self.hear(
            connection,
            type="message",
            message={
                "id": row.id, "conversation": CONVERSATION, "seq": row.seq, "rev": row.rev, "sender": row.sender,
                "client_id": row.client_id, "body": row.body, "kind": row.kind,
            },
        )  # fmt: skip

    def opening(self, connection: Connection, *, rev: int = 0) -> Frame:
        return self.hear(connection, type="conversation", conversation={"id": CONVERSATION, "rev": rev})


class Told(Story):
    """The honest story: four messages, a cut, a repeat, a device that joins late, one that asks for the state."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = self.connect("alice/0")
        self.synced(self.desk)
        self.bob = self.connect("bob/0")
        self.synced(self.bob)
        self.first = self.send(self.desk, "one")
        for connection in (self.desk, self.bob):
            self.opening(connection)
        self.ack(self.desk, self.first)
        self.message(self.bob, self.first)
        self.second = self.send(self.desk, "two")
        self.message(self.bob, self.second)
        # The ack of the second is lost with the socket: sent again, it is a repeat.
        self.desk.closed_at = self.tick()
        self.back = self.connect("alice/0", {CONVERSATION: 1}, number=2)
        self.say(
            self.back,
            type="send",
            ref="two",
            to={"username": "bob"},
            client_id=self.second.client_id,
            body="two",
        )
        self.ack(self.back, self.second, duplicate=True)
        self.message(self.back, self.second)
        self.synced(self.back)
        self.phone = self.connect("alice/1", others="state")
        self.opening(self.phone, rev=2)
        self.synced(self.phone)
        self.third = self.send(self.back, "three")
        self.ack(self.back, self.third)
        self.message(self.bob, self.third)
        self.message(self.phone, self.third)
        self.fourth = self.send(self.phone, "four")
        self.ack(self.phone, self.fourth)
        self.message(self.back, self.fourth)
        self.message(self.bob, self.fourth)
        self.hear(self.bob, type="presence", username="carol", online=True)
        self.hear(self.bob, type="presence", username="carol", online=False)
        self.last_of_bob = self.connect("bob/0", {CONVERSATION: 4}, number=2)
        self.synced(self.last_of_bob)


def test_an_honest_history_keeps_every_promise() -> None:
    assert checker.check(Told().history) == []


def lose_a_row(story: Told) -> None:
    story.history.database.messages.remove(story.third)


def lose_the_last_row(story: Told) -> None:
    story.history.database.messages.remove(story.fourth)
    story.conversation.last_seq = story.conversation.head_rev = 3


def store_twice(story: Told) -> None:
    story.store("alice", "two", story.second.client_id)


def use_a_rev_twice(story: Told) -> None:
    story.second.rev = 3


def burn_a_rev(story: Told) -> None:
    story.conversation.head_rev += 1


def store_what_nobody_sent(story: Told) -> None:
    story.message(story.last_of_bob, story.store("alice", "who?", str(uuid.uuid4())))


def store_another_body(story: Told) -> None:
    story.third.body = "thr"
    for connection in (story.bob, story.phone):
        for entry in connection.entries:
            if entry.frame["type"] == "message" and entry.frame["message"]["id"] == story.third.id:
                entry.frame["message"]["body"] = "thr"


def ack_another_place(story: Told) -> None:
    next(e for e in story.desk.entries if e.frame["type"] == "ack").frame["seq"] = 2


def store_what_was_refused(story: Told) -> None:
    story.history.sends[2].outcome = "blocked"


def answer_a_repeat_anew(story: Told) -> None:
    story.ack(story.phone, story.first, duplicate=True)["id"] = story.second.id


def say_twice_that_it_is_the_first(story: Told) -> None:
    story.message(story.phone, story.fourth)
    story.phone.entries.pop()
    other = story.connect("alice/2", {CONVERSATION: 3})
    story.ack(other, story.fourth)
    story.synced(other)


def overtake(story: Told) -> None:
    a, b = story.history.sends[0], story.history.sends[1]
    a.client_id, b.client_id, a.body, b.body = b.client_id, a.client_id, b.body, a.body


def tell_a_message_twice(story: Told) -> None:
    story.message(story.bob, story.third)


def tell_after_the_ack(story: Told) -> None:
    story.message(story.back, story.third)


def skip_a_message(story: Told) -> None:
    story.bob.entries = [
        entry
        for entry in story.bob.entries
        if entry.frame["type"] != "message" or entry.frame["message"]["seq"] != 2
    ]


def skip_in_a_sync(story: Told) -> None:
    story.back.entries = [
        entry
        for entry in story.back.entries
        if entry.frame["type"] != "message" or entry.frame["message"]["seq"] != 2
    ]
    # Nothing comes later that would show it.
    del story.back.entries[7:]


def swap_two(story: Told) -> None:
    places = [
        index
        for index, entry in enumerate(story.bob.entries)
        if entry.frame["type"] == "message" and entry.frame["message"]["seq"] in (2, 3)
    ]
    one, other = (story.bob.entries[place] for place in places)
    one.frame, other.frame = other.frame, one.frame


def ack_too_early(story: Told) -> None:
    """The ack of the third goes out while the sync still has the second to send."""
    acks = [entry for entry in story.back.entries if entry.frame["type"] == "ack"]
    story.back.entries.remove(acks[1])
    story.back.entries.insert(4, acks[1])


def speak_before_the_sync(story: Told) -> None:
    receipt = {"type": "receipt", "conversation": CONVERSATION, "username": "bob", "read": 1, "delivered": 1}
    story.bob.entries.insert(1, Entry(story.bob.entries[0].at, "in", receipt))


def sync_without_marks(story: Told) -> None:
    story.bob.entries = [entry for entry in story.bob.entries if entry.frame["type"] != "marks"]


def open_late(story: Told) -> None:
    story.opening(story.bob)


def tell_another_message(story: Told) -> None:
    story.bob.entries[-3].frame["message"]["id"] = str(uuid.uuid4())


def tell_another_body(story: Told) -> None:
    story.bob.entries[-3].frame["message"]["body"] = "for"


def start_too_far(story: Told) -> None:
    """A conversation that opened during the stream begins in its middle."""
    for entry in list(story.bob.entries):
        if entry.frame["type"] == "conversation" or (
            entry.frame["type"] == "message" and entry.frame["message"]["seq"] == 1
        ):
            story.bob.entries.remove(entry)


def tell_a_status_twice(story: Told) -> None:
    story.hear(story.bob, type="presence", username="carol", online=False)


def tell_what_friends_told(story: Told) -> None:
    story.hear(story.phone, type="presence", username="carol", online=False)


def leave_a_send_without_answer(story: Told) -> None:
    story.history.sends[3].outcome = "pending"


def refuse_a_contact(story: Told) -> None:
    story.history.sends[3].outcome = "not_contact"


def give_up(story: Told) -> None:
    story.history.failures.append((3.0, "alice/0: SignedOut"))


PLANTED: list[tuple[Callable[[Told], None], str, str]] = [
    (lose_a_row, "stored", "an acked message is not stored"),
    (lose_a_row, "stored", "seqs have gaps"),
    (lose_the_last_row, "stored", "an acked message is not stored"),
    (lose_the_last_row, "stream", "not the one that is stored"),
    (store_twice, "stored", "a client_id is stored twice"),
    (use_a_rev_twice, "stored", "a rev is used twice"),
    (burn_a_rev, "stored", "the head is not the highest rev"),
    (store_what_nobody_sent, "stored", "nobody sent"),
    (store_another_body, "changes", "another body"),
    (ack_another_place, "stored", "another place"),
    (store_what_was_refused, "stored", "a refused message is stored"),
    (answer_a_repeat_anew, "repeat", "another ack"),
    (say_twice_that_it_is_the_first, "repeat", "two acks"),
    (overtake, "order", "overtook"),
    (tell_a_message_twice, "stream", "twice or late"),
    (tell_after_the_ack, "stream", "twice or late"),
    (skip_a_message, "stream", "left out"),
    (skip_in_a_sync, "stream", "left out"),
    (swap_two, "stream", "twice or late"),
    (ack_too_early, "stream", "left out"),
    (speak_before_the_sync, "stream", "before the sync"),
    (sync_without_marks, "stream", "without marks"),
    (open_late, "stream", "opened late"),
    (tell_another_message, "stream", "not the one that is stored"),
    (tell_another_body, "stream", "something else"),
    (start_too_far, "stream", "left out"),
    (tell_a_status_twice, "presence", "twice"),
    (tell_what_friends_told, "presence", "twice"),
    (leave_a_send_without_answer, "answers", "never answered"),
    (refuse_a_contact, "answers", "refused"),
    (give_up, "answers", "gave up"),
]


@pytest.mark.parametrize(
    ("plant", "promise", "words"), PLANTED, ids=lambda value: getattr(value, "__name__", value)
)
def test_a_planted_fault_is_found(plant: Callable[[Told], None], promise: str, words: str) -> None:
    story = Told()
    plant(story)
    found = checker.check(story.history)
    assert any(violation.promise == promise and words in violation.what for violation in found), found


def test_what_a_later_change_superseded_may_be_left_out() -> None:
    story = Told()
    # The second message was edited after all: its rev is the newest, and nobody need see the old one.
    story.conversation.head_rev = story.second.rev = 5
    skip_a_message(story)
    story.back.entries = [
        entry
        for entry in story.back.entries
        if entry.frame["type"] != "message" or entry.frame["message"]["seq"] != 2
    ]
    assert [found for found in checker.check(story.history) if found.promise == "stream"] == []


def test_what_was_sent_before_joining_is_not_missed() -> None:
    story = Told()
    story.conversation.members["dora"] = Member(4, 4, joined_seq=3)
    late = story.connect("dora/0")
    story.message(late, story.fourth)
    story.synced(late)
    assert checker.check(story.history) == []


def test_a_message_that_was_told_to_try_again_may_be_overtaken() -> None:
    story = Told()
    overtake(story)
    story.hear(story.desk, type="error", ref="one", code="unavailable", detail="")
    assert [found for found in checker.check(story.history) if found.promise == "order"] == []


# --- convergence -------------------------------------------------------------------------------------


ONLINE = {"alice": True, "bob": True, "carol": False}


def converged() -> tuple[Snapshot, Database]:
    story = Told()
    held = Held(
        rev=4,
        messages={row.seq: (row.rev, row.id, row.body) for row in story.history.database.messages},
        marks={name: (member.read, member.delivered) for name, member in story.conversation.members.items()},
        unread=4,
    )
    friends = {"alice": True, "carol": False}
    snapshot = Snapshot("bob/0", "bob", True, {CONVERSATION: held}, friends, {CONVERSATION: 4})
    return snapshot, story.history.database


def judge(change: Callable[[Snapshot], None]) -> list[Violation]:
    snapshot, database = converged()
    change(snapshot)
    return checker.check_converged([snapshot], database, ONLINE, at=1.0)


def test_a_converged_client_is_left_in_peace() -> None:
    assert judge(lambda snapshot: None) == []


def _held(snapshot: Snapshot) -> Held:
    return snapshot.conversations[CONVERSATION]


@pytest.mark.parametrize(
    ("change", "promise", "words"),
    [
        (lambda it: it.conversations.clear(), "state", "a conversation is missing"),
        (lambda it: setattr(_held(it), "rev", 3), "state", "not reached the head"),
        (lambda it: _held(it).messages.pop(2), "state", "messages are missing"),
        (lambda it: _held(it).messages.update({2: (2, "x", "two")}), "state", "messages differ"),
        (lambda it: _held(it).messages.update({9: (9, "x", "ghost")}), "state", "messages differ"),
        (lambda it: it.conversations.update(x=Held(1, {}, {}, 0)), "state", "that is not stored"),
        (lambda it: _held(it).marks.update(alice=(3, 4)), "marks", "marks differ"),
        (lambda it: _held(it).marks.clear(), "marks", "marks differ"),
        (lambda it: setattr(_held(it), "unread", 3), "marks", "unread counts differ"),
        (lambda it: it.listed_unread.update({CONVERSATION: 5}), "marks", "unread counts differ"),
        (lambda it: it.friends.update(carol=True), "presence", "not the truth"),
        (lambda it: it.friends.pop("alice"), "presence", "never told"),
    ],
)
def test_a_client_that_has_not_converged_is_named(
    change: Callable[[Snapshot], None], promise: str, words: str
) -> None:
    found = judge(change)
    assert any(violation.promise == promise and words in violation.what for violation in found), found


def test_who_asked_for_the_state_need_not_hold_what_was_before() -> None:
    def forget(snapshot: Snapshot) -> None:
        snapshot.complete = False
        _held(snapshot).messages.pop(1)

    assert judge(forget) == []


# --- the report --------------------------------------------------------------------------------------


def test_a_kept_history_is_judged_the_same(tmp_path: Path) -> None:
    story = Told()
    tell_a_message_twice(story)
    story.history.write(tmp_path / "history.jsonl.gz")
    again = read(tmp_path / "history.jsonl.gz")
    assert again == story.history
    assert checker.check(again) == checker.check(story.history)


def test_the_table_shows_the_round_and_the_promise() -> None:
    story = Told()
    lines = report.table(story.history, checker.check(story.history)).splitlines()
    assert lines[1].split()[0] == "calm"
    assert lines[1].count("kept") == len(checker.PROMISES)
    tell_a_message_twice(story)
    story.conversation.head_rev += 1
    violations = checker.check(story.history)
    lines = report.table(story.history, violations).splitlines()
    assert "BROKEN 1" in lines[1]
    assert lines[2].startswith("(no moment)")
    assert "twice or late" in report.describe(violations)
    evidence = report.verdict(copy.deepcopy(story.history), violations, {})
    assert not evidence["kept"]
    assert evidence["rounds"][0]["broken"] == {"stream": 1}


# --- groups, and messages that live ------------------------------------------------------------------


class Group(Story):
    """Alice's group: bob reacts to what she edits, she deletes another message, bob is removed and comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.conversation.kind = "group"
        self.conversation.head_rev = self.conversation.state_rev = 1
        self.conversation.members = {"alice": Member(0, 0, joined_rev=1), "bob": Member(0, 0, joined_rev=1)}
        self.alice = self.connect("alice/0")
        self.bob = self.connect("bob/0")
        for connection in (self.alice, self.bob):
            self.opening(connection, rev=1)
            self.synced(connection)
        self.first, self.second = self.send(self.alice, "one"), self.send(self.alice, "two")
        for row in (self.first, self.second):
            self.ack(self.alice, row)
            self.message(self.bob, row)
        self.edit = self.change("alice", "edit", self.first, "better")
        self.first.body = "better"
        self.tell(self.first)
        self.reaction = self.change("bob", "react", self.first, "👍")
        self.first.reactions = {"👍": ["bob"]}
        self.tell(self.first)
        self.deletion = self.change("alice", "delete", self.second, "")
        self.second.body = None
        self.tell(self.second)
        self.end = self.hear(
            self.bob,
            type="conversation",
            member=False,
            conversation={"id": CONVERSATION, "rev": self.state()},
        )
        self.conversation.members["bob"] = Member(0, 0, left_rev=7, joined_rev=9, joined_seq=3)
        self.third = self.send(self.alice, "three")
        self.ack(self.alice, self.third)
        self.opening(self.alice, rev=self.state())
        self.back = self.opening(self.bob, rev=9)
        self.fourth = self.send(self.alice, "four")
        self.ack(self.alice, self.fourth)
        self.message(self.bob, self.fourth)
        self.conversation.members["alice"].joined_rev = 1

    def state(self) -> int:
        self.conversation.head_rev += 1
        self.conversation.state_rev = self.conversation.head_rev
        return self.conversation.state_rev

    def change(self, user: str, kind: str, row: StoredMessage, value: str) -> Change:
        self.conversation.head_rev += 1
        row.rev = self.conversation.head_rev
        connection = self.alice if user == "alice" else self.bob
        self.say(connection, type=kind, ref=f"change {row.rev}", conversation=CONVERSATION, seq=row.seq)
        change = Change(
            connection.client, user, kind, CONVERSATION, row.seq, value, True, self.now, "acked", row.rev
        )
        self.history.changes.append(change)
        return change

    def tell(self, row: StoredMessage) -> None:
        """The change comes to both, and the ack to who asked after it."""
        for connection in (self.alice, self.bob):
            message = self.message(connection, row)["message"]
            message["reactions"] = {
                emoji: {"count": len(names), "usernames": list(names)}
                for emoji, names in row.reactions.items()
            }
        asking = self.bob if self.history.changes[-1].user == "bob" else self.alice
        ack = self.ack(asking, row)
        ack["ref"] = f"change {row.rev}"


def lose_an_edit(group: Group) -> None:
    group.first.body = "one"


def resurrect(group: Group) -> None:
    group.second.body = "two"


def tell_what_was_deleted(group: Group) -> None:
    group.conversation.head_rev = 12
    group.second.rev = 12
    group.message(group.alice, group.second)["message"]["body"] = "two"


def delete_what_nobody_deleted(group: Group) -> None:
    group.deletion.outcome = "forbidden"


def lose_a_reaction(group: Group) -> None:
    group.first.reactions = {}


def double_a_reaction(group: Group) -> None:
    group.first.reactions = {"👍": ["bob", "bob"]}


def count_a_reaction_twice(group: Group) -> None:
    for entry in group.bob.entries:
        for told in entry.frame.get("message", {}).get("reactions", {}).values():
            told["usernames"] = ["bob", "bob"]


def react_unasked(group: Group) -> None:
    group.first.reactions = {"👍": ["bob"], "🎉": ["alice"]}


def keep_what_was_taken_off(group: Group) -> None:
    group.reaction.on = False


def show_a_removed_member(group: Group) -> None:
    place = next(i for i, entry in enumerate(group.bob.entries) if entry.frame is group.end)
    group.message(group.bob, group.third)
    group.bob.entries.insert(place + 1, group.bob.entries.pop())


def say_nothing_of_the_end(group: Group) -> None:
    show_a_removed_member(group)
    group.bob.entries = [entry for entry in group.bob.entries if entry.frame is not group.end]


def bring_back_late(group: Group) -> None:
    group.back["conversation"]["rev"] = 7


@pytest.mark.parametrize(
    ("plant", "promise", "what"),
    [
        (lose_an_edit, "changes", "an edit is lost"),
        (resurrect, "changes", "there again"),
        (tell_what_was_deleted, "stream", "came back"),
        (delete_what_nobody_deleted, "changes", "nobody deleted"),
        (lose_a_reaction, "changes", "a reaction is lost"),
        (double_a_reaction, "changes", "stored twice"),
        (count_a_reaction_twice, "stream", "counted wrongly"),
        (react_unasked, "changes", "nobody asked"),
        (keep_what_was_taken_off, "changes", "taken off"),
        (show_a_removed_member, "members", "not a member"),
        (say_nothing_of_the_end, "members", "not a member"),
        (bring_back_late, "stream", "came back late"),
    ],
)
def test_a_fault_planted_in_a_group_is_found(plant: Callable[[Group], None], promise: str, what: str) -> None:
    honest = Group()
    assert checker.check(honest.history) == []
    plant(honest)
    found = checker.check(honest.history)
    assert any(each.promise == promise and what in each.what for each in found), found


def test_a_group_that_its_user_has_left_is_held_by_nobody() -> None:
    group = Group()
    group.conversation.members["bob"] = Member(0, 0, active=False, left_rev=7, joined_rev=1)
    held = Held(7, {}, {}, 0)
    snapshot = Snapshot("bob/0", "bob", True, {CONVERSATION: held}, {})
    (found,) = checker.check_converged([snapshot], group.history.database, {"bob": True}, at=1.0)
    assert (found.promise, found.what) == ("state", "a group is held that its user has left")
    gone = Snapshot("bob/0", "bob", True, {}, {})
    assert checker.check_converged([gone], group.history.database, {"bob": True}, at=1.0) == []


@pytest.mark.parametrize("returned", [True, False])
def test_who_was_no_member_and_did_not_hear_so_may_be_overtaken(*, returned: bool) -> None:
    story = Story()
    first, bob = story.connect("alice/0"), story.connect("bob/0")
    client_id = str(uuid.uuid4())
    frame = {"type": "send", "ref": "e", "to": {"username": "bob"}, "client_id": client_id, "body": "early"}
    story.say(first, **frame)
    story.history.sends.append(
        Send("alice/0", "alice", client_id, "bob", "early", story.now, story.now, "acked")
    )
    if returned:
        row = story.store("bob", "bob added carol, alice", str(uuid.uuid4()))
        row.kind = "system"
        story.message(bob, row)
    story.send(first, "late")
    story.say(story.connect("alice/0", number=2), **frame)
    story.store("alice", "early", client_id)
    assert [violation.promise for violation in checker.check_order(story.history)] == (
        [] if returned else ["order"]
    )
