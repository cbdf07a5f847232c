"""A group of a thousand, three hundred of them online on two server processes."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import Counter
from typing import Any

import httpx
import pytest
from redis.client import PubSub, Redis
from websockets.asyncio.client import ClientConnection, connect

from tests.support.people import PATIENCE
from tests.support.processes import Deployment

pytestmark = pytest.mark.cluster

MEMBERS = 1000
ONLINE = 300
MESSAGES = 40

POPULATE = f"""
import json
from accounts import services
from accounts.models import User
from messaging import groups
users = User.objects.bulk_create(
    [User(username=f"member{{number:04d}}", password="!") for number in range({MEMBERS})]
)
group = groups.group_create(
    owner=users[0], title="A thousand", usernames=[user.username for user in users[1:]]
)
sessions = [services.session_open(user=user) for user in users[:{ONLINE}]]
otps = services.otps_issue(session_ids=[session.id for session, _ in sessions])
print("POPULATED", json.dumps({{
    "group": str(group.pk),
    "otps": [otps[session.id] for session, _ in sessions],
    "owner": sessions[0][1].access_token,
}}))
"""


class Online:
    """One member's socket: what it got of the group."""

    def __init__(self, number: int) -> None:
        self.username = f"member{number:04d}"
        self.revs: list[int] = []
        self.begins = 0
        self.ended_at = 0
        self.frames: list[dict[str, Any]] = []

    async def begin(self, url: str, otp: str) -> None:
        self.socket: ClientConnection = await connect(
            f"{url}?otp={otp}&username={self.username}",
            compression=None,
            max_size=None,
            open_timeout=PATIENCE,
        )
        await self.socket.send(json.dumps({"type": "sync", "ref": "s", "conversations": {}}))
        while (frame := json.loads(await self.socket.recv()))["type"] != "synced":
            if frame["type"] == "conversation":
                self.begins = frame["conversation"]["rev"]
        self.reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for text in self.socket:
            frame = json.loads(text)
            self.frames.append(frame)
            if frame["type"] == "message":
                self.revs.append(frame["message"]["rev"])
            elif frame["type"] == "conversation":
                if frame.get("member") is False:
                    self.ended_at = frame["conversation"]["rev"]
                self.revs.append(frame["conversation"]["rev"])
            elif frame["type"] == "ack" and frame["ref"].startswith("send"):
                self.revs.append(frame["rev"])

    async def until(self, rev: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while not self.ended_at and (self.revs[-1] if self.revs else self.begins) < rev:
            assert time.monotonic() < deadline, (self.username, self.revs[-3:], rev)
            await asyncio.sleep(0.01)


def published(listener: PubSub) -> Counter[str]:
    """What was published since the last call, by kind of channel."""
    found: Counter[str] = Counter()
    while (message := listener.get_message(timeout=0.2)) is not None:
        if message["type"] == "pmessage":
            name = message["channel"].decode()
            for kind in ("conversation.", "user."):
                if kind in name:
                    found[kind] += 1
    return found


@pytest.mark.asyncio
async def test_one_publish_per_message_and_a_gapless_stream_for_everyone(deployment: Deployment) -> None:
    deployment.environment |= {"CHATBE_RATE_LIMITS": "off", "CHATBE_OTP_LIFETIME": "600"}
    printed = await asyncio.to_thread(deployment.manage, "shell", "-c", POPULATE)
    people = json.loads(printed.split("POPULATED", 1)[1])
    group = people["group"]
    servers = await asyncio.to_thread(lambda: [deployment.server(), deployment.server()])
    online = [Online(number) for number in range(ONLINE)]
    await asyncio.gather(*(
        each.begin(servers[place % 2].socket_url, otp)
        for place, (each, otp) in enumerate(zip(online, people["otps"], strict=True))
    ))  # fmt: skip
    redis = Redis.from_url(deployment.environment["REDIS_URL"].split(",")[0])
    listener = redis.pubsub()  # type: ignore[no-untyped-call]  # the library's
    listener.psubscribe(f"{deployment.environment['CHATBE_REDIS_PREFIX']}*")
    await asyncio.to_thread(published, listener)

    for number in range(MESSAGES):
        for sender in online[:2]:
            await sender.socket.send(json.dumps({
                "type": "send", "ref": f"send{number}", "to": {"conversation": group},
                "client_id": str(uuid.uuid4()), "body": f"number {number}",
            }))  # fmt: skip
    head = 1 + 2 * MESSAGES
    await asyncio.gather(*(each.until(head) for each in online))
    for number, emoji in enumerate(["👍", "❤️", "🎉"]):
        for reacting in online[10:14]:
            await reacting.socket.send(json.dumps({
                "type": "react", "ref": "r", "conversation": group, "seq": number + 1, "emoji": emoji, "on": True,
            }))  # fmt: skip
    head += 12
    await asyncio.gather(*(each.until(head) for each in online))
    for each in online:
        assert each.begins == 1
        assert each.revs == list(range(2, head + 1)), each.username
    # Every change once, whatever the number of members; nothing to single members.
    assert await asyncio.to_thread(published, listener) == {"conversation.": head - 1}

    async with httpx.AsyncClient(
        base_url=servers[0].url, headers={"authorization": f"Bearer {people['owner']}"}, timeout=PATIENCE
    ) as owner:
        leaving = online[151]
        answer = await owner.delete(f"/v1/conversations/{group}/members/{leaving.username}")
        assert answer.status_code == 204
        await online[0].socket.send(json.dumps({
            "type": "send", "ref": "send", "to": {"conversation": group},
            "client_id": str(uuid.uuid4()), "body": "without them",
        }))  # fmt: skip
        await asyncio.gather(*(each.until(head + 3) for each in online))
        for each in online:
            last = head + 1 if each is leaving else head + 3
            assert each.revs == list(range(2, last + 1))
        assert leaving.ended_at == head + 1
        pong = {"type": "heartbeat", "ref": "after"}
        await leaving.socket.send(json.dumps(pong))
        while leaving.frames[-1]["type"] != "heartbeat":
            await asyncio.sleep(0.01)
        assert leaving.revs[-1] == head + 1
        # Of a message with reactions by many, the page has counts and names.
        page = (await owner.get(f"/v1/conversations/{group}/messages?after=0&limit=1")).json()
        (message,) = page["results"]
        assert message["reactions"]["👍"]["count"] == 4
    listener.close()
    redis.close()
    for each in online:
        await each.socket.close()
        await each.reader
