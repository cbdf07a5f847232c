"""Writes of messaging. Blocking, keyword-only; publish after the commit.

Messages go through the node's writer where a server runs in this process, else straight
through a backend; either way it is the same batch (see `messaging.writer`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Protocol
from uuid import UUID, uuid4

import msgspec
import uuid_utils
from django.conf import settings
from django.db import IntegrityError, connection, transaction
from msgspec import UNSET

from accounts import selectors as accounts
from accounts.models import Block, User
from chatbe.core import clock
from chatbe.core.errors import (
    Blocked,
    ChatError,
    Conflict,
    FieldError,
    Forbidden,
    Invalid,
    NotAContact,
    NotFound,
    Suspended,
    Unavailable,
)
from chatbe.hub import fanout
from chatbe.hub import node as nodes
from chatbe.wire import codec, frames
from messaging import mentions, selectors, writer
from messaging.models import Conversation, Membership, Message, pair_key
from messaging.writer import Item, Verdict
from messaging.writer.orm import OrmBackend
from messaging.writer.postgres import DirectBackend

if TYPE_CHECKING:
    from chatbe.hub.hub import Hub


@dataclass(frozen=True, slots=True)
class Route:
    """Where a conversation's events go. Never changes, so it may be remembered."""

    conversation: str
    users: tuple[str, str] | None
    """The ids of the two users of a direct conversation; None for a group."""
    usernames: tuple[str, ...] = ()
    created_at: str = ""


@dataclass(frozen=True, slots=True)
class Sent:
    """A stored message; `duplicate` when it was stored before, by the same `client_id`."""

    message: frames.MessageObject
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Mark:
    """A member's marks after a move, and who is told of them."""

    conversation: str
    pair: str | None
    """The conversation's; None for a group."""
    user: str
    username: str
    read: int
    delivered: int
    private: bool
    """In a large group, one's own devices alone are told."""
    shown: bool
    """Whether others see what they have read."""
    was_delivered: bool
    """Whether the delivered mark moved too."""
    blocked: bool = False
    """In a direct conversation of whose two one has blocked the other, neither is told of the other's marks."""

    @property
    def identity(self) -> str:
        """What tells its receipt from every other one."""
        return f"{self.conversation}:{self.username}:{self.read}:{self.delivered}"


REFUSALS: dict[str, type[ChatError]] = {
    error.code: error for error in (NotFound, Suspended, Blocked, NotAContact, Forbidden, Invalid, Conflict)
}


# --- what other apps take part in --------------------------------------------------------------------


class AttachmentKeeper(Protocol):
    """Keeps the files that messages may have. Blocking."""

    def claim(
        self, *, sender: UUID, client_id: UUID, message: UUID, attachments: Sequence[UUID]
    ) -> list[frames.Attachment]:
        """Bind uploads of the sender to a message that is about to be stored; returns them described, in order.

        A repeat of the same send may claim them again. Raises `NotFound` or `Conflict`.
        """

    def settle(self, *, sender: UUID, client_id: UUID, stored: UUID | None) -> None:
        """What became of a claim that is not simply stored: the same send was stored before, or (None) refused."""


attachment_keeper: AttachmentKeeper | None = None
"""Set by the app that keeps files; without one there are no attachments."""

removal_hooks: list[Callable[[Sequence[UUID]], None]] = []
"""Called with the ids of messages whose content is going, in the transaction that removes it."""


def messages_removed(messages: Sequence[UUID]) -> None:
    """Have what belongs to messages removed with them; in the transaction that removes their content."""
    for hook in removal_hooks:
        hook(messages)


# --- conversations ---------------------------------------------------------------------------------


def conversation_direct(*, user: User, username: str) -> tuple[Conversation, bool]:
    """Get or make the direct conversation with someone; returns it and whether it was made.

    In a short transaction of its own; empty, it is in nobody's list. Raises `NotFound`, `Invalid`.
    """
    peer = _peer(user, username)
    pair = pair_key(user.pk, peer.pk)
    found = Conversation.objects.filter(pair=pair).first()
    if found is not None:
        return found, False
    try:
        with transaction.atomic():
            made = Conversation.objects.create(kind=Conversation.Kind.DIRECT, pair=pair)
            Membership.objects.bulk_create(
                [Membership(conversation=made, user=member) for member in (user, peer)]
            )
    except IntegrityError:
        # Both wrote first at the same moment.
        return Conversation.objects.get(pair=pair), False
    return made, True


