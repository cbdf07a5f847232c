"""What becomes of conversations when an account is erased, and what its owner can take away."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts import services as accounts
from accounts.models import User
from chatbe.hub import fanout
from messaging import erasure, groups, stream
from messaging.models import Conversation, Membership, Message
from tests.messaging.conftest import World, consistent
from tests.support.http import Device

pytestmark = pytest.mark.django_db


def events(device: Device, conversation: UUID, since: int) -> list[tuple[int, str]]:
    """(rev, what) of each change after a rev, as `changes` and `sync` tell it."""
    found, _, more = stream.changes(user_id=device.user.pk, conversation=conversation, since=since, limit=200)
    assert not more
    told = msgspec.to_builtins(found)
    return [
        (each["message"]["rev"], f"{each['message']['sender']}: {each['message']['body']}")
        if each["type"] == "message"
        else (each["conversation"]["rev"], ",".join(m["username"] for m in each["conversation"]["members"]))
        for each in told
    ]


def test_messages_stay_without_their_sender_and_those_who_sync_hear_of_it(
    world: World, fanned_out: list[fanout.Envelope], django_capture_on_commit_callbacks: Any
) -> None:
    alice, bob = world.friends("alice", "bob")
    key = UUID(world.say(alice, "bob", "one")[0].conversation)
    world.say(bob, key, "two")
    world.say(alice, key, "three")
    fanned_out.clear()
    with django_capture_on_commit_callbacks(execute=True):
        accounts.user_erase(user_id=alice.user.pk)
    assert not User.objects.filter(username="alice").exists()
    assert events(bob, key, 3) == [(4, "None: one"), (5, "None: three"), (6, "bob")]
    assert events(bob, key, 0) == [(2, "bob: two"), (4, "None: one"), (5, "None: three"), (6, "bob")]
    consistent(key)
    (change,) = [envelope for envelope in fanned_out if envelope["k"] == "c"]
    assert (change["c"], change["r"], change["q"]) == (str(key), 6, 0)
    assert str(bob.user.pk) in change["u"]
    assert msgspec.json.decode(change["d"])["conversation"]["member_count"] == 1


def test_each_conversation_has_its_own_revs(
    world: World, fanned_out: list[fanout.Envelope], django_capture_on_commit_callbacks: Any
) -> None:
    alice, bob, carol = world.friends("alice", "bob", "carol")
    first = UUID(world.say(alice, "bob", "to bob")[0].conversation)
    second = UUID(world.say(carol, "alice", "to alice", "to alice again")[0].conversation)
    group = world.group(bob, alice, carol).pk
    world.say(alice, group, "to all", "to all again")
    left = world.group(bob, alice).pk
    world.say(alice, left, "before leaving")
    Membership.objects.filter(conversation=left, user=alice.user).update(active=False, role="member")
    Conversation.objects.filter(pk=left).update(member_count=1)
    unrelated = UUID(world.say(bob, "carol", "not about alice")[0].conversation)
    fanned_out.clear()
    with django_capture_on_commit_callbacks(execute=True):
        accounts.user_erase(user_id=alice.user.pk)
    assert events(bob, first, 1) == [(2, "None: to bob"), (3, "bob")]
    assert events(carol, second, 2) == [(3, "carol")]
    assert events(bob, group, 3) == [(4, "None: to all"), (5, "None: to all again"), (6, "bob,carol")]
    # She was no longer in this one: nothing but her message changes.
    assert events(bob, left, 2) == [(3, "None: before leaving")]
    assert events(bob, unrelated, 1) == []
    for conversation in (first, second, group, left, unrelated):
        consistent(conversation)
    told = {
        envelope["c"]: (envelope["r"], envelope["u"] is None)
        for envelope in fanned_out
        if envelope["k"] == "c"
    }
    assert told == {
        str(first): (3, False), str(second): (3, False), str(group): (6, True), str(left): (3, True),
    }  # fmt: skip


def test_nobody_is_mentioned_who_is_gone(
    world: World, fanned_out: list[fanout.Envelope], django_capture_on_commit_callbacks: Any
) -> None:
    names = ("alice_b", "bob", "carol", "alicexb")
    alice, bob, carol, _ = world.friends(*names)
    group = groups.group_create(owner=bob.user, title="One", usernames=names).pk
    said = world.say(
        bob,
        group,
        "@alice_b",
        "@carol, @alice_b and @alicexb",
        "@all and @alice_b",
        "@all and @alicexb",
        "nobody",
    )
    assert [len(message.mentions or ()) for message in said] == [1, 3, 2, 2, 0]
    head = Conversation.objects.get(pk=group).head_rev
    with django_capture_on_commit_callbacks(execute=True):
        accounts.user_erase(user_id=alice.user.pk)
    page = carol.get(f"/v1/conversations/{group}/messages").json()["results"]
    assert [message.get("mentions") for message in page] == [
        None, ["alicexb", "carol"], ["all"], ["all", "alicexb"], None,
    ]  # fmt: skip
    assert [rev for rev, _ in events(carol, group, head)] == [head + 1, head + 2, head + 3, head + 4]
    consistent(group)


def test_the_other_can_go_on_reading(world: World, fanned_out: list[fanout.Envelope]) -> None:
    alice, bob = world.friends("alice", "bob")
    key = UUID(world.say(alice, "bob", "one", "two")[0].conversation)
    accounts.user_erase(user_id=alice.user.pk)
    (conversation,) = bob.get("/v1/conversations").json()["results"]
    assert (conversation["unread"], conversation["peer_read_seq"], conversation["member_count"]) == (
        2,
        None,
        1,
    )
    assert conversation["last_message"]["sender"] is None
    page = bob.get(f"/v1/conversations/{key}/messages").json()["results"]
    assert [(message["sender"], message["body"]) for message in page] == [(None, "one"), (None, "two")]
    assert bob.post(f"/v1/conversations/{key}/messages", body="hello?").status_code == 404


def test_empty_direct_conversations_go_too(world: World, fanned_out: list[fanout.Envelope]) -> None:
    alice, bob = world.friends("alice", "bob")
    alice.post("/v1/conversations", kind="direct", username="bob")
    accounts.user_erase(user_id=bob.user.pk)
    assert not Conversation.objects.exists()


def test_erasing_takes_constant_queries(world: World, fanned_out: list[fanout.Envelope]) -> None:
    counts = []
    for name, friends in (("alice", 2), ("bob", 9)):
        person, *others = world.friends(name, *(f"{name}-friend{number}" for number in range(friends)))
        for other in others:
            key = UUID(world.say(person, other.user.username, *["text"] * friends)[0].conversation)
            world.say(other, key, "answer")
        with CaptureQueriesContext(connection) as captured:
            erasure.erase(person.user.pk)
        counts.append(len(captured))
    assert counts[0] == counts[1]
    assert not Message.objects.filter(sender__username__in=["alice", "bob"]).exists()
    for conversation in Conversation.objects.all():
        assert conversation.head_rev == Message.objects.filter(conversation=conversation).count() * 2


def test_an_export_has_what_is_theirs(world: World, fanned_out: list[fanout.Envelope]) -> None:
    alice, bob = world.friends("alice", "bob")
    key = world.say(alice, "bob", "one")[0].conversation
    world.say(bob, UUID(key), "two")
    exported = accounts.account_export(user=bob.user)["messaging"]
    assert [each["id"] for each in exported["conversations"]] == [key]
    assert [(each["seq"], each["body"]) for each in exported["messages"]] == [(2, "two")]
    assert bob.get("/v1/me/export").json()["messaging"] == exported
