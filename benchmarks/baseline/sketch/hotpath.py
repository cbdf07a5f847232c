"""The hot path and nothing else: lean consumer, hub, group commit, pipelined fan-out.

It has no login, no membership check, no idempotency, no cursors, no bounds and no error handling:
it is the mark of what the rest may cost. Run it with DATABASE_URL and REDIS_URL set, on any ASGI
server: `benchmarks.baseline.sketch.hotpath:application`.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar
from urllib.parse import parse_qs

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.baseline.sketch.settings")
django.setup()

import msgspec
import psycopg
import redis.asyncio
import uuid_utils
from channels.consumer import AsyncConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path

Row = tuple[str, str, uuid.UUID, str]
"""Conversation, sender, client_id, body."""
Written = tuple[int, str, float]
"""Seq, id, time."""


class Frame(msgspec.Struct, tag_field="type"):
    """Base of all frames; the tag names the type on the wire."""


class Send(Frame, tag="message.send"):
    """A message to someone."""

    to: str
    client_id: uuid.UUID
    body: str
    id: int | None = None


class Ack(Frame, tag="ack"):
    """It is committed."""

    id: int | None
    conversation: str
    seq: int
    message: str


class Message(Frame, tag="message"):
    """A message from someone."""

    conversation: str
    seq: int
    message: str
    client_id: uuid.UUID
    sender: str
    body: str
    created_at: float


decode = msgspec.json.Decoder(Send).decode
encode = msgspec.json.Encoder().encode


class Writer:
    """Commits in groups: what arrives while a batch is in flight is the next batch."""

    TAKE_HEADS = """
        with want as (select * from unnest(%s::text[], %s::int[]) as w(k, n)),
             locked as (select k, head from sketch_conversation where k = any(%s) order by k for update)
        update sketch_conversation c set head = locked.head + want.n
          from locked join want using (k) where c.k = locked.k returning c.k, c.head"""
    INSERT = """
        insert into sketch_message (id, conversation, seq, sender, client_id, body, created_at)
        select *, now() from unnest(%s::uuid[], %s::text[], %s::bigint[], %s::text[], %s::uuid[], %s::text[])"""

    def __init__(self) -> None:
        self.waiting: list[tuple[Row, asyncio.Future[Written]]] = []
        self.wake = asyncio.Event()
        self.thread = ThreadPoolExecutor(1)
        self.connection: psycopg.Connection | None = None
        self.task = asyncio.create_task(self.run())

    def submit(self, row: Row) -> asyncio.Future[Written]:
        """Queue a message; the future has what was written, after the commit."""
        future: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
        self.waiting.append((row, future))
        self.wake.set()
        return future

    async def run(self) -> None:
        """Hand one batch after another to the thread."""
        loop = asyncio.get_running_loop()
        while True:
            await self.wake.wait()
            self.wake.clear()
            batch, self.waiting = self.waiting, []
            written = await loop.run_in_executor(self.thread, self.commit, [row for row, _ in batch])
            for (_, future), result in zip(batch, written, strict=True):
                future.set_result(result)

    def commit(self, rows: list[Row]) -> list[Written]:
        """Store a batch in one transaction."""
        if self.connection is None:
            self.connection = psycopg.connect(os.environ["DATABASE_URL"])
        counts: dict[str, int] = {}
        for conversation, *_ in rows:
            counts[conversation] = counts.get(conversation, 0) + 1
        keys = sorted(counts)  # one lock order for every process: no deadlocks
        with self.connection.pipeline(), self.connection.cursor() as cursor:
            cursor.execute(self.TAKE_HEADS, [keys, [counts[k] for k in keys], keys])
            head = {k: last - counts[k] for k, last in cursor.fetchall()}
            now = time.time()
            written: list[Written] = []
            columns = []
            for conversation, sender, client_id, body in rows:
                head[conversation] += 1
                message = str(uuid_utils.uuid7())
                written.append((head[conversation], message, now))
                columns.append((message, conversation, head[conversation], sender, str(client_id), body))
            cursor.execute(self.INSERT, [list(column) for column in zip(*columns, strict=True)])
            self.connection.commit()
        return written


class Hub:
    """This process's sockets by user; one Redis subscriber and one publisher for all of them."""

    def __init__(self) -> None:
        self.sockets: dict[str, set[Socket]] = {}
        self.redis = redis.asyncio.from_url(os.environ["REDIS_URL"])
        self.subscriber = self.redis.pubsub()
        self.outgoing: list[tuple[str, bytes]] = []
        self.wake = asyncio.Event()
        self.joining = asyncio.Lock()
        self.tasks = [asyncio.create_task(self.publish_loop())]

    async def join(self, user: str, socket: Socket) -> None:
        """Count a socket in."""
        if user not in self.sockets:
            # Two at once would each open a connection of the subscriber's.
            async with self.joining:
                await self.subscriber.subscribe(f"user.{user}")
            if len(self.tasks) == 1:
                self.tasks.append(asyncio.create_task(self.receive_loop()))
        self.sockets.setdefault(user, set()).add(socket)

    def publish(self, user: str, data: bytes) -> None:
        """Queue an event for a user's sockets, wherever they are."""
        self.outgoing.append((f"user.{user}", data))
        self.wake.set()

    async def publish_loop(self) -> None:
        """Publish what has gathered, in one pipeline."""
        while True:
            await self.wake.wait()
            self.wake.clear()
            outgoing, self.outgoing = self.outgoing, []
            pipeline = self.redis.pipeline(transaction=False)
            for channel, data in outgoing:
                pipeline.publish(channel, data)
            await pipeline.execute()

    async def receive_loop(self) -> None:
        """Push what comes in to the sockets."""
        while True:
            kind, channel, data, *_ = await self.subscriber.parse_response(block=True)
            if kind == b"message":
                for socket in list(self.sockets.get(channel[5:].decode(), ())):
                    await socket.push(data)