def _peer(user: User, username: str) -> User:
    """Another person. Suspended, they can be written to; erased, not. Raises `NotFound`, `Invalid`."""
    peer = accounts.user_by_username(username=username)
    if peer.pk == user.pk:
        detail = "A direct conversation has two people."
        raise Invalid(detail, errors=(FieldError("username", "self", detail),))
    return peer


def conversation_direct_lock(one: UUID, other: UUID) -> None:
    """Hold the direct conversation of two users until the transaction ends: no message of theirs commits meanwhile."""
    Conversation.objects.select_for_update(no_key=True).filter(pair=pair_key(one, other)).first()


def route_to_user(*, user: User | UUID, username: str) -> Route:
    """The route to a person, made if need be. Raises what would refuse a first message, and then makes nothing."""
    sender = user if isinstance(user, User) else User.objects.get(pk=user)
    peer = _peer(sender, username)
    if not Conversation.objects.filter(pair=pair_key(sender.pk, peer.pk)).exists():
        _judge_first_message(sender, peer)
    conversation, _ = conversation_direct(user=sender, username=peer.username)
    return _route(conversation)


def route_of(*, conversation: UUID) -> Route:
    """The route of a conversation; says nothing about who may use it. Raises `NotFound`."""
    found = Conversation.objects.filter(pk=conversation).first()
    if found is None:
        raise NotFound
    return _route(found)


def _route(conversation: Conversation) -> Route:
    if not conversation.pair:
        return Route(str(conversation.pk), None)
    low, high = (UUID(user) for user in conversation.pair.split(":"))
    names = dict(User.objects.filter(pk__in=(low, high)).values_list("pk", "username"))
    return Route(
        str(conversation.pk),
        (str(low), str(high)),
        tuple(names[user] for user in (low, high) if user in names),
        clock.timestamp(conversation.created_at),
    )


def _judge_first_message(sender: User, peer: User) -> None:
    """The writer's checks for a conversation that does not exist yet."""
    if sender.suspended(now=clock.now()):
        raise Suspended
    if Block.objects.filter(blocker=peer, blocked=sender).exists():
        raise Blocked
    policy = settings.CHATBE_MESSAGE_POLICY
    if policy == "everyone":
        return
    if not accounts.contact_exists(owner=sender.pk, target=peer.pk):
        raise NotAContact
    if policy == "mutual" and not accounts.contact_exists(owner=peer.pk, target=sender.pk):
        raise NotAContact


# --- messages --------------------------------------------------------------------------------------


def new_item(*, route: Route, sender: str, client_id: str, body: str, reply_to: int | None) -> Item:
    """A message for the writer, with an id of its own."""
    return Item(
        str(uuid_utils.uuid7()),
        route.conversation,
        sender,
        client_id,
        body,
        reply_to,
        mentions.names_in(body) if "@" in body else (),
    )


def attachments_claim(*, item: Item, attachments: Sequence[UUID]) -> None:
    """Give a message its attachments before it is stored. Raises `Invalid`, `NotFound` or `Conflict`."""
    if attachment_keeper is None or len(set(attachments)) != len(attachments):
        raise Invalid("An attachment is named once.")
    described = attachment_keeper.claim(
        sender=UUID(item.sender),
        client_id=UUID(item.client_id),
        message=UUID(item.id),
        attachments=attachments,
    )
    item.attachments = msgspec.json.encode(described).decode()


def attachments_settle(*, item: Item, verdict: Verdict) -> None:
    """After the verdict on a message with attachments: free those of one that was not stored by this send."""
    if attachment_keeper is not None and verdict.code != "ok":
        attachment_keeper.settle(
            sender=UUID(item.sender),
            client_id=UUID(item.client_id),
            stored=UUID(verdict.id) if verdict.code == "repeat" else None,
        )


