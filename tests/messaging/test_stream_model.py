"""The promise, by a state machine: whatever is lost, delayed, doubled or cut off, every client ends with
what the database has, and every stream on the way there rises.

The reference model is small: a client that keeps the highest rev per message and of each stream, as the
contract tells it to, and the database itself. Processes, sockets, bus and time are of `tests.support.hubs`.
"""

from __future__ import annotations

import os
import random
import uuid
from collections import defaultdict
from typing import Any

import pytest
from django.db import connection, transaction
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from accounts.models import User
from chatbe.core import clock
from chatbe.hub import fanout, outbox
from chatbe.hub.fanout import Envelope
from chatbe.wire import codec, frames
from messaging import selectors, sync
from messaging.models import Conversation, Membership, Message
from tests.support import hubs
from tests.support.hubs import Frame, Process, Wire, World

pytestmark = pytest.mark.django_db(transaction=True)

EXAMPLES = int(os.environ.get("CHATBE_TEST_EXAMPLES", "15"))
"""A search for what is wrong takes some hundreds."""
OUTBOX_BYTES = 1500
USERS = 3
DEVICES = 6


class Device:
    """A client as the contract describes it. It checks each frame and keeps what it learns."""

    def __init__(self, user: User, others: str) -> None:
        self.user = user
        self.others = others
        self.cursors: dict[str, int] = {}
        """Conversation → the highest rev that a stream of this device reached."""
        self.floors: dict[str, int] = {}
        """Conversation → the rev from which on it was told everything."""
        self.messages: dict[tuple[str, int], tuple[int, str | None]] = {}
        self.titles: dict[str, str | None] = {}
        self.unanswered: dict[str, tuple[dict[str, str], str, str]] = {}
        self.unsure: list[tuple[dict[str, str], str, str]] = []
        """Sends whose commit is unknown: where, client_id, body."""
        self.stored: dict[str, tuple[str, int]] = {}
        """client_id → conversation and seq, as acked."""
        self.sent: list[str] = []
        """client_ids of first sends on the present socket, in order."""
        self.wire: Wire | None = None
        self.failure: Exception | None = None

    def connect(self, world: World, process: Process) -> None:
        self.wire = wire = world.connect(process, self.user)
        if wire.code is not None:
            self.wire = None
            return
        wire.on_frame = self.take
        self.named = dict(self.cursors)
        self.last: dict[str, int] = dict(self.named)
        self.synced = False
        self.sent = []
        assert {frame["type"] for frame in wire.frames} == {"welcome"}
        wire.send(type="sync", ref="sync", conversations=self.named, others=self.others)

    def gone(self) -> None:
        self.wire = None
        self.unsure += self.unanswered.values()
        self.unanswered.clear()

    def send(self, to: dict[str, str], client_id: str, body: str, *, again: bool = False) -> None:
        assert self.wire is not None
        ref = uuid.uuid4().hex
        self.unanswered[ref] = (to, client_id, body)
        if not again:
            self.sent.append(client_id)
        self.wire.send(type="send", ref=ref, to=to, client_id=client_id, body=body)

    def take(self, frame: Frame) -> None:
        try:
            getattr(self, f"on_{frame['type']}", lambda _frame: None)(frame)
        except (AssertionError, KeyError) as error:
            # Raised here it would fail the server.
            self.failure = self.failure or error

    def on_message(self, frame: Frame) -> None:
        message = frame["message"]
        self.advance(message["conversation"], message["rev"])
        self.learn(message["conversation"], message["seq"], message["rev"], message["body"])

    def on_ack(self, frame: Frame) -> None:
        _, client_id, body = self.unanswered.pop(frame["ref"])
        assert frame["client_id"] == client_id
        place = (frame["conversation"], frame["seq"])
        assert self.stored.setdefault(client_id, place) == place
        if not frame["duplicate"]:
            self.advance(frame["conversation"], frame["rev"])
            self.learn(frame["conversation"], frame["seq"], frame["rev"], body)

    def on_error(self, frame: Frame) -> None:
        if frame["ref"] == "sync":
            return
        assert frame["code"] == "unavailable", frame
        refused = self.unanswered.pop(frame["ref"])
        self.unsure.append(refused)
        # What is sent again comes after what was taken meanwhile.
        self.sent = [client_id for client_id in self.sent if client_id != refused[1]]

    def on_conversation(self, frame: Frame) -> None:
        state = frame["conversation"]
        assert "reset" not in frame
        self.titles[state["id"]] = state["title"]
        if not state["rev"]:
            # The opening of a direct conversation, or of one that is told from its beginning.
            return
        if not self.synced and self.others == "state" and state["id"] not in self.last:
            self.floors[state["id"]] = self.last[state["id"]] = self.cursors[state["id"]] = state["rev"]
        else:
            self.advance(state["id"], state["rev"])

    def on_synced(self, _frame: Frame) -> None:
        assert not self.synced
        self.synced = True

    def advance(self, conversation: str, rev: int) -> None:
        """The stream's promise: rising revs, each at most once."""
        assert rev > self.last.get(conversation, 0), (conversation, rev, self.last)
        self.last[conversation] = rev
        self.cursors[conversation] = max(rev, self.cursors.get(conversation, 0))

    def learn(self, conversation: str, seq: int, rev: int, body: str | None) -> None:
        if rev > self.messages.get((conversation, seq), (0, None))[0]:
            self.messages[conversation, seq] = (rev, body)

    def check(self) -> None:
        """Everything this client holds is the database's, and nothing is missing."""
        assert not self.unanswered
        mine: dict[tuple[str, int], tuple[int, str | None]] = {}
        for membership in Membership.objects.filter(user=self.user).select_related("conversation"):
            key = str(membership.conversation_id)
            for seq, rev, body in Message.objects.filter(
                conversation=membership.conversation_id, seq__gt=membership.joined_seq
            ).values_list("seq", "rev", "body"):
                if rev > self.floors.get(key, 0):
                    mine[key, seq] = (rev, body)
            if membership.conversation.head_rev:
                assert self.titles.get(key, "never told") == membership.conversation.title
        known = {
            place: what for place, what in self.messages.items() if what[0] > self.floors.get(place[0], 0)
        }
        assert known == mine
        seqs = [self.stored[client_id] for client_id in self.sent if client_id in self.stored]
        in_order: dict[str, list[int]] = defaultdict(list)
        for conversation, seq in seqs:
            in_order[conversation].append(seq)
        assert all(places == sorted(places) for places in in_order.values()), in_order


