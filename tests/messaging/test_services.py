"""Services of messaging."""

from __future__ import annotations

import uuid
from concurrent.futures import Future
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from django.conf import settings
from django.db import connection, transaction

from accounts import selectors as people
from accounts import services as accounts
from accounts.models import User
from chatbe.core import clock
from chatbe.core.errors import Invalid, NotFound, Suspended, Unavailable
from chatbe.hub import node as nodes
from chatbe.wire import frames
from messaging import groups, living, services, stream
from messaging.models import Conversation, Membership, Message

pytestmark = pytest.mark.django_db


def make_user(**fields: object) -> User:
    return User.objects.create(username=f"u{uuid.uuid4().hex[:20]}", **fields)


@pytest.fixture
def alice() -> User:
    return make_user()


@pytest.fixture
def bob(alice: User) -> User:
    user = make_user()
    accounts.contact_add(owner=alice, username=user.username)
    return user


def test_there_is_one_direct_conversation_per_pair(alice: User, bob: User) -> None:
    made, created = services.conversation_direct(user=alice, username=bob.username.upper())
    assert created
    assert services.conversation_direct(user=bob, username=alice.username) == (made, False)
    assert Membership.objects.filter(conversation=made).count() == 2
    assert (made.head_rev, made.last_seq) == (0, 0)


def test_nobody_talks_to_themselves_or_to_nobody(alice: User) -> None:
    with pytest.raises(Invalid):
        services.conversation_direct(user=alice, username=alice.username)
    with pytest.raises(NotFound):
        services.conversation_direct(user=alice, username="nobody")
    assert not Conversation.objects.exists()


