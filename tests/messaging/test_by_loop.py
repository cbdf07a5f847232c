"""What the loop asks PostgreSQL itself has the answers of the functions that it stands for."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from accounts.models import User
from chatbe.core import clock
from chatbe.hub import database
from messaging import stream
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
    question = database.direct(stream.streams_of)
    assert question is not None

    async def ask() -> list[list[stream.Stream]]:
        asked = database.Database()
        try:
            return list(await asyncio.gather(*(asked.ask(question, user.id) for user in (alice, bob))))
        finally:
            asked.close()

    assert asyncio.run(ask()) == [stream.streams_of(alice.id), stream.streams_of(bob.id)]
    assert [item.conversation for item in stream.streams_of(bob.id)] == [str(direct.id)]
