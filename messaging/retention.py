"""Deletes messages for good once they are old, beside live traffic.

Always a conversation's oldest messages, up to some seq, which the conversation then names
(`purged_seq`). Each batch is one short transaction under the conversation's lock and one change of
the conversation, with a rev of its own: so live sockets, `sync` and `changes` tell of it as of any
other change, and every client drops what the database has dropped. No seq or rev is given again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import takewhile
from typing import Final
from uuid import UUID

from django.db import connection
from django.db.models import Exists, F, OuterRef

from chatbe.core.errors import NotFound
from messaging import changing, services
from messaging.models import Conversation, Mention, Message, MessageVersion, Reaction

MESSAGES_AT_ONCE: Final = 1_024
"""So many messages one transaction deletes; it holds the conversation for some ten milliseconds."""
CONVERSATIONS_AT_ONCE: Final = 500


def count_older(*, before: datetime, conversations: Sequence[UUID] = ()) -> int:
    """How many messages were sent before `before`; reads the whole table unless conversations are named."""
    found = Message.objects.filter(created_at__lt=before)
    return (found.filter(conversation__in=conversations) if conversations else found).count()


def purge(
    *,
    before: datetime,
    conversations: Sequence[UUID] = (),
    progress: Callable[[int], object] = lambda _: None,
) -> int:
    """Delete the messages that were sent before `before`, in all conversations or those named; returns how many.

    What was done when it is interrupted stays done, and is consistent. A message behind a younger
    one (clocks of servers differ by a moment) stays until that is old too.
    """
    total = 0
    for conversation in _having_older(before, conversations):
        while count := purge_batch(conversation=conversation, before=before):
            total += count
            progress(count)
    return total


def _having_older(before: datetime, conversations: Sequence[UUID]) -> Iterator[UUID]:
    """Conversations whose oldest message is older, by id."""
    oldest = Message.objects.filter(
        conversation=OuterRef("pk"), seq=OuterRef("first_seq"), created_at__lt=before
    )
    found = Conversation.objects.alias(first_seq=F("purged_seq") + 1).filter(Exists(oldest)).order_by("pk")
    if conversations:
        found = found.filter(pk__in=conversations)
    page = list(found.values_list("pk", flat=True)[:CONVERSATIONS_AT_ONCE])
    while page:
        yield from page
        page = list(found.filter(pk__gt=page[-1]).values_list("pk", flat=True)[:CONVERSATIONS_AT_ONCE])


def purge_batch(*, conversation: UUID, before: datetime) -> int:
    """Delete the oldest messages of a conversation, at most `MESSAGES_AT_ONCE`; returns how many."""
    try:
        with changing.hold(conversation) as held:
            row = held.row
            oldest = (
                Message.objects.filter(conversation=row, seq__lte=row.purged_seq + MESSAGES_AT_ONCE)
                .order_by("seq")
                .values_list("pk", "seq", "created_at")
            )
            older = list(takewhile(lambda message: message[2] < before, oldest))
            if not older:
                return 0
            row.purged_seq = older[-1][1]
            services.messages_removed([message[0] for message in older])
            _delete(row)
            held.change_state()
    except NotFound:
        # Erased meanwhile.
        return 0
    changing.tell(held)
    return len(older)


def _delete(row: Conversation) -> None:
    """Delete the messages up to `purged_seq` and what refers to them, each by one statement."""
    gone = Message.objects.filter(conversation=row, seq__lte=row.purged_seq)
    for model in (MessageVersion, Reaction):
        model.objects.filter(message__in=gone.values("pk")).delete()
    Mention.objects.filter(conversation=row, seq__lte=row.purged_seq).delete()
    with connection.cursor() as cursor:
        # Django would read the rows first, and delete a hundred at a time: with each the segments are made anew.
        cursor.execute(
            "DELETE FROM messaging_message WHERE conversation_id = %s AND seq <= %s",
            [row.pk if connection.features.has_native_uuid_field else row.pk.hex, row.purged_seq],
        )
