"""Fan-out without a chat: an ASGI callable that sends each text it gets to every socket it has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Send = Callable[[dict[str, Any]], Awaitable[None]]

crowd: dict[int, Send] = {}


async def application(
    scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]], send: Send
) -> None:
    """Serve one socket: those at /crowd receive, others send."""
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept"})
    if scope["path"] == "/crowd":
        crowd[id(send)] = send
    await send({"type": "websocket.send", "text": '{"type":"synced"}'})
    while (event := await receive())["type"] != "websocket.disconnect":
        for receiver in list(crowd.values()):
            await receiver({"type": "websocket.send", "text": event["text"]})
    crowd.pop(id(send), None)
