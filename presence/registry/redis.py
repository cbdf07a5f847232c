"""The registry of any number of processes, on one or several Redis hosts (6.2 or later, no cluster mode).

Each user's keys live on one host, chosen by a hash of the user. All that changes there changes in
the Lua scripts beside this file, on Redis' own clock.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, Final, NamedTuple, TypeVar, cast

import hiredis
from redis import Redis
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from chatbe.core.clock import moment
from presence.registry.base import (
    MICROSECONDS,
    Change,
    Changes,
    Cursor,
    Lease,
    PresenceRegistry,
    PresenceUnavailable,
    Status,
    Terms,
)

logger = logging.getLogger("presence.registry")

T = TypeVar("T")
Argument = str | int
# Its stub knows commands of one word only.
_pack = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)

COMMANDS_PER_WRITE: Final = 256
LEASES_PER_SCRIPT: Final = 500
"""Redis answers nobody else while a script runs: about a millisecond for so many."""
USERS_PER_SCRIPT: Final = 500
RETRY_AFTER: Final = 0.5
"""Seconds for which a host that failed is not asked again."""

SCRIPTS: Final = (
    "connect", "disconnect", "logout", "refresh", "sweep", "take_changed", "confirm", "read", "changed_since",
)  # fmt: skip


@cache
def script_text(name: str) -> str:
    """The Lua source of a script, with what all of them share before it."""
    folder = resources.files(__package__)
    return "\n".join((folder / f"{part}.lua").read_text(encoding="utf-8") for part in ("common", name))


@cache
def _script_hash(name: str) -> str:
    return hashlib.sha1(script_text(name).encode(), usedforsecurity=False).hexdigest()


class Layout:
    """Where things are kept on a host, and what every script is told (see common.lua)."""

    def __init__(self, prefix: str, terms: Terms) -> None:
        base = f"{prefix}:presence:"
        self.keys = tuple(base + name for name in ("meta", "leases", "log", "changed"))
        self._base = base
        self.lease = int(terms.lease * MICROSECONDS)
        self.grace = int(terms.grace * MICROSECONDS)
        self.claim = int(terms.claim * MICROSECONDS)
        self._retention = int(terms.retention * MICROSECONDS)

    def arguments(self, epoch: str) -> tuple[Argument, ...]:
        """The first arguments of every script, from a caller that knows `epoch`."""
        return (self._base, epoch, self.lease, self._retention)


class Answer(NamedTuple):
    """What a script returned.

    Not `settled`: the host has lost its memory, and a missing lease means nothing yet.
    """

    epoch: str
    settled: bool
    result: Any


def place_of(user: str, hosts: int) -> int:
    """Which of so many hosts keeps a user."""
    return zlib.crc32(user.encode()) % hosts if hosts > 1 else 0


class _Call:
    """A script that is to be run, and who waits for its answer."""

    __slots__ = ("answer", "arguments", "script")

    def __init__(self, script: str, arguments: tuple[Argument, ...], answer: asyncio.Future[Answer]) -> None:
        self.script = script
        self.arguments = arguments
        self.answer = answer


class Host(asyncio.Protocol):
    """One Redis host: scripts run in the order of the calls, those of one turn of the loop in one write.

    So one connection is enough for thousands of sockets that arrive at once, and a call that follows
    another takes effect after it. A caller that is cancelled leaves its call to finish by itself.
    The connection is made by redis-py (addresses, TLS, credentials); then its stream is taken over,
    since redis-py would read one answer per coroutine call.
    """

    def __init__(self, url: str, layout: Layout, timeout: float) -> None:
        self._layout = layout
        self._timeout = timeout
        self._pool: ConnectionPool = ConnectionPool.from_url(
            url,
            protocol=2,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=AsyncRetry(NoBackoff(), 0),
        )
        self._connection: AbstractConnection | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._reader = hiredis.Reader()
        self._opening: asyncio.Task[None] | None = None
        self._waiting: deque[_Call] = deque()
        self._due = False
        self._batch: list[_Call] = []
        """What is under way; the next calls are sent when it is answered."""
        self._replies: list[Any] = []
        self._loading = 0
        """So many of the replies to come are those to SCRIPT LOAD."""
        self._loaded = False
        self._reused = False
        """Whether the connection has served a batch before: then its end may only mean that it was idle."""
        self._timer: asyncio.TimerHandle | None = None
        self._heard_at = 0.0
        self._down_until = 0.0
        self._down = False
        self.epoch = ""
        """The epoch in which the host answered last."""

    def run(self, script: str, *arguments: Argument) -> asyncio.Future[Answer]:
        """Run a script. The answer may be `PresenceUnavailable`; at once when the host has just failed."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        if loop.time() < self._down_until:
            answer.set_exception(PresenceUnavailable())
            return answer
        self._waiting.append(_Call(script, arguments, answer))
        if not self._due and not self._batch:
            self._due = True
            # After those tasks, too, that this turn of the loop has begun.
            loop.call_soon(loop.call_soon, self._next)
        return answer

    async def close(self) -> None:
        """Let what is under way finish, then close the connection."""
        while calls := [*self._batch, *self._waiting]:
            await asyncio.wait([call.answer for call in calls])
        self._let_go()

    # --- asyncio.Protocol --------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Take replies."""
        self._heard_at = asyncio.get_running_loop().time()
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                if self._loading:
                    self._loading -= 1
                else:
                    self._replies.append(reply)
        except hiredis.ProtocolError as error:
            self._lost(error)
            return
        if self._batch and len(self._replies) >= len(self._batch):
            self._complete()

    def connection_lost(self, error: Exception | None) -> None:
        """Redis has closed the connection."""
        self._lost(error or ConnectionResetError("closed by Redis"))

    # --- inner -------------------------------------------------------------------------------------

    def _next(self) -> None:
        """Send what waits, unless something is under way."""
        self._due = False
        if self._batch or not self._waiting:
            return
        waiting = self._waiting
        self._batch = [waiting.popleft() for _ in range(min(len(waiting), COMMANDS_PER_WRITE))]
        self._loaded = False
        if self._transport is None:
            self._opening = asyncio.get_running_loop().create_task(self._open())
        else:
            self._write(self._transport)

    async def _open(self) -> None:
        """Connect, then send what is under way from its beginning."""
        self._reused = False
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py has no types there
        try:
            await connection.connect()  # type: ignore[no-untyped-call]  # redis-py has no types there
        except Exception as error:  # noqa: BLE001 - told to all who wait
            # Not of redis-py and the system alone: uvloop raises RuntimeError where it notices the end first.
            connection._close()  # type: ignore[no-untyped-call]  # noqa: SLF001 - it has no public form
            self._fail(error)
            return
        # All answers of redis-py's handshake have been read, so nothing is left behind in its buffers.
        writer = connection._writer  # noqa: SLF001 - it has no public name
        if writer is None:
            self._fail(ConnectionResetError("closed by Redis at once"))
            return
        self._connection = connection
        self._transport = transport = writer.transport
        transport.set_protocol(self)
        self._reader = hiredis.Reader()
        self._write(transport)

    def _write(self, transport: asyncio.WriteTransport, *, first: int = 0, load: bool = False) -> None:
        """Send the calls under way from the `first` on, and before them, if `load`, all scripts."""
        loop = asyncio.get_running_loop()
        del self._replies[first:]
        self._heard_at = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._timeout, self._look)
        commands = [_pack(self._command(call)) for call in self._batch[first:]]
        self._loading = len(SCRIPTS) if load else 0
        if load:
            commands[:0] = [_pack(("SCRIPT", "LOAD", script_text(name))) for name in SCRIPTS]
        try:
            transport.write(b"".join(commands))
        except RuntimeError as error:
            # What uvloop raises where it has noticed the end of the connection before it told so.
            self._lost(error)

    def _command(self, call: _Call) -> tuple[Argument, ...]:
        keys = self._layout.keys
        return (
            "EVALSHA",
            _script_hash(call.script),
            len(keys),
            *keys,
            *self._layout.arguments(self.epoch),
            *call.arguments,
        )

    def _complete(self) -> None:
        """All under way is answered."""
        if not self._loaded:
            for place, reply in enumerate(self._replies):
                if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT"):
                    # Everything from there on again, so that the order is kept.
                    self._loaded = True
                    assert self._transport is not None  # noqa: S101 - it has just answered
                    self._write(self._transport, first=place, load=True)
                    return
        batch, self._batch = self._batch, []
        replies, self._replies = self._replies, []
        self._reused = True
        if self._down:
            self._down = False
            logger.info("presence has its Redis host again")
        replaced = False
        for call, reply in zip(batch, replies, strict=True):
            if isinstance(reply, Exception):
                logger.debug("presence script failed", extra={"script": call.script, "reason": str(reply)})
                replaced = replaced or "READONLY" in str(reply)
                _refuse(call, reply)
                continue
            epoch, settled, result = reply
            self.epoch = epoch.decode()
            if not call.answer.done():
                call.answer.set_result(Answer(self.epoch, bool(settled), result))
        if replaced:
            # A replica by now: a new connection leads to the host that has its name.
            self._let_go()
        self._next()

    def _look(self) -> None:
        """Give up a host that has been silent for too long."""
        self._timer = None
        if not self._batch:
            return
        loop = asyncio.get_running_loop()
        left = self._heard_at + self._timeout - loop.time()
        if left > 0:
            self._timer = loop.call_later(left, self._look)
        else:
            self._let_go()
            self._fail(TimeoutError("no answer"))

    def _lost(self, error: Exception) -> None:
        """The connection is gone."""
        self._let_go()
        if not self._batch:
            return
        if self._reused:
            # Redis may have closed a connection that was idle, or have been restarted. What was done
            # already may be done again: each script leads to the same state.
            self._loaded = False
            self._opening = asyncio.get_running_loop().create_task(self._open())
        else:
            self._fail(error)

    def _let_go(self) -> None:
        """Close the connection; the next call makes another."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        transport, self._transport = self._transport, None
        if transport is not None:
            # Its end must not reach this object any more.
            transport.set_protocol(asyncio.Protocol())
            transport.abort()
        if self._connection is not None:
            # Or redis-py would warn of a stream that it left open.
            self._connection._close()  # type: ignore[no-untyped-call]  # noqa: SLF001 - it has no public form
            self._connection = None

    def _fail(self, error: Exception) -> None:
        """Nobody waits for one timeout after another."""
        self._down_until = asyncio.get_running_loop().time() + RETRY_AFTER
        if not self._down:
            self._down = True
            logger.warning("presence lost a Redis host", extra={"reason": str(error)})
        calls = [*self._batch, *self._waiting]
        self._batch, self._replies = [], []
        self._waiting.clear()
        for call in calls:
            _refuse(call, error)


def _refuse(call: _Call, cause: Exception) -> None:
    if not call.answer.done():
        unavailable = PresenceUnavailable()
        unavailable.__cause__ = cause
        call.answer.set_exception(unavailable)


class RedisRegistry(PresenceRegistry):
    """The contract on Redis; `urls` in the same order in all processes."""

    def __init__(self, urls: Sequence[str], terms: Terms, *, prefix: str, timeout: float = 2.0) -> None:
        """`timeout`, in seconds, bounds each wait for a host."""
        self._layout = Layout(prefix, terms)
        self._hosts = [Host(url, self._layout, timeout) for url in urls]

    async def start(self) -> None:
        """Connections are made when they are needed."""

    async def close(self) -> None:
        """See `PresenceRegistry`."""
        for host in self._hosts:
            await host.close()

    async def connect(self, user: str, connection: str, session: str) -> bool:
        """See `PresenceRegistry`."""
        _check(user, connection, session)
        return bool((await self._host(user).run("connect", user, connection, session)).result)

    async def disconnect(self, user: str, connection: str) -> None:
        """See `PresenceRegistry`."""
        await self._host(user).run("disconnect", user, connection, self._layout.grace)

    async def logout(self, user: str, session: str) -> bool:
        """See `PresenceRegistry`."""
        _check(user, session)
        return bool((await self._host(user).run("logout", user, session)).result)

    async def refresh(self, connections: Mapping[str, Lease]) -> set[str]:
        """See `PresenceRegistry`."""
        names: list[list[str]] = [[] for _ in self._hosts]
        members: list[list[str]] = [[] for _ in self._hosts]
        for connection, (user, session) in connections.items():
            place = place_of(user, len(self._hosts))
            names[place].append(connection)
            members[place].append(f"{user} {connection} {session}")
        chunks = [
            (
                names[place][start : start + LEASES_PER_SCRIPT],
                members[place][start : start + LEASES_PER_SCRIPT],
                place,
            )
            for place in range(len(self._hosts))
            for start in range(0, len(names[place]), LEASES_PER_SCRIPT)
        ]
        answers = await _all(
            [self._hosts[place].run("refresh", *chunk) for _, chunk, place in chunks], every=True
        )
        return {
            chunk[index]
            for (chunk, _, _), answer in zip(chunks, answers, strict=True)
            if answer is not None
            for index in answer.result
        }

    async def sweep(self, limit: int) -> int:
        """See `PresenceRegistry`."""
        answers = await _all([host.run("sweep", limit) for host in self._hosts])
        return sum(answer.result for answer in answers if answer is not None)

    async def take_changed(self, limit: int) -> list[Change]:
        """See `PresenceRegistry`."""
        answers = await _all([host.run("take_changed", limit, self._layout.claim) for host in self._hosts])
        return [change for answer in answers if answer is not None for change in _changes(answer.result)]

    async def confirm(self, changes: Iterable[Change]) -> None:
        """See `PresenceRegistry`."""
        pairs: list[list[Argument]] = [[] for _ in self._hosts]
        for user, status in changes:
            pairs[place_of(user, len(self._hosts))] += (user, status.version)
        await _all([
            self._hosts[place].run("confirm", *pairs[place][start : start + 2 * USERS_PER_SCRIPT])
            for place in range(len(self._hosts))
            for start in range(0, len(pairs[place]), 2 * USERS_PER_SCRIPT)
        ])  # fmt: skip

    async def read(self, users: Sequence[str]) -> dict[str, Status]:
        """See `PresenceRegistry`."""
        chunks = chunks_by_place(users, len(self._hosts))
        answers = await _all([self._hosts[place].run("read", *chunk) for place, chunk in chunks])
        statuses: dict[str, Status] = {}
        for (_, chunk), answer in zip(chunks, answers, strict=True):
            if answer is not None:
                statuses.update(decode_statuses(chunk, answer))
        return statuses

    async def changed_since(self, cursor: Cursor | None) -> Changes:
        """See `PresenceRegistry`."""
        places = cursor or (("", -1),) * len(self._hosts)
        if len(places) != len(self._hosts):
            raise ValueError("The cursor belongs to another number of hosts.")
        answers = await _all([
            self._host_changed_since(host, *place) for host, place in zip(self._hosts, places, strict=True)
        ])  # fmt: skip
        found = [
            Changes([], (place,), complete=True) if answer is None else answer
            for place, answer in zip(places, answers, strict=True)
        ]
        return Changes(
            [change for part in found for change in part.changes],
            tuple(place for part in found for place in part.cursor),
            all(part.complete for part in found),
        )

    # --- inner -------------------------------------------------------------------------------------

    def _host(self, user: str) -> Host:
        return self._hosts[place_of(user, len(self._hosts))]

    async def _host_changed_since(self, host: Host, epoch: str, version: int) -> Changes:
        changes: list[Change] = []
        while True:
            answer = await host.run("changed_since", version if version >= 0 else "", epoch, USERS_PER_SCRIPT)
            complete, place, more, *rest = answer.result
            changes += _changes(rest)
            version, epoch = int(place), answer.epoch
            if not more:
                return Changes(changes, ((epoch, version),), bool(complete))


class RedisReader:
    """Reads statuses from any thread, over connections of its own."""

    def __init__(self, urls: Sequence[str], terms: Terms, *, prefix: str, timeout: float = 2.0) -> None:
        """As `RedisRegistry`."""
        self._layout = Layout(prefix, terms)
        self._epochs = [""] * len(urls)
        self._down_until = [0.0] * len(urls)
        self._hosts: list[Redis] = [
            Redis.from_url(
                url,
                protocol=2,
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                retry=Retry(NoBackoff(), 0),
            )
            for url in urls
        ]
        self._scripts = [host.register_script(script_text("read")) for host in self._hosts]

    def read(self, users: Sequence[str]) -> dict[str, Status]:
        """As `PresenceRegistry.read`, but users of hosts that do not answer are left out in any case."""
        statuses: dict[str, Status] = {}
        for place, chunk in chunks_by_place(users, len(self._hosts)):
            if time.monotonic() < self._down_until[place]:
                continue
            arguments = (*self._layout.arguments(self._epochs[place]), *chunk)
            try:
                epoch, settled, result = self._scripts[place](keys=self._layout.keys, args=arguments)
            except (RedisError, OSError) as error:
                self._down_until[place] = time.monotonic() + RETRY_AFTER
                logger.warning("presence cannot be read", extra={"reason": str(error)})
                continue
            self._epochs[place] = epoch.decode()
            statuses.update(decode_statuses(chunk, Answer(self._epochs[place], bool(settled), result)))
        return statuses

    def close(self) -> None:
        """Close the connections."""
        for host in self._hosts:
            host.close()


def chunks_by_place(users: Sequence[str], hosts: int) -> list[tuple[int, list[str]]]:
    """`users` by the host that keeps them, in pieces that one script takes."""
    by_place: list[list[str]] = [[] for _ in range(hosts)]
    for user in users:
        by_place[place_of(user, hosts)].append(user)
    return [
        (place, by_place[place][start : start + USERS_PER_SCRIPT])
        for place in range(hosts)
        for start in range(0, len(by_place[place]), USERS_PER_SCRIPT)
    ]


def decode_statuses(users: Sequence[str], answer: Answer) -> dict[str, Status]:
    """What read.lua says of `users`; those of whom nothing can be said are left out."""
    result = answer.result
    statuses: dict[str, Status] = {}
    for index, user in enumerate(users):
        online, version, seen = result[3 * index : 3 * index + 3]
        if version is not None:
            statuses[user] = _status(online, version, seen)
        elif answer.settled:
            statuses[user] = Status(online=False, version=0, last_seen=None)
    return statuses


def _status(online: bytes, version: bytes, seen: bytes) -> Status:
    return Status(online == b"1", int(version), moment(int(seen)))


def _changes(flat: Sequence[bytes]) -> list[Change]:
    return [
        Change(flat[i].decode(), _status(flat[i + 1], flat[i + 2], flat[i + 3]))
        for i in range(0, len(flat), 4)
    ]


def _check(*names: str) -> None:
    if not all(names) or any(character.isspace() for name in names for character in name):
        raise ValueError("Users, connections and sessions are texts without white space.")


async def _all(calls: Sequence[Awaitable[T]], *, every: bool = False) -> list[T | None]:
    """The results of all calls, None for those that were unavailable.

    Raises `PresenceUnavailable` if all were, or, with `every`, if any was.
    """
    if len(calls) == 1:
        return [await calls[0]]
    results = await asyncio.gather(*calls, return_exceptions=True)
    failures = [result for result in results if isinstance(result, BaseException)]
    for failure in failures:
        if not isinstance(failure, PresenceUnavailable):
            raise failure
    if failures and (every or len(failures) == len(results)):
        raise failures[0]
    return [None if isinstance(result, BaseException) else result for result in results]
