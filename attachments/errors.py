"""Refusals of uploads."""

from __future__ import annotations

from chatbe.core.errors import ChatError


class UnsupportedContent(ChatError):
    """The content is of no kind that is taken."""

    code = "unsupported_media_type"
    status = 415
    default_detail = "Files of this kind are not taken."


class OverQuota(ChatError):
    """The user's files would be more than their quota."""

    code = "over_quota"
    status = 403
    default_detail = "Your files would be more than your quota. Delete messages with files."
