"""What the loop asks PostgreSQL itself has the answers of the functions that it stands for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from accounts.models import Block, User
from chatbe.core import clock
from chatbe.hub import database
from messaging import selectors, stream
from messaging.models import Conversation, Membership, pair_key

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.cluster]


def test_where_a_users_conversations_stand() -> None:
    alice, bob = (User.objects.create(username=name, password="!") for name in ("alice", "bob"))
    direct = Conversation.objects.create(
        kind="direct", pair=pair_key(alice.id, bob.id), head_rev=7, last_seq=5
    )
    group = Conversation.objects.create(kind="group", title="Group", head_rev=40, state_rev=31)
    left = Conversation.objects.create(kind="group", title="Left", head_rev=2)
    Membership.objects.create(conversation=direct, user=alice)
    Membership.objects.create(conversation=direct, user=bob)
    Membership.objects.create(
        conversation=group,
        user=alice,
        joined_seq=3,
        joined_rev=4,
        muted_until=clock.now() + timedelta(days=1),
    )
    Membership.objects.create(conversation=left, user=alice, joined_rev=1, left_rev=2, active=False)
    assert asked(stream.streams_of, alice, bob) == [stream.streams_of(alice.id), stream.streams_of(bob.id)]
    assert [item.conversation for item in stream.streams_of(bob.id)] == [str(direct.id)]


def test_what_a_user_is_told_of_their_conversations() -> None:
    people = [User.objects.create(username=f"user{number}", password="!") for number in range(6)]
    alice, bob, carol, dave, _, gone = people
    shy = User.objects.create(username="shy", password="!", read_receipts=False)
    later, earlier = clock.now() + timedelta(days=1), clock.now() - timedelta(days=1)
    seqs = iter(range(1, 1000))

    def talk(*members: User, head: int = 9, count: int | None = None) -> Conversation:
        direct = len(members) == 2
        made = Conversation.objects.create(
            kind="direct" if direct else "group", title="" if direct else "Group", head_rev=head,
            pair=pair_key(members[0].id, members[1].id) if direct else None,
            member_count=len(members) if count is None else count,
        )  # fmt: skip
        for member in members:
            Membership.objects.create(
                conversation=made, user=member, read_seq=next(seqs), delivered_seq=next(seqs)
            )
        return made

    muted = talk(alice, bob)
    Membership.objects.filter(conversation=muted, user=alice).update(muted_until=later)
    Membership.objects.filter(conversation=muted, user=bob).update(muted_until=earlier)
    Block.objects.create(blocker=alice, blocked=carol)
    Block.objects.create(blocker=dave, blocked=alice)
    Block.objects.create(blocker=bob, blocked=dave)
    talk(alice, carol)
    talk(alice, dave)
    talk(alice, shy)
    empty = talk(bob, shy, head=0)
    Membership.objects.filter(conversation=empty, user=bob).update(muted_until=later)
    group = talk(alice, bob, carol, dave, gone, shy)
    Membership.objects.filter(conversation=group, user=gone).update(active=False)
    talk(alice, bob, carol, count=selectors.RECEIPTS_TOLD + 1)
    users = [*people, shy]
    here = [stream.own_of(user.id) for user in users]
    assert asked(stream.own_of, *users) == here
    assert [len(own.marks) for own in here] == [6, 3, 3, 2, 0, 0, 2]
    assert [len(own.muted) for own in here] == [1, 2, 0, 0, 0, 0, 0]


def asked(function: Callable[..., Any], *users: User) -> list[Any]:
    """What the loop is answered for each of the users, all asking at once."""
    question = database.direct(function)
    assert question is not None

    async def ask() -> list[Any]:
        opened = database.Database()
        try:
            return list(await asyncio.gather(*(opened.ask(question, user.id) for user in users)))
        finally:
            opened.close()

    return asyncio.run(ask())
