"""The batch: one suite and one reference model for every backend."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.db import connection, connections, transaction
from django.db.backends.postgresql.base import DatabaseWrapper
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from accounts.models import Block, Contact, User
from chatbe.core import clock, ids
from messaging.models import Conversation, Membership, Message, pair_key
from messaging.writer import settle
from messaging.writer.base import BatchConflicts, BatchFailed, DatabaseAway, Item, ThreadBackend, Verdict
from messaging.writer.orm import OrmBackend
from messaging.writer.postgres import DirectBackend, PostgresBackend, connect

pytestmark = pytest.mark.django_db(transaction=True)


class OnItsLoop:
    """The event loop's backend, driven from outside, so that one suite serves all."""

    def __init__(self, **options: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.store = self.loop.run_until_complete(self._make(options))

    async def _make(self, options: dict[str, Any]) -> PostgresBackend:
        return PostgresBackend(**options)

    def commit(self, batch: Sequence[Item], **options: Any) -> list[Verdict]:
        outcome = self.loop.create_future()
        self.loop.call_soon(lambda: self.store.begin(batch, done=outcome.set_result, **options))
        result = self.loop.run_until_complete(outcome)
        if isinstance(result, Exception):
            raise result
        return list(result)

    def close(self) -> None:
        self.store.close()
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


STORES: dict[str, Callable[[], ThreadBackend]] = {
    "orm": OrmBackend,
    "direct": DirectBackend,
    "loop": OnItsLoop,
}
BACKENDS = ["orm", *(pytest.param(name, marks=pytest.mark.cluster) for name in ("direct", "loop"))]


@pytest.fixture(params=BACKENDS)
def store(request: pytest.FixtureRequest) -> Iterator[ThreadBackend]:
    """Each backend that this database has."""
    backend = STORES[request.param]()
    yield backend
    backend.close()


def make_user() -> User:
    return User.objects.create(username=f"u{uuid.uuid4().hex[:20]}")


def make_direct(one: User, other: User) -> Conversation:
    made = Conversation.objects.create(kind="direct", pair=pair_key(one.pk, other.pk))
    Membership.objects.bulk_create([Membership(conversation=made, user=user) for user in (one, other)])
    return made


def item(conversation: Any, sender: User, body: str = "hello", **fields: Any) -> Item:
    values: dict[str, Any] = {"client_id": str(uuid.uuid4()), "reply_to": None, **fields}
    return Item(
        str(ids.uuid7()), str(getattr(conversation, "pk", conversation)), str(sender.pk), body=body, **values
    )


def commit(store: ThreadBackend, *batch: Item, policy: str = "contacts", wait: bool = True) -> list[Verdict]:
    return store.commit(batch, now=clock.now(), policy=policy, wait=wait)


@dataclass
class Pair:
    """Two people and their conversation; alice has added bob."""

    alice: User = field(default_factory=make_user)
    bob: User = field(default_factory=make_user)

    def __post_init__(self) -> None:
        Contact.objects.create(owner=self.alice, target=self.bob)
        self.conversation = make_direct(self.alice, self.bob)


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_messages_get_their_places_in_order(store: ThreadBackend, pair: Pair) -> None:
    verdicts = commit(store, *(item(pair.conversation, pair.alice, str(number)) for number in range(5)))
    assert [(verdict.code, verdict.seq, verdict.rev) for verdict in verdicts] == [
        ("ok", n, n) for n in range(1, 6)
    ]
    more = commit(store, item(pair.conversation, pair.bob, "answer"))
    assert (more[0].seq, more[0].rev) == (6, 6)
    rows = Message.objects.order_by("seq").values_list("body", "seq", "rev", "kind")
    assert list(rows) == [*((str(n), n + 1, n + 1, "text") for n in range(5)), ("answer", 6, 6, "text")]
    pair.conversation.refresh_from_db()
    assert (pair.conversation.head_rev, pair.conversation.last_seq) == (6, 6)


def test_what_is_returned_is_what_is_stored(store: ThreadBackend, pair: Pair) -> None:
    sent = item(pair.conversation, pair.alice, "é😀\n\"'\\", reply_to=None)
    verdict = commit(store, sent)[0]
    row = Message.objects.get()
    assert (str(row.pk), str(row.client_id), row.body, row.sender_id) == (
        sent.id, sent.client_id, sent.body, pair.alice.pk,
    )  # fmt: skip
    assert (verdict.id, verdict.conversation) == (sent.id, sent.conversation)
    assert verdict.created_at == clock.timestamp(row.created_at)


def test_sending_moves_the_senders_own_marks(store: ThreadBackend, pair: Pair) -> None:
    commit(store, item(pair.conversation, pair.alice), item(pair.conversation, pair.alice))
    marks = {row.user_id: (row.read_seq, row.delivered_seq, row.wrote) for row in Membership.objects.all()}
    assert marks == {pair.alice.pk: (2, 2, True), pair.bob.pk: (0, 0, False)}


def test_a_client_id_is_stored_once_and_answered_with_its_first_place(
    store: ThreadBackend, pair: Pair
) -> None:
    sent = item(pair.conversation, pair.alice)
    first = commit(store, sent)[0]
    commit(store, item(pair.conversation, pair.alice))
    again = commit(store, item(pair.conversation, pair.alice, "other words", client_id=sent.client_id))[0]
    assert (again.code, again.id, again.seq, again.rev) == ("repeat", first.id, 1, 1)
    assert again.created_at == first.created_at
    elsewhere = make_direct(pair.alice, make_user())
    in_another = commit(store, item(elsewhere, pair.alice, client_id=sent.client_id))[0]
    assert (in_another.code, in_another.conversation) == ("repeat", str(pair.conversation.pk))
    assert Message.objects.count() == 2


def test_the_client_id_of_a_system_message_is_no_repeat(store: ThreadBackend, pair: Pair) -> None:
    said = Message.objects.create(
        conversation=pair.conversation, seq=1, rev=1, sender=pair.alice, client_id=uuid.uuid4(), kind="system"
    )
    Conversation.objects.update(head_rev=1, last_seq=1)
    mine = item(pair.conversation, pair.alice, client_id=str(said.client_id))
    for batch in ([mine], [mine, item(pair.conversation, pair.alice)]):
        assert commit(store, *batch)[0].code == "conflict"
    assert Message.objects.count() == 2


def test_a_client_id_is_one_senders_own(store: ThreadBackend, pair: Pair) -> None:
    client_id = str(uuid.uuid4())
    verdicts = commit(
        store,
        item(pair.conversation, pair.alice, client_id=client_id),
        item(pair.conversation, pair.bob, client_id=client_id),
        policy="everyone",
    )
    assert [verdict.code for verdict in verdicts] == ["ok", "ok"]


def test_refusals_take_no_rev(store: ThreadBackend, pair: Pair) -> None:
    stranger = make_user()
    suspended = make_user()
    User.objects.filter(pk=suspended.pk).update(suspended_until=clock.now() + timedelta(hours=1))
    other = make_direct(suspended, pair.bob)
    unknown = make_direct(stranger, pair.bob)
    verdicts = commit(
        store,
        item(pair.conversation, stranger),
        item(uuid.uuid4(), pair.alice),
        item(other, suspended),
        item(unknown, stranger),
        item(pair.conversation, pair.alice, reply_to=1),
        item(pair.conversation, pair.alice),
    )
    assert [verdict.code for verdict in verdicts] == [
        "not_found", "not_found", "suspended", "not_contact", "not_found", "ok",
    ]  # fmt: skip
    assert verdicts[-1].rev == 1
    assert Message.objects.count() == 1


def test_a_block_is_judged_in_the_batch(store: ThreadBackend, pair: Pair) -> None:
    Block.objects.create(blocker=pair.bob, blocked=pair.alice)
    assert commit(store, item(pair.conversation, pair.alice), policy="everyone")[0].code == "blocked"
    Block.objects.all().delete()
    assert commit(store, item(pair.conversation, pair.alice))[0].code == "ok"


@pytest.mark.parametrize(
    ("policy", "added", "added_by", "expected"),
    [
        ("contacts", True, False, "ok"),
        ("contacts", False, True, "not_contact"),
        ("mutual", True, False, "not_contact"),
        ("mutual", True, True, "ok"),
        ("everyone", False, False, "ok"),
    ],
)
def test_the_policy_says_who_may_write_first(
    store: ThreadBackend, policy: str, *, added: bool, added_by: bool, expected: str
) -> None:
    sender, other = make_user(), make_user()
    if added:
        Contact.objects.create(owner=sender, target=other)
    if added_by:
        Contact.objects.create(owner=other, target=sender)
    assert commit(store, item(make_direct(sender, other), sender), policy=policy)[0].code == expected


def test_whoever_was_written_to_may_answer(store: ThreadBackend, pair: Pair) -> None:
    assert commit(store, item(pair.conversation, pair.bob))[0].code == "not_contact"
    commit(store, item(pair.conversation, pair.alice))
    assert commit(store, item(pair.conversation, pair.bob), policy="mutual")[0].code == "ok"


@pytest.mark.cluster
@pytest.mark.parametrize("batch", [1, 2])
def test_a_message_to_a_group_reads_none_of_its_other_members(batch: int) -> None:
    """Also with the plan that serves every conversation, which PostgreSQL comes to after a few calls."""
    users = User.objects.bulk_create([User(username=f"u{uuid.uuid4().hex[:20]}") for _ in range(200)])
    group = Conversation.objects.create(kind="group")
    Membership.objects.bulk_create([Membership(conversation=group, user=user) for user in users])
    rows = [item(group, users[0]) for _ in range(batch)]
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        # The usual choice among many conversations; in a test's small table it would not pay.
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("SET LOCAL enable_bitmapscan = off")
        before = _memberships_read(cursor)
        if batch == 1:
            cursor.execute(
                "SELECT code FROM messaging_write_one(%s, %s, %s, %s, 'hello', NULL, now(), 'contacts')",
                [rows[0].id, group.pk, users[0].pk, rows[0].client_id],
            )
        else:
            made = [
                {"i": row.id, "c": row.conversation, "s": row.sender, "k": row.client_id, "b": row.body}
                for row in rows
            ]
            cursor.execute(
                "SELECT code FROM messaging_write(%s::json, now(), 'contacts', true)", [json.dumps(made)]
            )
        assert cursor.fetchall() == [("ok",)] * batch
        # The sender's own, to judge it and to move its marks.
        assert _memberships_read(cursor) - before <= 4 * batch


def _memberships_read(cursor: Any) -> int:
    """Rows of memberships that this transaction has read."""
    cursor.execute(
        "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables"
        " WHERE relname = 'messaging_membership'"
    )
    read: int = cursor.fetchone()[0]
    return read


def test_a_poisoned_item_fails_alone(store: ThreadBackend, pair: Pair) -> None:
    good = [item(pair.conversation, pair.alice, str(number)) for number in range(6)]
    # An id that is taken already violates the primary key, whatever the checks say.
    taken = commit(store, item(pair.conversation, pair.alice, "first"))[0].id
    poisoned = item(pair.conversation, pair.alice, "poisoned")
    poisoned.id = taken
    if not isinstance(store, OrmBackend):
        poisoned.body = "\0"
    verdicts = settle(store, [*good[:3], poisoned, *good[3:]], policy="contacts", wait=True)
    assert [verdict and verdict.code for verdict in verdicts] == ["ok"] * 3 + ["invalid"] + ["ok"] * 3
    bodies = list(Message.objects.order_by("seq").values_list("body", flat=True))
    assert bodies == ["first", *(str(number) for number in range(6))]
    assert list(Message.objects.order_by("rev").values_list("rev", flat=True)) == list(range(1, 8))


@pytest.mark.cluster
def test_a_database_that_takes_no_writes_is_away(pair: Pair) -> None:
    """As a standby does to which the connection leads after a failover. The message is as good as any other."""
    writes = False

    def standby_first() -> psycopg.Connection[Any]:
        raw = connect()
        raw.execute(f"SET default_transaction_read_only = {'off' if writes else 'on'}")
        return raw

    store = OnItsLoop(connect=standby_first)
    sent = item(pair.conversation, pair.alice)
    assert settle(store, [sent, item(pair.conversation, pair.bob)], policy="contacts", wait=False) == [
        None,
        None,
    ]
    writes = True
    (verdict,) = settle(store, [sent], policy="contacts", wait=False)
    assert verdict is not None
    assert verdict.code == "ok"
    store.close()


class InDoubt:
    """A backend whose connection is lost after the commit, before the answer."""

    def __init__(self, store: ThreadBackend) -> None:
        self.store = store
        self.failures = 1

    def commit(self, batch: Any, **options: Any) -> list[Verdict]:
        verdicts = self.store.commit(batch, **options)
        if self.failures:
            self.failures -= 1
            raise DatabaseAway
        return verdicts

    def close(self) -> None:
        self.store.close()


def test_a_commit_in_doubt_is_found_and_not_stored_again(store: ThreadBackend, pair: Pair) -> None:
    batch = [item(pair.conversation, pair.alice) for _ in range(3)]
    verdicts = settle(InDoubt(store), batch, policy="contacts", wait=True)
    assert [(verdict.code, verdict.seq) for verdict in verdicts if verdict] == [
        ("ok", 1),
        ("ok", 2),
        ("ok", 3),
    ]
    assert Message.objects.count() == 3


def test_the_same_client_id_at_the_same_moment_is_stored_once(pair: Pair) -> None:
    client_id = str(uuid.uuid4())
    other = make_direct(pair.alice, make_user())
    Contact.objects.create(
        owner=pair.alice, target=User.objects.exclude(pk__in=[pair.alice.pk, pair.bob.pk]).get()
    )
    barrier = threading.Barrier(8)
    found: list[Verdict] = []

    def send(target: Conversation) -> None:
        store: ThreadBackend = OnItsLoop() if connection.vendor == "postgresql" else OrmBackend()
        try:
            barrier.wait()
            verdicts = settle(
                store, [item(target, pair.alice, client_id=client_id)], policy="contacts", wait=True
            )
            found.extend(verdict for verdict in verdicts if verdict)
        finally:
            store.close()
            connections.close_all()

    threads = [threading.Thread(target=send, args=((pair.conversation, other)[n % 2],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(verdict.code for verdict in found) == ["ok", *["repeat"] * 7]
    assert len({(verdict.id, verdict.conversation, verdict.seq) for verdict in found}) == 1
    heads = dict(Conversation.objects.values_list("pk", "head_rev"))
    assert sorted(heads.values()) == [0, 1], "no rev may be burnt"


@pytest.mark.cluster
def test_a_locked_conversation_is_passed_over_and_holds_up_no_other(pair: Pair) -> None:
    free = Pair()
    store = OnItsLoop()
    with transaction.atomic():
        Conversation.objects.select_for_update().get(pk=pair.conversation.pk)
        verdicts = commit(
            store, item(pair.conversation, pair.alice), item(free.conversation, free.alice), wait=False
        )
        assert [verdict.code for verdict in verdicts] == ["locked", "ok"]
    assert commit(store, item(pair.conversation, pair.alice), wait=False)[0].code == "ok"
    store.close()


@pytest.mark.cluster
def test_waiting_for_a_lock_ends(pair: Pair) -> None:
    store = OnItsLoop()
    with transaction.atomic():
        Conversation.objects.select_for_update().get(pk=pair.conversation.pk)
        assert commit(store, item(pair.conversation, pair.alice), wait=True)[0].code == "locked"
    store.close()


@pytest.mark.cluster
def test_a_block_that_is_being_committed_is_waited_for(pair: Pair) -> None:
    """Blocking takes the conversation's lock, so the batch judges after it."""
    entered, done = threading.Event(), threading.Event()
    verdicts: list[Verdict] = []

    def send() -> None:
        store = OnItsLoop(connect=lambda: _signalling(entered))
        verdicts.extend(commit(store, item(pair.conversation, pair.alice)))
        store.close()
        done.set()

    with transaction.atomic():
        Conversation.objects.select_for_update().get(pk=pair.conversation.pk)
        thread = threading.Thread(target=send)
        thread.start()
        entered.wait(10)
        _wait_for_a_waiter()
        Block.objects.create(blocker=pair.bob, blocked=pair.alice)
        assert not done.is_set()
    thread.join()
    assert verdicts[0].code == "blocked"


def _signalling(entered: threading.Event) -> Any:
    raw = connect()
    entered.set()
    return raw


def _wait_for_a_waiter() -> None:
    """Return once some backend waits for a lock."""
    with connection.cursor() as cursor:
        while True:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            if cursor.fetchone()[0]:
                return


@pytest.mark.cluster
def test_a_lost_connection_is_replaced(pair: Pair) -> None:
    store = OnItsLoop()
    commit(store, item(pair.conversation, pair.alice))
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
    # The pool's idle connections are lost too; no later test shall be given one.
    wrapper = connections["default"]
    assert isinstance(wrapper, DatabaseWrapper)
    wrapper.close_pool()
    verdicts = settle(store, [item(pair.conversation, pair.alice)], policy="contacts", wait=True)
    assert [(verdict.code, verdict.seq) for verdict in verdicts if verdict] == [("ok", 2)]
    store.close()


def test_conflicts_are_run_again_but_not_for_ever(pair: Pair) -> None:
    class Conflicting:
        def __init__(self, times: int) -> None:
            self.times = times

        def commit(self, batch: Any, **_: Any) -> list[Verdict]:
            if self.times:
                self.times -= 1
                raise BatchConflicts
            return [Verdict("ok") for _ in batch]

        def close(self) -> None: ...

    one = [item(pair.conversation, pair.alice)]
    assert [v and v.code for v in settle(Conflicting(3), one, policy="contacts", wait=True)] == ["ok"]
    assert settle(Conflicting(1000), one, policy="contacts", wait=True) == [None]


def test_a_batch_that_fails_whole_is_told_so() -> None:
    class Failing:
        def commit(self, batch: Any, **_: Any) -> list[Verdict]:
            raise BatchFailed

        def close(self) -> None: ...

    lone = Item("", "", "", "", "", None)
    assert [v and v.code for v in settle(Failing(), [lone, lone], policy="", wait=True)] == [
        "invalid",
        "invalid",
    ]


# --- the reference model ---------------------------------------------------------------------------


class WriterMachine(RuleBasedStateMachine):
    """Batches against a model in plain dictionaries."""

    backend: Callable[[], ThreadBackend]

    @initialize()
    def begin(self) -> None:
        self.store = self.backend()
        self.users = [make_user() for _ in range(3)]
        self.pairs = [(0, 1), (1, 2), (0, 2)]
        self.conversations = [make_direct(self.users[a], self.users[b]) for a, b in self.pairs]
        self.contacts: set[tuple[int, int]] = set()
        self.blocks: set[tuple[int, int]] = set()
        self.suspended: set[int] = set()
        self.stored: list[list[tuple[str, int, str]]] = [[], [], []]
        self.places: dict[tuple[int, str], tuple[str, int, int]] = {}
        self.client_ids = [str(uuid.uuid4()) for _ in range(8)]

    @rule(owner=st.integers(0, 2), added=st.integers(0, 2))
    def add(self, owner: int, added: int) -> None:
        if owner != added:
            Contact.objects.get_or_create(owner=self.users[owner], target=self.users[added])
            self.contacts.add((owner, added))

    @rule(blocker=st.integers(0, 2), blocked=st.integers(0, 2), on=st.booleans())
    def block(self, blocker: int, blocked: int, *, on: bool) -> None:
        if blocker == blocked:
            return
        if on:
            Block.objects.get_or_create(blocker=self.users[blocker], blocked=self.users[blocked])
            self.blocks.add((blocker, blocked))
        else:
            Block.objects.filter(blocker=self.users[blocker], blocked=self.users[blocked]).delete()
            self.blocks.discard((blocker, blocked))

    @rule(user=st.integers(0, 2), on=st.booleans())
    def suspend(self, user: int, *, on: bool) -> None:
        until = clock.now() + timedelta(hours=1) if on else None
        User.objects.filter(pk=self.users[user].pk).update(suspended_until=until)
        (self.suspended.add if on else self.suspended.discard)(user)

    @rule(
        sends=st.lists(
            st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 7), st.none() | st.integers(1, 6)),
            min_size=1,
            max_size=8,
            unique_by=lambda send: (send[1], send[2]),
        )
    )
    def send(self, sends: list[tuple[int, int, int, int | None]]) -> None:
        batch = [
            item(
                self.conversations[conversation],
                self.users[sender],
                f"{sender}/{client}",
                client_id=self.client_ids[client],
                reply_to=reply_to,
            )
            for conversation, sender, client, reply_to in sends
        ]
        expected = []
        wrote = {
            (conversation, sender) for conversation, rows in enumerate(self.stored) for _, sender, _ in rows
        }
        lengths = [len(rows) for rows in self.stored]
        for (conversation, sender, client, reply_to), sent in zip(sends, batch, strict=True):
            code = self.judge(conversation, sender, client, reply_to, wrote, lengths)
            if code == "ok":
                self.stored[conversation].append((sent.id, sender, sent.body))
                place = len(self.stored[conversation])
                self.places[sender, self.client_ids[client]] = (sent.id, conversation, place)
                expected.append(("ok", place, sent.id))
            elif code == "repeat":
                identity, _, place = self.places[sender, self.client_ids[client]]
                expected.append(("repeat", place, identity))
            else:
                expected.append((code, 0, ""))
        verdicts = commit(self.store, *batch)
        assert [(verdict.code, verdict.seq, verdict.id) for verdict in verdicts] == expected

    def judge(
        self, conversation: int, sender: int, client: int, reply_to: int | None,
        wrote: set[tuple[int, int]], lengths: list[int],
    ) -> str:  # fmt: skip
        if (sender, self.client_ids[client]) in self.places:
            return "repeat"
        if sender not in self.pairs[conversation]:
            return "not_found"
        if sender in self.suspended:
            return "suspended"
        peer = next(user for user in self.pairs[conversation] if user != sender)
        if (peer, sender) in self.blocks:
            return "blocked"
        if (sender, peer) not in self.contacts and (conversation, peer) not in wrote:
            return "not_contact"
        if reply_to is not None and reply_to > lengths[conversation]:
            return "not_found"
        return "ok"

    @precondition(lambda self: hasattr(self, "users"))
    @invariant()
    def the_database_is_the_model(self) -> None:
        for conversation, rows in zip(self.conversations, self.stored, strict=True):
            found = Message.objects.filter(conversation=conversation).order_by("seq")
            assert [(str(row.pk), row.body, row.seq, row.rev) for row in found] == [
                (identity, body, place, place) for place, (identity, _, body) in enumerate(rows, 1)
            ]
            conversation.refresh_from_db()
            assert (conversation.head_rev, conversation.last_seq) == (len(rows), len(rows))

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_backends_are_the_model(backend: str) -> None:
    machine = type("Machine", (WriterMachine,), {"backend": staticmethod(STORES[backend])})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
