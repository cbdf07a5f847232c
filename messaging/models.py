"""Tables of messaging: conversations, memberships, messages.

`rev` and `seq` are taken from the conversation's counters under its row lock, inside the
transaction that writes the change, so the order of commit is the order of `rev` and
"everything with rev > N" never misses a row.
"""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.conf import settings
from django.db import models

from chatbe.core import clock, ids


class Conversation(models.Model):
    """A direct conversation (one per pair of users, for ever) or a group."""

    class Kind(models.TextChoices):
        """What a conversation can be."""

        DIRECT = "direct"
        GROUP = "group"

    class History(models.TextChoices):
        """What a new member of a group may read."""

        JOINED = "joined"
        ALL = "all"

    id = models.UUIDField(primary_key=True, default=ids.uuid7, editable=False)
    kind = models.CharField(max_length=6, choices=Kind.choices)
    title = models.CharField(max_length=100, null=True, blank=True)  # noqa: DJ001 - null in the contract
    pair = models.CharField(  # noqa: DJ001 - unique, so a group has NULL
        max_length=65,
        null=True,
        unique=True,
        editable=False,
        help_text="Of a direct conversation: both user ids in hex, the lower first, joined by a colon.",
    )
    description = models.CharField(max_length=500, blank=True, default="", db_default="")
    history = models.CharField(max_length=6, choices=History.choices, default=History.JOINED)
    member_count = models.IntegerField(
        default=0, db_default=0, editable=False, help_text="Of a group: its active members."
    )
    head_rev = models.BigIntegerField(default=0, editable=False)
    last_seq = models.BigIntegerField(default=0, editable=False)
    state_rev = models.BigIntegerField(default=0, editable=False)
    purged_seq = models.BigIntegerField(
        default=0, db_default=0, editable=False, help_text="Messages up to this seq are gone, by retention."
    )
    active_at = models.DateTimeField(default=clock.now, editable=False)
    created_at = models.DateTimeField(default=clock.now, editable=False)

    def __str__(self) -> str:
        return self.title or f"{self.kind} {self.id}"


def pair_key(one: uuid.UUID, other: uuid.UUID) -> str:
    """The `Conversation.pair` of two users, the same whoever comes first."""
    low, high = sorted((one.hex, other.hex))
    return f"{low}:{high}"


class Membership(models.Model):
    """A user in a conversation, and their marks. Kept, inactive, when they leave."""

    class Role(models.TextChoices):
        """What a member may do; in direct conversations both are members."""

        OWNER = "owner"
        ADMIN = "admin"
        MEMBER = "member"

    id = models.UUIDField(primary_key=True, default=ids.uuid7, editable=False)
    conversation = models.ForeignKey(
        Conversation, on_delete=models.CASCADE, related_name="memberships", db_index=False
    )
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=6, choices=Role.choices, default=Role.MEMBER)
    active = models.BooleanField(default=True)
    joined_seq = models.BigIntegerField(default=0, help_text="Messages up to this seq are not theirs to see.")
    joined_rev = models.BigIntegerField(
        default=0, help_text="The rev of their joining; 0 in direct conversations."
    )
    left_rev = models.BigIntegerField(
        default=0, db_default=0, help_text="The rev at which they last left or were removed; 0: never."
    )
    wrote = models.BooleanField(default=False, help_text="Has sent a message here, so the other may answer.")
    delivered_seq = models.BigIntegerField(default=0)
    read_seq = models.BigIntegerField(default=0)
    muted_until = models.DateTimeField(
        null=True, blank=True, help_text="A time that has passed says that it once was muted."
    )
    created_at = models.DateTimeField(default=clock.now, editable=False, help_text="When they last joined.")

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["conversation", "user"], name="membership_unique"),
        ]

    def __str__(self) -> str:
        return f"{self.user_id} in {self.conversation_id}"


UNCOUNTED = models.Q(kind="system") | models.Q(deleted_at__isnull=False)
"""Messages that are nobody's unread ones."""


