"""`/v1/attachments` and what is below. Views parse, call and answer; no rules here."""

from __future__ import annotations

import re
from typing import IO, Any, ClassVar, Final
from uuid import UUID

import msgspec
from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.utils.http import content_disposition_header
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers, status
from rest_framework.exceptions import ParseError
from rest_framework.parsers import MultiPartParser
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from accounts.api.views import current_user, valid
from attachments import selectors, services
from attachments.models import Attachment
from attachments.selectors import Variant
from chatbe.api import BucketThrottle, problem_responses
from chatbe.core.errors import FieldError, Invalid, NotFound
from chatbe.structs import struct_response

MOST_AT_ONCE: Final = 100
_RANGE: Final = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")
_ID: Final = OpenApiParameter("attachment", OpenApiTypes.UUID, OpenApiParameter.PATH)
_TICKET: Final = OpenApiParameter(
    "ticket", OpenApiTypes.STR, required=True, description="From the signed address."
)
_EXAMPLE: Final = {
    "id": "0198c0de-0000-7000-8000-000000000030",
    "name": "river.jpg",
    "content_type": "image/jpeg",
    "size": 184213,
    "width": 1600,
    "height": 1200,
    "thumbnail": True,
    "url": "https://chat.example.org/v1/attachments/0198c0de-0000-7000-8000-000000000030/content?ticket=WyIwM…",
    "thumbnail_url": "https://chat.example.org/v1/attachments/0198c0de-0000-7000-8000-000000000030/thumbnail?ticket=WyIwM…",
    "expires_at": "2026-01-31T12:05:00.000000Z",
}


class AttachmentsFound(msgspec.Struct):
    """Those of the named attachments that I may fetch."""

    results: list[selectors.Links]
    next: None
    previous: None


class UploadThrottle(BucketThrottle):
    """Each upload may be decoded."""

    capacity = 30
    rate = 0.5


class LinkThrottle(BucketThrottle):
    """A page of pictures asks for many addresses."""

    capacity = 200
    rate = 10.0


class UploadSerializer(serializers.Serializer[Any]):
    """A file to send with a message."""

    file = serializers.FileField(
        help_text="Its name is kept, its declared type is not believed.", allow_empty_file=True
    )


class UploadParser(MultiPartParser):
    """As its base, with what is wrong in words of ours."""

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        """The fields and the files. Raises `Invalid`."""
        try:
            return super().parse(stream, media_type, parser_context)
        except ParseError as error:
            raise Invalid(
                "The form is malformed or cut off.", errors=(FieldError("body", "malformed", str(error)),)
            ) from None


def _base(request: Request) -> str:
    return request.build_absolute_uri("/v1/attachments")


