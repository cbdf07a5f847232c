"""The processes of a run and the links between them: PostgreSQL, Redis, servers, and people's devices."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from chatbe_client import ChatError, Client, Options, Tokens

from tests.faults import people
from tests.faults.history import (
    Connection,
    Database,
    Entry,
    Held,
    History,
    Member,
    Send,
    Snapshot,
    StoredConversation,
    StoredMessage,
)
from tests.faults.proxy import Link
from tests.support.processes import ROOT, AppServer, Deployment
from tests.support.servers import PostgresServer, RedisServer

LISTING_ATTEMPTS = 8
HEARTBEAT = 2.0
LEASE = 4.0
SETTINGS = {
    "CHATBE_RATE_LIMITS": "off",
    # Short, so that tokens are refreshed amid the faults.
    "CHATBE_ACCESS_LIFETIME": "120",
    "CHATBE_HEARTBEAT_INTERVAL": str(HEARTBEAT),
    "CHATBE_PRESENCE_LEASE": str(LEASE),
    "CHATBE_PRESENCE_GRACE": "1",
    "CHATBE_PRESENCE_SWEEP": "0.5",
    "CHATBE_TAIL_PERIOD": "1",
    "CHATBE_SLOW_READER_TIMEOUT": "20",
    "CHATBE_DRAIN_TIMEOUT": "8",
    "CHATBE_LOG_FORMAT": "json",
}


@dataclass(frozen=True, slots=True)
class Size:
    """How large a run is."""

    clients: int = 24
    people: int = 0
    """Whose devices they are; 0: two thirds as many. With few people there are few, busy conversations."""
    servers: int = 2
    workers: int = 1
    rate: float = 3.0
    """Messages per second and client."""


class DeviceRecorder:
    """Keeps what one client sends and receives."""

    def __init__(self, client: str, user: str, history: History, now: Callable[[], float]) -> None:
        self._client = client
        self._user = user
        self._history = history
        self._now = now
        self._open: dict[int, Connection] = {}

    def opened(self, connection: int, url: str) -> None:
        record = Connection(self._client, self._user, connection, url, self._now())
        self._open[connection] = record
        self._history.connections.append(record)

    def received(self, connection: int, frame: str) -> None:
        self._open[connection].entries.append(Entry(self._now(), "in", json.loads(frame)))

    def sent(self, connection: int, frame: str) -> None:
        self._open[connection].entries.append(Entry(self._now(), "out", json.loads(frame)))

    def closed(self, connection: int, code: int, reason: str) -> None:
        record = self._open.pop(connection)
        record.closed_at, record.code, record.reason = self._now(), code, reason


class Device:
    """One client of one person, with a link of its own to every server."""

    def __init__(self, name: str, user: str, links: list[Link], client: Client, *, complete: bool) -> None:
        self.name = name
        self.user = user
        self.links = links
        self.client = client
        self.complete = complete
        self.asleep = False
        """Away on purpose, or for good."""
        self.gave_up = False
        self.sends: dict[str, Send] = {}
        """Not settled yet, by client_id."""

    def wake(self) -> None:
        """Connect, in the background."""
        if not self.gave_up:
            self.asleep = False
            self.client.start()

    async def sleep(self) -> None:
        """Leave."""
        self.asleep = True
        await self.client.disconnect()


class Server:
    """One server process, with links of its own to PostgreSQL and Redis."""

    def __init__(self, app: AppServer, postgres: Link, redis: Link) -> None:
        self.app = app
        self.postgres = postgres
        self.redis = redis

    @property
    def links(self) -> tuple[Link, Link]:
        """Both."""
        return self.postgres, self.redis


class World:
    """Everything that runs; an async context manager."""

    def __init__(self, *, seed: int, size: Size, folder: Path) -> None:
        self.size = size
        self.folder = folder
        self.random = random.Random(seed)
        self.history = History(seed)
        self._began = time.monotonic()
        self._stack = AsyncExitStack()
        self.servers: list[Server] = []
        self.devices: list[Device] = []

    def now(self) -> float:
        """Seconds since the run began."""
        return round(time.monotonic() - self._began, 4)

    async def __aenter__(self) -> World:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    # --- starting ----------------------------------------------------------------------------------

    async def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.postgres, self.redis = PostgresServer(), RedisServer()
        for service in (self.postgres, self.redis):
            self._stack.push_async_callback(asyncio.to_thread, service.close)
        await asyncio.gather(asyncio.to_thread(self.postgres.start), asyncio.to_thread(self.redis.start))
        self.deployment = Deployment(
            database_url=self.postgres.url, redis_url=self.redis.url, settings=SETTINGS
        )
        # Closed before its servers' PostgreSQL.
        self._stack.push_async_callback(asyncio.to_thread, self.deployment.close)
        await asyncio.to_thread(self.deployment.manage, "migrate", "--verbosity", "0")
        self.users = people.names(self.size.people or max(3, self.size.clients * 2 // 3))
        made = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "tests.faults.people", str(len(self.users)), str(self.size.clients)],
            check=True,
            cwd=ROOT,
            env=self.deployment.environment,
            stdout=subprocess.PIPE,
        )
        self._sessions = [Tokens(**tokens) for tokens in json.loads(made.stdout)]
        servers = await asyncio.gather(*(self.add_server() for _ in range(self.size.servers)))
        self.servers.extend(servers)
        await self._add_devices()

    async def add_server(self, **settings: str) -> Server:
        """Start one more server, on links of its own."""
        number = len(list(self.folder.glob("server-*.log"))) + len(self.servers)
        log = self.folder / f"server-{number}-{os.urandom(2).hex()}.log"
        postgres = await Link(self.postgres.port, name="postgres").open()
        redis = await Link(self.redis.port, name="redis").open()
        environment = {**self.deployment.environment, **settings}
        for name, port, link in (
            ("DATABASE_URL", self.postgres.port, postgres),
            ("REDIS_URL", self.redis.port, redis),
        ):
            environment[name] = environment[name].replace(f":{port}/", f":{link.port}/")
        app = AppServer(environment, workers=self.size.workers, log=log)
        for link in (postgres, redis):
            self._stack.callback(link.close)
        self._stack.push_async_callback(asyncio.to_thread, app.close)
        await asyncio.to_thread(app.start)
        return Server(app, postgres, redis)

    async def _add_devices(self) -> None:
        for number in range(self.size.clients):
            user = self.users[number % len(self.users)]
            device = await self.add_device(
                f"{user}/{number // len(self.users)}",
                user,
                complete=number % 5 != 4,
                tokens=self._sessions[number],
            )
            self.devices.append(device)
            device.wake()
        await asyncio.gather(*(device.client.wait_live() for device in self.devices))

    async def add_device(
        self,
        name: str,
        user: str,
        *,
        complete: bool = True,
        servers: Iterable[Server] | None = None,
        tokens: Tokens | None = None,
    ) -> Device:
        """A client of `user`, not started; it begins with any of the servers."""
        links = []
        for server in servers or self.servers:
            link = await Link(server.app.port, name=name, small_buffers=True).open()
            self._stack.callback(link.close)
            links.append(link)
        urls = [f"http://127.0.0.1:{link.port}" for link in links]
        self.random.shuffle(urls)
        client = Client(
            urls,
            user,
            people.PASSWORD,
            tokens=tokens,
            options=Options(
                others="all" if complete else "state",
                http_timeout=4.0,
                open_timeout=4.0,
                first_backoff=0.2,
                longest_backoff=1.5,
                retry_after=0.5,
                device=name,
            ),
            recorder=DeviceRecorder(name, user, self.history, self.now),
        )
        self._stack.push_async_callback(client.close)
        return Device(name, user, links, client, complete=complete)

    # --- looking -----------------------------------------------------------------------------------

    def awake(self) -> list[Device]:
        """Devices that should be connected."""
        return [device for device in self.devices if not device.asleep]

    def online(self) -> dict[str, bool]:
        """Who is online in truth: whoever has a device that is awake."""
        present = {device.user for device in self.awake()}
        return {user: user in present for user in self.users}

    def note_failures(self) -> None:
        """Keep why clients have given up, if any have."""
        for device in self.devices:
            task = device.client.task
            if not device.asleep and task is not None and task.done() and not task.cancelled():
                error = task.exception()
                self.history.failures.append((self.now(), f"{device.name}: {error!r}"))
                device.asleep = device.gave_up = True

    async def read_database(self, *, messages: bool = True) -> Database:
        """The tables, read past all links."""
        return await asyncio.to_thread(self._read_database, messages)

    def _read_database(self, messages: bool) -> Database:
        database = Database()
        url = self.deployment.environment["DATABASE_URL"]
        with psycopg.connect(url) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            for identity, kind, head, last, state in connection.execute(
                "SELECT id::text, kind, head_rev, last_seq, state_rev FROM messaging_conversation"
            ):
                database.conversations[identity] = StoredConversation(identity, kind, head, last, state, {})
            for identity, username, *values in connection.execute(
                "SELECT conversation_id::text, username, read_seq, delivered_seq, active, joined_seq, joined_rev,"
                " left_rev FROM messaging_membership m JOIN accounts_user u ON u.id = m.user_id"
            ):
                database.conversations[identity].members[username] = Member(*values)
            if messages:
                database.messages = [
                    StoredMessage(*row)
                    for row in connection.execute(
                        "SELECT m.id::text, conversation_id::text, seq, rev, username, client_id::text, body, m.kind"
                        " FROM messaging_message m LEFT JOIN accounts_user u ON u.id = m.sender_id"
                        " ORDER BY conversation_id, seq"
                    )
                ]
                rows = {message.id: message for message in database.messages}
                for message, emoji, username in connection.execute(
                    "SELECT message_id::text, emoji, username FROM messaging_reaction r"
                    " JOIN accounts_user u ON u.id = r.user_id ORDER BY username"
                ):
                    rows[message].reactions.setdefault(emoji, []).append(username)
            else:
                database.messages = [
                    StoredMessage("", identity, seq, rev, None, "", None)
                    for identity, seq, rev in connection.execute(
                        "SELECT conversation_id::text, seq, m.rev FROM messaging_message m"
                        " JOIN messaging_conversation c ON c.id = m.conversation_id WHERE c.kind = 'group'"
                    )
                ]
        return database

    async def snapshots(self) -> list[Snapshot]:
        """What every live client holds."""
        return list(await asyncio.gather(*(self._snapshot(device) for device in self.awake())))

    async def _snapshot(self, device: Device) -> Snapshot:
        state = device.client.state
        listed: dict[str, int] | None = None
        for attempt in range(LISTING_ATTEMPTS):
            try:
                page = await device.client.api.call("GET", "/v1/conversations", params={"limit": 200})
            except ChatError as error:
                # A connection of the server's pool may have died with the PostgreSQL before.
                if attempt == LISTING_ATTEMPTS - 1:
                    reason = f"{device.name} cannot list conversations: {error!r}"
                    self.history.failures.append((self.now(), reason))
                await asyncio.sleep(0.5)
            else:
                listed = {item["id"]: item["unread"] for item in page["results"]}
                break
        return Snapshot(
            client=device.name,
            user=device.user,
            complete=device.complete,
            conversations={
                identity: Held(
                    rev=held.rev,
                    messages={seq: (item.rev, item.id, item.body) for seq, item in held.messages.items()},
                    marks=dict(held.marks),
                    unread=held.unread(device.user),
                    reactions={
                        seq: {emoji: sorted(told["usernames"]) for emoji, told in item.reactions.items()}
                        for seq, item in held.messages.items()
                        if item.reactions
                    },
                )
                for identity, held in state.conversations.items()
                # Marks may be told of what its user has left.
                if held.info is not None or held.messages
            },
            friends={username: friend.online for username, friend in state.friends.items()},
            listed_unread=listed,
        )

    def behind(self, database: Database) -> list[str]:
        """Which live clients do not have the database's heads, marks and statuses yet; cheap, for waiting."""
        online = self.online()
        revs: dict[str, dict[int, int]] = {}
        for message in database.messages:
            revs.setdefault(message.conversation, {})[message.seq] = message.rev
        return [device.name for device in self.awake() if not _has_all(device, database, online, revs)]

    def describe(self) -> dict[str, Any]:
        """What the run was on."""
        return {
            "clients": len(self.devices),
            "users": len(self.users),
            "servers": self.size.servers,
            "workers": self.size.workers,
            "rate": self.size.rate,
            "settings": SETTINGS,
            "python": sys.version.split()[0],
            "cores": os.cpu_count(),
        }


def _has_all(
    device: Device, database: Database, online: dict[str, bool], revs: dict[str, dict[int, int]]
) -> bool:
    client = device.client
    if not client.live.is_set():
        return False
    friends = client.state.friends
    if any(friends[name].online is not online[name] for name in friends):
        return False
    for identity, stored in database.conversations.items():
        if device.user not in stored.members or not stored.head_rev:
            continue
        held = client.state.conversations.get(identity)
        if not stored.members[device.user].active:
            if held is not None and held.info is not None:
                return False
            continue
        if held is None or held.rev < stored.visible_head(device.user, revs.get(identity, {})):
            return False
        for username, member in stored.members.items():
            if member.active and held.marks.get(username, (0, 0)) != (member.read, member.delivered):
                return False
    return True
