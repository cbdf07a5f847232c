"""What messaging tells: conversations, marks, history. Reads only, each a constant number of queries.

`MESSAGE_FIELDS` with `message_from_row`, and `conversation_objects`, are the only places that
make the contract's objects from rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from django.db.models import Count, F, IntegerField, OuterRef, Q, QuerySet, Subquery, Value, Window
from django.db.models.functions import Coalesce, Greatest, RowNumber
from msgspec import UNSET, UnsetType

from accounts import selectors as accounts
from accounts.models import Block, User
from chatbe.core import clock
from chatbe.core.errors import NotFound
from chatbe.wire import frames
from messaging.models import UNCOUNTED, Conversation, Membership, Mention, Message, Reaction, pair_key

MEMBERS_NAMED: Final = 100
"""So many members a conversation object names."""
RECEIPTS_TOLD: Final = 100
"""In groups of more members than these, receipts go to their own member only; who has read is told on request."""

Marks = dict[str, tuple[int, int]]
"""Username → (read, delivered)."""


class MyConversation(frames.ConversationObject):
    """A conversation with what is mine in it.

    `unread` counts others' undeleted text messages after `read_seq`, `unread_mentions` those of them that
    mention me. The `peer_` marks are there in a direct conversation only, and null once the other's
    account is erased; `peer_read_seq` is 0 where either has turned read receipts off, both are where either
    has blocked the other.
    """

    role: str
    unread: int
    unread_mentions: int
    read_seq: int
    delivered_seq: int
    muted_until: frames.Time | None
    last_message: frames.MessageObject | None
    peer_read_seq: int | UnsetType | None = UNSET
    peer_delivered_seq: int | UnsetType | None = UNSET


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a list by latest activity."""

    active_at: datetime
    id: UUID


@dataclass(frozen=True, slots=True)
class ConversationPage:
    """A part of a list by latest activity; `earlier` and `later` lead on from it, None at an end."""

    conversations: list[MyConversation]
    later: Position | None
    """The list goes on before this page, with conversations of later activity."""
    earlier: Position | None
    """The list goes on after this page, with conversations of earlier activity."""


@dataclass(frozen=True, slots=True)
class MessagePage:
    """A part of a history in ascending seq; `older` and `newer` are seqs to go on from, None at an end."""

    messages: list[frames.MessageObject]
    older: int | None
    newer: int | None


@dataclass(slots=True)
class _Members:
    """Of one conversation: how many there are, and the first of them with user, read and delivered marks, and whether
    their read marks are shown."""

    count: int
    named: list[frames.Member]
    marks: list[tuple[UUID, int, int, bool]]


# --- messages ----------------------------------------------------------------------------------------------

MESSAGE_FIELDS: Final = (
    "id", "conversation_id", "seq", "rev", "kind", "sender__username", "body", "client_id", "reply_to",
    "created_at", "edited_at", "deleted_at", "mentions", "attachments", "reacted",
)  # fmt: skip
"""For `Message.objects.values_list(*MESSAGE_FIELDS)`, whose rows `messages_from_rows` takes."""


def messages_from_rows(rows: Iterable[tuple[Any, ...]]) -> list[frames.MessageObject]:
    """The message objects of rows of `MESSAGE_FIELDS`; one query more if any has reactions."""
    messages, reacted = [], []
    for row in rows:
        message = message_from_row(row)
        messages.append(message)
        if row[-1]:
            reacted.append(message)
    reactions_add(reacted)
    return messages


def message_from_row(row: tuple[Any, ...]) -> frames.MessageObject:
    """The message object of a row of `MESSAGE_FIELDS`, without its reactions."""
    (
        key, conversation, seq, rev, kind, sender, body, client_id, reply_to, created, edited, deleted,
        mentions, attachments, _,
    ) = row  # fmt: skip
    return frames.MessageObject(
        str(key), str(conversation), seq, rev, kind, sender, body, str(client_id), reply_to, {},
        clock.timestamp(created), clock.optional_timestamp(edited), clock.optional_timestamp(deleted),
        attachments_from_column(attachments) if deleted is None else [],
        UNSET if mentions is None else mentions.split(),
    )  # fmt: skip


def attachments_from_column(text: str | None) -> list[frames.Attachment]:
    """The attachment objects in `Message.attachments`."""
    return msgspec.json.decode(text, type=list[frames.Attachment]) if text else []


