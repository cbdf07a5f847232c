"""What frames do to what a client knows."""

from __future__ import annotations

import random
from typing import Any

import pytest
from chatbe_client import Ack, ChatState, Message

pytestmark = pytest.mark.pure

HERE = "01900000-0000-7000-8000-000000000001"


def message(seq: int, rev: int, sender: str = "bob", **fields: Any) -> dict[str, Any]:
    return {
        "id": f"m{seq}", "conversation": HERE, "seq": seq, "rev": rev, "kind": "text", "sender": sender,
        "body": f"{seq} at {rev}", "client_id": f"c{seq}", "reply_to": None, "reactions": {},
        "created_at": "2026-01-01T00:00:00.000000Z", "edited_at": None, "deleted_at": None, "new_field": 1, **fields,
    }  # fmt: skip


def test_per_seq_the_highest_rev_wins_in_whatever_order_they_come() -> None:
    changes = [message(1, 1), message(2, 2), message(1, 3), message(2, 4), message(1, 5)]
    for seed in range(20):
        state = ChatState("alice")
        for change in random.Random(seed).sample(changes, len(changes)):
            state.on_message(change)
        held = state.conversations[HERE]
        assert {seq: item.rev for seq, item in held.messages.items()} == {1: 5, 2: 4}
        assert state.cursors() == {HERE: 5}


def test_an_ack_stands_for_its_event_unless_it_is_a_duplicate() -> None:
    state = ChatState("alice")
    ack = Ack(HERE, 3, 7, "m3", "c3", "2026-01-01T00:00:00.000000Z", duplicate=False)
    state.on_ack(ack, {"type": "send", "body": "mine"})
    assert state.cursors() == {HERE: 7}
    held = state.conversations[HERE]
    assert (held.messages[3].body, held.messages[3].sender) == ("mine", "alice")
    assert held.marks["alice"] == (3, 3)
    state.on_ack(Ack(HERE, 4, 9, "m4", "c4", "", duplicate=True), {"type": "send", "body": "again"})
    assert state.cursors() == {HERE: 7}
    assert 4 not in held.messages


def test_pages_of_history_do_not_move_the_cursor() -> None:
    state = ChatState("alice")
    state.on_message(message(1, 1))
    state.keep(Message.from_wire(message(9, 30)))
    assert state.cursors() == {HERE: 1}


def test_unread_counts_others_texts_after_the_read_mark() -> None:
    state = ChatState("alice")
    for seq, sender in enumerate(("bob", "bob", "alice", "bob", "bob"), start=1):
        state.on_message(message(seq, seq, sender))
    held = state.conversations[HERE]
    assert held.unread("alice") == 2
    state.on_message(message(4, 6, deleted_at="2026-01-01T00:00:00.000000Z", body=None))
    assert held.unread("alice") == 1
    held.move_marks("alice", 5, 0)
    assert held.unread("alice") == 0
    assert held.marks["alice"] == (5, 5)


def test_marks_never_move_back() -> None:
    state = ChatState("alice")
    state.on_marks({"marks": {HERE: {"bob": [4, 6]}}})
    assert not state.conversation(HERE).move_marks("bob", 3, 5)
    assert state.conversation(HERE).marks["bob"] == (4, 6)


def test_reset_drops_what_was_held_and_leaving_forgets_it() -> None:
    state = ChatState("alice")
    state.on_message(message(8, 40))
    state.on_conversation({"conversation": {"id": HERE, "rev": 12}, "reset": True})
    assert state.cursors() == {HERE: 12}
    assert not state.conversations[HERE].messages
    state.on_conversation({"conversation": {"id": HERE, "rev": 13}, "member": False})
    assert state.cursors() == {}


def test_another_epoch_forgets_everything() -> None:
    state = ChatState("alice")
    assert not state.begin_epoch("one")
    state.on_message(message(1, 1))
    assert not state.begin_epoch("one")
    assert state.begin_epoch("two")
    assert state.cursors() == {}


def test_friends_replace_and_presence_changes_statuses() -> None:
    state = ChatState("alice")
    state.on_friends({"friends": [{"username": "bob", "online": False, "last_seen": None}]})
    state.on_presence({"username": "bob", "online": True, "last_seen": None})
    state.on_presence({"username": "carol", "online": True, "last_seen": None})
    assert {name: friend.online for name, friend in state.friends.items()} == {"bob": True, "carol": True}
    state.on_presence({"username": "bob", "online": None, "last_seen": None})
    assert set(state.friends) == {"carol"}
    state.on_friends({"friends": []})
    assert not state.friends
