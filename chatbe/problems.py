"""Every refusal over HTTP, in one place: RFC 9457 problem details (`application/problem+json`).

A problem has `type`, `title`, `status`, `detail` and `code`; bad fields are named in `errors`,
each `{field, code, detail}`. 429 and 503 carry `Retry-After`, 401 `WWW-Authenticate`.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import psycopg
import redis.exceptions
from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation, ValidationError
from django.db import InterfaceError, InternalError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from django.http.request import UnreadablePostError
from django.views import defaults
from rest_framework import exceptions
from rest_framework.renderers import BrowsableAPIRenderer, JSONRenderer
from rest_framework.response import Response

from chatbe.core.errors import ChatError, FieldError

logger = logging.getLogger("chatbe.problems")

CONTENT_TYPE: Final = "application/problem+json"
WHOLE_BODY: Final = "body"
"""The `field` of an error that concerns no single field."""

_OUT_OF_REACH = (
    OperationalError,
    InterfaceError,
    InternalError,  # a database that takes no writes, among others
    psycopg.OperationalError,  # the pool's timeout is one, raised outside Django's wrapper
    psycopg.InterfaceError,
    psycopg.InternalError,
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
)
_CODES: Final[Mapping[int, str]] = {
    400: "invalid",
    401: "not_authenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    413: "too_large",
    415: "unsupported_media_type",
    429: "rate_limited",
    503: "unavailable",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """A refusal before it is rendered. `retry_after` is in seconds."""

    status: int
    code: str
    detail: str
    errors: tuple[FieldError, ...] = ()
    retry_after: float | None = None

    def body(self) -> dict[str, Any]:
        """The members of the problem object. Types are `about:blank`: `code` tells problems apart."""
        members: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        if self.errors:
            members["errors"] = [
                {"field": error.field, "code": error.code, "detail": error.detail} for error in self.errors
            ]
        return members

    def headers(self) -> dict[str, str]:
        """The headers that go with the status."""
        match self.status:
            case 401:
                return {"WWW-Authenticate": 'Bearer realm="chatbe"'}
            case 429 | 503:
                return {"Retry-After": str(max(1, math.ceil(self.retry_after or 1)))}
            case _:
                return {}


def problem_of(error: Exception) -> Problem | None:
    """What a caller is told about `error`; None when it is not the caller's business but a fault here."""
    match error:
        case ChatError():
            return Problem(
                error.status, error.code, error.detail,
                errors=getattr(error, "errors", ()), retry_after=error.retry_after,
            )  # fmt: skip
        case exceptions.ValidationError():
            return _invalid(tuple(_field_errors(error.get_full_details())))
        case ValidationError():
            return _invalid(tuple(_model_errors(error)))
        case exceptions.Throttled():
            return Problem(
                429,
                "rate_limited",
                "Too many requests. Try again later.",
                retry_after=getattr(error, "wait", None),
            )
        case exceptions.APIException():
            return Problem(error.status_code, _code(error.status_code), str(error.detail))
        case Http404():
            return Problem(404, "not_found", "There is no such thing, or none that you may see.")
        case PermissionDenied():
            return Problem(403, "forbidden", "You may not do this.")
        case RequestDataTooBig():
            return Problem(413, "too_large", "The body is over the limit of size.")
        case SuspiciousOperation() | UnreadablePostError():
            return Problem(400, "invalid", "The request is malformed.")
        case _ if isinstance(error, _OUT_OF_REACH):
            logger.warning(
                "a dependency failed", extra={"reason": type(error).__name__, "error": str(error).strip()}
            )
            return Problem(
                503, "unavailable", "The service cannot do this right now. Try again.", retry_after=1.0
            )
        case _:
            return None


def exception_handler(error: Exception, context: Mapping[str, Any]) -> Response | None:
    """Django REST framework's `EXCEPTION_HANDLER`. None lets the fault through to `server_error`."""
    problem = problem_of(error)
    if problem is None:
        return None
    response = Response(problem.body(), status=problem.status, headers=problem.headers())
    request = context.get("request")
    if isinstance(getattr(request, "accepted_renderer", None), BrowsableAPIRenderer):
        # A browser is shown the page of the path that it asked for, with the problem in it.
        return response
    if request is not None:
        request.accepted_renderer, request.accepted_media_type = JSONRenderer(), JSONRenderer.media_type
    response.content_type = CONTENT_TYPE
    return response


def _code(status: int) -> str:
    return _CODES.get(status, "invalid")


def _invalid(errors: tuple[FieldError, ...]) -> Problem:
    return Problem(400, "invalid", "A value is missing or malformed.", errors=errors)


def _field_errors(details: Any, path: str = "") -> Iterator[FieldError]:
    """Django REST framework's nested error details, each with its field's path: `members.0.username`."""
    if (
        isinstance(details, dict)
        and details.keys() == {"message", "code"}
        and isinstance(details["message"], str)
    ):
        yield FieldError(path or WHOLE_BODY, str(details["code"]), details["message"])
    elif isinstance(details, dict):
        for name, inner in details.items():
            own = path if name == "non_field_errors" else f"{path}.{name}" if path else str(name)
            yield from _field_errors(inner, own)
    else:
        for index, inner in enumerate(details):
            leaf = isinstance(inner, dict) and inner.keys() == {"message", "code"}
            yield from _field_errors(inner, path if leaf else f"{path}.{index}" if path else str(index))


def _model_errors(error: ValidationError) -> Iterator[FieldError]:
    by_field = error.error_dict if hasattr(error, "error_dict") else {WHOLE_BODY: error.error_list}
    for name, errors in by_field.items():
        for each in errors:
            own = WHOLE_BODY if name == "__all__" else name
            yield FieldError(own, each.code or "invalid", " ".join(each.messages))


# --- Django's own handlers: for paths that no API view answers ------------------------------------


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """`handler400`."""
    if _for_people(request):
        return defaults.bad_request(request, exception)
    return _response(problem_of(exception) or Problem(400, "invalid", "The request is malformed."))


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    """`handler403`."""
    if _for_people(request):
        return defaults.permission_denied(request, exception)
    return _response(Problem(403, "forbidden", "You may not do this."))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """`handler404`."""
    if _for_people(request):
        return defaults.page_not_found(request, exception)
    return _response(Problem(404, "not_found", "There is no such thing, or none that you may see."))


def server_error(request: HttpRequest) -> HttpResponse:
    """`handler500`: a fault of the server, which the log has in full and the caller does not."""
    if _for_people(request):
        return defaults.server_error(request)
    return _response(Problem(500, "internal", "Something went wrong here, not with your request."))


def too_large() -> HttpResponse:
    """For a body that is refused before any view sees it."""
    return _response(Problem(413, "too_large", "The body is over the limit of size."))


def _for_people(request: HttpRequest) -> bool:
    """Whether a page is wanted: outside the API, by a browser."""
    return not request.path.startswith("/v1/") and "text/html" in request.headers.get("Accept", "")


def _response(problem: Problem) -> HttpResponse:
    return HttpResponse(
        json.dumps(problem.body()),
        status=problem.status,
        content_type=CONTENT_TYPE,
        headers=problem.headers(),
    )
