"""Pages of a long conversation's history, over HTTP."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from benchmarks.errors import TargetError
from benchmarks.measure import percentiles
from benchmarks.targets import Target

PAGE = 50
PAIR = ("ha0", "hb0")
CHUNK = 100_000


def prepare(target: Target, *, messages: int) -> str:
    """Make the conversation; returns its id."""
    target.people([PAIR])
    (conversation,) = target.populate("conversations", pairs=[PAIR])["conversations"]
    for _ in range(max(messages // CHUNK, 1)):
        target.populate("messages", conversations=[conversation], each=min(messages, CHUNK))
    target.settle()
    return str(conversation)


class Http:
    """A keep-alive connection that gets and counts, and parses as little as it can."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._head = (
            f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\nAccept: application/json\r\n\r\n"
        )

    async def open(self) -> None:
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)

    async def get(self, path: str) -> bytes:
        """The body of a 200; anything else raises."""
        self._writer.write(f"GET {path} HTTP/1.1\r\n{self._head}".encode())
        head = await self._reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise TargetError(f"GET {path}: {head.splitlines()[0].decode()}")
        length = next(line for line in head.lower().splitlines() if line.startswith(b"content-length:"))
        return await self._reader.readexactly(int(length.split(b":")[1]))

    async def close(self) -> None:
        """Disconnect."""
        self._writer.close()
        await self._writer.wait_closed()


async def pages(target: Target, *, conversation: str, messages: int, requests: int) -> dict[str, Any]:
    """Latency and CPU of pages at random places and of the newest page, one request at a time."""
    token = target.populate("access_token", user=PAIR[0])["token"]
    chance = random.Random(1)
    http = Http(target.port, token)
    await http.open()
    path = f"/v1/conversations/{conversation}/messages?limit={PAGE}"
    for _ in range(20):
        await http.get(path)
    result: dict[str, Any] = {"messages": messages, "requests": requests}
    kinds = {
        "newest": [path] * requests,
        "anywhere": [f"{path}&before={chance.randrange(PAGE + 1, messages)}" for _ in range(requests)],
    }
    for kind, paths in kinds.items():
        durations = []
        with target.measured() as meter:
            for one in paths:
                start = time.perf_counter()
                body = await http.get(one)
                durations.append(time.perf_counter() - start)
                if body.count(b'"client_id"') < PAGE:
                    raise TargetError(f"{target.name}: a page of {body.count(b'client_id')} messages")
        result[kind] = {"latency_ms": percentiles(durations), "cpu_us_per_page": meter.micros_per(requests)}
    await http.close()
    return result
