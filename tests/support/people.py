"""People with devices: HTTP and WebSocket clients of a real server, which wait for what they expect."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

PATIENCE = 20.0
"""Seconds until what was expected counts as missing; nothing waits so long unless a test fails."""
PASSWORD = "a quiet river at dawn 7"

Frame = dict[str, Any]

_opened: list[ClientConnection | httpx.Client] = []


def close_all() -> None:
    """Close every connection that people and sockets have opened."""
    while _opened:
        opened = _opened.pop()
        if isinstance(opened, ClientConnection):
            # A goodbye would wait until the other side's is read, behind all that a test has left unread.
            with contextlib.suppress(OSError):
                opened.socket.shutdown(socket.SHUT_RDWR)
        opened.close()


def new_name(stem: str) -> str:
    """A username that nobody has."""
    return f"{stem}-{uuid.uuid4().hex[:12]}"


class Socket:
    """One WebSocket: everything that came in is kept in `frames`, in order."""

    def __init__(
        self,
        url: str,
        *,
        query: str = "",
        username: str = "",
        subprotocols: list[str] | None = None,
        **options: Any,
    ) -> None:
        self.connection: ClientConnection = connect(
            f"{url}{query}",
            subprotocols=[Subprotocol(name) for name in subprotocols] if subprotocols else None,
            max_size=None,
            compression=None,
            legacy=True,
            **options,
        )
        _opened.append(self.connection)
        self.username = username
        self.frames: list[Frame] = []
        self._looked = 0

    def send(self, **frame: Any) -> None:
        """Send one frame."""
        self.connection.send(json.dumps(frame))

    def send_raw(self, data: str | bytes) -> None:
        """Send any message."""
        self.connection.send(data)

    def receive(self, timeout: float = PATIENCE) -> Frame:
        """The next frame from the wire. Raises TimeoutError and ConnectionClosed."""
        frame: Frame = json.loads(self.connection.recv(timeout))
        self.frames.append(frame)
        return frame

    def expect(self, kind: str, matching: Callable[[Frame], bool] = lambda _: True) -> Frame:
        """The next frame of this type (any: ""), passing over others; each frame is looked at once."""
        deadline = time.monotonic() + PATIENCE
        while True:
            while self._looked < len(self.frames):
                frame = self.frames[self._looked]
                self._looked += 1
                if kind in {"", frame["type"]} and matching(frame):
                    return frame
            self.receive(max(0.0, deadline - time.monotonic()))

    def sync(self, conversations: dict[str, int] | None = None, **fields: Any) -> list[Frame]:
        """Begin the stream; returns what came before and with `synced`."""
        start = len(self.frames)
        self.send(type="sync", ref="sync", conversations=conversations or {}, **fields)
        self.expect("synced")
        return self.frames[start:]

    def message(self, to: str, body: str, *, client_id: str | None = None, ref: str = "m") -> Frame:
        """Send to a username and wait for the ack."""
        self.send(
            type="send", ref=ref, to={"username": to}, client_id=client_id or str(uuid.uuid4()), body=body
        )
        answer = self.answer(ref)
        assert answer["type"] == "ack", answer
        return answer

    def answer(self, ref: str) -> Frame:
        """The next ack or error with this ref."""
        return self.expect("", lambda frame: frame["type"] in {"ack", "error"} and frame["ref"] == ref)

    def ask_time(self) -> None:
        """Wait until everything that was sent before has been handled: frames are answered in order."""
        ref = uuid.uuid4().hex
        self.send(type="heartbeat", ref=ref)
        self.expect("heartbeat", lambda frame: frame.get("ref") == ref)

    def closed(self) -> int:
        """Read until the close; its code."""
        try:
            while True:
                self.receive()
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd is not None else 1006

    def of_type(self, kind: str) -> list[Frame]:
        """What came in of one type so far."""
        return [frame for frame in self.frames if frame["type"] == kind]

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def drop(self) -> None:
        """Cut the connection without a goodbye."""
        self.connection.socket.shutdown(2)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Person:
    """A user with one session."""

    def __init__(self, server_url: str, username: str, *, register: bool = True) -> None:
        self.username = username
        self.http = httpx.Client(base_url=server_url, timeout=PATIENCE)
        _opened.append(self.http)
        if register:
            answer = self.http.post(
                "/v1/auth/register",
                json={"username": username, "email": f"{username}@example.org", "password": PASSWORD},
            )
            assert answer.status_code == 201, answer.text
        self.sign_in()

    def sign_in(self) -> None:
        """Log in; from now on requests carry the access token."""
        answer = self.http.post("/v1/auth/login", json={"username": self.username, "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        self.login: dict[str, Any] = answer.json()
        self.http.headers["Authorization"] = f"Bearer {self.login['access_token']}"

    def otp(self) -> str:
        """A fresh one-time password."""
        answer = self.http.post("/v1/auth/otp")
        assert answer.status_code == 200, answer.text
        otp: str = answer.json()["otp"]
        return otp

    def socket(self, server_url: str | None = None, *, welcome: bool = True, **options: Any) -> Socket:
        """A new socket, on this person's server or another; with `welcome`, past the first frames."""
        base = server_url or str(self.http.base_url)
        url = base.replace("http://", "ws://").rstrip("/") + "/v1/ws"
        socket = Socket(
            url, query=f"?otp={self.otp()}&username={self.username}", username=self.username, **options
        )
        if welcome:
            socket.expect("welcome")
            socket.expect("friends")
        return socket

    def live(self, server_url: str | None = None) -> Socket:
        """A new socket whose stream has begun."""
        socket = self.socket(server_url)
        socket.sync()
        return socket

    def add(self, *usernames: str) -> None:
        """Add contacts."""
        for username in usernames:
            answer = self.http.post("/v1/contacts", json={"username": username})
            assert answer.status_code in {200, 201}, answer.text

    def history(self, conversation: str, **query: Any) -> list[Frame]:
        """A page of messages."""
        answer = self.http.get(f"/v1/conversations/{conversation}/messages", params=query)
        assert answer.status_code == 200, answer.text
        results: list[Frame] = answer.json()["results"]
        return results


def befriend(*people: Person) -> None:
    """Make all of them contacts of each other."""
    for person in people:
        person.add(*(other.username for other in people if other is not person))
