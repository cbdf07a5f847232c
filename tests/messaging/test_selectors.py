"""The objects that lists, streams and events share."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from chatbe.core.errors import NotFound
from messaging import selectors
from messaging.models import Conversation, Membership, Message
from tests.messaging.conftest import World

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("fanned_out")]


def test_conversation_objects_are_the_same_for_all_members(world: World) -> None:
    alice, bob, carol = world.friends("alice", "bob", "carol")
    direct = UUID(world.say(alice, "bob", "one", "two")[0].conversation)
    group = world.group(alice, bob, carol, title="Three").pk
    Membership.objects.filter(conversation=group, user=bob.user).update(active=False)
    found = selectors.conversation_objects([direct, group, uuid4()])
    assert found.keys() == {direct, group}
    assert (found[direct].kind, found[direct].title, found[direct].rev, found[direct].last_seq) == (
        "direct",
        None,
        2,
        2,
    )
    assert found[group].title == "Three"
    assert [(member.username, member.role) for member in found[group].members] == [
        ("alice", "owner"), ("carol", "member"),
    ]  # fmt: skip
    assert found[group].member_count == 2
    for device in (alice, bob):
        mine = selectors.my_conversation(user=device.user, conversation=direct)
        assert (mine.id, mine.rev, mine.members) == (
            found[direct].id,
            found[direct].rev,
            found[direct].members,
        )


def test_conversation_objects_take_two_queries(world: World) -> None:
    alice, *others = world.friends("alice", *(f"friend{number}" for number in range(9)))
    keys = [UUID(world.say(alice, other.user.username, "one")[0].conversation) for other in others]
    for some in (keys[:1], keys):
        with CaptureQueriesContext(connection) as captured:
            assert len(selectors.conversation_objects(some)) == len(some)
        assert len(captured) == 2
    assert selectors.conversation_objects([]) == {}


def test_a_conversation_whose_members_have_all_left_has_none(world: World) -> None:
    (alice,) = world.friends("alice")
    group = world.group(alice).pk
    Membership.objects.update(active=False)
    found = selectors.conversation_objects([group])[group]
    assert (found.member_count, found.members) == (0, [])
    with pytest.raises(NotFound):
        selectors.membership(user=alice.user, conversation=group)


def test_a_message_object_has_every_state_of_a_message(world: World) -> None:
    alice, _ = world.friends("alice", "bob")
    stored = Message.objects.get(pk=world.say(alice, "bob", "one")[0].id)
    stored.edited_at = stored.created_at + timedelta(seconds=1)
    stored.deleted_at = stored.created_at + timedelta(seconds=2, microseconds=5)
    stored.sender, stored.body = None, None
    stored.save()
    found = selectors.message_from_row(Message.objects.values_list(*selectors.MESSAGE_FIELDS).get())
    assert (found.id, found.conversation) == (str(stored.pk), str(stored.conversation_id))
    assert (found.seq, found.rev, found.kind, found.reactions) == (1, 1, "text", {})
    assert (found.sender, found.body, found.client_id) == (None, None, str(stored.client_id))
    times = [found.created_at, found.edited_at, found.deleted_at]
    moments = [stored.created_at, stored.edited_at, stored.deleted_at]
    assert times == [moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ") for moment in moments]


@pytest.mark.cluster
def test_rows_that_change_with_every_message_are_updated_in_place(world: World) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname, reloptions FROM pg_class WHERE reloptions IS NOT NULL AND relkind = 'r'"
        )
        options = dict(cursor.fetchall())
        for model in (Conversation, Membership):
            assert options[model._meta.db_table] == ["fillfactor=70"]
        # No index is on what changes with every message.
        cursor.execute(
            "SELECT indexdef FROM pg_indexes WHERE tablename IN ('messaging_conversation', 'messaging_membership')"
        )
        for (definition,) in cursor.fetchall():
            changing = ("head_rev", "last_seq", "active_at", "read_seq", "delivered_seq", "wrote")
            assert not any(column in definition for column in changing), definition
