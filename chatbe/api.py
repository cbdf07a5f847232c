"""What the HTTP APIs of all apps share: parsing, fields, pagination, throttling, the client's address.

Imported by Django REST framework's settings, so this module imports none of its views.
"""

from __future__ import annotations

import re
import threading
import time
import unicodedata
from collections import OrderedDict
from collections.abc import Mapping
from typing import IO, Any, ClassVar, Final

import msgspec
from django.conf import settings
from django.http import HttpRequest
from django.views import View
from drf_spectacular.utils import OpenApiResponse, extend_schema_field
from rest_framework import exceptions, serializers
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.pagination import Cursor, CursorPagination
from rest_framework.parsers import BaseParser
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from chatbe import problems
from chatbe.core import addresses
from chatbe.core.errors import FieldError, Invalid, TooLarge
from chatbe.core.ratelimit import TokenBucket


class Negotiation(DefaultContentNegotiation):
    """Whoever asks for problem details asks for JSON: refusals are told in both."""

    def get_accept_list(self, request: Request) -> list[str]:
        """The media types that the client accepts."""
        return [
            accepted.replace(problems.CONTENT_TYPE, JSONRenderer.media_type)
            for accepted in super().get_accept_list(request)
        ]


class StrictJSONParser(BaseParser):
    """One JSON object in UTF-8 (RFC 8259). Anything else is `invalid`, and a large one `too_large`.

    NaN, Infinity and lone surrogates are refused here; U+0000 by the text fields, which can name
    the field.
    """

    media_type = "application/json"
    renderer_class = JSONRenderer

    def parse(
        self,
        stream: IO[bytes],
        media_type: str | None = None,  # noqa: ARG002 - the framework's signature
        parser_context: Mapping[str, Any] | None = None,  # noqa: ARG002 - the framework's signature
    ) -> dict[str, Any]:
        """The object in `stream`. Raises `TooLarge` or `Invalid`."""
        limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE or 0
        data = stream.read(limit + 1)
        if len(data) > limit:
            raise TooLarge(f"A body has at most {limit} bytes.")
        try:
            value = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Invalid(
                "The body is not JSON.", errors=(_body_error("malformed", _reason(error, data)),)
            ) from None
        if not isinstance(value, dict):
            raise Invalid(
                "The body is one JSON object.", errors=(_body_error("not_an_object", "Not an object."),)
            )
        return value


_LONE_SURROGATE: Final = re.compile(rb'\\u[dD][89abAB][0-9a-fA-F]{2}"')


def _reason(error: Exception, data: bytes) -> str:
    if isinstance(error, RecursionError):
        return "Nested too deeply."
    if _LONE_SURROGATE.search(data) and "truncated" in str(error):
        return "Half of a surrogate pair."
    return str(error)


def _body_error(code: str, detail: str) -> FieldError:
    return FieldError(problems.WHOLE_BODY, code, detail)


# --- fields and serializers -----------------------------------------------------------------------

USERNAME_MAX: Final = 32
USERNAME_MIN: Final = 3