class Node:
    """Built on first use: Daphne has no lifespan events."""

    hub: ClassVar[Hub]
    writer: ClassVar[Writer]
    started: ClassVar[bool] = False

    @classmethod
    def start(cls) -> None:
        """Build the parts, once."""
        if not cls.started:
            cls.hub, cls.writer, cls.started = Hub(), Writer(), True


class Socket(AsyncConsumer):
    """A Channels consumer with a plain loop in place of the stock per-message dispatch."""

    transport: Callable[[dict[str, Any]], Awaitable[None]]
    user: str

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one socket."""
        Node.start()
        self.transport = send
        self.user = parse_qs(scope["query_string"])[b"u"][0].decode()
        while (event := await receive())["type"] != "websocket.disconnect":
            if event["type"] == "websocket.connect":
                await Node.hub.join(self.user, self)
                await send({"type": "websocket.accept"})
            else:
                self.on_send(decode(event["text"]))
        Node.hub.sockets.get(self.user, set()).discard(self)

    def on_send(self, frame: Send) -> None:
        """Have a message written."""
        conversation = "|".join(sorted((self.user, frame.to)))
        future = Node.writer.submit((conversation, self.user, frame.client_id, frame.body))
        future.add_done_callback(lambda done: self.on_committed(frame, conversation, *done.result()))

    def on_committed(self, frame: Send, conversation: str, seq: int, message: str, now: float) -> None:
        """Tell the other and the sender."""
        event = Message(conversation, seq, message, frame.client_id, self.user, frame.body, now)
        Node.hub.publish(frame.to, encode(event))
        # The loop keeps no strong reference to a task, but this one is at once on its way.
        asyncio.create_task(self.push(encode(Ack(frame.id, conversation, seq, message))))  # noqa: RUF006

    async def push(self, data: bytes) -> None:
        """Send a frame."""
        await self.transport({"type": "websocket.send", "text": data.decode()})


application = ProtocolTypeRouter({"websocket": URLRouter([path("ws/", Socket.as_asgi())])})
