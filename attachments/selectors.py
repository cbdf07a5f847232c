"""What attachments tells: files and who may see them, quotas, addresses. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
from django.conf import settings
from django.core import signing
from django.db.models import Exists, F, OuterRef, Q, QuerySet, Sum

from accounts import selectors as accounts
from accounts.models import User
from attachments.models import Attachment
from chatbe.core import clock
from chatbe.core.errors import Expired, NotFound
from chatbe.wire import frames
from messaging.models import Membership, Message

Variant = Literal["content", "thumbnail"]
_SALT: Final = "chatbe.attachments"


class Links(frames.Attachment):
    """An attachment with addresses of its content, good until `expires_at`, for who asked and nobody else."""

    url: str
    thumbnail_url: str | None
    expires_at: frames.Time


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a signed address says."""

    attachment: UUID
    variant: Variant
    user: UUID


def attachment_object(row: Attachment) -> frames.Attachment:
    """The contract's object."""
    return frames.Attachment(
        id=str(row.pk),
        name=row.name,
        content_type=row.content_type,
        size=row.size,
        width=row.width,
        height=row.height,
        thumbnail=row.thumbnail_size > 0,
    )


def visible(*, user_id: UUID) -> QuerySet[Attachment]:
    """What a user may fetch: unsent files of their own, and those of messages that they may read."""
    readable = Message.objects.filter(
        pk=OuterRef("message"),
        deleted_at=None,
        seq__gt=F("conversation__purged_seq"),
        conversation__in=Membership.objects.filter(
            user=user_id, active=True, joined_seq__lt=OuterRef("seq")
        ).values("conversation"),
    )
    return Attachment.objects.filter(
        Q(message=None, owner=user_id) | Exists(readable), stored_at__isnull=False, removed_at=None
    )


def attachments_links(*, user_id: UUID, ids: Sequence[UUID], base: str) -> list[Links]:
    """Those of `ids` that the user may fetch, in that order, with addresses beginning with `base`. One query."""
    rows = {row.pk: row for row in visible(user_id=user_id).filter(pk__in=ids)}
    return [_links(rows[key], user_id, base) for key in dict.fromkeys(ids) if key in rows]


def _links(row: Attachment, user_id: UUID, base: str) -> Links:
    lifetime = timedelta(seconds=settings.CHATBE_ATTACHMENT_LINK_LIFETIME)
    return Links(
        **msgspec.structs.asdict(attachment_object(row)),
        url=_address(row.pk, "content", user_id, base),
        thumbnail_url=_address(row.pk, "thumbnail", user_id, base) if row.thumbnail_size else None,
        expires_at=clock.timestamp(clock.now() + lifetime),
    )


def _address(attachment: UUID, variant: Variant, user_id: UUID, base: str) -> str:
    ticket = signing.dumps([attachment.hex, variant, user_id.hex], salt=_SALT)
    # In the query, which no log of ours keeps.
    return f"{base}/{attachment}/{variant}?ticket={ticket}"


def ticket_read(*, text: str, attachment: UUID, variant: Variant) -> Ticket:
    """A signed address's ticket. Raises `Expired`, or `NotFound` for one that was not made here for this."""
    try:
        key, signed_variant, user = signing.loads(
            text, salt=_SALT, max_age=settings.CHATBE_ATTACHMENT_LINK_LIFETIME
        )
    except signing.SignatureExpired:
        raise Expired("This address is no longer good. Ask for a new one.") from None
    except signing.BadSignature:
        raise NotFound from None
    if UUID(key) != attachment or signed_variant != variant:
        raise NotFound
    return Ticket(attachment, variant, UUID(user))


def attachment_of_ticket(*, ticket: Ticket) -> Attachment:
    """The attachment, judged by what its user may see now, not when the address was made. Raises `NotFound`."""
    found = (
        visible(user_id=ticket.user)
        .filter(pk=ticket.attachment)
        .filter(Exists(User.objects.filter(pk=ticket.user).exclude(accounts.suspended_at(clock.now()))))
        .first()
    )
    if found is None or (ticket.variant == "thumbnail" and not found.thumbnail_size):
        raise NotFound
    return found


def used(*, user_id: UUID) -> int:
    """Bytes that count against the user's quota: of their files, thumbnails included."""
    sums = Attachment.objects.filter(owner=user_id).aggregate(
        size=Sum("size", default=0), thumbnails=Sum("thumbnail_size", default=0)
    )
    total: int = sums["size"] + sums["thumbnails"]
    return total


def loose(*, before: datetime) -> QuerySet[Attachment]:
    """Files on their way out or never sent: removed ones, and those that were uploaded before `before` and
    are incomplete or of no message."""
    return Attachment.objects.filter(
        Q(removed_at__isnull=False)
        | Q(created_at__lt=before) & (Q(message__isnull=True) | Q(stored_at__isnull=True))
    )


def lost(*, before: datetime) -> QuerySet[Attachment]:
    """Files that were claimed before `before` for a message that does not exist."""
    return Attachment.objects.filter(
        ~Exists(Message.objects.filter(pk=OuterRef("message"))), message__isnull=False, claimed_at__lt=before
    )


def export(user_id: UUID) -> list[dict[str, Any]]:
    """What a user can take away: their files' descriptions."""
    rows = Attachment.objects.filter(owner=user_id, removed_at=None).order_by("id")
    return [
        {
            **msgspec.to_builtins(attachment_object(row)),
            "message": None if row.message is None else str(row.message),
            "created_at": clock.timestamp(row.created_at),
        }
        for row in rows.iterator(chunk_size=2000)
    ]