class Message(models.Model):
    """A message. `rev` is the conversation's counter at its last change.

    The foreign keys have no database constraint: the writer holds the conversation's row and
    has read the sender's membership in the same transaction, so the check would cost two more
    index look-ups and row locks per message and find nothing.
    """

    class Kind(models.TextChoices):
        """Who wrote it: a person, or the server about a change."""

        TEXT = "text"
        SYSTEM = "system"

    id = models.UUIDField(primary_key=True, default=ids.uuid7, editable=False)
    conversation = models.ForeignKey(
        Conversation, on_delete=models.CASCADE, related_name="messages", db_index=False, db_constraint=False
    )
    seq = models.BigIntegerField()
    rev = models.BigIntegerField()
    sender = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        on_delete=models.SET_NULL,
        related_name="messages",
        db_index=False,
        db_constraint=False,
    )
    client_id = models.UUIDField()
    kind = models.CharField(max_length=6, choices=Kind.choices, default=Kind.TEXT)
    body = models.TextField(null=True, blank=True)  # noqa: DJ001 - null in the contract: deleted
    reply_to = models.BigIntegerField(null=True, blank=True)
    created_at = models.DateTimeField(default=clock.now)
    edited_at = models.DateTimeField(null=True, blank=True)
    deleted_at = models.DateTimeField(null=True, blank=True)
    mentions = models.TextField(  # noqa: DJ001 - NULL costs nothing, and nearly all rows have it
        null=True,
        blank=True,
        help_text="The usernames that the body mentions, `all` for everyone, with blanks between.",
    )
    reacted = models.BooleanField(default=False, db_default=False, help_text="Whether it has reactions.")
    attachments = models.TextField(  # noqa: DJ001 - NULL costs nothing, and nearly all rows have it
        null=True, blank=True, editable=False, help_text="The contract's attachment objects, in JSON."
    )

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["conversation", "seq"], name="message_seq_unique"),
            models.UniqueConstraint(fields=["sender", "client_id"], name="message_client_id_unique"),
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["conversation", "rev"], name="message_rev"),
            # Nearly empty: counting what is unread subtracts these from a difference of seqs.
            models.Index(fields=["conversation", "seq"], name="message_uncounted", condition=UNCOUNTED),
            # Nearly empty too: what goes with a group that is dissolved.
            models.Index(
                fields=["conversation"],
                name="message_attached",
                condition=models.Q(attachments__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.seq} in {self.conversation_id}"


class MessageVersion(models.Model):
    """What a message said before an edit; for moderators only, and gone with the message's body."""

    id = models.UUIDField(primary_key=True, default=ids.uuid7, editable=False)
    message = models.ForeignKey(Message, on_delete=models.CASCADE, related_name="versions")
    body = models.TextField()
    replaced_at = models.DateTimeField(default=clock.now)

    def __str__(self) -> str:
        return f"before {self.replaced_at}"


class Reaction(models.Model):
    """One user's emoji on one message; `emoji` in its fully qualified form."""

    id = models.UUIDField(primary_key=True, default=ids.uuid7, editable=False)
    message = models.ForeignKey(Message, on_delete=models.CASCADE, related_name="reactions", db_index=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="reactions")
    emoji = models.CharField(max_length=64)

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["message", "emoji", "user"], name="reaction_unique"),
        ]

    def __str__(self) -> str:
        return f"{self.emoji} by {self.user_id}"


class Mention(models.Model):
    """Who a message mentions, for counting; `user` is NULL where it is everyone."""

    id = models.BigAutoField(primary_key=True)
    message = models.ForeignKey(Message, on_delete=models.CASCADE, related_name="mentioned")
    conversation = models.ForeignKey(
        Conversation, on_delete=models.CASCADE, related_name="mentions", db_index=False, db_constraint=False
    )
    seq = models.BigIntegerField()
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.CASCADE, related_name="mentions"
    )

    class Meta:
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["conversation", "user", "seq"], name="mention_unread"),
        ]

    def __str__(self) -> str:
        return f"{self.user_id or 'all'} in {self.message_id}"


class Epoch(models.Model):
    """The name of this database's history: one row. Changed when the database is restored from an older state."""

    value = models.CharField(max_length=32)

    class Meta:
        verbose_name_plural = "epoch"

    def __str__(self) -> str:
        return self.value