class AttachmentsView(APIView):
    """Uploads, and addresses for many files at once."""

    parser_classes = (UploadParser,)
    serializer_class = UploadSerializer

    def get_serializer(self, *args: Any, **kwargs: Any) -> UploadSerializer:
        """For the browsable API's form."""
        return UploadSerializer(*args, **kwargs)

    def get_throttles(self) -> list[BaseThrottle]:
        """Each way has its own."""
        return [UploadThrottle() if self.request.method == "POST" else LinkThrottle()]

    @extend_schema(
        summary="Get addresses of files",
        tags=["attachments"],
        operation_id="attachments_list",
        parameters=[
            OpenApiParameter(
                "id",
                {"type": "array", "items": {"type": "string", "format": "uuid"}, "maxItems": MOST_AT_ONCE},
                required=True,
                explode=True,
                description="An attachment; may be given many times.",
            )
        ],
        responses={200: AttachmentsFound},
        examples=[
            OpenApiExample("one", {"results": [_EXAMPLE], "next": None, "previous": None}, response_only=True)
        ],
    )
    def get(self, request: Request) -> Response:
        """As `GET /v1/attachments/{id}` for each; those that I may not fetch are left out."""
        ids = request.query_params.getlist("id")
        field = serializers.ListField(
            child=serializers.UUIDField(), allow_empty=False, max_length=MOST_AT_ONCE
        )
        try:
            keys = field.run_validation(ids)
        except serializers.ValidationError as error:
            raise serializers.ValidationError({"id": error.detail}) from None
        found = selectors.attachments_links(user_id=current_user(request).pk, ids=keys, base=_base(request))
        return struct_response(AttachmentsFound(found, None, None))

    @extend_schema(
        summary="Upload a file",
        tags=["attachments"],
        operation_id="attachments_create",
        request={"multipart/form-data": UploadSerializer},
        responses={
            201: selectors.Links,
            **problem_responses(
                s403="`over_quota`, or the account is suspended.",
                s413="The file has too many bytes, or its picture too many pixels.",
                s415="`unsupported_media_type`: the body is no form, or the content is of no kind taken.",
            ),
        },
        examples=[OpenApiExample("a picture", _EXAMPLE, response_only=True, status_codes=["201"])],
    )
    def post(self, request: Request) -> Response:
        """Then name its `id` in `attachments` of a send; an upload that is not sent within a day is deleted.

        What it is, is told by its content. Pictures (JPEG, PNG, GIF, WebP) are made anew, without metadata.
        """
        user = current_user(request)
        file: UploadedFile[Any] = valid(UploadSerializer(data=request.data))["file"]
        opened: IO[bytes] = file.file  # type: ignore[assignment]  # django-stubs: any file
        row = services.attachment_upload(user=user, file=opened, size=file.size or 0, name=file.name or "")
        (links,) = selectors.attachments_links(user_id=user.pk, ids=[row.pk], base=_base(request))
        return struct_response(links, status.HTTP_201_CREATED)


class AttachmentView(APIView):
    """One file."""

    throttle_classes = (LinkThrottle,)

    @extend_schema(
        summary="Get a file's addresses",
        tags=["attachments"],
        operation_id="attachments_retrieve",
        parameters=[_ID],
        responses={200: selectors.Links},
        examples=[OpenApiExample("a picture", _EXAMPLE, response_only=True)],
    )
    def get(self, request: Request, attachment: UUID) -> Response:
        """Of a message that I may read, or of an unsent upload of mine. The addresses are good for some minutes,
        and only while I may see the file; they need no access token, so an `img` can have them."""
        found = selectors.attachments_links(
            user_id=current_user(request).pk, ids=[attachment], base=_base(request)
        )
        if not found:
            raise NotFound
        return struct_response(found[0])

    @extend_schema(
        summary="Take an unsent upload back",
        tags=["attachments"],
        operation_id="attachments_destroy",
        parameters=[_ID],
        responses={
            204: OpenApiResponse(description="Done; no body."),
            **problem_responses(s409="It belongs to a message: delete that."),
        },
    )
    def delete(self, request: Request, attachment: UUID) -> Response:
        """Deletes the file. One that was sent goes with its message."""
        services.unsent_delete(user=current_user(request), attachment=attachment)
        return Response(status=status.HTTP_204_NO_CONTENT)


class ContentView(APIView):
    """A file's bytes, by its signed address."""

    authentication_classes = ()
    permission_classes = (AllowAny,)
    variant: ClassVar[Variant] = "content"

    @extend_schema(
        summary="Fetch a file",
        tags=["attachments"],
        operation_id="attachments_content",
        parameters=[_ID, _TICKET],
        responses={
            (200, "*/*"): OpenApiTypes.BINARY,
            (206, "*/*"): OpenApiTypes.BINARY,
            302: OpenApiResponse(description="To a signed address of the storage."),
            416: OpenApiResponse(description="The range is not in the file."),
            **problem_responses(s403="The address is no longer good: ask for a new one."),
        },
    )
    def get(self, request: Request, attachment: UUID) -> HttpResponseBase:
        """By an address from `GET /v1/attachments/{id}`, without an access token. Takes one range of bytes."""
        return self.answer(request, attachment)

    def answer(self, request: Request, attachment: UUID) -> HttpResponseBase:
        """The bytes, or the way to them."""
        ticket = selectors.ticket_read(
            text=request.query_params.get("ticket", ""), attachment=attachment, variant=self.variant
        )
        row = selectors.attachment_of_ticket(ticket=ticket)
        thumbnail = self.variant == "thumbnail"
        path = row.thumbnail_path if thumbnail else row.path
        content_type = "image/webp" if thumbnail else row.content_type
        disposition = content_disposition_header(as_attachment=True, filename=row.name) or "attachment"
        if settings.CHATBE_ATTACHMENT_STORAGE == "s3":
            return _redirected(path, content_type, disposition)
        return _served(request, row, path, content_type, disposition)