def reactions_add(messages: Sequence[frames.MessageObject]) -> None:
    """Put their reactions into message objects: each emoji with its count and the first names. At most one query."""
    if not messages:
        return
    by_id = {UUID(message.id): message for message in messages}
    rows = (
        Reaction.objects.filter(message__in=by_id)
        .annotate(
            place=Window(RowNumber(), partition_by=["message_id", "emoji"], order_by="id"),
            total=Window(Count("*"), partition_by=["message_id", "emoji"]),
        )
        .filter(place__lte=frames.REACTION_NAMES)
        .order_by("id")
        .values_list("message_id", "emoji", "total", "user__username")
    )
    for message, emoji, total, username in rows:
        reactions = by_id[message].reactions
        reaction = reactions.get(emoji)
        if reaction is None:
            reaction = reactions[emoji] = frames.Reaction(total, [])
        reaction.usernames.append(username)


def message_object(*, message: UUID) -> frames.MessageObject:
    """One message as it is now."""
    rows = Message.objects.filter(pk=message).values_list(*MESSAGE_FIELDS)
    return messages_from_rows(rows)[0]


def message_sent(*, user: User, message: UUID) -> frames.MessageObject:
    """One message of the user's own, as it is now; without what others made of it where it is out of their sight."""
    row = Message.objects.filter(pk=message).values_list(*MESSAGE_FIELDS).get()
    conversation, seq = row[1], row[2]
    seen = Membership.objects.filter(conversation=conversation, user=user, active=True, joined_seq__lt=seq)
    return messages_from_rows([row])[0] if seen.exists() else message_from_row(row)


def messages_by_id(ids: Sequence[UUID]) -> dict[UUID, frames.MessageObject]:
    """The objects of the messages that exist. At most two queries; says nothing about who may see them."""
    if not ids:
        return {}
    found = messages_from_rows(Message.objects.filter(pk__in=ids).values_list(*MESSAGE_FIELDS))
    return {UUID(message.id): message for message in found}


def message_page(*, membership: Membership, before: int | None, after: int | None, limit: int) -> MessagePage:
    """Messages that the member may see: the first after `after`, the last before `before`, or the newest.

    `membership` is from `membership`. Not both of `before` and `after`. One query.
    """
    hidden_to = max(membership.joined_seq, membership.conversation.purged_seq)
    visible = Message.objects.filter(conversation=membership.conversation_id, seq__gt=hidden_to)
    if after is not None:
        rows = visible.filter(seq__gt=after).order_by("seq")
    elif before is not None:
        rows = visible.filter(seq__lt=before).order_by("-seq")
    else:
        rows = visible.order_by("-seq")
    found = messages_from_rows(rows.values_list(*MESSAGE_FIELDS)[: limit + 1])
    goes_on = len(found) > limit
    del found[limit:]
    first, last = hidden_to + 1, membership.conversation.last_seq
    if after is not None:
        older = found[0].seq if found else min(after, last) + 1
        newer = found[-1].seq if goes_on else None
        return MessagePage(found, older if older > first else None, newer)
    found.reverse()
    older_goes_on = found[0].seq if goes_on else None
    if before is None:
        return MessagePage(found, older_goes_on, None)
    newer = found[-1].seq if found else max(before, first) - 1
    return MessagePage(found, older_goes_on, newer if newer < last else None)


# --- conversations -----------------------------------------------------------------------------------------


def membership(*, user: User, conversation: UUID) -> Membership:
    """The user's membership with its conversation. Raises `NotFound` for those who are not members now."""
    found = (
        Membership.objects.select_related("conversation", "user")
        .filter(user=user, conversation=conversation, active=True)
        .first()
    )
    if found is None:
        raise NotFound
    return found


def conversation_objects(ids: Sequence[UUID]) -> dict[UUID, frames.ConversationObject]:
    """The objects of the conversations that exist, with the head as their `rev`. Two queries."""
    # The conversations first: members that are newer than `rev` are told again by their own change,
    # members that are older than it never would be.
    rows = Conversation.objects.filter(id__in=ids).values_list(
        "id", "kind", "title", "head_rev", "last_seq", "created_at", "description", "history", "purged_seq"
    )
    conversations = list(rows)
    members = _members([row[0] for row in conversations])
    return {
        key: frames.ConversationObject(
            str(key),
            kind,
            title,
            rev,
            last_seq,
            members[key].count,
            members[key].named,
            clock.timestamp(created),
            description,
            history if kind == Conversation.Kind.GROUP else None,
            purged,
        )
        for key, kind, title, rev, last_seq, created, description, history, purged in conversations
    }