def message_send(
    *,
    sender: User,
    conversation: UUID | None = None,
    username: str | None = None,
    client_id: UUID | None = None,
    body: str,
    reply_to: int | None = None,
    attachments: Sequence[UUID] = (),
) -> Sent:
    """Store a message and tell everyone, exactly as the `send` frame does.

    To a `conversation` or, directly, to a `username`. Raises the `ChatError` that refuses it;
    after `Unavailable` the commit may be unknown.
    """
    client_id = client_id or uuid4()
    try:
        verdict = _send(
            sender, conversation=conversation, username=username, client_id=client_id, body=body,
            reply_to=reply_to, attachments=attachments,
        )  # fmt: skip
    except (Forbidden, NotFound, Invalid, Conflict):
        # What was stored once is acknowledged for ever, whoever may be written to by now.
        repeat = repeat_of(sender=sender.pk, client_id=client_id)
        if repeat is None:
            raise
        verdict = repeat
    if verdict.code in REFUSALS:
        raise REFUSALS[verdict.code]
    if verdict.code == "repeat":
        return Sent(selectors.message_sent(user=sender, message=UUID(verdict.id)), duplicate=True)
    return Sent(selectors.message_object(message=UUID(verdict.id)), duplicate=False)


def _send(
    sender: User,
    *,
    conversation: UUID | None,
    username: str | None,
    client_id: UUID,
    body: str,
    reply_to: int | None,
    attachments: Sequence[UUID],
) -> Verdict:
    if username is not None:
        route = route_to_user(user=sender, username=username)
    elif conversation is not None:
        route = route_of(conversation=conversation)
    else:
        raise Invalid("Say where the message goes.")
    item = new_item(
        route=route, sender=str(sender.pk), client_id=str(client_id), body=body, reply_to=reply_to
    )
    if attachments:
        attachments_claim(item=item, attachments=attachments)
    verdict = _store(item, route, sender.username)
    if attachments:
        attachments_settle(item=item, verdict=verdict)
    return verdict


def repeat_of(*, sender: UUID, client_id: UUID) -> Verdict | None:
    """The verdict on a second send of what was stored before, or None: for a send that is refused before the writer,
    which judges in the same way, has seen it."""
    found = (
        Message.objects.filter(sender=sender, client_id=client_id)
        .values_list("kind", "seq", "rev", "id", "conversation_id", "created_at", "mentions")
        .first()
    )
    if found is None:
        return None
    kind, seq, rev, key, conversation, created_at, mentioned = found
    if kind == Message.Kind.SYSTEM:
        return Verdict("conflict")
    return Verdict(
        "repeat", seq, rev, str(key), str(conversation), clock.timestamp(created_at), mentioned or ""
    )


def _store(item: Item, route: Route, username: str) -> Verdict:
    """Through the node's writer, or directly where no node runs."""
    node = nodes.current()
    if node is not None:
        # The part's module knows these services; it is found by the node.
        try:
            verdict: Verdict | None = node.ask("store_message", item, route, username).result(
                settings.CHATBE_SEND_DEADLINE + 5
            )
        except TimeoutError as error:
            # The process stood still, or is about to end: whether it is stored is not known.
            raise Unavailable from error
    else:
        verdict = _store_here(item)
        if verdict is not None and verdict.code == "ok":
            announced = announcement(item, verdict, username)
            transaction.on_commit(lambda: fanout.send(*message_change(route, announced)))
    if verdict is None:
        raise Unavailable
    return verdict


def _store_here(item: Item) -> Verdict | None:
    store = DirectBackend() if connection.vendor == "postgresql" else OrmBackend()
    return writer.settle(store, [item], policy=settings.CHATBE_MESSAGE_POLICY, wait=True)[0]


def announcement(item: Item, verdict: Verdict, username: str) -> frames.MessageObject:
    """The message object of a verdict `ok`."""
    return frames.MessageObject(
        id=item.id,
        conversation=item.conversation,
        seq=verdict.seq,
        rev=verdict.rev,
        kind="text",
        sender=username,
        body=item.body,
        client_id=item.client_id,
        reply_to=item.reply_to,
        reactions={},
        created_at=verdict.created_at,
        edited_at=None,
        deleted_at=None,
        attachments=selectors.attachments_from_column(item.attachments),
        mentions=verdict.mentions.split() if verdict.mentions else UNSET,
    )


