"""What every HTTP request passes through."""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from chatbe import health, problems

PROBES = {"/healthz": health.healthz, "/readyz": health.readyz, "/metrics": health.metrics}


def probes(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Answer probes before any host, session or cookie is looked at: they come by address, from inside."""

    def answer(request: HttpRequest) -> HttpResponse:
        probe = PROBES.get(request.path_info)
        return get_response(request) if probe is None else probe(request)

    return answer


def chunked_bodies(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Give requests of `Transfer-Encoding: chunked` the length that they came without.

    Django REST framework takes a body without `Content-Length` for an empty one.
    """

    def answer(request: HttpRequest) -> HttpResponse:
        if "Transfer-Encoding" in request.headers and not request.META.get("CONTENT_LENGTH"):
            upload = request.path == settings.CHATBE_UPLOAD_PATH
            limit = settings.CHATBE_UPLOAD_BYTES if upload else settings.DATA_UPLOAD_MAX_MEMORY_SIZE or 0
            body = request.read(limit + 1)
            if len(body) > limit:
                return problems.too_large()
            request._body = body  # noqa: SLF001 - where Django itself keeps a body that was read
            request.META["CONTENT_LENGTH"] = str(len(body))
        return get_response(request)

    return answer
