"""Refuse sockets that a foreign web page opens.

Channels' own validator refuses clients without an Origin (every one that is no browser) and
opens a layer channel per refusal; hence this one.
"""

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.http.request import validate_host


class OriginGuard:
    """Passes a socket on when it has no Origin, one of this host, or one that the settings allow; else 403."""

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> Any:
        """Refuse before the upgrade (ASGI: a close before accept is answered with 403), or pass on."""
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        if origin is None or allowed(origin.decode("latin-1"), headers.get(b"host", b"").decode("latin-1")):
            return await self.application(scope, receive, send)
        return await refuse(scope, receive, send)


async def refuse(_scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Refuse a socket before the upgrade; the client sees 403."""
    await receive()
    await send({"type": "websocket.close", "code": 4403})


def allowed(origin: str, host: str) -> bool:
    """Whether a page of `origin` may open a socket on `host` (the Host header)."""
    if origin in settings.CHATBE_ALLOWED_ORIGINS:
        return True
    try:
        parts = urlsplit(origin)
        name = parts.hostname
    except ValueError:
        return False
    if parts.scheme not in {"http", "https"} or not name:
        return False
    # "*" accepts any Host, but not every page of the web: there only the page's own host counts.
    own = parts.netloc.lower() == host.lower()
    patterns = [pattern for pattern in settings.ALLOWED_HOSTS if own or pattern != "*"]
    return validate_host(f"[{name}]" if ":" in name else name, patterns)
