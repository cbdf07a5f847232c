"""Writes of attachments: uploads, claims by messages, removal. Blocking, keyword-only.

The row comes before its files and goes after them, each step in a transaction of its own: whatever is
killed in between leaves a row that the sweep finds, and never a file that nobody knows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import IO, Final
from uuid import UUID

from django.conf import settings
from django.core.files.base import ContentFile, File
from django.core.files.storage import Storage, storages
from django.db import transaction

from accounts.models import User
from attachments import content, pictures, selectors
from attachments.errors import OverQuota, UnsupportedContent
from attachments.models import Attachment
from chatbe.core import clock
from chatbe.core.errors import Conflict, FieldError, Invalid, NotFound, TooLarge
from chatbe.wire import frames
from messaging.models import Message

logger = logging.getLogger("attachments")

UNSENT_LIFETIME: Final = timedelta(hours=24)
"""An upload that no message claimed by then is deleted."""
CLAIM_LIFETIME: Final = timedelta(hours=1)
"""A claim whose message is not there by then was in vain."""
AT_ONCE: Final = 200


def storage() -> Storage:
    """Where the files are."""
    return storages["attachments"]


# --- uploads --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Examined:
    """An upload that is taken, as it will be stored."""

    kind: content.Kind
    file: File[bytes]
    size: int
    picture: pictures.Picture | None


def attachment_upload(*, user: User, file: IO[bytes], size: int, name: str) -> Attachment:
    """Keep a file of `size` bytes for a message to come.

    Raises `TooLarge`, `UnsupportedContent`, `Invalid` (empty or damaged), `OverQuota` or `Unavailable`;
    nothing is left of what is refused.
    """
    limit: int = settings.CHATBE_ATTACHMENT_BYTES
    if size > limit:
        raise TooLarge(f"A file has at most {limit} bytes.")
    if not size:
        raise Invalid(errors=(FieldError("file", "empty", "The file is empty."),))
    # Before anything costly is done for it; what counts is counted again under the lock.
    _quota_check(user.pk, size)
    examined = _examine(file, size)
    row = _row_add(user, examined, name)
    try:
        _files_write(row, examined)
        row.stored_at = clock.now()
        row.save(update_fields=["stored_at"])
    except BaseException:
        _remove([row])
        raise
    return row


def _examine(file: IO[bytes], size: int) -> _Examined:
    kind = content.kind_of(file)
    if kind is None:
        raise UnsupportedContent
    if kind not in content.PICTURES:
        file.seek(0)
        return _Examined(kind, File(file), size, None)
    picture = pictures.picture(file, kind, max_pixels=settings.CHATBE_ATTACHMENT_PIXELS)
    return _Examined(kind, ContentFile(picture.data), len(picture.data), picture)


def _quota_check(user_id: UUID, more: int) -> None:
    left = settings.CHATBE_ATTACHMENT_QUOTA - selectors.used(user_id=user_id)
    if more > left:
        raise OverQuota(f"Your files may have {max(left, 0)} more bytes. Delete messages with files.")


@transaction.atomic
def _row_add(user: User, examined: _Examined, name: str) -> Attachment:
    """The row, if the quota allows; uploads of one user wait for each other here."""
    User.objects.select_for_update(no_key=True).get(pk=user.pk)
    picture = examined.picture
    thumbnail_size = len(picture.thumbnail) if picture is not None else 0
    _quota_check(user.pk, examined.size + thumbnail_size)
    return Attachment.objects.create(
        owner=user,
        name=content.name_for(name, examined.kind),
        content_type=examined.kind.content_type,
        size=examined.size,
        thumbnail_size=thumbnail_size,
        width=picture.width if picture is not None else None,
        height=picture.height if picture is not None else None,
    )


def _files_write(row: Attachment, examined: _Examined) -> None:
    store = storage()
    files = [(row.path, examined.file)]
    if examined.picture is not None:
        files.append((row.thumbnail_path, ContentFile(examined.picture.thumbnail)))
    for path, file in files:
        if (saved := store.save(path, file)) != path:
            # Names are random: a file of this name is a fault of the storage, and no one's to overwrite.
            store.delete(saved)
            raise FileExistsError(path)


def unsent_delete(*, user: User, attachment: UUID) -> None:
    """Take an upload back that no message has. Raises `NotFound`, or `Conflict` when one has."""
    with transaction.atomic():
        row = (
            Attachment.objects.select_for_update(no_key=True)
            .filter(pk=attachment, owner=user, removed_at=None)
            .first()
        )
        if row is None:
            raise NotFound
        if row.message is not None:
            raise Conflict("It belongs to a message: delete that.")
        _mark_removed([row.pk])


# --- messages -------------------------------------------------------------------------------------


class Keeper:
    """See `messaging.services.AttachmentKeeper`."""

    @staticmethod
    def claim(
        *, sender: UUID, client_id: UUID, message: UUID, attachments: Sequence[UUID]
    ) -> list[frames.Attachment]:
        """Bind uploads to a message that is about to be stored."""
        with transaction.atomic():
            rows = {
                row.pk: row
                for row in Attachment.objects.select_for_update(no_key=True)
                .filter(pk__in=attachments, owner=sender, stored_at__isnull=False, removed_at=None)
                .order_by("pk")
            }
            if len(rows) < len(attachments):
                if _stored(sender, client_id) is not None:
                    # A repeat, whose message was deleted: the files went with it, the writer knows the rest.
                    return []
                raise NotFound("There is no such attachment of yours.")
            if any(row.message is not None and row.client_id != client_id for row in rows.values()):
                raise Conflict("An attachment belongs to another message.")
            bound = message
            if any(row.client_id == client_id for row in rows.values()):
                # Claimed before by the same send: it may be stored, and then stays where it is.
                bound = _stored(sender, client_id) or message
            Attachment.objects.filter(pk__in=attachments).update(
                message=bound, client_id=client_id, claimed_at=clock.now()
            )
        return [selectors.attachment_object(rows[key]) for key in attachments]

    @staticmethod
    def settle(*, sender: UUID, client_id: UUID, stored: UUID | None) -> None:
        """Give the stored message what is its, and set the rest free."""
        with transaction.atomic():
            rows = list(
                Attachment.objects.select_for_update(no_key=True)
                .filter(owner=sender, client_id=client_id, removed_at=None)
                .order_by("pk")
            )
            stored = stored or _stored(sender, client_id)
            _settle(rows, stored)


def _stored(sender: UUID, client_id: UUID) -> UUID | None:
    """The message that a send stored."""
    return Message.objects.filter(sender=sender, client_id=client_id).values_list("pk", flat=True).first()


def _settle(rows: Iterable[Attachment], stored: UUID | None) -> None:
    text = Message.objects.filter(pk=stored).values_list("attachments", flat=True).first() if stored else None
    for row in rows:
        # Ids are of a fixed form, so what holds one as text holds it.
        mine = text is not None and str(row.pk) in text
        Attachment.objects.filter(pk=row.pk).update(
            message=stored if mine else None, client_id=row.client_id if mine else None
        )


def attachments_remove(messages: Sequence[UUID]) -> None:
    """Remove the files of messages, in the transaction that removes their content; the files go after it."""
    _mark_removed(Attachment.objects.filter(message__in=messages).values_list("pk", flat=True))


def unsent_remove(user_id: UUID) -> None:
    """Remove what a user uploaded and did not send, in the transaction that erases them."""
    _mark_removed(Attachment.objects.filter(owner=user_id, message=None).values_list("pk", flat=True))


# --- removal --------------------------------------------------------------------------------------


def _mark_removed(keys: Iterable[UUID]) -> None:
    """From here on nobody sees them; their files are deleted after the commit, or else by the sweep."""
    marked = list(keys)
    if marked:
        Attachment.objects.filter(pk__in=marked).update(removed_at=clock.now())
        transaction.on_commit(partial(_remove_marked, marked), robust=True)


def _remove_marked(keys: Sequence[UUID]) -> None:
    _remove(Attachment.objects.filter(pk__in=keys, removed_at__isnull=False))


def _remove(rows: Iterable[Attachment]) -> int:
    """Delete files, then their rows; what the storage refuses to delete is tried again by the sweep."""
    store = storage()
    gone = []
    for row in rows:
        try:
            # Deleting what is not there is no error: an earlier try may have come so far.
            store.delete(row.path)
            store.delete(row.thumbnail_path)
        except Exception:
            # Storages fail in their own ways; the row stays, so that the file is not forgotten.
            logger.exception("an attachment's files cannot be deleted", extra={"attachment": row.pk})
            Attachment.objects.filter(pk=row.pk).update(removed_at=clock.now())
        else:
            gone.append(row.pk)
    Attachment.objects.filter(pk__in=gone).delete()
    return len(gone)


def sweep() -> int:
    """Delete what was never sent, never completed or not yet deleted; returns how many that were.

    A message whose send died between its commit and its answer gets its files first.
    """
    now = clock.now()
    for row in selectors.lost(before=now - CLAIM_LIFETIME)[:10_000]:
        if row.client_id is not None and row.owner_id is not None:
            _settle([row], _stored(row.owner_id, row.client_id))
        else:
            Attachment.objects.filter(pk=row.pk).update(message=None)
    total = 0
    while rows := list(selectors.loose(before=now - UNSENT_LIFETIME)[:AT_ONCE]):
        with transaction.atomic():
            # Under the lock, since one may be claimed at this moment.
            keys = [row.pk for row in rows]
            held = Attachment.objects.select_for_update(no_key=True).filter(pk__in=keys).order_by("pk")
            loose = selectors.loose(before=now - UNSENT_LIFETIME).filter(pk__in=[row.pk for row in held])
            marked = list(loose.values_list("pk", flat=True))
            Attachment.objects.filter(pk__in=marked).update(removed_at=now)
        gone = _remove(Attachment.objects.filter(pk__in=marked))
        total += gone
        if not gone:
            # The storage fails: the next sweep tries again.
            break
    return total
