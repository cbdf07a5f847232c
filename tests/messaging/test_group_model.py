"""The promise for groups, by the same state machine: members come and go, messages are edited, deleted and reacted
to, while whatever is told of it may be lost, delayed and doubled."""

from __future__ import annotations

import os
import uuid
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connection
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from accounts.models import User
from chatbe.core.errors import ChatError
from chatbe.hub import fanout, outbox
from messaging import changing, groups, living, sync
from messaging.models import Conversation, Membership, Message
from tests.messaging.test_stream_model import OUTBOX_BYTES, USERS, Device, StreamMachine
from tests.support.hubs import Frame, Process, World

pytestmark = pytest.mark.django_db(transaction=True)

EXAMPLES = int(os.environ.get("CHATBE_TEST_EXAMPLES", "30"))


class GroupDevice(Device):
    """A client that also hears of groups that it is no longer in."""

    def connect(self, world: World, process: Process) -> None:
        self.changing: dict[str, bool] = {}
        """Changes that it has asked for on this socket, and whether its stream had begun."""
        super().connect(world, process)

    def change(self, **frame: Any) -> None:
        assert self.wire is not None
        ref = uuid.uuid4().hex
        self.changing[ref] = self.synced
        self.wire.send(ref=ref, **frame)

    def on_ack(self, frame: Frame) -> None:
        if frame["ref"] not in self.changing:
            super().on_ack(frame)
        elif self.changing.pop(frame["ref"]) and not frame["duplicate"]:
            # The change itself has come before.
            conversation = frame["conversation"]
            assert self.last.get(conversation, frame["rev"]) >= frame["rev"], frame

    def on_error(self, frame: Frame) -> None:
        if frame["ref"] in self.changing:
            del self.changing[frame["ref"]]
            assert frame["code"] in {"not_found", "forbidden", "conflict", "unavailable"}, frame
        elif frame["code"] == "not_found":
            # To a group that its user was no longer in.
            _, client_id, _ = self.unanswered.pop(frame["ref"])
            self.sent = [each for each in self.sent if each != client_id]
        else:
            super().on_error(frame)

    def on_conversation(self, frame: Frame) -> None:
        state = frame["conversation"]
        key = state["id"]
        if frame.get("member") is False:
            assert (state["title"], state["members"]) == (None, [])
            self.advance(key, state["rev"])
            for held in (self.titles, self.cursors, self.floors):
                held.pop(key, None)
            for place in [place for place in self.messages if place[0] == key]:
                del self.messages[place]
            return
        unknown = key not in self.titles
        told_all = not self.synced and self.others == "all" and key not in self.named
        super().on_conversation(frame)
        # Whatever is held is named in the next sync.
        self.cursors.setdefault(key, 0)
        if unknown and not told_all and state["rev"]:
            # It pages the history as far as it likes; here, not at all.
            self.floors[key] = max(state["rev"], self.floors.get(key, 0))

    def on_message(self, frame: Frame) -> None:
        assert frame["message"]["conversation"] in self.titles, frame
        super().on_message(frame)

    def check(self) -> None:
        assert not self.unanswered
        assert not self.changing
        mine: dict[tuple[str, int], tuple[int, str | None]] = {}
        active = Membership.objects.filter(user=self.user, active=True, conversation__head_rev__gt=0)
        for membership in active.select_related("conversation"):
            key = str(membership.conversation_id)
            assert self.titles.get(key, "never told") == membership.conversation.title
            for seq, rev, body in Message.objects.filter(
                conversation=membership.conversation_id, seq__gt=membership.joined_seq
            ).values_list("seq", "rev", "body"):
                if rev > self.floors.get(key, 0):
                    mine[key, seq] = (rev, body)
        known = {
            place: what for place, what in self.messages.items() if what[0] > self.floors.get(place[0], 0)
        }
        assert known == mine
        assert {key for key, _ in self.messages} <= self.titles.keys()
        left = Membership.objects.filter(user=self.user, active=False).values_list("conversation", flat=True)
        assert not {str(key) for key in left} & self.titles.keys()


