"""The table of attachments. A file in the storage always has a row here, from before it is written until
after it is deleted; so what is left over is found by rows alone, on any storage."""

from __future__ import annotations

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q

from chatbe.core import clock, ids

THUMBNAIL_SUFFIX = "-thumbnail"


class Attachment(models.Model):
    """An uploaded file: unsent, or of one message."""

    id = models.UUIDField(primary_key=True, default=ids.uuid7, editable=False)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        on_delete=models.SET_NULL,
        related_name="attachments",
        help_text="Who uploaded it, and whose quota it counts against; null once the account is erased.",
    )
    # Not a foreign key: with its message the row must go by way of its files.
    message = models.UUIDField(null=True, editable=False, help_text="Null while it is unsent.")
    client_id = models.UUIDField(null=True, editable=False, help_text="Of the send that claimed it.")
    claimed_at = models.DateTimeField(null=True, editable=False)
    name = models.CharField(max_length=255)
    content_type = models.CharField(max_length=100)
    size = models.BigIntegerField(help_text="Bytes.")
    thumbnail_size = models.BigIntegerField(default=0, help_text="Bytes; 0 without one.")
    width = models.IntegerField(null=True, help_text="Of images, in pixels.")
    height = models.IntegerField(null=True)
    created_at = models.DateTimeField(default=clock.now, editable=False)
    stored_at = models.DateTimeField(null=True, editable=False, help_text="When its files were complete.")
    removed_at = models.DateTimeField(null=True, editable=False, help_text="Its files are being deleted.")

    class Meta:
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["message"], name="attachment_message"),
            # Nearly empty: what the sweep looks at.
            models.Index(
                fields=["created_at"],
                name="attachment_loose",
                condition=Q(message__isnull=True) | Q(removed_at__isnull=False) | Q(stored_at__isnull=True),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.content_type})"

    @property
    def path(self) -> str:
        """The name of its file in the storage: spread over folders, and told by no name that a user gave."""
        return f"{self.id.hex[-2:]}/{self.id.hex}"

    @property
    def thumbnail_path(self) -> str:
        """The name of its small picture, where it has one."""
        return self.path + THUMBNAIL_SUFFIX
