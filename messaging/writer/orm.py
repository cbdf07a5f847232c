"""The batch in ORM terms: for SQLite, and the reference for PostgreSQL's function.

On SQLite the transaction is IMMEDIATE, so that nothing else writes while it runs, and
`FOR UPDATE` is not needed (Django leaves it out).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from django.db import DatabaseError, DataError, IntegrityError, InterfaceError, connection, transaction
from django.db.models import Q

from accounts.models import Block, Contact, User
from chatbe.core import clock
from messaging import mentions
from messaging.models import Conversation, Membership, Mention, Message
from messaging.writer.base import BatchFailed, DatabaseAway, Item, Verdict


class OrmBackend:
    """See `messaging.writer.base.Backend`; on SQLite nothing is ever `locked`."""

    def commit(self, batch: Sequence[Item], *, now: datetime, policy: str, wait: bool) -> list[Verdict]:  # noqa: ARG002 - an IMMEDIATE transaction always waits
        """Store a batch."""
        try:
            with transaction.atomic():
                return _Batch(batch, now, policy).store()
        except (DataError, IntegrityError) as error:
            raise BatchFailed from error
        except (DatabaseError, InterfaceError) as error:
            connection.close()
            raise DatabaseAway from error

    def close(self) -> None:
        """Close this thread's connection."""
        connection.close()


class _Batch:
    """One batch and what was looked up for it."""

    def __init__(self, batch: Sequence[Item], now: datetime, policy: str) -> None:
        self.batch = batch
        self.now = now
        self.policy = policy

    def store(self) -> list[Verdict]:
        self.look_up()
        taken: Counter[UUID] = Counter()
        rows: list[Message] = []
        mentioned: list[Mention] = []
        stamp = clock.timestamp(self.now)
        # All are judged before any is stored: an answer to a message of this batch comes too early for it.
        verdicts = [self.judge(item) for item in self.batch]
        for item, verdict in zip(self.batch, verdicts, strict=True):
            if verdict.code == "ok":
                conversation = self.conversations[UUID(item.conversation)]
                taken[conversation.id] += 1
                verdict.seq = conversation.last_seq + taken[conversation.id]
                verdict.rev = conversation.head_rev + taken[conversation.id]
                verdict.id, verdict.conversation, verdict.created_at = item.id, item.conversation, stamp
                rows.append(
                    Message(
                        id=UUID(item.id),
                        conversation_id=conversation.id,
                        seq=verdict.seq,
                        rev=verdict.rev,
                        sender_id=UUID(item.sender),
                        client_id=UUID(item.client_id),
                        body=item.body,
                        reply_to=item.reply_to,
                        created_at=self.now,
                        attachments=item.attachments,
                    )
                )
                membership = self.memberships[conversation.id, UUID(item.sender)]
                if item.names:
                    resolved = mentions.resolve(conversation, membership, item.names)
                    rows[-1].mentions = mentions.column(resolved)
                    verdict.mentions = rows[-1].mentions or ""
                    mentioned += mentions.rows(rows[-1], resolved)
                membership.read_seq = membership.delivered_seq = verdict.seq
                membership.wrote = True
                self.moved.add(membership)
        Message.objects.bulk_create(rows)
        Mention.objects.bulk_create(mentioned)
        for key, count in taken.items():
            conversation = self.conversations[key]
            conversation.head_rev += count
            conversation.last_seq += count
            conversation.active_at = self.now
        Conversation.objects.bulk_update(
            [self.conversations[key] for key in taken], ["head_rev", "last_seq", "active_at"]
        )
        Membership.objects.bulk_update(list(self.moved), ["read_seq", "delivered_seq", "wrote"])
        return verdicts

    def look_up(self) -> None:
        keys = {UUID(item.conversation) for item in self.batch}
        senders = {UUID(item.sender) for item in self.batch}
        self.moved: set[Membership] = set()
        self.conversations = {
            row.id: row for row in Conversation.objects.select_for_update().filter(id__in=keys).order_by("id")
        }
        self.memberships = {
            (row.conversation_id, row.user_id): row
            for row in Membership.objects.select_for_update(no_key=True)
            .filter(
                Q(user__in=senders) | Q(conversation__kind=Conversation.Kind.DIRECT), conversation__in=keys
            )
            .order_by("conversation_id", "user_id")
        }
        self.peers = {
            (row.conversation_id, user): row
            for row in self.memberships.values()
            for user in senders
            if user != row.user_id
            and self.conversations[row.conversation_id].kind == Conversation.Kind.DIRECT
        }
        self.old = {
            (row.sender_id, row.client_id): row
            for row in Message.objects.filter(
                sender__in=senders, client_id__in={UUID(item.client_id) for item in self.batch}
            )
        }
        self.users = User.objects.in_bulk(senders)
        others = {row.user_id for row in self.peers.values()}
        self.blocks = set(
            Block.objects.filter(blocker__in=others, blocked__in=senders).values_list(
                "blocker_id", "blocked_id"
            )
        )
        self.contacts = set(
            Contact.objects.filter(
                Q(owner__in=senders, target__in=others) | Q(owner__in=others, target__in=senders)
            ).values_list("owner_id", "target_id")
        )

    def judge(self, item: Item) -> Verdict:
        sender = UUID(item.sender)
        old = self.old.get((sender, UUID(item.client_id)))
        if old is not None and old.kind == Message.Kind.SYSTEM:
            return Verdict("conflict")
        if old is not None:
            return Verdict(
                "repeat",
                old.seq,
                old.rev,
                str(old.id),
                str(old.conversation_id),
                clock.timestamp(old.created_at),
                old.mentions or "",
            )
        conversation = self.conversations.get(UUID(item.conversation))
        if conversation is None:
            return Verdict("not_found")
        membership = self.memberships.get((conversation.id, sender))
        if membership is None or not membership.active:
            return Verdict("not_found")
        if self.users[sender].suspended(now=self.now):
            return Verdict("suspended")
        if conversation.kind == Conversation.Kind.DIRECT:
            peer = self.peers.get((conversation.id, sender))
            if peer is None or not peer.active:
                return Verdict("not_found")
            if (peer.user_id, sender) in self.blocks:
                return Verdict("blocked")
            if not self.may_write(sender, peer):
                return Verdict("not_contact")
        oldest = max(membership.joined_seq, conversation.purged_seq)
        if item.reply_to is not None and not oldest < item.reply_to <= conversation.last_seq:
            return Verdict("not_found")
        return Verdict("ok")

    def may_write(self, sender: UUID, peer: Membership) -> bool:
        """Whether the policy lets the sender write first, or answer."""
        if self.policy == "everyone" or peer.wrote:
            return True
        added = (sender, peer.user_id) in self.contacts
        return added and (self.policy == "contacts" or (peer.user_id, sender) in self.contacts)