def message_change(
    route: Route, message: frames.MessageObject, *, origin: str = ""
) -> tuple[list[str], fanout.Envelope]:
    """What tells everyone of a committed message, and its groups; `origin` gets an ack in its place."""
    return fanout.change_envelope(
        route.conversation,
        rev=message.rev,
        seq=message.seq,
        event=codec.encode(frames.Message(message)),
        users=route.users,
        origin=origin,
        opening=opening(route) if message.seq == 1 and route.users is not None else b"",
    )


def opening(route: Route) -> bytes:
    """The encoded `conversation` event with which both members of a direct one learn of it: before its first
    message, which makes it visible, and in the same envelope, so that neither comes without the other."""
    return codec.encode(
        frames.Conversation(
            frames.ConversationObject(
                id=route.conversation,
                kind=Conversation.Kind.DIRECT.value,
                title=None,
                rev=0,
                last_seq=0,
                member_count=len(route.usernames),
                members=[
                    frames.Member(username, Membership.Role.MEMBER.value) for username in route.usernames
                ],
                created_at=route.created_at,
                description="",
                history=None,
                purged_seq=0,
            )
        )
    )


# --- marks -----------------------------------------------------------------------------------------


MarkKey = tuple[str, str]
"""Conversation and user."""

LOG_MARKS = "INSERT INTO messaging_change (marks) VALUES (%s::jsonb)"


def marks_move(*, moves: dict[MarkKey, tuple[int, int]]) -> dict[MarkKey, Mark | None]:
    """Move read and delivered marks, many at once: never back, at most to the last seq.

    `moves` maps to (read, delivered), 0 for none; what was read was delivered. Returns, for those
    that moved, the new marks; None for those who are not members.
    """
    result: dict[MarkKey, Mark | None] = dict.fromkeys(moves)
    with transaction.atomic():
        rows = (
            Membership.objects.select_for_update(of=("self",), no_key=True)
            .select_related("conversation", "user")
            .filter(
                conversation__in={conversation for conversation, _ in moves},
                user__in={user for _, user in moves},
                active=True,
            )
            .order_by("conversation_id", "user_id")
        )
        moved = []
        for row in rows:
            key = (str(row.conversation_id), str(row.user_id))
            if key not in moves:
                continue
            del result[key]
            read, delivered = (min(seq, row.conversation.last_seq) for seq in moves[key])
            delivered = max(delivered, read)
            if read > row.read_seq or delivered > row.delivered_seq:
                was_delivered = delivered > row.delivered_seq
                row.read_seq = max(row.read_seq, read)
                row.delivered_seq = max(row.delivered_seq, delivered)
                moved.append(row)
                result[key] = _mark(row, was_delivered=was_delivered)
        if moved:
            Membership.objects.bulk_update(moved, ["read_seq", "delivered_seq"])
            blocked = selectors.pairs_blocked(
                {row.conversation.pair for row in moved if row.conversation.pair}
            )
            for key, mark in result.items():
                if mark is not None and mark.pair in blocked:
                    result[key] = replace(mark, blocked=True)
            _log([mark for mark in result.values() if mark is not None])
    return result


