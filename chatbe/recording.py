"""The conversation of frames in docs/protocol.md, recorded from the code that runs.

`python -m chatbe.recording` prints it: on an empty database of its own, alice and bob open sockets of
this process's ASGI application and chat. Ids and times are replaced by ones that are the same each time.
`transcript` runs that beside the calling process, whatever database that has.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

Frame = dict[str, Any]

PATIENCE: Final = 30.0
"""Seconds until an expected frame counts as missing."""
_FOREIGN: Final = ("CHATBE_", "DATABASE_URL", "REDIS_URL", "SECRET_KEY", "DEBUG", "ALLOWED_HOSTS")
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_LAST_SEEN = re.compile(r'("last_seen": ")[^"]+')
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


@cache
def transcript() -> str:
    """The conversation as Markdown. Raises RuntimeError with what went wrong."""
    with tempfile.TemporaryDirectory(prefix="chatbe-recording-") as folder:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)},
            "CHATBE_ENV_FILE": "none",
            "CHATBE_VAR_DIR": folder,
            "DJANGO_SETTINGS_MODULE": "chatbe.settings",
        }
        result = subprocess.run(
            [sys.executable, "-m", "chatbe.recording"],
            cwd=Path(__file__).resolve().parent.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            text=True,
        )
    if result.returncode:
        raise RuntimeError(f"The conversation could not be recorded:\n{result.stderr}")
    return result.stdout.rstrip()


class Step(NamedTuple):
    """Something that one of them does, and all that both are told for it, in this order."""

    text: str
    who: str
    frame: Frame
    answers: tuple[tuple[str, str], ...]


class Socket:
    """One socket of the ASGI application, without a network."""

    def __init__(self, application: Callable[..., Awaitable[None]], username: str, otp: str) -> None:
        self._incoming: asyncio.Queue[Frame] = asyncio.Queue()
        self._outgoing: asyncio.Queue[Frame] = asyncio.Queue()
        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": "/v1/ws",
            "raw_path": b"/v1/ws",
            "query_string": f"otp={otp}&username={username}".encode(),
            "headers": [(b"host", b"localhost")],
            "subprotocols": [],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        self._task = asyncio.ensure_future(application(scope, self._incoming.get, self._outgoing.put))
        self._incoming.put_nowait({"type": "websocket.connect"})

    def send(self, frame: Frame) -> None:
        """Send a frame."""
        self._incoming.put_nowait({"type": "websocket.receive", "text": json.dumps(frame)})

    async def receive(self) -> Frame:
        """The next frame."""
        while True:
            event = await asyncio.wait_for(self._outgoing.get(), PATIENCE)
            if event["type"] == "websocket.send":
                frame: Frame = json.loads(event.get("text") or event["bytes"])
                return frame
            if event["type"] == "websocket.close":
                raise RuntimeError(f"closed with {event['code']}")

    async def close(self) -> None:
        """Leave."""
        self._incoming.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await asyncio.wait_for(self._task, PATIENCE)


class Plain:
    """Replaces what differs from run to run."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}
        self._times: dict[str, str] = {}

    def frame(self, frame: Frame) -> str:
        """A frame in one line, with names of its own for ids and times."""
        frame = {**frame, **{name: name for name in ("connection", "server", "epoch") if name in frame}}
        text = json.dumps(frame, ensure_ascii=False)
        text = _UUID.sub(lambda match: self._id(match[0]), text)
        # It moves on by itself while somebody is there.
        text = _LAST_SEEN.sub(r"\g<1>2026-01-31T11:59:59.000000Z", text)
        return _TIME.sub(
            lambda match: match[0] if match[0].startswith("2026-01-31T11") else self._time(match[0]), text
        )

    def _id(self, value: str) -> str:
        return self._ids.setdefault(value, f"01990000-0000-7000-8000-{len(self._ids) + 1:012}")

    def _time(self, value: str) -> str:
        return self._times.setdefault(value, f"2026-01-31T12:00:{len(self._times):02}.000000Z")


CLIENT_IDS: Final = ("7d0c5a38-4b5e-4c57-9a43-0f6d6c2b6a01", "7d0c5a38-4b5e-4c57-9a43-0f6d6c2b6a02")


def script(conversation: str) -> tuple[Step, ...]:
    """What happens once both are there; `conversation` is known after the first message."""
    place = {"conversation": conversation, "seq": 1}
    return (
        Step(
            "Bob has seen it: his device says so, and Alice is told.",
            "bob",
            {"type": "read", **place},
            (("alice", "receipt"),),
        ),
        Step(
            "He types, and answers. Both changes, his typing and his message, come to Alice.",
            "bob",
            {"type": "typing", "conversation": conversation, "on": True},
            (("alice", "typing"),),
        ),
        Step(
            "",
            "bob",
            {
                "type": "send",
                "ref": "b1",
                "to": {"conversation": conversation},
                "client_id": CLIENT_IDS[1],
                "body": "It is, @alice.",
                "reply_to": 1,
            },
            (("alice", "message"), ("bob", "ack")),
        ),
        Step(
            "Alice corrects herself. The message is the same one (its `seq`), in a newer state (its `rev`).",
            "alice",
            {"type": "edit", "ref": "a2", **place, "body": "Is the kettle on, Bob?"},
            (("alice", "message"), ("alice", "ack"), ("bob", "message")),
        ),
        Step(
            "Bob likes it.",
            "bob",
            {"type": "react", "ref": "b2", **place, "emoji": "🫖", "on": True},
            (("alice", "message"), ("bob", "message"), ("bob", "ack")),
        ),
        Step(
            "Alice's device never got the ack of its first message, say, and sends it again, with the same "
            "`client_id`. Nothing is stored twice.",
            "alice",
            first("a1"),
            (("alice", "ack"),),
        ),
        Step(
            "She asks for something that cannot be.",
            "alice",
            {"type": "edit", "ref": "a3", "conversation": conversation, "seq": 2, "body": "It is not."},
            (("alice", "error"),),
        ),
        Step(
            "She takes her message back.",
            "alice",
            {"type": "delete", "ref": "a4", **place},
            (("alice", "message"), ("alice", "ack"), ("bob", "message")),
        ),
    )


