"""What becomes of a person's conversations when their account is erased, and what they can take away.

Their messages stay, without a sender; their memberships end. Each message that loses its sender and
each membership that ends takes a rev, so that whoever syncs hears of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Count

from chatbe.core import clock
from chatbe.hub import fanout
from chatbe.wire import codec
from messaging import stream
from messaging.models import Conversation, Membership, Message
from messaging.stream import Wanted

AT_ONCE: Final = 500
"""So many conversations are read or written by one statement."""

# In one statement, since a person may have written a million messages.
_TAKE_AWAY_SENDER: Final = """
    UPDATE messaging_message AS message
       SET sender_id = NULL, rev = conversation.head_rev + numbered.place
      FROM (SELECT id, row_number() OVER (PARTITION BY conversation_id ORDER BY seq) AS place
              FROM messaging_message WHERE sender_id = %s) AS numbered,
           messaging_conversation AS conversation
     WHERE message.id = numbered.id AND conversation.id = message.conversation_id"""


def erase(user_id: UUID) -> None:
    """Take a user out of all conversations and their name off all messages, in the caller's transaction.

    What they wrote stays. Direct conversations in which nothing was said go with them. Servers are
    told after the commit.
    """
    memberships = Membership.objects.filter(user=user_id)
    conversations = list(
        Conversation.objects.select_for_update()
        .filter(pk__in=list(memberships.values_list("conversation_id", flat=True)))
        .order_by("pk")
    )
    # Nothing else writes to these conversations from here on, so what is counted is what is changed.
    active = set(memberships.filter(active=True).values_list("conversation_id", flat=True))
    written = dict(
        Message.objects.filter(sender=user_id)
        .order_by()
        .values_list("conversation_id")
        .annotate(count=Count("*"))
    )
    with connection.cursor() as cursor:
        cursor.execute(_TAKE_AWAY_SENDER, [_parameter(user_id)])
    memberships.update(active=False)
    empty, changed = [], []
    for conversation in conversations:
        conversation.head_rev += written.get(conversation.pk, 0)
        if conversation.kind == Conversation.Kind.DIRECT and conversation.last_seq == 0:
            empty.append(conversation.pk)
        elif conversation.pk in active:
            conversation.head_rev += 1
            conversation.state_rev = conversation.head_rev
            changed.append(conversation)
        elif conversation.pk in written:
            changed.append(conversation)
    Conversation.objects.bulk_update(changed, ["head_rev", "state_rev"], batch_size=AT_ONCE)
    Conversation.objects.filter(pk__in=empty).delete()
    transaction.on_commit(partial(publish_changes, changed), robust=True)


def _parameter(user_id: UUID) -> UUID | str:
    """As the column has it: SQLite keeps UUIDs as hex digits."""
    return user_id if connection.features.has_native_uuid_field else user_id.hex


def publish_changes(conversations: Sequence[Conversation]) -> None:
    """Tell of the last change of each; whoever lacks those before it reads them from the database."""
    by_id = {str(conversation.pk): conversation for conversation in conversations}
    wanted = [
        Wanted(key, conversation.head_rev - 1, conversation.head_rev, conversation.state_rev, 0)
        for key, conversation in by_id.items()
    ]
    for start in range(0, len(wanted), AT_ONCE):
        pieces, _ = stream.read(wanted[start : start + AT_ONCE], limit=1)
        for piece in pieces:
            pair = by_id[piece.conversation].pair
            users = tuple(str(UUID(user)) for user in pair.split(":")) if pair else None
            fanout.change(
                piece.conversation, rev=piece.rev, seq=piece.seq, event=codec.encode(piece.event), users=users
            )


def export(user_id: UUID) -> dict[str, Any]:
    """The user's conversations with what is theirs in them, and every message that they sent."""
    memberships = (
        Membership.objects.filter(user=user_id).select_related("conversation").order_by("conversation_id")
    )
    messages = Message.objects.filter(sender=user_id).order_by("conversation_id", "seq")
    return {
        "conversations": [
            {
                "id": str(row.conversation_id),
                "kind": row.conversation.kind,
                "title": row.conversation.title,
                "role": row.role,
                "active": row.active,
                "joined_at": clock.timestamp(row.created_at),
                "read_seq": row.read_seq,
                "delivered_seq": row.delivered_seq,
                "muted_until": clock.optional_timestamp(row.muted_until),
            }
            for row in memberships
        ],
        "messages": [
            {
                "id": str(row.pk),
                "conversation": str(row.conversation_id),
                "seq": row.seq,
                "client_id": str(row.client_id),
                "body": row.body,
                "reply_to": row.reply_to,
                "created_at": clock.timestamp(row.created_at),
                "edited_at": clock.optional_timestamp(row.edited_at),
                "deleted_at": clock.optional_timestamp(row.deleted_at),
            }
            for row in messages.iterator(chunk_size=2000)
        ],
    }