def test_a_node_that_does_not_answer_leaves_a_message_in_doubt(
    alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was paused, or has gone meanwhile."""
    mute = SimpleNamespace(ask=lambda *_: Future())
    monkeypatch.setattr(settings, "CHATBE_SEND_DEADLINE", -4.99)
    monkeypatch.setattr(nodes, "current", lambda: mute)
    with pytest.raises(Unavailable):
        services.message_send(sender=alice, username=bob.username, body="hello")


def test_a_message_is_sent_and_a_repeat_is_told(alice: User, bob: User) -> None:
    client_id = uuid.uuid4()
    sent = services.message_send(sender=alice, username=bob.username, client_id=client_id, body="hello")
    again = services.message_send(sender=alice, username=bob.username, client_id=client_id, body="hello")
    assert (sent.duplicate, again.duplicate) == (False, True)
    assert sent.message == again.message
    assert (sent.message.sender, sent.message.body, sent.message.seq) == (alice.username, "hello", 1)


@pytest.mark.parametrize("name", ["\0", "a\0b", "\ud800", "nobody", "x" * 64])
def test_a_name_that_nobody_can_have_is_not_found(alice: User, name: str) -> None:
    with pytest.raises(NotFound):
        services.message_send(sender=alice, username=name, body="x")
    with pytest.raises(NotFound):
        services.conversation_direct(user=alice, username=name)
    with pytest.raises(NotFound):
        groups.group_create(owner=alice, title="Group", usernames=[name])


@pytest.mark.parametrize("until", [None, clock.now() + timedelta(days=1)])
def test_who_is_suspended_can_be_named_and_written_to(alice: User, bob: User, until: datetime | None) -> None:
    accounts.user_suspend(user_id=bob.pk, until=until)
    sent = services.message_send(sender=alice, username=bob.username, body="read it when you are back")
    assert services.conversation_direct(user=alice, username=bob.username)[1] is False
    group = groups.group_create(owner=alice, title="Group", usernames=[bob.username])
    assert group.member_count == 2
    assert not accounts.contact_add(owner=alice, username=bob.username).created
    assert list(people.users_search(viewer=alice, prefix=bob.username)) == [bob]
    bob.refresh_from_db()
    with pytest.raises(Suspended):
        services.message_send(sender=bob, conversation=UUID(sent.message.conversation), body="x")
    with pytest.raises(Suspended):
        services.message_send(sender=bob, username=alice.username, body="x")
    with pytest.raises(Suspended):
        groups.group_create(owner=bob, title="Group")


def test_a_repeat_is_known_whatever_would_refuse_the_first(alice: User, bob: User) -> None:
    client_id = uuid.uuid4()
    sent = services.message_send(sender=alice, username=bob.username, client_id=client_id, body="hello")
    accounts.user_erase(user_id=bob.pk)
    again = services.message_send(sender=alice, username=bob.username, client_id=client_id, body="hello")
    assert again.duplicate
    assert (again.message.id, again.message.seq) == (sent.message.id, 1)
    elsewhere = services.message_send(sender=alice, conversation=uuid.uuid4(), client_id=client_id, body="x")
    assert elsewhere.message.id == sent.message.id
    with pytest.raises(NotFound):
        services.message_send(sender=alice, username=bob.username, client_id=uuid.uuid4(), body="hello")


def test_a_repeat_tells_a_former_member_nothing_new(alice: User, bob: User) -> None:
    client_id = uuid.uuid4()
    group = groups.group_create(owner=alice, title="Group", usernames=[bob.username]).pk
    sent = services.message_send(sender=bob, conversation=group, client_id=client_id, body="hello")
    living.message_react(user=alice.pk, conversation=group, seq=1, emoji="👍", on=True)
    inside = services.message_send(sender=bob, conversation=group, client_id=client_id, body="hello")
    assert list(inside.message.reactions) == ["👍"]
    groups.member_remove(actor=alice, conversation=group, username=bob.username)
    again = services.message_send(sender=bob, conversation=group, client_id=client_id, body="hello")
    assert again.duplicate
    assert (again.message.id, again.message.body, again.message.reactions) == (sent.message.id, "hello", {})


def test_marks_never_go_back_and_never_beyond_the_last_message(alice: User, bob: User) -> None:
    for _ in range(2):
        services.message_send(sender=alice, username=bob.username, body="x")
    sent = services.message_send(sender=alice, username=bob.username, body="x")
    key = (sent.message.conversation, str(bob.pk))
    moved = services.marks_move(moves={key: (0, 2)})[key]
    assert moved is not None
    assert (moved.read, moved.delivered) == (0, 2)
    moved = services.marks_move(moves={key: (99, 0)})[key]
    assert moved is not None
    assert (moved.read, moved.delivered) == (3, 3)
    assert services.marks_move(moves={key: (1, 1)}) == {}
    stranger = (sent.message.conversation, str(make_user().pk))
    assert services.marks_move(moves={stranger: (1, 1)}) == {stranger: None}


def test_moving_many_marks_takes_a_constant_number_of_queries(
    alice: User, django_assert_max_num_queries: Any
) -> None:
    keys = []
    for _ in range(12):
        other = make_user()
        accounts.contact_add(owner=alice, username=other.username)
        sent = services.message_send(sender=alice, username=other.username, body="x")
        keys.append((sent.message.conversation, str(other.pk)))
    with django_assert_max_num_queries(6):
        moved = services.marks_move(moves=dict.fromkeys(keys, (1, 1)))
    assert len(moved) == 12


@pytest.mark.cluster
def test_blocking_holds_the_direct_conversation(alice: User, bob: User) -> None:
    sent = services.message_send(sender=alice, username=bob.username, body="x")
    with transaction.atomic():
        accounts.block_add(blocker=bob, username=alice.username)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation"
                " WHERE c.relname = 'messaging_conversation' AND l.mode = 'RowShareLock'"
                " AND l.pid = pg_backend_pid()"
            )
            assert cursor.fetchone()[0] == 1
    assert sent.message.seq == 1


def test_reading_pages_reach_everything_in_order(alice: User, bob: User) -> None:
    ids = []
    for count in (7, 3):
        other = bob if count == 7 else make_user()
        accounts.contact_add(owner=alice, username=other.username)
        sent = [
            services.message_send(sender=alice, username=other.username, body=str(n)) for n in range(count)
        ]
        ids.append(sent[0].message.conversation)
    wanted = [stream.Wanted(ids[0], 0, 7, 0, 0), stream.Wanted(ids[1], 1, 3, 0, 0)]
    pieces, cursors = stream.read(wanted, limit=4)
    assert [(piece.conversation, piece.rev) for piece in pieces] == [
        *((ids[0], rev) for rev in range(1, 5)),
        *((ids[1], rev) for rev in range(2, 4)),
    ]
    assert cursors == {ids[0]: 4, ids[1]: 3}


def test_a_change_that_comes_between_head_and_rows_is_left_for_the_next_round(alice: User, bob: User) -> None:
    sent = [
        services.message_send(sender=alice, username=bob.username, body=str(number)) for number in range(3)
    ]
    conversation = sent[0].message.conversation
    # The head was read as 3; then the second message changed and moved to rev 4.
    Message.objects.filter(conversation=uuid.UUID(conversation), seq=2).update(rev=4, body="edited")
    Conversation.objects.filter(pk=conversation).update(head_rev=4)
    pieces, cursors = stream.read([stream.Wanted(conversation, 0, 3, 0, 0)], limit=100)
    assert [piece.rev for piece in pieces] == [1, 3]
    events, rev, more = stream.changes(
        user_id=bob.pk, conversation=uuid.UUID(conversation), since=3, limit=10
    )
    assert (cursors[conversation], rev, more) == (3, 4, False)
    assert [event.message.body for event in events if isinstance(event, frames.Message)] == ["edited"]


def test_one_statement_reads_any_number_of_conversations(alice: User, django_assert_num_queries: Any) -> None:
    wanted = []
    for _ in range(15):
        other = make_user()
        accounts.contact_add(owner=alice, username=other.username)
        sent = services.message_send(sender=alice, username=other.username, body="x")
        wanted.append(stream.Wanted(sent.message.conversation, 0, 1, 0, 0))
    for part in (wanted[:1], wanted):
        with django_assert_num_queries(1):
            pieces, _ = stream.read(part, limit=10)
        assert len(pieces) == len(part)
    # Marks are a matter of blocks, too.
    for question, count in ((stream.streams_of, 1), (lambda user: stream.marks_of([user])[0], 2)):
        with django_assert_num_queries(count):
            assert len(question(alice.pk)) == 15


def test_the_marks_of_many_are_read_at_once_and_each_gets_their_own(
    alice: User, bob: User, django_assert_num_queries: Any
) -> None:
    carol, stranger = make_user(), make_user()
    accounts.contact_add(owner=alice, username=carol.username)
    first, second = (
        services.message_send(sender=alice, username=other.username, body="x").message.conversation
        for other in (bob, carol)
    )
    again = services.message_send(sender=alice, username=bob.username, body="y").message
    with django_assert_num_queries(2):
        of_alice, of_stranger, of_bob = stream.marks_of([alice.pk, stranger.pk, bob.pk])
    assert of_alice == {
        first: {alice.username: (2, 2), bob.username: (0, 0)},
        second: {alice.username: (1, 1), carol.username: (0, 0)},
    }
    assert of_bob == {first: of_alice[first]}
    assert of_stranger == {}
    assert again.conversation == first
    Membership.objects.filter(user=bob).update(active=False)
    of_alice, of_bob = stream.marks_of([alice.pk, bob.pk])
    assert of_alice[first] == {alice.username: (2, 2)}
    assert of_bob == {}