def first(ref: str) -> Frame:
    """The first message."""
    return {
        "type": "send",
        "ref": ref,
        "to": {"username": "bob"},
        "client_id": CLIENT_IDS[0],
        "body": "Is the kettle on?",
    }


class Recording:
    """The sockets, and what was said on them."""

    def __init__(self, application: Callable[..., Awaitable[None]]) -> None:
        self.sockets: dict[str, Socket] = {}
        self._application = application
        self._plain = Plain()
        self._parts: list[str] = []

    def text(self, text: str) -> None:
        """A sentence between the frames."""
        if text:
            self._parts.append(f"\n{text}\n\n```text\n")
        else:
            # The frames go on in the block before.
            self._parts[-1] = self._parts[-1].removesuffix("```\n")

    async def open(self, text: str, who: str, otp: str, told: tuple[tuple[str, str], ...]) -> None:
        """A socket is opened; `told` is all that comes for it."""
        self.text(text)
        self.sockets[who] = Socket(self._application, who, otp)
        await self._expect(told)
        self._parts.append("```\n")

    async def do(self, step: Step) -> list[Frame]:
        """One step; its answers."""
        self.text(step.text)
        self.sockets[step.who].send(step.frame)
        self._parts.append(f"{step.who:5} → {self._plain.frame(step.frame)}\n")
        answers = await self._expect(step.answers)
        self._parts.append("```\n")
        return answers

    async def _expect(self, told: tuple[tuple[str, str], ...]) -> list[Frame]:
        frames = []
        for who, kind in told:
            try:
                frame = await self.sockets[who].receive()
            except TimeoutError:
                raise RuntimeError(f"{who} was not told of {kind}; so far:\n{self}") from None
            while frame["type"] == "typing" and not frame["on"]:
                # On a slow machine his typing ends by itself.
                frame = await self.sockets[who].receive()
            if frame["type"] != kind:
                raise RuntimeError(f"{who} was told {frame} in place of {kind}")
            self._parts.append(f"{who:5} ← {self._plain.frame(frame)}\n")
            frames.append(frame)
        return frames

    def __str__(self) -> str:
        return "".join(self._parts).strip()


async def record(application: Callable[..., Awaitable[None]], otps: list[tuple[str, str]]) -> str:
    """Let them chat. `otps` are the one-time passwords of alice, of bob, and of alice once more."""
    from chatbe.hub import node  # noqa: PLC0415 - it needs Django to be set up

    recording = Recording(application)
    (_, alice), (_, bob), (_, again) = otps
    sync = {"type": "sync", "ref": "s", "conversations": {}}
    await recording.open(
        "Alice opens a socket. She knows nothing yet, so her `sync` names no conversation.",
        "alice",
        alice,
        (("alice", "welcome"), ("alice", "friends")),
    )
    await recording.do(Step("", "alice", sync, (("alice", "marks"), ("alice", "synced"))))
    await recording.open(
        "Bob does the same, and Alice, whom he has among his contacts as she has him, is told.",
        "bob",
        bob,
        (("bob", "welcome"), ("bob", "friends"), ("alice", "presence")),
    )
    await recording.do(Step("", "bob", sync, (("bob", "marks"), ("bob", "synced"))))
    told = await recording.do(
        Step(
            "She writes to him. The conversation of the two is made with the first message.",
            "alice",
            first("a1"),
            (("alice", "conversation"), ("alice", "ack"), ("bob", "conversation"), ("bob", "message")),
        )
    )
    conversation = next(frame["conversation"] for frame in told if frame["type"] == "ack")
    reached = 0
    for step in script(conversation):
        for frame in await recording.do(step):
            reached = max(reached, frame.get("message", frame).get("rev", 0))
    await recording.sockets["alice"].close()
    await recording.open(
        "Her train goes into a tunnel. When she is back, on whichever server, her `sync` says how far she was: "
        "all that happened since comes, each message once, in its latest state. Here it is what she missed of the end.",
        "alice",
        again,
        (("alice", "welcome"), ("alice", "friends")),
    )
    back = {"type": "sync", "ref": "s", "conversations": {conversation: reached - 2}}
    await recording.do(
        Step("", "alice", back, (("alice", "message"), ("alice", "marks"), ("alice", "synced")))
    )
    for socket in recording.sockets.values():
        await socket.close()
    await (await node.running()).stop()
    return str(recording)


def main() -> None:
    """Record on the empty database that the environment names, and print it."""
    import django  # noqa: PLC0415 - the settings are the environment's

    django.setup()
    from django.core.management import call_command  # noqa: PLC0415 - as said
    from django.db import connections  # noqa: PLC0415 - as said

    from accounts import services  # noqa: PLC0415 - as said
    from accounts.models import User  # noqa: PLC0415 - as said
    from chatbe.asgi import application  # noqa: PLC0415 - as said

    call_command("migrate", verbosity=0)
    alice, bob = (User.objects.create_user(name) for name in ("alice", "bob"))
    services.contact_add(owner=alice, username="bob")
    services.contact_add(owner=bob, username="alice")
    otps = []
    for user in (alice, bob, alice):
        session, _ = services.session_open(user=user)
        otps.append((user.username, services.otp_issue(session_id=session.id).value))
    connections.close_all()
    sys.stdout.write(asyncio.run(record(application, otps)) + "\n")


if __name__ == "__main__":
    main()
