"""`/v1/search`."""

from __future__ import annotations

import base64
import math
import struct
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.api.views import current_user, valid
from chatbe.api import BucketThrottle, LineField, UsernameField, problem_responses
from chatbe.core.errors import FieldError, Invalid
from chatbe.structs import struct_response
from messaging import search
from messaging.api import paging
from messaging.api.views import LIMIT, MESSAGE_EXAMPLE

_NUMBER: Final = struct.Struct(">q")
_TIME: Final = struct.Struct(">q16s")
_RANK: Final = struct.Struct(">d")
_SIZES: Final = {_NUMBER.size, _TIME.size}


class Results(msgspec.Struct):
    """A page of what was found. `next` leads on; it may do so from a page that is not full, or empty.
    `previous` is always null: keep the pages that you have."""

    results: list[search.Result]
    next: str | None
    previous: None


class SearchThrottle(BucketThrottle):
    """A search may read many thousand messages."""

    capacity = 30
    rate = 2.0


class TimeField(serializers.DateTimeField):
    """A time in RFC 3339, or a date, which stands for its first moment in UTC."""

    def to_internal_value(self, value: Any) -> datetime:
        """The time. Raises for what is none, and for one without a zone."""
        text = f"{value}T00:00:00Z" if isinstance(value, str) and len(value) == len("2026-01-31") else value
        moment = super().to_internal_value(text)
        return moment.astimezone(UTC)


class SearchSerializer(serializers.Serializer[Any]):
    """What is asked for."""

    q = LineField(max_length=search.MAX_QUERY_CHARACTERS)
    conversation = serializers.UUIDField(required=False)
    sender = UsernameField(required=False)
    after = TimeField(required=False)
    before = TimeField(required=False)
    order = serializers.ChoiceField([order.value for order in search.Order], required=False)


def cursor_encode(cursor: search.Cursor) -> str:
    """A cursor in base64url without padding: a position, or a rank and three of them."""
    packed = _pack(cursor.top)
    if cursor.last is not None:
        bottom = cursor.bottom or search.Position(0, cursor.top.id)
        packed = _RANK.pack(cursor.rank) + _pack(cursor.last) + packed + _pack(bottom)
    return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


def _pack(position: search.Position) -> bytes:
    if position.id is None:
        return _NUMBER.pack(position.number)
    return _TIME.pack(position.number, position.id.bytes)


def cursor_decode(request: Request) -> search.Cursor | None:
    """The request's cursor; None when it has none. Raises `Invalid` for one that was not made here."""
    text = request.query_params.get("cursor")
    if text is None:
        return None
    try:
        padding = "=" * (-len(text) % 4)
        packed = base64.b64decode((text + padding).encode("ascii"), altchars=b"-_", validate=True)
        return _unpack(packed)
    except (UnicodeEncodeError, ValueError, struct.error):
        raise Invalid(errors=(FieldError("cursor", "invalid", "Not a cursor of this list."),)) from None


def _unpack(packed: bytes) -> search.Cursor:
    """Raises `ValueError` or `struct.error` for what is no cursor."""
    if len(packed) in _SIZES:
        return search.Cursor(_position(packed))
    (rank,) = _RANK.unpack(packed[: _RANK.size])
    size = (len(packed) - _RANK.size) // 3
    if not math.isfinite(rank) or size not in _SIZES or len(packed) != _RANK.size + 3 * size:
        raise ValueError
    last, top, bottom = (
        _position(packed[_RANK.size + size * place : _RANK.size + size * (place + 1)]) for place in range(3)
    )
    return search.Cursor(top, bottom if bottom.number else None, last, rank)


def _position(packed: bytes) -> search.Position:
    if len(packed) == _NUMBER.size:
        position = search.Position(*_NUMBER.unpack(packed))
    else:
        number, key = _TIME.unpack(packed)
        position = search.Position(number, UUID(bytes=key))
    # As microseconds they reach to the year 2255: more than a message has, less than a database takes.
    if not 0 <= position.number <= paging.GREATEST:
        raise ValueError
    return position


class SearchView(APIView):
    """Full text over my conversations."""

    throttle_classes = (SearchThrottle,)

    @extend_schema(
        summary="Search messages",
        tags=["search"],
        operation_id="search_list",
        parameters=[
            OpenApiParameter(
                "q",
                {"type": "string", "minLength": 1, "maxLength": search.MAX_QUERY_CHARACTERS},
                required=True,
                description='Words, all of them wanted; `"words in this order"`; `or`; `-unwanted`.',
            ),
            OpenApiParameter("conversation", OpenApiTypes.UUID, description="In this conversation only."),
            OpenApiParameter("sender", OpenApiTypes.STR, description="From this user only."),
            OpenApiParameter(
                "after", OpenApiTypes.DATETIME, description="Sent then or later; a time or a date."
            ),
            OpenApiParameter(
                "before", OpenApiTypes.DATETIME, description="Sent before then; a time or a date."
            ),
            OpenApiParameter(
                "order",
                {"type": "string", "enum": [order.value for order in search.Order], "default": "relevance"},
                description="What comes first: the best matches (of the newest 500, then on), or the newest.",
            ),
            LIMIT,
            OpenApiParameter("cursor", OpenApiTypes.STR, description="From `next`."),
        ],
        responses={
            200: Results,
            **problem_responses(s404="There is no such conversation, or none that you are in."),
        },
        examples=[
            OpenApiExample(
                "one",
                {
                    "results": [
                        {
                            "message": MESSAGE_EXAMPLE,
                            "snippet": [
                                {"text": "Shall we meet at ", "match": False},
                                {"text": "noon", "match": True},
                                {"text": "?", "match": False},
                            ],
                        }
                    ],
                    "next": None,
                    "previous": None,
                },
                response_only=True,
            )
        ],
    )
    def get(self, request: Request) -> Response:
        """Only what I may read: in conversations that I am in, from my joining on, nothing deleted."""
        names = SearchSerializer().fields.keys() & request.query_params.keys()
        fields = valid(SearchSerializer(data={name: request.query_params[name] for name in names}))
        page = search.search(
            user=current_user(request),
            query=fields["q"],
            conversation=fields.get("conversation"),
            sender=fields.get("sender"),
            after=fields.get("after"),
            before=fields.get("before"),
            order=search.Order(fields.get("order", search.Order.RELEVANCE)),
            cursor=cursor_decode(request),
            limit=paging.page_size(request),
        )
        following = (
            None if page.following is None else paging.link(request, cursor=cursor_encode(page.following))
        )
        return struct_response(Results(page.results, following, None))