class GroupMachine(StreamMachine):
    """Beside all that goes wrong: what is done with groups and their messages."""

    client = GroupDevice

    def answer_lost(self) -> bool:
        # In one process, no answer is lost on the way.
        return connection.vendor == "postgresql" and super().answer_lost()

    def staged(self) -> None:
        """The group has an owner, as groups have."""
        if not Membership.objects.filter(conversation=self.group, role="owner").exists():
            Membership.objects.filter(conversation=self.group, user=self.users[0]).update(role="owner")
            Conversation.objects.filter(pk=self.group.pk).update(member_count=USERS)

    def owner(self) -> User:
        self.staged()
        return User.objects.get(memberships__conversation=self.group, memberships__role="owner")

    def act(self, process: int, told: bool, act: Any) -> None:
        if self.away:
            return
        here = self.processes[process % len(self.processes)]
        with pytest.MonkeyPatch.context() as patch:
            if not told and connection.vendor == "postgresql":
                patch.setattr(fanout, "send", lambda _groups, _envelope: None)
            try:
                here.context.copy().run(act)
            except ChatError as error:
                assert error.code in {"not_found", "forbidden", "conflict"}

    @rule(place=st.integers(0, 4), process=st.integers(0, 2), told=st.booleans())
    def delete_or_react(self, place: int, process: int, *, told: bool) -> None:
        rows = list(Message.objects.filter(conversation=self.group).order_by("-seq")[:3])
        if not rows:
            return
        row = rows[place % len(rows)]

        def change() -> None:
            owner = self.owner().pk
            if place == 4:
                outcome = living.message_delete(user=owner, conversation=self.group.pk, seq=row.seq)
            else:
                outcome = living.message_react(
                    user=owner, conversation=self.group.pk, seq=row.seq, emoji="👍", on=place % 2 == 0
                )
            changing.tell(outcome.held)

        self.act(process, told, change)

    @rule(number=st.integers(0, 5), seq=st.integers(1, 6), what=st.sampled_from(["edit", "delete", "react"]))
    def change_by_frame(self, number: int, seq: int, what: str) -> None:
        device = self.device(number)
        if not isinstance(device, GroupDevice) or device.wire is None or device.wire.code is not None:
            return
        every: dict[str, dict[str, Any]] = {
            "edit": {"body": "better"}, "delete": {}, "react": {"emoji": "🎉", "on": True},
        }  # fmt: skip
        fields = every[what]
        device.change(type=what, conversation=str(self.group.pk), seq=seq, **fields)

    @rule(user=st.integers(0, USERS - 1), process=st.integers(0, 2), told=st.booleans())
    def add(self, user: int, process: int, *, told: bool) -> None:
        name = self.users[user].username
        self.act(
            process,
            told,
            lambda: groups.members_add(actor=self.owner(), conversation=self.group.pk, usernames=[name]),
        )

    @rule(user=st.integers(0, USERS - 1), process=st.integers(0, 2), told=st.booleans())
    def remove(self, user: int, process: int, *, told: bool) -> None:
        name = self.users[user].username
        self.act(
            process,
            told,
            lambda: groups.member_remove(actor=self.owner(), conversation=self.group.pk, username=name),
        )

    @rule(user=st.integers(0, USERS - 1), process=st.integers(0, 2), told=st.booleans())
    def hand_over(self, user: int, process: int, *, told: bool) -> None:
        name = self.users[user].username
        self.act(
            process,
            told,
            lambda: groups.role_set(
                actor=self.owner(), conversation=self.group.pk, username=name, role="owner"
            ),
        )

    @rule(history=st.sampled_from(["joined", "all"]), process=st.integers(0, 2), told=st.booleans())
    def set_history(self, history: str, process: int, *, told: bool) -> None:
        self.act(
            process,
            told,
            lambda: groups.group_update(actor=self.owner(), conversation=self.group.pk, history=history),
        )


def test_every_member_ends_with_what_is_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    # Small, so that every limit and page boundary is met.
    monkeypatch.setattr(django_settings, "CHATBE_OUTBOX_BYTES", OUTBOX_BYTES)
    monkeypatch.setattr(django_settings, "CHATBE_MAX_UNANSWERED", 8)
    monkeypatch.setattr(django_settings, "CHATBE_WRITER_BATCH", 5)
    monkeypatch.setattr(outbox, "HELD_FRAMES", 4)
    monkeypatch.setattr(sync, "PAGE_CONVERSATIONS", 2)
    monkeypatch.setattr(sync, "PAGE_ROWS", 3)
    monkeypatch.setattr(sync, "GAP_ROWS", 4)
    run_state_machine_as_test(
        GroupMachine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
        ),
    )
