"""Three people and something to look at, for the first run."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from django.contrib.auth.hashers import make_password
from django.db import connection, transaction

from accounts.models import Contact, User
from chatbe.core import clock
from messaging.models import Conversation, Membership, Message, pair_key

EMBEDDED_PASSWORD: Final = "chatbe-demo-1"  # noqa: S105 - of people that exist on one's own machine only
PEOPLE: Final = (("alice", "Alice"), ("bob", "Bob"), ("carol", "Carol"))

ALICE_AND_BOB: Final = (
    ("alice", "Good morning, Bob! Did the new kettle arrive?"),
    ("bob", "Morning! It did. It whistles in two voices, like a little choir."),
    ("alice", "Then the kitchen finally has a band."),
    ("bob", "We need a name for it."),
    ("alice", "Steam and the Descale?"),
    ("bob", "Sold. First concert at half past ten."),
    ("alice", "I'll bring the biscuits. Ginger or oat?"),
    ("bob", "Both. It is a concert."),
    ("alice", "By the way: are you coming to the lake on Saturday? Carol has a boat."),
    ("bob", "Carol has a *boat*?"),
    ("alice", "A rowing boat. With one oar, I am told."),
    ("bob", "So we will see the lake from all sides, slowly."),
    ("alice", "That is the plan. Ten o'clock at the bridge?"),
    ("bob", "I'll be there. I'll bring the second oar."),
    ("bob", "And a hat 🎩"),
)
ALICE_AND_CAROL: Final = (
    ("alice", "Bob is in for Saturday. He brings an oar."),
    ("carol", "Wonderful! Then it is officially a boat."),
    ("alice", "Ten o'clock at the bridge."),
    ("carol", "I'll bring sandwiches. See you there ⛵"),
)


def seed_demo() -> list[tuple[str, str]]:
    """Make alice, bob and carol, contacts of each other, who talk; returns (username, password) of each.

    Does nothing and returns nothing where alice is already. On PostgreSQL, which others may reach,
    the password is made at random.
    """
    if User.objects.filter(username="alice").exists():
        return []
    password = EMBEDDED_PASSWORD if connection.vendor == "sqlite" else secrets.token_urlsafe(12)
    now = clock.now()
    with transaction.atomic():
        people = {
            username: User(
                username=username,
                email=f"{username}@example.org",
                display_name=display_name,
                password=make_password(password),
                created_at=now - timedelta(days=2),
            )
            for username, display_name in PEOPLE
        }
        User.objects.bulk_create(people.values())
        Contact.objects.bulk_create(
            Contact(owner=owner, target=target)
            for owner in people.values()
            for target in people.values()
            if owner is not target
        )
        _converse(people, ALICE_AND_BOB, begins=now - timedelta(hours=3), every=timedelta(minutes=7))
        _converse(people, ALICE_AND_CAROL, begins=now - timedelta(minutes=50), every=timedelta(minutes=4))
    return [(username, password) for username in people]


def _converse(
    people: dict[str, User], lines: Sequence[tuple[str, str]], *, begins: datetime, every: timedelta
) -> None:
    """Store a direct conversation as if it had been held; what was said last is unread."""
    last_seq = len(lines)
    conversation = Conversation.objects.create(
        kind=Conversation.Kind.DIRECT,
        pair=pair_key(*{people[username].pk for username, _ in lines}),
        head_rev=last_seq,
        last_seq=last_seq,
        active_at=begins + (last_seq - 1) * every,
        created_at=begins,
    )
    Message.objects.bulk_create(
        Message(
            conversation=conversation,
            seq=seq,
            rev=seq,
            sender=people[username],
            client_id=uuid.uuid4(),
            body=body,
            created_at=begins + (seq - 1) * every,
        )
        for seq, (username, body) in enumerate(lines, start=1)
    )
    for username in dict.fromkeys(username for username, _ in lines):
        said = max(seq for seq, (sender, _) in enumerate(lines, start=1) if sender == username)
        Membership.objects.create(
            conversation=conversation,
            user=people[username],
            wrote=True,
            read_seq=said,
            delivered_seq=last_seq,
            created_at=begins,
        )
