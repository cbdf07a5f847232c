"""Segments: made completely, kept right by edits and deletions that happen meanwhile, never of too much text."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from django.core.management import call_command
from django.db import connection, transaction

from chatbe.core import clock
from messaging.models import Conversation, Message
from messaging.search import indexing, search
from tests.messaging.conftest import World

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("fanned_out")]


def rows() -> list[tuple[int, int]]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT first_seq, last_seq FROM messaging_segment ORDER BY conversation_id, first_seq"
        )
        found: list[tuple[int, int]] = cursor.fetchall()
        return found


def store(conversation: UUID, sender: UUID, bodies: Iterator[str]) -> None:
    row = Conversation.objects.get(pk=conversation)
    messages = [
        Message(
            conversation=row, seq=row.last_seq + number, rev=row.head_rev + number, sender_id=sender,
            client_id=uuid4(), body=body,
        )
        for number, body in enumerate(bodies, 1)
    ]  # fmt: skip
    Message.objects.bulk_create(messages)
    Conversation.objects.filter(pk=conversation).update(
        last_seq=row.last_seq + len(messages), head_rev=row.head_rev + len(messages)
    )


@pytest.mark.django_db
def test_full_segments_are_made_at_once_and_the_rest_when_it_is_quiet(world: World) -> None:
    (alice,) = world.friends("alice")
    group = world.group(alice)
    store(group.pk, alice.user.pk, (f"word{number}" for number in range(600)))
    assert indexing.work() == [(str(group.pk), False)]
    assert indexing.index_next(str(group.pk), everything=False) == 512
    assert rows() == [(1, 256), (257, 512)]
    assert indexing.work() == []
    Conversation.objects.update(active_at=clock.now().replace(year=2020))
    assert indexing.work() == [(str(group.pk), True)]
    assert indexing.index_next(str(group.pk), everything=True) == 88
    assert rows() == [(1, 256), (257, 512), (513, 600)]
    assert indexing.work() == []
    assert indexing.index_next(str(group.pk), everything=True) == 0


@pytest.mark.django_db
def test_a_segment_has_a_bounded_text_also_after_edits(world: World) -> None:
    (alice,) = world.friends("alice")
    group = world.group(alice)
    store(group.pk, alice.user.pk, (f"small{number}" for number in range(256)))
    call_command("search_index", verbosity=0)
    assert rows() == [(1, 256)]
    for number in range(100):
        # Words that are all different, and of letters that take four bytes.
        body = " ".join(f"{number}𐐷{word:03d}𐐷𐐷𐐷𐐷" for word in range(330))[:4000]
        Message.objects.filter(seq=number + 1).update(body=body)
    covered = [seq for first, last in rows() for seq in range(first, last + 1)]
    assert covered == list(range(1, 257))
    assert len(rows()) > 1
    assert len(search(user=alice.user, query="small200", limit=10).results) == 1
    assert len(search(user=alice.user, query="99𐐷000𐐷𐐷𐐷𐐷", limit=10).results) == 1


@pytest.mark.django_db
def test_what_is_purged_is_in_no_segment(world: World) -> None:
    (alice,) = world.friends("alice")
    group = world.group(alice)
    store(group.pk, alice.user.pk, (f"word{number}" for number in range(600)))
    indexing.index_all()
    Message.objects.filter(seq__lte=300).delete()
    assert rows() == [(301, 512), (513, 600)]
    Message.objects.all().delete()
    assert rows() == []


@pytest.mark.django_db
def test_tags_that_are_open_swallow_nothing(world: World) -> None:
    (alice,) = world.friends("alice")
    group = world.group(alice)
    store(
        group.pk, alice.user.pk, iter(["a <script b", "treasure", "c <!-- d", "island", '<a href="', "chest"])
    )
    indexing.index_all()
    for word in ("treasure", "island", "chest"):
        assert len(search(user=alice.user, query=word, limit=10).results) == 1


@pytest.mark.django_db(transaction=True)
def test_an_edit_while_its_segment_is_made_is_in_it(world: World) -> None:
    (alice,) = world.friends("alice")
    group = world.group(alice)
    store(group.pk, alice.user.pk, (f"word{number}" for number in range(256)))
    made: list[int] = []

    def index() -> None:
        made.append(indexing.index_next(str(group.pk), everything=True))
        connection.close()

    indexer = threading.Thread(target=index)
    with transaction.atomic():
        Message.objects.filter(seq=7).update(body="edited")
        # The indexer waits for the edit's transaction, or it would miss what that has not committed.
        indexer.start()
        indexer.join(0.3)
        assert made == []
    indexer.join()
    assert made == [256]
    assert len(search(user=alice.user, query="edited", limit=10).results) == 1
    assert search(user=alice.user, query="word6", limit=10).results == []
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT messaging_index_lock(%s)", [group.pk])

        def change() -> None:
            Message.objects.filter(seq=8).update(body="late")
            connection.close()

        edit = threading.Thread(target=change)
        edit.start()
        edit.join(0.3)
        assert edit.is_alive()
    edit.join()
    assert len(search(user=alice.user, query="late", limit=10).results) == 1
