"""The page at `/`: one HTML file, whose script and style are static files of web/ and clients/js."""

from __future__ import annotations

from functools import cache
from typing import Final
from urllib.parse import urlsplit

from django.conf import settings
from django.core.files.storage import storages
from django.http import HttpRequest, HttpResponse
from django.urls import Resolver404, resolve
from django.views.decorators.http import require_safe

_SOME_ID: Final = "00000000-0000-7000-8000-000000000000"
_SHOWN_BY: Final = {
    "groups": f"/v1/conversations/{_SOME_ID}/members",
    "changes": f"/v1/conversations/{_SOME_ID}/messages/1",
    "attachments": "/v1/attachments",
    "search": "/v1/search",
}
"""What the page offers only where this server has the path for it. `changes`: edit, delete, react."""


@cache
def _document() -> str:
    """The page, which says in its head what this server can do."""
    document = (settings.BASE_DIR / "web/index.html").read_text()
    return document.replace(
        "{features}", " ".join(name for name, path in _SHOWN_BY.items() if _is_there(path))
    )


def _is_there(path: str) -> bool:
    try:
        resolve(path)
    except Resolver404:
        return False
    return True


@cache
def _bucket() -> str:
    """The origin that answers for files, after a blank; empty where this server does."""
    if settings.CHATBE_ATTACHMENT_STORAGE != "s3":
        return ""
    address = urlsplit(storages["attachments"].url("picture"))
    return f" {address.scheme}://{address.netloc}"


def content_security_policy(request: HttpRequest) -> str:
    """Everything comes from this server, and nothing that stands in a page, or is written into one, is a script."""
    # Some browsers do not count a page's own WebSockets as 'self'.
    own_socket = f"{'wss' if request.is_secure() else 'ws'}://{request.get_host()}"
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:{_bucket()}; "
        f"connect-src 'self' {own_socket}; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


@require_safe
def page(request: HttpRequest) -> HttpResponse:
    """The page."""
    response = HttpResponse(_document())
    response["Content-Security-Policy"] = content_security_policy(request)
    response["Cache-Control"] = "no-cache"
    response["Permissions-Policy"] = "camera=(), geolocation=(), microphone=()"
    return response