def my_conversation(*, user: User, conversation: UUID) -> MyConversation:
    """One conversation with what is the user's. Raises `NotFound` to who is not a member. Four queries."""
    found = list(_mine(user).filter(conversation=conversation))
    if not found:
        raise NotFound
    return _my_objects(found)[0]


def conversation_page(
    *, user: User, later_than: Position | None = None, earlier_than: Position | None = None, limit: int
) -> ConversationPage:
    """The user's conversations by latest activity, those that have begun. Four queries.

    The page is the one just before `later_than` in the list, just after `earlier_than`, or the
    first. What becomes active while somebody pages moves to the list's beginning, and nothing else moves.
    """
    listed = _mine(user).filter(
        Q(conversation__kind=Conversation.Kind.GROUP) | Q(conversation__last_seq__gt=0)
    )
    if later_than is not None:
        rows = listed.filter(_beyond("gt", later_than)).order_by("conversation__active_at", "conversation_id")
    else:
        if earlier_than is not None:
            listed = listed.filter(_beyond("lt", earlier_than))
        rows = listed.order_by("-conversation__active_at", "-conversation_id")
    found = list(rows[: limit + 1])
    goes_on = len(found) > limit
    del found[limit:]
    if later_than is not None:
        found.reverse()
        later = _position(found[0]) if goes_on else None
        earlier = _position(found[-1]) if found else later_than
        return ConversationPage(_my_objects(found), later, earlier)
    came_from = earlier_than and (_position(found[0]) if found else earlier_than)
    return ConversationPage(_my_objects(found), came_from, _position(found[-1]) if goes_on else None)


def _mine(user: User) -> QuerySet[Membership]:
    """The user's memberships, each with its conversation and `unread`, all of one moment.

    A seq has no gap and sending moves the sender's own read mark, so what lies after the mark is
    others', and counting means subtracting: the few that do not count have an index of their own.
    """
    read = Greatest("read_seq", "joined_seq", "conversation__purged_seq")
    uncounted = (
        Message.objects.filter(
            UNCOUNTED, conversation=OuterRef("conversation_id"), seq__gt=OuterRef("read_to")
        )
        .order_by()
        .values("conversation")
        .annotate(count=Count("*"))
        .values("count")
    )
    mentions = (
        Mention.objects.filter(
            Q(user=user) | Q(user=None), conversation=OuterRef("conversation_id"), seq__gt=OuterRef("read_to")
        )
        .order_by()
        .values("conversation")
        .annotate(count=Count("*"))
        .values("count")
    )
    return (
        Membership.objects.filter(user=user, active=True)
        .select_related("conversation", "user")
        .annotate(read_to=read)
        .annotate(
            unread=F("conversation__last_seq")
            - F("read_to")
            - Coalesce(Subquery(uncounted, output_field=IntegerField()), Value(0)),
            unread_mentions=Coalesce(Subquery(mentions, output_field=IntegerField()), Value(0)),
        )
    )


def _beyond(comparison: str, position: Position) -> Q:
    return Q(**{f"conversation__active_at__{comparison}": position.active_at}) | Q(
        conversation__active_at=position.active_at, **{f"conversation_id__{comparison}": position.id}
    )


def muted_until(moment: datetime | None) -> datetime | None:
    """A membership's `muted_until`, None once it has passed."""
    return moment if moment is not None and moment > clock.now() else None


def members_of(*, membership: Membership) -> QuerySet[Membership]:
    """A conversation's active members, with their users."""
    return Membership.objects.filter(conversation=membership.conversation_id, active=True).select_related(
        "user"
    )