def _log(marks: Sequence[Mark]) -> None:
    """Let every process find the receipts that the bus loses (see `messaging.tails`)."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(LOG_MARKS, [msgspec.json.encode([astuple(mark) for mark in marks]).decode()])


def marks_log(*, conversation: UUID, usernames: Sequence[str] | None) -> list[str]:
    """Let every process find the marks of some active members (None: of all) of a group, should the bus lose them.

    In the transaction that has them told; returns their identities.
    """
    rows = Membership.objects.select_related("conversation", "user").filter(
        conversation=conversation, active=True
    )
    if usernames is not None:
        rows = rows.filter(user__username__in=usernames)
    marks = [_mark(row, was_delivered=True) for row in rows.order_by("user_id")]
    if marks:
        _log(marks)
    return [mark.identity for mark in marks]


def _mark(row: Membership, *, was_delivered: bool) -> Mark:
    """The marks of a membership that was read with its conversation and user."""
    return Mark(
        str(row.conversation_id),
        row.conversation.pair,
        str(row.user_id),
        row.user.username,
        row.read_seq,
        row.delivered_seq,
        private=row.conversation.member_count > selectors.RECEIPTS_TOLD,
        shown=row.user.read_receipts,
        was_delivered=was_delivered,
    )


def mark_read(*, user: User, conversation: UUID, seq: int) -> None:
    """Move one's read mark and tell the others and one's other devices. Raises `NotFound`."""
    key = (str(conversation), str(user.pk))
    result = marks_move(moves={key: (seq, 0)})
    if key in result:
        mark = result[key]
        if mark is None:
            raise NotFound
        transaction.on_commit(lambda: publish_marks([mark]))


def publish_marks(marks: Iterable[Mark], *, leave_out: str = "") -> None:
    """Tell of moved marks, but not the connection `leave_out`: everything to one's own devices, to the others what
    both sides let be seen."""
    for mark in marks:
        for group, envelope in _receipts(mark, leave_out):
            fanout.send([group], envelope)


def tell_lost_marks(hub: Hub, marks: Iterable[Mark]) -> None:
    """Tell this process's sockets of the marks whose receipts it has not heard; on the loop."""
    for mark in marks:
        for _, envelope in _receipts(mark):
            if envelope["k"] == "t":
                key, here = envelope["c"], envelope["c"] in hub.topics
            else:
                key, here = envelope["u"], envelope["u"] in hub.users
            if here and not hub.has_heard(key, mark.identity):
                hub.apply(envelope)


def _receipts(mark: Mark, leave_out: str = "") -> Iterator[tuple[str, fanout.Envelope]]:
    """The envelopes that tell of a mark, each with its group: everything to one's own devices, to the others what
    both sides let be seen."""
    event = frames.Receipt(mark.conversation, mark.username, mark.read, mark.delivered)
    discreet = frames.Receipt(mark.conversation, mark.username, 0, mark.delivered)
    if mark.blocked:
        yield (
            fanout.user_group(mark.user),
            fanout.user_envelope(
                mark.user, event, leave_out=leave_out, in_stream=True, identity=mark.identity
            ),
        )
        return
    told = event if mark.shown else discreet
    # Who does not let it be seen sees nobody's, either.
    reserved = discreet if mark.was_delivered else None
    others_told = mark.shown or mark.was_delivered
    if mark.pair is not None or mark.private or not mark.shown:
        yield (
            fanout.user_group(mark.user),
            fanout.user_envelope(
                mark.user, event, leave_out=leave_out, in_stream=True, identity=mark.identity
            ),
        )
    if mark.pair is not None:
        for other in map(str, map(UUID, mark.pair.split(":"))):
            if other != mark.user and others_told:
                yield (
                    fanout.user_group(other),
                    fanout.user_envelope(
                        other, told, in_stream=True, identity=mark.identity, reserved=reserved
                    ),
                )
    elif others_told and not mark.private:
        # One publish for all; one's own other devices are among them, unless they have had it already.
        yield (
            fanout.conversation_group(mark.conversation),
            fanout.members_envelope(
                mark.conversation,
                told,
                leave_out=() if mark.shown else (UUID(mark.user),),
                identity=mark.identity,
                reserved=reserved,
            ),
        )


def marks_reveal(one: UUID, other: UUID) -> None:
    """Tell two people each other's marks in their direct conversation, which a block has hidden so far; in its
    transaction."""
    rows = Membership.objects.select_related("conversation", "user").filter(
        conversation__pair=pair_key(one, other), active=True, conversation__head_rev__gt=0
    )
    marks = [_mark(row, was_delivered=True) for row in rows.order_by("user_id")]
    # The other may have blocked too.
    if marks and not accounts.blocked_either_way(one=one, other=other):
        _log(marks)
        transaction.on_commit(lambda: publish_marks(marks), robust=True)


def marks_show(*, user_id: UUID) -> None:
    """Tell all marks of someone who has turned read receipts on: others have not seen them so far."""
    rows = (
        Membership.objects.select_related("conversation", "user")
        .filter(user=user_id, active=True, conversation__head_rev__gt=0, read_seq__gt=0)
        .order_by("conversation_id")
    )
    blocked = selectors.pairs_blocked({row.conversation.pair for row in rows if row.conversation.pair})
    publish_marks([
        _mark(row, was_delivered=False) for row in rows if row.conversation.pair not in blocked
    ])  # fmt: skip
