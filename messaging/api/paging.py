"""Query parameters of lists, and the links that lead on."""

from __future__ import annotations

import base64
import binascii
import struct
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final
from uuid import UUID

from rest_framework.request import Request
from rest_framework.utils.urls import remove_query_param, replace_query_param

from chatbe.core.errors import FieldError, Invalid
from messaging.selectors import Position

PAGE: Final = 50
MOST: Final = 200
"""So many results a page has at most; who asks for more gets that many."""
GREATEST: Final = 2**53 - 1
"""The greatest number that every JSON reader knows, and so the greatest seq and rev."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_CURSOR: Final = struct.Struct(">?q16s")


class Direction(Enum):
    """Where a cursor leads from its position in a list by latest activity."""

    LATER = True
    EARLIER = False


def whole_number(request: Request, name: str, *, least: int = 0) -> int | None:
    """The query parameter as a number from `least` to `GREATEST`; None without it. Raises `Invalid`."""
    text = request.query_params.get(name)
    if text is None:
        return None
    # Digits alone: int() would take blanks, underscores and other scripts' digits.
    if text.isascii() and text.isdigit() and len(text) <= len(str(GREATEST)):
        number = int(text)
        if least <= number <= GREATEST:
            return number
    raise Invalid(errors=(FieldError(name, "invalid", f"A whole number from {least} to {GREATEST}."),))


def page_size(request: Request) -> int:
    """What `limit` asks for, at most `MOST`. Raises `Invalid`."""
    asked = whole_number(request, "limit", least=1)
    return PAGE if asked is None else min(asked, MOST)


def link(request: Request, **parameters: str | int | None) -> str:
    """The request's own address with these query parameters; None takes one away."""
    address = request.build_absolute_uri()
    for name, value in parameters.items():
        address = (
            remove_query_param(address, name)
            if value is None
            else replace_query_param(address, name, str(value))
        )
    return address


def cursor_encode(direction: Direction, position: Position) -> str:
    """The cursor that goes on from `position`, in base64url without padding."""
    microseconds = (position.active_at - _EPOCH) // timedelta(microseconds=1)
    packed = _CURSOR.pack(direction.value, microseconds, position.id.bytes)
    return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


def cursor_decode(request: Request) -> tuple[Direction, Position] | None:
    """The request's cursor; None when it has none. Raises `Invalid` for one that was not made here."""
    text = request.query_params.get("cursor")
    if text is None:
        return None
    try:
        packed = base64.b64decode(text.encode("ascii") + b"==", altchars=b"-_", validate=True)
        later, microseconds, key = _CURSOR.unpack(packed)
        position = Position(_EPOCH + timedelta(microseconds=microseconds), UUID(bytes=key))
    except (UnicodeEncodeError, binascii.Error, struct.error, OverflowError):
        raise Invalid(errors=(FieldError("cursor", "invalid", "Not a cursor of this list."),)) from None
    return Direction(later), position
