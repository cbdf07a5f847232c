"""Messages that live: edits, deletions, reactions. Each takes the conversation's next rev and moves the message to it.

Blocking, keyword-only. They commit and return what came of it; telling is the caller's (`changing.tell`), since a
socket's own ack goes with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

import emoji as emoji_library
from django.conf import settings

from accounts.models import Block
from chatbe.core.errors import Blocked, Conflict, Expired, FieldError, Forbidden, Invalid, NotFound
from chatbe.wire import frames
from messaging import changing, mentions, selectors, services
from messaging.changing import Held
from messaging.models import Conversation, Membership, Mention, Message, MessageVersion, Reaction

KINDS_MOST: Final = frames.MAX_REACTION_KINDS


@dataclass(frozen=True, slots=True)
class Outcome:
    """A message after a change; `changed` is False, and no rev was taken, when it was so already."""

    message: frames.MessageObject
    changed: bool
    held: Held


def emoji_normalize(text: str) -> str | None:
    """One emoji in its fully qualified form, so that its spellings count as one; None for anything else."""
    if not emoji_library.is_emoji(text):
        return None
    return emoji_library.emojize(emoji_library.demojize(text))


def message_edit(*, user: UUID, conversation: UUID, seq: int, body: str) -> Outcome:
    """Replace the body of one's own message. Raises `Expired` when its time has passed."""
    with changing.hold(conversation) as held:
        member, message = _message(held, user, seq)
        if message.sender_id != user or message.kind != Message.Kind.TEXT:
            raise Forbidden("You can edit your own messages only.")
        if message.deleted_at is not None:
            raise Conflict("This message was deleted.")
        _refuse_blocked(held, user)
        limit = settings.CHATBE_EDIT_SECONDS
        if limit and held.now > message.created_at + timedelta(seconds=limit):
            raise Expired("The time in which this message could be edited has passed.")
        if message.body == body:
            return _unchanged(held, message)
        if not (body or message.attachments):
            detail = "A message has a text, or attachments."
            raise Invalid(detail, errors=(FieldError("body", "blank", detail),))
        MessageVersion.objects.create(message=message, body=message.body or "", replaced_at=held.now)
        message.body = body
        message.edited_at = held.now
        _mention(held, member, message)
        return _changed(held, message, "body", "edited_at", "mentions")


def message_delete(*, user: UUID, conversation: UUID, seq: int) -> Outcome:
    """Delete a message for everyone: its sender may, and the owner and admins of a group.

    A tombstone stays; body, attachments, earlier versions, reactions and mentions go.
    """
    with changing.hold(conversation) as held:
        member, message = _message(held, user, seq)
        if message.kind != Message.Kind.TEXT:
            raise Forbidden("What the server says about a group stays.")
        if message.sender_id != user and not _moderates(held, member):
            raise Forbidden("You can delete your own messages only.")
        if message.deleted_at is not None:
            return _unchanged(held, message)
        message.versions.all().delete()
        message.reactions.all().delete()
        message.mentioned.all().delete()
        services.messages_removed([message.pk])
        message.body = message.mentions = message.attachments = None
        message.reacted = False
        message.deleted_at = held.now
        return _changed(held, message, "body", "mentions", "attachments", "reacted", "deleted_at")


def message_react(*, user: UUID, conversation: UUID, seq: int, emoji: str, on: bool) -> Outcome:
    """Put on, or take off, one's reaction."""
    kind = emoji_normalize(emoji)
    if kind is None:
        detail = "A reaction is one emoji."
        raise Invalid(detail, errors=(FieldError("emoji", "invalid", detail),))
    with changing.hold(conversation) as held:
        _, message = _message(held, user, seq)
        if message.deleted_at is not None:
            if not on:
                # Its reactions have gone with it.
                return _unchanged(held, message)
            raise Conflict("This message was deleted.")
        mine = Reaction.objects.filter(message=message, emoji=kind, user=user)
        if mine.exists() == on:
            return _unchanged(held, message)
        if on:
            _refuse_blocked(held, user)
            kinds = set(message.reactions.order_by().values_list("emoji", flat=True).distinct())
            if kind not in kinds and len(kinds) >= KINDS_MOST:
                raise Conflict(f"A message has at most {KINDS_MOST} different reactions.")
            Reaction.objects.create(message=message, emoji=kind, user_id=user)
        else:
            mine.delete()
        message.reacted = on or message.reactions.exists()
        return _changed(held, message, "reacted")


def _message(held: Held, user: UUID, seq: int) -> tuple[Membership, Message]:
    """The user's membership and a message that they may see. Raises `NotFound`, `Suspended`."""
    member = changing.acting_member(held, user)
    message = Message.objects.filter(conversation=held.row, seq=seq, seq__gt=member.joined_seq).first()
    if message is None:
        raise NotFound
    return member, message


def _moderates(held: Held, member: Membership) -> bool:
    return held.row.kind == Conversation.Kind.GROUP and member.role != Membership.Role.MEMBER


def _refuse_blocked(held: Held, user: UUID) -> None:
    """In a direct conversation nothing new reaches who has blocked the user; withdrawing is always possible."""
    if held.users is not None:
        others = [UUID(other) for other in held.users if other != str(user)]
        if Block.objects.filter(blocker__in=others, blocked=user).exists():
            raise Blocked


def _mention(held: Held, member: Membership, message: Message) -> None:
    """Resolve anew whom a message mentions."""
    resolved = mentions.resolve(held.row, member, mentions.names_in(message.body or ""))
    message.mentioned.all().delete()
    message.mentions = mentions.column(resolved)
    Mention.objects.bulk_create(mentions.rows(message, resolved))


def _changed(held: Held, message: Message, *fields: str) -> Outcome:
    message.rev = held.take_rev()
    message.save(update_fields=["rev", *fields])
    told = selectors.message_object(message=message.pk)
    held.tell_message(told)
    return Outcome(told, True, held)


def _unchanged(held: Held, message: Message) -> Outcome:
    return Outcome(selectors.message_object(message=message.pk), False, held)
