"""What becomes of a person's conversations when their account is erased, and what they can take away.

Their messages stay, without a sender; their memberships end. Each message that loses its sender, a
reaction or a mention and each membership that ends takes a rev, so that whoever syncs hears of it. A
group that loses its owner gets another.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any, Final
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Window
from django.db.models.functions import RowNumber

from accounts.models import User
from chatbe.core import clock
from chatbe.hub import fanout
from chatbe.wire import codec
from messaging import stream
from messaging.models import UNCOUNTED, Conversation, Membership, Message, MessageVersion, Reaction
from messaging.stream import Wanted

AT_ONCE: Final = 500
"""So many conversations are read or written by one statement."""

# Whatever names the user. Each statement is one, since a person may have written a million messages.
_NAMING: Final = """
    SELECT id FROM messaging_message WHERE sender_id = %(user)s
     UNION SELECT message_id FROM messaging_reaction WHERE user_id = %(user)s
     UNION SELECT message_id FROM messaging_mention WHERE user_id = %(user)s
     UNION SELECT message.id
             FROM messaging_membership AS membership
             JOIN messaging_mention AS everyone
               ON everyone.conversation_id = membership.conversation_id AND everyone.user_id IS NULL
             JOIN messaging_message AS message ON message.id = everyone.message_id
            WHERE membership.user_id = %(user)s
              AND ' ' || message.mentions || ' ' LIKE '%% ' || %(pattern)s || ' %%' ESCAPE '!'"""
_COUNT: Final = f"""
    SELECT conversation_id, count(*) FROM messaging_message WHERE id IN ({_NAMING}) GROUP BY conversation_id"""  # noqa: S608 - a constant
_TAKE_AWAY: Final = f"""
    UPDATE messaging_message AS message
       SET rev = conversation.head_rev + numbered.place,
           body = CASE WHEN message.sender_id = %(user)s AND message.kind = 'system'
                       THEN 'Someone' || substr(message.body, length(%(name)s) + 1) ELSE message.body END,
           mentions = nullif(trim(replace(' ' || message.mentions || ' ', ' ' || %(name)s || ' ', ' ')), ''),
           sender_id = CASE WHEN message.sender_id = %(user)s THEN NULL ELSE message.sender_id END,
           reacted = EXISTS (SELECT 1 FROM messaging_reaction AS other
                              WHERE other.message_id = message.id AND other.user_id <> %(user)s)
      FROM (SELECT id, row_number() OVER (PARTITION BY conversation_id ORDER BY seq) AS place
              FROM messaging_message WHERE id IN ({_NAMING})) AS numbered,
           messaging_conversation AS conversation
     WHERE message.id = numbered.id AND conversation.id = message.conversation_id"""  # noqa: S608 - a constant


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
    name = User.objects.values_list("username", flat=True).get(pk=user_id)
    written = _take_away_name(user_id, name)
    _promote(user_id)
    memberships.update(active=False)
    empty, changed = [], []
    for conversation in conversations:
        conversation.head_rev += written.get(conversation.pk, 0)
        if conversation.kind == Conversation.Kind.DIRECT and conversation.last_seq == 0:
            empty.append(conversation.pk)
        elif conversation.pk in active:
            conversation.head_rev += 1
            conversation.state_rev = conversation.head_rev
            conversation.member_count = max(0, conversation.member_count - 1)
            changed.append(conversation)
        elif conversation.pk in written:
            changed.append(conversation)
    changed += _unname(name, [each for each in conversations if each not in changed], changed)
    Conversation.objects.bulk_update(changed, ["head_rev", "state_rev", "member_count"], batch_size=AT_ONCE)
    Conversation.objects.filter(pk__in=empty).delete()
    transaction.on_commit(partial(_publish, changed), robust=True)


def _take_away_name(user_id: UUID, name: str) -> dict[UUID, int]:
    """Take a user off messages, reactions and mentions. Returns how many messages changed in each conversation."""
    # An underscore stands for any character.
    parameters = {"user": _parameter(user_id), "name": name, "pattern": name.replace("_", "!_")}
    with connection.cursor() as cursor:
        cursor.execute(_COUNT, parameters)
        counts = {key if isinstance(key, UUID) else UUID(key): count for key, count in cursor.fetchall()}
        cursor.execute(_TAKE_AWAY, parameters)
    Reaction.objects.filter(user=user_id).delete()
    return counts


def _promote(user_id: UUID) -> None:
    """Make somebody the owner of each group that the user owns: who has been its admin for longest, else its member."""
    owned = Membership.objects.filter(user=user_id, active=True, role=Membership.Role.OWNER)
    heirs = (
        Membership.objects.filter(conversation__in=owned.values("conversation"), active=True)
        .exclude(user=user_id)
        .annotate(
            # An admin comes before a member, by the alphabet too.
            place=Window(RowNumber(), partition_by="conversation_id", order_by=["role", "id"])
        )
        .filter(place=1)
    )
    Membership.objects.filter(pk__in=list(heirs.values_list("pk", flat=True))).update(
        role=Membership.Role.OWNER
    )
    owned.update(role=Membership.Role.MEMBER)


def _unname(name: str, others: Sequence[Conversation], changed: Sequence[Conversation]) -> list[Conversation]:
    """Take a name out of what the server has said about others' changes of groups.

    Raises the head of each conversation by the messages that it has changed. Returns those of
    `others` that it has changed.
    """
    by_id = {each.pk: each for each in (*others, *changed) if each.kind == Conversation.Kind.GROUP}
    pattern = re.compile(rf"(?<![a-z0-9._-]){re.escape(name)}(?![a-z0-9._-])")
    renamed = []
    for message in Message.objects.filter(
        UNCOUNTED, conversation__in=by_id, kind=Message.Kind.SYSTEM, body__contains=name
    ).order_by("conversation_id", "seq"):
        body = pattern.sub("someone", message.body or "")
        if body != message.body:
            conversation = by_id[message.conversation_id]
            conversation.head_rev += 1
            message.rev, message.body = conversation.head_rev, body
            renamed.append(message)
    Message.objects.bulk_update(renamed, ["rev", "body"], batch_size=AT_ONCE)
    touched = {message.conversation_id for message in renamed}
    return [each for each in others if each.pk in touched]


def _parameter(user_id: UUID) -> UUID | str:
    """As the column has it: SQLite keeps UUIDs as hex digits."""
    return user_id if connection.features.has_native_uuid_field else user_id.hex


def _publish(conversations: Sequence[Conversation]) -> None:
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
        "earlier_versions": [
            {
                "conversation": str(version.message.conversation_id),
                "seq": version.message.seq,
                "body": version.body,
                "replaced_at": clock.timestamp(version.replaced_at),
            }
            for version in MessageVersion.objects.filter(message__sender=user_id)
            .select_related("message")
            .order_by("id")
        ],
        "reactions": [
            {"conversation": str(conversation), "seq": seq, "emoji": emoji}
            for conversation, seq, emoji in Reaction.objects.filter(user=user_id)
            .order_by("id")
            .values_list("message__conversation_id", "message__seq", "emoji")
        ],
    }