def readers_of(*, membership: Membership, seq: int) -> QuerySet[Membership]:
    """The members but its sender who have read a message and let it be seen; nobody for those who do not
    themselves. Raises `NotFound` for a message that the member may not see."""
    message = (
        Message.objects.filter(
            conversation=membership.conversation_id, seq=seq, seq__gt=membership.joined_seq
        )
        .values_list("sender_id", "created_at")
        .first()
    )
    if message is None:
        raise NotFound
    sender, created_at = message
    if not membership.user.read_receipts:
        return Membership.objects.none()
    # Who joined later has not read what was there before.
    readers = members_of(membership=membership).filter(
        read_seq__gte=seq, created_at__lte=created_at, user__read_receipts=True
    )
    if membership.conversation.kind == Conversation.Kind.DIRECT:
        blocked = accounts.blocks_around(users=[membership.user_id])
        readers = readers.exclude(user__in=[other for _, other in blocked])
    return readers.exclude(user=sender)


def pairs_blocked(pairs: Collection[str]) -> set[str]:
    """Those of these direct conversations' `pair`s of whom one has blocked the other. At most one query."""
    if not pairs:
        return set()
    people = {UUID(user) for pair in pairs for user in pair.split(":")}
    rows = Block.objects.filter(blocker__in=people, blocked__in=people).values_list("blocker", "blocked")
    return {pair_key(one, other) for one, other in rows}.intersection(pairs)


def _position(row: Membership) -> Position:
    return Position(row.conversation.active_at, row.conversation_id)


def _my_objects(memberships: Sequence[Membership]) -> list[MyConversation]:
    """The objects of one user's rows of `_mine`, in their order. Three queries."""
    ids = [row.conversation_id for row in memberships]
    last_rows = Message.objects.filter(conversation__in=ids, seq=F("conversation__last_seq"))
    last = {
        UUID(message.conversation): message
        for message in (messages_from_rows(last_rows.values_list(*MESSAGE_FIELDS)) if ids else [])
    }
    members = _members(ids)
    direct = [row for row in memberships if row.conversation.kind == Conversation.Kind.DIRECT]
    blocked = accounts.blocks_around(users=[direct[0].user_id]) if direct else set()
    return [
        _my_object(row, members[row.conversation_id], last.get(row.conversation_id), blocked)
        for row in memberships
    ]


def _my_object(
    row: Membership, members: _Members, message: frames.MessageObject | None, blocked: set[tuple[UUID, UUID]]
) -> MyConversation:
    conversation = row.conversation
    mine = MyConversation(
        id=str(conversation.id),
        kind=conversation.kind,
        title=conversation.title,
        rev=conversation.head_rev,
        last_seq=conversation.last_seq,
        member_count=members.count,
        members=members.named,
        created_at=clock.timestamp(conversation.created_at),
        description=conversation.description,
        history=conversation.history if conversation.kind == Conversation.Kind.GROUP else None,
        purged_seq=conversation.purged_seq,
        role=row.role,
        unread=row.unread,  # type: ignore[attr-defined]  # annotated by `_mine`
        unread_mentions=row.unread_mentions,  # type: ignore[attr-defined]  # annotated by `_mine`
        read_seq=row.read_seq,
        delivered_seq=row.delivered_seq,
        muted_until=clock.optional_timestamp(muted_until(row.muted_until)),
        last_message=message if message is not None and message.seq > row.joined_seq else None,
    )
    if conversation.kind == Conversation.Kind.DIRECT:
        others = [
            (0, 0)
            if (row.user_id, user) in blocked
            else (read if shown and row.user.read_receipts else 0, delivered)
            for user, read, delivered, shown in members.marks
            if user != row.user_id
        ]
        mine.peer_read_seq, mine.peer_delivered_seq = others[0] if others else (None, None)
    return mine


def _members(ids: Sequence[UUID]) -> dict[UUID, _Members]:
    """The active members of each of the conversations, those who joined first before others. One query."""
    members = {key: _Members(0, [], []) for key in ids}
    if not ids:
        return members
    rows = (
        Membership.objects.filter(conversation__in=ids, active=True)
        .annotate(
            place=Window(RowNumber(), partition_by="conversation_id", order_by="id"),
            total=Window(Count("*"), partition_by="conversation_id"),
        )
        .filter(place__lte=MEMBERS_NAMED)
        .order_by("conversation_id", "place")
        .values_list(
            "conversation_id", "total", "user__username", "role", "user_id", "read_seq", "delivered_seq",
            "user__read_receipts",
        )
    )  # fmt: skip
    for key, total, username, role, user, read, delivered, shown in rows:
        entry = members[key]
        entry.count = total
        entry.named.append(frames.Member(username, role))
        entry.marks.append((user, read, delivered, shown))
    return members