@extend_schema_field({"type": "string", "pattern": "^[A-Za-z0-9._-]{3,32}$", "example": "alice"})
class UsernameField(serializers.RegexField):
    """A username in any case; its value is in lower case."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault(
            "error_messages", {"invalid": f"{USERNAME_MIN} to {USERNAME_MAX} characters of a-z 0-9 . _ -"}
        )
        super().__init__(regex=r"\A[A-Za-z0-9._-]{3,32}\Z", trim_whitespace=False, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        """In lower case; it is ASCII, so no other letter can turn into one of it."""
        if not isinstance(data, str):
            self.fail("invalid")
        value = super().to_internal_value(data)
        return value.lower() if value.isascii() else value


class TextField(serializers.CharField):
    """A text; the base class would also take numbers."""

    def to_internal_value(self, data: Any) -> str:
        """The text. Raises for anything that JSON does not call a string."""
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class AddressField(serializers.EmailField):
    """An email address."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=254, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        """The address; the base class would also take numbers."""
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class YesNoField(serializers.BooleanField):
    """True or false; the base class would also take `"yes"` and 1."""

    def to_internal_value(self, data: Any) -> bool:
        """The value. Raises for anything that JSON does not call one of the two."""
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


class LineField(TextField):
    """One line of text: no control characters (so no U+0000), no line breaks."""

    default_error_messages = {"control": "Control characters are not allowed."}  # noqa: RUF012 - as in its base

    def to_internal_value(self, data: Any) -> str:
        """The text. Raises for a control character or a lone surrogate."""
        value = super().to_internal_value(data)
        if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in value):
            self.fail("control")
        return value


class EmptySerializer(serializers.Serializer[Any]):
    """A request without fields."""


class ProblemErrorSerializer(serializers.Serializer[Any]):
    """What is wrong with one field."""

    field = serializers.CharField(help_text="The field's path, or `body` for the whole request.")
    code = serializers.CharField()
    detail = serializers.CharField()


class ProblemSerializer(serializers.Serializer[Any]):
    """RFC 9457 problem details; `code` tells problems apart."""

    type = serializers.CharField(default="about:blank")
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    code = serializers.CharField()
    errors = ProblemErrorSerializer(many=True, required=False)  # type: ignore[assignment]  # a member's name


def problem_responses(*statuses: int, **described: str) -> dict[tuple[int, str], OpenApiResponse]:
    """For `extend_schema(responses={…})`: these statuses answered with problem details.

    `described` gives a sentence to some: `problem_responses(404, s409="The username is taken.")`.
    """
    texts = {int(name.removeprefix("s")): text for name, text in described.items()}
    return {
        (status, problems.CONTENT_TYPE): OpenApiResponse(ProblemSerializer, description=texts.get(status, ""))
        for status in (*statuses, *texts)
    }


# --- pagination -----------------------------------------------------------------------------------


_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")


class Pagination(CursorPagination):
    """`{results, next, previous}`, 50 to a page or `limit` (at most 200), newest first by id.

    Keyset paging: `ordering` is one unique attribute, and `position_field` its type, so that a
    forged cursor is `invalid` rather than a question that the database cannot answer.
    """

    ordering = "-id"
    position_field: ClassVar[serializers.Field[Any, Any, Any, Any]] = serializers.UUIDField()
    page_size = 50
    max_page_size = 200
    page_size_query_param = "limit"
    template = "rest_framework/pagination/previous_and_next.html"

    def get_page_size(self, request: Request) -> int:
        """What `limit` asks for, at most `max_page_size`. Raises `Invalid`."""
        asked = request.query_params.get(self.page_size_query_param)
        if asked is None:
            return self.page_size
        if not (asked.isascii() and asked.isdigit()) or not asked.strip("0"):
            raise Invalid(errors=(FieldError("limit", "invalid", "A whole number from 1."),))
        return self.max_page_size if len(asked) > 9 else min(int(asked), self.max_page_size)

    def decode_cursor(self, request: Request) -> Cursor | None:
        """The cursor in the request. Raises `Invalid` for one that was not made here."""
        refusal = Invalid(errors=(FieldError("cursor", "invalid", "Not a cursor of this list."),))
        encoded = request.query_params.get(self.cursor_query_param)
        if encoded is not None and not _BASE64.fullmatch(encoded):
            raise refusal
        try:
            cursor: Cursor | None = super().decode_cursor(request)
            if cursor is not None and cursor.position is not None:
                self.position_field.run_validation(cursor.position)
        except (exceptions.NotFound, exceptions.ValidationError):
            raise refusal from None
        return cursor

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        """For OpenAPI."""
        parameters: list[dict[str, Any]] = super().get_schema_operation_parameters(view)
        for parameter in parameters:
            if parameter["name"] == self.page_size_query_param:
                parameter["schema"] = {"type": "integer", "minimum": 1, "default": self.page_size}
                parameter["description"] = (
                    f"Results per page; more than {self.max_page_size} gives that many."
                )
        return parameters

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        """For OpenAPI: all three members are always there."""
        described: dict[str, Any] = super().get_paginated_response_schema(schema)
        described["required"] = ["results", "next", "previous"]
        return described


class UsernamePagination(Pagination):
    """As `Pagination`, by username."""

    ordering = "username"
    position_field = UsernameField()


# --- who asks, and how often ----------------------------------------------------------------------


def client_address(request: HttpRequest) -> str | None:
    """The client's IP address in its plain form; None when it cannot be known (a unix socket).

    With `CHATBE_TRUSTED_PROXIES` = n, the last n entries of `X-Forwarded-For` were written by
    our own proxies, and the first of those names the client. Without, the header is ignored,
    since any client can send it.
    """
    peer: str = request.META.get("REMOTE_ADDR") or ""
    trusted: int = settings.CHATBE_TRUSTED_PROXIES
    if trusted > 0:
        hops = [hop.strip() for hop in request.META.get("HTTP_X_FORWARDED_FOR", "").split(",") if hop.strip()]
        if hops:
            forwarded = addresses.plain(hops[max(0, len(hops) - trusted)])
            if forwarded is not None:
                return forwarded
    return addresses.plain(peer)


class BucketThrottle(BaseThrottle):
    """A token bucket per user (or address, when nobody is signed in), in this process's memory.

    Guards against floods of costly requests; what must hold across processes is counted in the
    database (`accounts.attempts`). Subclass it: `capacity` requests at once, `rate` per second after.
    """

    capacity: ClassVar[float] = 60
    rate: ClassVar[float] = 1.0
    remembered: ClassVar[int] = 10_000
    _buckets: ClassVar[OrderedDict[str, TokenBucket]]
    _lock: ClassVar[threading.Lock]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._buckets = OrderedDict()
        cls._lock = threading.Lock()

    def allow_request(self, request: Request, view: View) -> bool:  # noqa: ARG002 - the framework's signature
        """Whether there is a token; else `wait` tells for how long there will be none."""
        self._wait = 0.0
        if not settings.CHATBE_RATE_LIMITS:
            return True
        key = (
            str(request.user.pk)
            if request.user.is_authenticated
            else addresses.block(client_address(request))
        )
        now = time.monotonic()
        with self._lock:
            bucket = self._buckets.get(key)
            if bucket is None:
                bucket = self._buckets[key] = TokenBucket(capacity=self.capacity, rate=self.rate, now=now)
                if len(self._buckets) > self.remembered:
                    self._buckets.popitem(last=False)
            else:
                self._buckets.move_to_end(key)
            self._wait = bucket.take(now=now)
        return self._wait == 0.0

    def wait(self) -> float | None:
        """Seconds until there is a token."""
        return self._wait
