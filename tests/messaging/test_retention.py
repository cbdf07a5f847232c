"""Old messages go for good, and every client hears of it."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from functools import partial
from io import StringIO
from typing import Any
from uuid import UUID

import msgspec
import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from chatbe.core import clock
from chatbe.core.errors import NotFound
from chatbe.hub import fanout
from messaging import groups, living, retention, services, stream
from messaging.models import Conversation, Membership, Mention, Message, MessageVersion, Reaction
from tests.messaging.conftest import World, consistent
from tests.support.http import Device


def age(conversation: UUID, up_to: int, days: int = 100) -> None:
    """Let the messages up to a seq be old."""
    Message.objects.filter(conversation=conversation, seq__lte=up_to).update(
        created_at=clock.now() - timedelta(days=days)
    )


def cutoff() -> datetime:
    return clock.now() - timedelta(days=90)


def told(device: Device, conversation: UUID, since: int) -> list[dict[str, Any]]:
    events, _, more = stream.changes(
        user_id=device.user.pk, conversation=conversation, since=since, limit=200
    )
    assert not more
    found: list[dict[str, Any]] = msgspec.to_builtins(events)
    return found


def talk(world: World, *bodies: str) -> tuple[Device, Device, UUID]:
    alice, bob = world.friends("alice", "bob")
    return alice, bob, UUID(world.say(alice, "bob", *bodies)[0].conversation)


@pytest.mark.django_db
def test_old_messages_are_gone_and_cursors_stay_valid(
    world: World, fanned_out: list[fanout.Envelope], django_capture_on_commit_callbacks: Any
) -> None:
    alice, bob, key = talk(world, "one", "two", "three", "four")
    age(key, 2)
    fanned_out.clear()
    with django_capture_on_commit_callbacks(execute=True):
        assert retention.purge(before=cutoff()) == 2
    consistent(key)
    path = f"/v1/conversations/{key}"
    state = bob.get(path).json()
    assert (state["purged_seq"], state["last_seq"], state["rev"], state["unread"]) == (2, 4, 5, 2)
    page = bob.get(f"{path}/messages").json()
    assert [message["body"] for message in page["results"]] == ["three", "four"]
    assert page["previous"] is None
    nothing = bob.get(f"{path}/messages", before=3).json()
    assert nothing == {"results": [], "next": f"http://testserver{path}/messages?after=2", "previous": None}
    # Whoever was away, at any rev, hears of it.
    for since in range(5):
        (conversation,) = [event for event in told(bob, key, since) if event["type"] == "conversation"]
        assert conversation["conversation"]["purged_seq"] == 2
        assert all(
            event["message"]["seq"] > 2 for event in told(bob, key, since) if event["type"] == "message"
        )
    assert told(bob, key, 5) == []
    # So do those who are here.
    (change,) = [envelope for envelope in fanned_out if envelope["k"] == "c"]
    assert (change["c"], change["r"]) == (str(key), 5)
    assert msgspec.json.decode(change["d"])["conversation"]["purged_seq"] == 2
    # What comes after goes on counting.
    (next_message,) = world.say(alice, key, "five")
    assert (next_message.seq, next_message.rev) == (5, 6)
    with django_capture_on_commit_callbacks(execute=True):
        assert retention.purge(before=cutoff()) == 0
    assert Conversation.objects.get().head_rev == 6


@pytest.mark.django_db
@pytest.mark.usefixtures("fanned_out")
def test_unread_counts_what_is_there(world: World) -> None:
    alice, bob, key = talk(world, *"abcdef")
    bob.put(f"/v1/conversations/{key}/read", seq=1)
    age(key, 4)
    Message.objects.filter(seq__in=(3, 6)).update(body=None, deleted_at=clock.now())
    retention.purge(before=cutoff())
    assert bob.get(f"/v1/conversations/{key}").json()["unread"] == 1
    age(key, 6)
    retention.purge(before=cutoff())
    state = bob.get(f"/v1/conversations/{key}").json()
    assert (state["unread"], state["last_message"], state["last_seq"]) == (0, None, 6)
    assert [found["id"] for found in bob.get("/v1/conversations").json()["results"]] == [str(key)]
    assert alice.get(f"/v1/conversations/{key}/messages").json() == {
        "results": [],
        "next": None,
        "previous": None,
    }


@pytest.mark.django_db
@pytest.mark.usefixtures("fanned_out")
@pytest.mark.parametrize("many", [False, True])
def test_what_is_gone_cannot_be_answered(world: World, many: bool) -> None:
    alice, bob, key = talk(world, "one", "two")
    world.say(bob, key, "re one")
    Message.objects.filter(seq=3).update(reply_to=1)
    age(key, 1)
    retention.purge(before=cutoff())
    # An answer that was there before still says what it answered.
    assert bob.get(f"/v1/conversations/{key}/messages").json()["results"][-1]["reply_to"] == 1
    fields: dict[str, Any] = {"sender": alice.user, "conversation": key, "body": "x"}
    with pytest.raises(NotFound):
        services.message_send(reply_to=1, **fields)
    assert services.message_send(reply_to=2, **fields).message.seq == 4


@pytest.mark.django_db
@pytest.mark.usefixtures("fanned_out")
def test_what_one_may_not_see_stays_hidden(world: World) -> None:
    alice, bob = world.friends("alice", "bob")
    group = world.group(alice)
    world.say(alice, group.pk, "one", "two", "three")
    Membership.objects.create(conversation=group, user=bob.user, joined_seq=2, joined_rev=5)
    Conversation.objects.filter(pk=group.pk).update(head_rev=5, state_rev=5)
    age(group.pk, 1)
    retention.purge(before=cutoff())
    path = f"/v1/conversations/{group.pk}"
    assert [message["seq"] for message in bob.get(f"{path}/messages").json()["results"]] == [3]
    assert bob.get(path).json()["unread"] == 1
    assert [message["seq"] for message in alice.get(f"{path}/messages").json()["results"]] == [2, 3]


@pytest.mark.django_db
def test_it_goes_in_batches_that_are_one_change_each(
    world: World, fanned_out: list[fanout.Envelope], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "MESSAGES_AT_ONCE", 3)
    monkeypatch.setattr(retention, "CONVERSATIONS_AT_ONCE", 1)
    alice, *_ = world.friends("alice", "bob", "carol", "dave")
    keys = [UUID(world.say(alice, name, *"abcdefgh")[0].conversation) for name in ("bob", "carol", "dave")]
    for key in keys[:2]:
        age(key, 7)
    progress: list[int] = []
    assert retention.purge(before=cutoff(), progress=progress.append) == 14
    assert progress == [3, 3, 1, 3, 3, 1]
    for key in keys:
        consistent(key)
    assert [Conversation.objects.get(pk=key).head_rev for key in keys] == [11, 11, 8]
    assert [Conversation.objects.get(pk=key).purged_seq for key in keys] == [7, 7, 0]


@pytest.mark.django_db
@pytest.mark.usefixtures("fanned_out")
def test_the_command(world: World) -> None:
    alice, _, key = talk(world, "one", "two", "three")
    group = world.group(alice)
    world.say(alice, group.pk, "four")
    age(key, 2)
    age(group.pk, 1)

    def run(*arguments: str) -> str:
        out = StringIO()
        call_command("purge", *arguments, stdout=out)
        return out.getvalue()

    assert run("--older-than", "90d", "--dry-run") == "3 messages are older.\n"
    assert run("--older-than", "90d", "--conversation", str(key)) == "2 messages deleted.\n"
    assert Message.objects.count() == 2
    assert run("--older-than", "15w") == "0 messages deleted.\n"
    assert run("--older-than", "86400s") == "1 messages deleted.\n"
    for wrong in (
        ["--older-than", "x"], ["--older-than", "0d"], ["--older-than", "-1d"], ["--older-than", "90"], [],
        ["--older-than", "9d", "--conversation", str(alice.user.pk)], ["--older-than", "999999y"],
    ):  # fmt: skip
        with pytest.raises(CommandError):
            run(*wrong)


@pytest.mark.django_db
@pytest.mark.usefixtures("fanned_out")
def test_what_belongs_to_messages_goes_with_them(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[UUID] = []
    monkeypatch.setattr(services, "removal_hooks", [removed.extend])
    _, _, key = talk(world, "one", "two")
    first = Message.objects.get(seq=1).pk
    age(key, 1)
    retention.purge(before=cutoff())
    assert removed == [first]


@pytest.mark.django_db
@pytest.mark.usefixtures("fanned_out")
def test_reactions_mentions_and_earlier_versions_go_too(world: World) -> None:
    alice, bob = world.friends("alice", "bob")
    key = groups.group_create(owner=alice.user, title="Group", usernames=["bob"]).pk
    world.say(alice, key, "for @bob", "for @bob and @all", "the last, for @bob")
    for seq in (1, 2, 3):
        living.message_react(user=bob.user.pk, conversation=key, seq=seq, emoji="👍", on=True)
        living.message_edit(user=alice.user.pk, conversation=key, seq=seq, body=f"{seq} for @bob")
    living.message_delete(user=alice.user.pk, conversation=key, seq=1)
    assert bob.get(f"/v1/conversations/{key}").json()["unread_mentions"] == 2
    age(key, 2)
    with CaptureQueriesContext(connection) as queries:
        assert retention.purge(before=cutoff()) == 2
    assert len(queries) < 25
    consistent(key)
    assert list(Mention.objects.values_list("seq", flat=True)) == [3]
    for model in (Reaction, MessageVersion):
        assert list(model._default_manager.values_list("message__seq", flat=True)) == [3]
    mine = bob.get(f"/v1/conversations/{key}").json()
    assert (mine["unread"], mine["unread_mentions"], mine["purged_seq"]) == (1, 1, 2)
    # What is gone cannot be changed, nor asked about.
    asked: dict[str, Any] = {"user": bob.user.pk, "conversation": key, "seq": 2}
    for act in (
        partial(living.message_edit, **asked, body="x"),
        partial(living.message_delete, **asked),
        partial(living.message_react, **asked, emoji="🎉", on=True),
    ):
        with pytest.raises(NotFound):
            act()
    assert bob.get(f"/v1/conversations/{key}/messages/2/readers").status_code == 404


@pytest.mark.django_db
@pytest.mark.usefixtures("fanned_out")
def test_many_are_deleted_by_few_statements(world: World) -> None:
    _, _, key = talk(world, *map(str, range(300)))
    age(key, 299)
    with CaptureQueriesContext(connection) as queries:
        assert retention.purge(before=cutoff()) == 299
    assert len(queries) < 25
    assert Message.objects.count() == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("fanned_out")
def test_it_works_beside_those_who_write(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "MESSAGES_AT_ONCE", 5)
    alice, bob, key = talk(world, *map(str, range(60)))
    age(key, 60)
    start = threading.Barrier(3)

    def write(device: Device) -> None:
        start.wait()
        for number in range(20):
            sent = services.message_send(sender=device.user, conversation=key, body=f"new {number}").message
            living.message_edit(user=device.user.pk, conversation=key, seq=sent.seq, body=f"edited {number}")
        connection.close()

    writers = [threading.Thread(target=write, args=(device,)) for device in (alice, bob)]
    for writer in writers:
        writer.start()
    start.wait()
    assert retention.purge(before=cutoff()) == 60
    for writer in writers:
        writer.join()
    consistent(key)
    row = Conversation.objects.get(pk=key)
    # A rev for each message, each edit and each of twelve batches.
    assert (row.purged_seq, row.last_seq, row.head_rev) == (60, 100, 60 + 40 + 40 + 12)
    assert Message.objects.filter(body__startswith="edited").count() == 40


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("fanned_out")
def test_it_waits_for_a_writer_and_a_writer_for_it(world: World) -> None:
    if connection.vendor == "sqlite":
        pytest.skip("a transaction of SQLite is alone in any case")
    alice, _, key = talk(world, "one", "two")
    age(key, 1)
    done: list[Any] = []

    def in_thread(action: Any) -> threading.Thread:
        def run() -> None:
            done.append(action())
            connection.close()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    with transaction.atomic():
        Conversation.objects.select_for_update(no_key=True).get(pk=key)
        purging = in_thread(lambda: retention.purge(before=cutoff()))
        sending = in_thread(lambda: services.message_send(sender=alice.user, conversation=key, body="three"))
        purging.join(0.2)
        assert done == []
    purging.join()
    sending.join()
    consistent(key)
    assert Conversation.objects.get(pk=key).head_rev == 4
