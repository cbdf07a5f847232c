"""Conversations, memberships and messages in the admin."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.db import connection
from django.db.models import Manager
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts.models import User
from messaging import admin
from messaging.models import Conversation, Membership, Message
from tests.messaging.conftest import World

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("fanned_out")]

LISTS = ("conversation", "membership", "message")


@pytest.fixture
def staff(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create(username="root", password="!", is_staff=True, is_superuser=True))
    return client


def url(model: str, key: object = None) -> str:
    return f"/admin/messaging/{model}/" + (f"{key}/change/" if key is not None else "")


def shown(staff: Client, model: str, **query: Any) -> list[Any]:
    response = staff.get(url(model), query)
    assert response.status_code == 200
    return list(response.context["cl"].result_list)


def many_messages(world: World, count: int) -> Conversation:
    alice, _ = world.friends("alice", "bob")
    conversation = Conversation.objects.get(pk=world.say(alice, "bob", "first")[0].conversation)
    Message.objects.bulk_create(
        Message(
            conversation=conversation,
            seq=seq,
            rev=seq,
            sender=alice.user,
            client_id=uuid.uuid4(),
            body=f"text {seq}",
        )
        for seq in range(2, count + 1)
    )
    return conversation


def test_lists_load_with_constant_queries_and_count_no_table(
    world: World, staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: dict[str, list[int]] = {model: [] for model in LISTS}
    conversation = many_messages(world, 10)
    for _ in range(2):
        for model in LISTS:
            with CaptureQueriesContext(
                connection,
            ) as captured:
                shown(staff, model)
            counts[model].append(len(captured))
            counting = [query["sql"] for query in captured if "COUNT(" in query["sql"].upper()]
            assert counting
            assert all("LIMIT" in statement for statement in counting)
        rows = Message.objects.filter(conversation=conversation).count()
        Message.objects.bulk_create(
            Message(conversation=conversation, seq=seq, rev=seq, client_id=uuid.uuid4(), body="text")
            for seq in range(rows + 1, 10_001)
        )
        for number in range(60):
            world.group(world.user(f"user{rows}-{number}"))
    assert {model: len(set(numbers)) for model, numbers in counts.items()} == dict.fromkeys(LISTS, 1)
    monkeypatch.setattr(admin, "COUNTED", 100)
    response = staff.get(url("message"))
    assert response.context["cl"].result_count == 100


@pytest.mark.parametrize("model", LISTS)
def test_nothing_is_added_edited_or_deleted(world: World, staff: Client, model: str) -> None:
    many_messages(world, 2)
    rows: dict[str, Manager[Any]] = {
        "conversation": Conversation.objects,
        "membership": Membership.objects,
        "message": Message.objects,
    }
    row = rows[model].first()
    assert row is not None
    page = staff.get(url(model, row.pk))
    assert page.status_code == 200
    assert b'name="_save"' not in page.content
    assert staff.post(url(model, row.pk), {"title": "x", "body": "x", "head_rev": "7"}).status_code == 403
    assert staff.get(url(model) + "add/").status_code == 403
    assert staff.post(url(model) + f"{row.pk}/delete/", {"post": "yes"}).status_code == 403
    assert b"delete_selected" not in staff.get(url(model)).content


def test_things_are_found_by_id_and_by_name(world: World, staff: Client) -> None:
    alice, bob, carol = world.friends("alice", "bob", "carol")
    first = world.say(alice, "bob", "to bob", "to bob again")[0]
    second = world.say(carol, "alice", "from carol")[0]
    assert [str(row.pk) for row in shown(staff, "conversation", q=first.conversation)] == [first.conversation]
    assert [str(row.pk) for row in shown(staff, "conversation", q="BOB")] == [first.conversation]
    assert len(shown(staff, "conversation", q="alice")) == 2
    assert [str(row.pk) for row in shown(staff, "conversation", q="bob alice")] == [first.conversation]
    assert shown(staff, "conversation", q="ali") == []
    assert len(shown(staff, "conversation", q="ali*")) == 2
    assert [row.body for row in shown(staff, "message", q=first.conversation)] == ["to bob again", "to bob"]
    assert [row.body for row in shown(staff, "message", q=second.id)] == ["from carol"]
    assert [row.body for row in shown(staff, "message", q="carol")] == ["from carol"]
    assert {row.user for row in shown(staff, "membership", q=first.conversation)} == {alice.user, bob.user}
    assert len(shown(staff, "membership", q="alice")) == 2
    for model in LISTS:
        for nothing in ("nobody", "*x", "%", str(uuid.uuid4()), "'; --"):
            assert shown(staff, model, q=nothing) == []


def test_lists_are_narrowed(world: World, staff: Client) -> None:
    alice, bob = world.friends("alice", "bob")
    direct = world.say(alice, "bob", "one", "two", "three")[0].conversation
    group = world.group(alice, bob)
    Message.objects.filter(seq=1).update(deleted_at=group.created_at, body=None)
    Message.objects.filter(seq=2).update(kind="system")
    assert [str(row.pk) for row in shown(staff, "conversation", kind="direct")] == [direct]
    assert [row.pk for row in shown(staff, "conversation", kind="group")] == [group.pk]
    assert [row.seq for row in shown(staff, "message", state="deleted")] == [1]
    assert [row.seq for row in shown(staff, "message", state="system")] == [2]
    assert [row.user for row in shown(staff, "membership", role="owner")] == [alice.user]
    page = staff.get(url("conversation", group.pk)).content.decode()
    assert f"/admin/messaging/message/?q={group.pk}" in page
    assert f"/admin/messaging/membership/?q={group.pk}" in page


def test_a_message_without_sender_and_body_is_shown(world: World, staff: Client) -> None:
    many_messages(world, 2)
    Message.objects.update(sender=None, body=None)
    row = shown(staff, "message")[0]
    assert staff.get(url("message", row.pk)).status_code == 200
