"""Static files, compressed. Nothing else is: what holds secrets beside what a stranger chose gives them away by its
length (BREACH)."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable
from typing import Final, cast

from django.conf import settings
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers

KINDS: Final = ("text/css", "text/javascript", "application/javascript", "image/svg+xml", "application/json")
SMALLEST: Final = 512
"""Bytes; less is not worth it."""
LARGEST: Final = 4 * 1024 * 1024
_LEVEL: Final = 9


def static_files(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Compress what lies under `STATIC_URL`, once for each version of a file."""
    kept: dict[str, tuple[str, bytes]] = {}

    def answer(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        if not request.path_info.startswith(settings.STATIC_URL) or not _is_text(response):
            return response
        patch_vary_headers(response, ["Accept-Encoding"])
        if not _takes_gzip(request) or response.status_code != HttpResponse.status_code:
            return response
        version = f"{response.headers.get('Last-Modified')} {response.headers.get('Content-Length')}"
        known = kept.get(request.path_info)
        if known is None or known[0] != version:
            whole = _content(response)
            if not SMALLEST <= len(whole) <= LARGEST:
                _put(response, whole)
                return response
            known = kept[request.path_info] = (version, gzip.compress(whole, _LEVEL, mtime=0))
        _put(response, known[1])
        response.headers["Content-Encoding"] = "gzip"
        response.headers["Content-Length"] = str(len(known[1]))
        if "ETag" in response.headers:
            response.headers["ETag"] = "W/" + response.headers["ETag"].removeprefix("W/")
        return response

    return answer


def _is_text(response: HttpResponseBase) -> bool:
    return (
        response.headers.get("Content-Type", "").partition(";")[0] in KINDS
        and "Content-Encoding" not in response
    )


def _takes_gzip(request: HttpRequest) -> bool:
    accepted = request.headers.get("Accept-Encoding", "")
    return "gzip" in accepted and "gzip;q=0" not in accepted and "Range" not in request.headers


def _content(response: HttpResponseBase) -> bytes:
    if isinstance(response, StreamingHttpResponse):
        return b"".join(cast("Iterable[bytes]", response.streaming_content))
    return cast("HttpResponse", response).content


def _put(response: HttpResponseBase, content: bytes) -> None:
    """In the same response, since it alone closes its file when it has been sent."""
    if isinstance(response, StreamingHttpResponse):
        response.streaming_content = [content]
    else:
        cast("HttpResponse", response).content = content
