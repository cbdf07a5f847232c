"""Messaging under test: people who are each other's contacts, what they say, and what is fanned out."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from accounts.models import Contact, User
from chatbe.hub import fanout
from chatbe.wire import frames
from messaging import services
from messaging.models import Conversation, Membership, Message
from tests.support.http import Device


class World:
    """Makes people and lets them talk."""

    def user(self, username: str, **fields: Any) -> User:
        return User.objects.create(username=username, password="!", **fields)

    def friends(self, *usernames: str) -> list[Device]:
        """People who have all added each other."""
        users = [self.user(name) for name in usernames]
        Contact.objects.bulk_create(
            Contact(owner=one, target=other) for one in users for other in users if one != other
        )
        return [Device(user) for user in users]

    def say(self, sender: User | Device, to: UUID | str, *bodies: str) -> list[frames.MessageObject]:
        """Send to a conversation's id or to a username."""
        user = sender.user if isinstance(sender, Device) else sender
        target: dict[str, Any] = {"conversation": to} if isinstance(to, UUID) else {"username": to}
        return [services.message_send(sender=user, body=body, **target).message for body in bodies]

    def group(self, *members: User | Device, title: str = "Group") -> Conversation:
        """A group that has begun: its making took the first rev."""
        users = [member.user if isinstance(member, Device) else member for member in members]
        made = Conversation.objects.create(
            kind="group", title=title, head_rev=1, state_rev=1, member_count=len(users)
        )
        roles = ["owner", *["member"] * (len(users) - 1)]
        for user, role in zip(users, roles, strict=True):
            Membership.objects.create(conversation=made, user=user, role=role, joined_rev=1)
        return made


def consistent(conversation: UUID) -> None:
    """What holds of every conversation, whatever wrote it."""
    row = Conversation.objects.get(pk=conversation)
    messages = list(Message.objects.filter(conversation=row).order_by("seq"))
    assert [message.seq for message in messages] == list(range(row.purged_seq + 1, row.last_seq + 1))
    revs = [message.rev for message in messages]
    assert len(set(revs)) == len(revs)
    assert row.state_rev <= row.head_rev
    assert all(0 < rev <= row.head_rev for rev in revs)
    if row.head_rev:
        assert row.head_rev in {*revs, row.state_rev}
    for member in Membership.objects.filter(conversation=row):
        assert 0 <= member.read_seq <= member.delivered_seq <= row.last_seq
        mine = [
            message.seq
            for message in messages
            if message.sender_id == member.user_id and message.kind == "text"
        ]
        assert member.wrote == bool(mine) or row.purged_seq
        assert member.read_seq >= max(mine, default=0)
    active = Membership.objects.filter(conversation=row, active=True)
    if row.kind == "group":
        assert row.member_count == active.count()
        owners = [member.user_id for member in active if member.role == "owner"]
        assert len(owners) == (1 if row.member_count else 0)
    for message in messages:
        if message.deleted_at is not None:
            assert (message.body, message.mentions, message.attachments, message.reacted) == (
                None,
                None,
                None,
                False,
            )
            assert not message.versions.exists()
            assert not message.mentioned.exists()
        assert message.reacted == message.reactions.exists()


@pytest.fixture
def world(db: None) -> World:
    return World()


@pytest.fixture
def fanned_out(monkeypatch: pytest.MonkeyPatch) -> list[fanout.Envelope]:
    """What was fanned out, instead of doing it."""
    envelopes: list[fanout.Envelope] = []
    monkeypatch.setattr(fanout, "send", lambda _groups, envelope: envelopes.append(envelope))
    return envelopes
