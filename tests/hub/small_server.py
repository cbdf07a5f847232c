"""A server process with a small application, for tests of the server alone.

`python -m tests.hub.small_server '{"options": {…}, …}'`. What happens to the application is said on
stdout, one JSON object per line.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
from typing import Any

from chatbe.hub import listening
from chatbe.hub.listening import Endpoint
from chatbe.hub.transport import EXTENSION, Transport
from chatbe.wire.websocket import encode_text_frame


def say(**event: Any) -> None:
    """Tell the test."""
    # In one write: workers share the pipe.
    os.write(1, f"{json.dumps(event)}\n".encode())


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """What `scope["path"]` names."""
    path = scope["path"]
    if scope["type"] == "http":
        await http(path, scope, receive, send)
        return
    assert (await receive())["type"] == "websocket.connect"
    if path == "/refuse":
        await send({"type": "websocket.close"})
    elif path == "/crash":
        raise ValueError("planted")
    elif path == "/hang":
        say(code=(await receive())["code"])
    elif path == "/plain":
        await plain(scope, receive, send)
    elif path == "/crash-after-accept":
        await send({"type": "websocket.accept"})
        raise ValueError("planted")
    elif path == "/return":
        await send({"type": "websocket.accept"})
    elif path == "/deaf":
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        say(deaf=True)
        await asyncio.sleep(3600)
    else:
        await Native(scope["extensions"][EXTENSION]).run(receive, send)


async def plain(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Echoes by ASGI messages; selects the first subprotocol; `close CODE REASON` closes."""
    await send({"type": "websocket.accept", "subprotocol": next(iter(scope["subprotocols"]), None)})
    while (message := await receive())["type"] != "websocket.disconnect":
        text = message.get("text")
        if text and text.startswith("close "):
            _, code, reason = text.split(" ", 2)
            await send({"type": "websocket.close", "code": int(code), "reason": reason})
        else:
            content = {"text": text} if text is not None else {"bytes": message["bytes"]}
            await send({"type": "websocket.send", **content})
    say(disconnect=message["code"])


class Native:
    """Echoes by ready frames; texts that begin with a slash are commands."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.flooding = ""
        self.left = 0
        self.most = 0
        self.drains = 0

    async def run(self, receive: Any, send: Any) -> None:
        """Serve to the end; the end is said twice, by both ways."""
        await send({"type": "websocket.accept"})
        self.transport.set_drain(self.on_drain)
        self.transport.set_receiver(
            self.on_text, lambda: self.transport.close(1003), lambda code: say(lost=code)
        )
        while (message := await receive())["type"] != "websocket.disconnect":
            self.on_text(message["text"].encode())
        say(disconnect=message["code"])

    def write(self, text: str) -> None:
        self.transport.write_frames(encode_text_frame(text.encode()))

    def on_text(self, data: bytes) -> None:
        text = data.decode()
        if not text.startswith("/"):
            self.write(text)
            return
        command, *arguments = text[1:].split(" ")
        getattr(self, f"do_{command}")(*arguments)

    def do_close(self, code: str, *reason: str) -> None:
        self.transport.close(int(code), " ".join(reason))

    def do_abort(self) -> None:
        self.transport.abort()

    def do_raise(self) -> None:
        raise ValueError("planted")

    def do_flood(self, count: str, size: str) -> None:
        """Send `count` texts of `size` bytes, never more than 256 KiB ahead of the client."""
        self.left, self.flooding = int(count), "x" * int(size)
        self.on_drain()

    def do_burst(self, count: str, size: str) -> None:
        """Send without looking."""
        for number in range(int(count)):
            self.write(f"{number} ".ljust(int(size), "x"))

    def on_drain(self) -> None:
        self.drains += 1
        while self.left and self.transport.buffered < 256 * 1024:
            self.write(self.flooding)
            self.left -= 1
            self.most = max(self.most, self.transport.buffered)
        if not self.left and self.flooding:
            self.flooding = ""
            self.write(json.dumps({"drains": self.drains, "most": self.most}))

    def do_pause(self) -> None:
        """Take nothing until the test says `/release` on another socket."""
        self.transport.pause_reading()
        paused.append(self.transport)
        self.write("paused")

    def do_release(self) -> None:
        while paused:
            paused.pop().resume_reading()

    def do_who(self) -> None:
        self.write(str(os.getpid()))


paused: list[Transport] = []
released = asyncio.Event()


async def http(path: str, scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers with what it got."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        if not message["more_body"]:
            break
    if path == "/crash":
        raise ValueError("planted")
    if path == "/return":
        return
    if path == "/slow":
        say(slow=True)
        await released.wait()
    if path == "/release":
        released.set()
    if path == "/never":
        await asyncio.sleep(3600)
    answer = {"path": path, "body": len(body), "root_path": scope["root_path"], "pid": os.getpid()}
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


def main(settings: dict[str, Any]) -> int:
    """Serve; `drain` says so and releases slow requests, `fail` fails at the start."""
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
    link = settings.get("link")
    if "descriptor" in settings:
        endpoint = Endpoint(descriptor=settings["descriptor"])
    elif "path" in settings:
        endpoint = Endpoint(path=settings["path"])
    else:
        endpoint = Endpoint(settings.get("host", "127.0.0.1"), settings.get("port", 0))
    listener = endpoint.open()

    from chatbe.hub.server import Server, ServerOptions

    async def start() -> None:
        if settings.get("fail"):
            raise ValueError("planted")

    async def drain() -> None:
        say(draining=True)
        if not settings.get("hang"):
            released.set()

    server = Server(
        application,
        [listener],
        options=ServerOptions(**settings.get("options", {})),
        start=start,
        drain=drain,
        on_ready=lambda urls: say(listening=urls[0]) if link is None else None,
        parent=None if link is None else socket.socket(fileno=link),
    )
    return server.run()


def supervise(settings: dict[str, Any]) -> int:
    """Workers that run `main`."""
    from chatbe.hub.workers import Supervisor

    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)

    def command(descriptor: int, link: int, _folder: str) -> list[str]:
        worker = {**settings, "descriptor": descriptor, "link": link}
        del worker["workers"]
        return [sys.executable, "-m", "tests.hub.small_server", json.dumps(worker)]

    supervisor = Supervisor(
        Endpoint(path=settings.get("path", ""), port=settings.get("port", 0)),
        settings["workers"],
        command,
        on_ready=lambda urls: say(listening=urls[0], urls=urls),
        patience=5,
    )
    return asyncio.run(supervisor.run())


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    try:
        sys.exit(supervise(arguments) if "workers" in arguments else main(arguments))
    except listening.CannotListen as error:
        sys.exit(str(error))