class ThumbnailView(ContentView):
    """A file's small picture, by its signed address."""

    variant = "thumbnail"

    @extend_schema(
        summary="Fetch a file's small picture",
        tags=["attachments"],
        operation_id="attachments_thumbnail",
        parameters=[_ID, _TICKET],
        responses={
            (200, "image/webp"): OpenApiTypes.BINARY,
            (206, "image/webp"): OpenApiTypes.BINARY,
            302: OpenApiResponse(description="To a signed address of the storage."),
            416: OpenApiResponse(description="The range is not in the file."),
            **problem_responses(s403="The address is no longer good: ask for a new one."),
        },
    )
    def get(self, request: Request, attachment: UUID) -> HttpResponseBase:
        """WebP, at most 320 pixels wide and high."""
        return self.answer(request, attachment)


def _redirected(path: str, content_type: str, disposition: str) -> HttpResponseBase:
    address = services.storage().url(
        path,
        parameters={"ResponseContentType": content_type, "ResponseContentDisposition": disposition},  # type: ignore[call-arg]  # S3's storage has them
        expire=settings.CHATBE_ATTACHMENT_LINK_LIFETIME,
    )
    response = HttpResponseRedirect(address)
    response["Cache-Control"] = "no-store"
    return response


def _served(
    request: Request, row: Attachment, path: str, content_type: str, disposition: str
) -> HttpResponseBase:
    """The file's bytes, all or a range of them (RFC 9110, section 14), as nothing that a browser would run."""
    try:
        with services.storage().open(path) as file:
            size = file.size
            first, last = _range(request, size)
            file.seek(first)
            data = file.read(last - first + 1)
    except FileNotFoundError:
        # Deleted at this moment.
        raise NotFound from None
    response = HttpResponse(data, content_type=content_type)
    if first > last:
        response.status_code = status.HTTP_416_REQUESTED_RANGE_NOT_SATISFIABLE
        response["Content-Range"] = f"bytes */{size}"
    elif len(data) < size:
        response.status_code = status.HTTP_206_PARTIAL_CONTENT
        response["Content-Range"] = f"bytes {first}-{last}/{size}"
    response["Accept-Ranges"] = "bytes"
    response["ETag"] = f'"{row.pk.hex}"'
    response["Content-Disposition"] = disposition
    response["Content-Security-Policy"] = "default-src 'none'; sandbox"
    response["Cross-Origin-Resource-Policy"] = "cross-origin"
    response["Cache-Control"] = f"private, max-age={settings.CHATBE_ATTACHMENT_LINK_LIFETIME}, immutable"
    return response


def _range(request: Request, size: int) -> tuple[int, int]:
    """The first and the last byte that are asked for; (1, 0) when there is none of them."""
    match = _RANGE.fullmatch(request.headers.get("Range", ""))
    if match is None or not (match[1] or match[2]):
        return 0, size - 1
    if not match[1]:
        length = min(int(match[2]), size)
        return (size - length, size - 1) if length else (1, 0)
    first, last = int(match[1]), min(int(match[2] or size), size - 1)
    if match[2] and int(match[2]) < first:
        return 0, size - 1
    return (first, last) if first < size else (1, 0)