class StreamMachine(RuleBasedStateMachine):
    """Processes, devices, a database and everything that goes wrong between them."""

    world: World
    client: type[Device] = Device

    @initialize(seed=st.integers(0, 2**32), processes=st.integers(1, 3))
    def begin(self, seed: int, processes: int) -> None:
        self.random = random.Random(seed)
        if connection.vendor == "sqlite":
            # Runs alone: nothing but its own memory tells it of what it did.
            processes = 1
            with connection.cursor() as cursor:
                # Thousands of commits; what a power failure does is not the question here.
                cursor.execute("PRAGMA synchronous = OFF")
        self._context = hubs.world()
        self.world = self._context.__enter__()
        self.processes = [self.world.process() for _ in range(processes)]
        self.users = self.world.friends(USERS)
        self.group = self.world.group(*self.users)
        # The last one joined later and may not see what was before.
        Message.objects.create(
            conversation=self.group, seq=1, rev=2, sender=self.users[0], client_id=uuid.uuid4(), body="early"
        )
        Conversation.objects.filter(pk=self.group.pk).update(head_rev=3, state_rev=3, last_seq=1)
        Membership.objects.filter(conversation=self.group, user=self.users[-1]).update(
            joined_seq=1, joined_rev=3
        )
        self.devices: list[Device] = []
        self.away_until = 0.0
        self.lost_answers = 0
        self.losses = self.doubles = 0.0
        self.slowness = 1.0
        self.world.bus.plan = self.plan
        self.world.database_away = lambda: self.away
        self.world.answer_lost = self.answer_lost
        self.world.delay = lambda: self.random.choice([0.0, 0.0, 0.001, 0.01, 0.03]) * self.slowness
        for number in range(USERS):
            self.sign_in(number, self.random.randrange(3), self.random.choice(["state", "all"]))

    @property
    def away(self) -> bool:
        """Whether the database does not answer."""
        return self.world.loop.now < self.away_until

    # --- what goes wrong -----------------------------------------------------------------------------

    def plan(self, _envelope: Envelope) -> list[float]:
        copies = 0 if self.random.random() < self.losses else 2 if self.random.random() < self.doubles else 1
        return [self.random.choice([0.0, 0.001, 0.01, 0.1]) * self.slowness for _ in range(copies)]

    def answer_lost(self) -> bool:
        self.lost_answers -= 1
        return self.lost_answers >= 0

    @rule(
        trouble=st.sampled_from(["losses", "silence", "doubles", "away", "doubt", "slow", "slower", "none"])
    )
    def trouble(self, trouble: str) -> None:
        """One of the things that go wrong; `none` ends all but the database's absence, which ends by itself."""
        if trouble == "none":
            self.losses = self.doubles = self.slowness = 0.0
        elif trouble in {"losses", "silence"}:
            self.losses = 0.4 if trouble == "losses" else 1.0
        elif trouble == "doubles":
            self.doubles = 0.4
        elif trouble == "away":
            self.away_until = self.world.loop.now + 0.3
        elif trouble == "doubt":
            self.lost_answers = self.random.choice([1, 1, 2])
        else:
            self.slowness = 1.0 if trouble == "slow" else 5.0

    # --- clients -------------------------------------------------------------------------------------

    def device(self, number: int) -> Device | None:
        return self.devices[number % len(self.devices)] if self.devices else None

    @precondition(lambda self: len(self.devices) < DEVICES)
    @rule(user=st.integers(0, USERS - 1), process=st.integers(0, 2), others=st.sampled_from(["state", "all"]))
    def another_device(self, user: int, process: int, others: str) -> None:
        self.sign_in(user, process, others)

    def sign_in(self, user: int, process: int, others: str) -> None:
        device = self.client(self.users[user], others)
        self.devices.append(device)
        device.connect(self.world, self.processes[process % len(self.processes)])

    @rule(number=st.integers(0, DEVICES), process=st.integers(0, 2))
    def come_back(self, number: int, process: int) -> None:
        device = self.device(number)
        if device is not None:
            if device.wire is not None:
                if device.wire.code is None:
                    device.wire.drop()
                device.gone()
            device.connect(self.world, self.processes[process % len(self.processes)])

    @rule(number=st.integers(0, DEVICES))
    def drop(self, number: int) -> None:
        device = self.device(number)
        if device is not None and device.wire is not None:
            device.wire.drop()
            device.gone()

    @rule(number=st.integers(0, DEVICES), on=st.booleans())
    def stall(self, number: int, *, on: bool) -> None:
        device = self.device(number)
        if device is not None and device.wire is not None:
            (device.wire.stall if on else device.wire.resume)()

    @rule(
        number=st.integers(0, DEVICES),
        to=st.integers(0, USERS),
        count=st.sampled_from([1, 1, 4, 12]),
        size=st.sampled_from([1, 400]),
    )
    def send(self, number: int, to: int, count: int, size: int) -> None:
        device = self.device(number)
        if device is None or device.wire is None or device.wire.code is not None:
            return
        target = {"conversation": str(self.group.pk)}
        if to < USERS and self.users[to] != device.user:
            target = {"username": self.users[to].username}
        for place in range(count):
            device.send(target, str(uuid.uuid4()), f"{place} " + "x" * size)

    @rule(number=st.integers(0, DEVICES), other=st.integers(0, DEVICES), to=st.integers(0, USERS))
    def send_to_one_who_does_not_read(self, number: int, other: int, to: int) -> None:
        self.stall(other, on=True)
        self.send(number, to, 6, 400)
        self.wait(0.1)

    @rule(number=st.integers(0, DEVICES))
    def send_again(self, number: int) -> None:
        device = self.device(number)
        if device is not None and device.wire is not None and device.wire.code is None and device.unsure:
            device.send(*device.unsure.pop(), again=True)

    # --- what others change --------------------------------------------------------------------------

    @rule(place=st.integers(0, 5), process=st.integers(0, 2), told=st.booleans(), count=st.integers(1, 3))
    def edit(self, place: int, process: int, count: int, *, told: bool) -> None:
        """As an edit will be: the conversation's lock, the next rev, the message moved to it."""
        found = Message.objects.filter(conversation__memberships__user__in=self.users).order_by("-id")
        rows = list(found.distinct()[:6])
        if self.away or not rows:
            return
        for _ in range(count):
            with transaction.atomic():
                row = rows[place % len(rows)]
                locked = Conversation.objects.select_for_update().get(pk=row.conversation_id)
                row.refresh_from_db()
                locked.head_rev += 1
                locked.save(update_fields=["head_rev"])
                row.rev, row.body, row.edited_at = locked.head_rev, f"edited {locked.head_rev}", clock.now()
                row.save(update_fields=["rev", "body", "edited_at"])
            values = Message.objects.values_list(*selectors.MESSAGE_FIELDS).get(pk=row.pk)
            event = codec.encode(frames.Message(selectors.message_from_row(values)))
            if told or connection.vendor == "sqlite":
                self.tell(process, locked, event, seq=row.seq)

    @rule(process=st.integers(0, 2), told=st.booleans())
    def rename(self, process: int, *, told: bool) -> None:
        if self.away:
            return
        with transaction.atomic():
            locked = Conversation.objects.select_for_update().get(pk=self.group.pk)
            locked.head_rev += 1
            locked.state_rev = locked.head_rev
            locked.title = f"title {locked.head_rev}"
            locked.save(update_fields=["head_rev", "state_rev", "title"])
        state = selectors.conversation_objects([locked.pk])[locked.pk]
        if told or connection.vendor == "sqlite":
            self.tell(process, locked, codec.encode(frames.Conversation(state)))

    def tell(self, process: int, conversation: Conversation, event: bytes, seq: int = 0) -> None:
        pair = conversation.pair
        users = tuple(str(uuid.UUID(user)) for user in pair.split(":")) if pair else None
        self.processes[process % len(self.processes)].context.copy().run(
            fanout.change,
            str(conversation.pk),
            rev=conversation.head_rev,
            seq=seq,
            event=event,
            users=users,
        )

    # --- time ----------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.0, 0.005, 0.02, 0.1, 1.0]))
    def wait(self, seconds: float) -> None:
        self.world.pass_time(seconds)
        self.notice_closed()
        self.nobody_complains()

    @rule(process=st.integers(0, 2))
    def ask(self, process: int) -> None:
        asking = self.processes[process % len(self.processes)]
        if not self.away:
            self.world.run(asking.look())

    @rule()
    def quiesce(self) -> None:
        """Nothing goes wrong any more; after one question to the database everyone has everything."""
        self.away_until, self.lost_answers, self.slowness = 0.0, 0, 0.0
        self.losses = self.doubles = 0.0
        for device in self.devices:
            if device.wire is not None and device.wire.stalled:
                device.wire.resume()
        self.world.pass_time()
        self.notice_closed()
        for device in self.devices:
            if device.wire is None:
                device.connect(self.world, self.processes[0])
            for unsure in device.unsure:
                device.send(*unsure, again=True)
            device.unsure.clear()
        self.world.pass_time()
        for process in self.processes:
            self.world.run(process.look())
        self.world.pass_time()
        self.nobody_complains()
        for device in self.devices:
            wire: Any = device.wire
            assert wire.code is None
            assert device.synced
            assert wire.socket.unanswered == 0
            assert wire.peak < 40 * OUTBOX_BYTES
            device.check()
        for process in self.processes:
            for topic in process.hub.topics.values():
                assert (topic.waiting, topic.repair) == (None, None)
                assert topic.position == Conversation.objects.get(pk=topic.id).head_rev
        assert not self.world.errors

    def nobody_complains(self) -> None:
        for device in self.devices:
            if device.failure is not None:
                raise device.failure

    def notice_closed(self) -> None:
        for device in self.devices:
            if device.wire is not None and device.wire.code is not None:
                device.gone()

    def teardown(self) -> None:
        if hasattr(self, "_context"):
            try:
                self.quiesce()
            finally:
                self._context.__exit__(None, None, None)


def test_every_client_ends_with_what_the_database_has(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.conf import settings as django_settings

    # Small, so that every limit and page boundary is met.
    monkeypatch.setattr(django_settings, "CHATBE_OUTBOX_BYTES", OUTBOX_BYTES)
    monkeypatch.setattr(django_settings, "CHATBE_MAX_UNANSWERED", 8)
    monkeypatch.setattr(django_settings, "CHATBE_WRITER_BATCH", 5)
    monkeypatch.setattr(outbox, "HELD_FRAMES", 4)
    monkeypatch.setattr(sync, "PAGE_CONVERSATIONS", 2)
    monkeypatch.setattr(sync, "PAGE_ROWS", 3)
    monkeypatch.setattr(sync, "GAP_ROWS", 4)
    run_state_machine_as_test(
        StreamMachine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            # Without shrinking, which takes minutes here: the steps that are printed happen again.
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
        ),
    )
