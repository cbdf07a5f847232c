"""Chat in a terminal, to show how little a client needs: `chat.py USERNAME PASSWORD PEER [HOST:PORT]`.

Needs the package websockets. What it lacks (coming back by itself, sending again) is in docs/protocol.md.
"""

import asyncio
import json
import sys
import urllib.request
import uuid
from typing import Any

from websockets import ClientConnection, connect


def sign_in(username: str, password: str, server: str) -> Any:
    """Open a session: tokens for HTTP, and a one-time password for the socket."""
    login = urllib.request.Request(
        f"http://{server}/v1/auth/login",
        json.dumps({"username": username, "password": password}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(login) as answer:
        return json.load(answer)


async def main(username: str, password: str, peer: str, server: str = "127.0.0.1:8000") -> None:
    """Sign in, open a socket, and show what comes until the writer leaves."""
    otp = sign_in(username, password, server)["otp"]
    async with connect(f"ws://{server}/v1/ws?otp={otp}&username={username}") as socket:
        await socket.send(json.dumps({"type": "sync", "conversations": {}}))
        writing = asyncio.create_task(write(socket, peer))
        async for text in socket:
            show(json.loads(text), peer)
        writing.cancel()


async def write(socket: ClientConnection, peer: str) -> None:
    """Send each line that is typed."""
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        frame = {"type": "send", "to": {"username": peer}, "client_id": str(uuid.uuid4()), "body": line}
        await socket.send(json.dumps(frame))
    await socket.close()


def show(event: dict[str, Any], peer: str) -> None:
    """Print what happened; what a client does not know it ignores."""
    match event["type"]:
        case "welcome":
            line = f"* {event['user']} writes to {peer} (an empty line leaves)"
        case "friends":
            line = f"* {event['online']} of {event['total']} contacts online"
        case "presence" if event["online"] is not None:
            line = f"* {event['username']} is {'online' if event['online'] else 'offline'}"
        case "message":
            line = f"{event['message']['sender']}: {event['message']['body']}"
        case "ack":
            line = f"  ✓ stored as number {event['seq']}"
        case "error":
            line = f"! {event['detail']}"
        case _:
            return
    print(line, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
