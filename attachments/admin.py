"""Attachments in the admin: to look at, not to change. They are removed with their messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest

from attachments.models import Attachment

if TYPE_CHECKING:
    # Generic in its stubs, not at run time.
    _ModelAdmin = admin.ModelAdmin[Attachment]
else:
    _ModelAdmin = admin.ModelAdmin


@admin.register(Attachment)
class AttachmentAdmin(_ModelAdmin):
    """Read-only."""

    list_display = ("id", "owner", "name", "content_type", "size", "message", "created_at")
    list_select_related = ("owner",)
    list_filter = ("content_type",)
    search_fields = ("id__exact", "message__exact", "owner__username")
    date_hierarchy = "created_at"

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002 - Django's signature
        """They are uploaded."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002 - Django's signature
        """Nothing here may change."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002 - Django's signature
        """Their files would stay."""
        return False
