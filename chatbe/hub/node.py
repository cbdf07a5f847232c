"""This process's parts: built on first use (Daphne has no lifespan events), drained at the end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import psycopg
import psycopg_pool
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import InterfaceError, InternalError, OperationalError, connection, connections

from chatbe.core import clock
from chatbe.core.errors import Unavailable
from chatbe.core.metrics import Sample, Source
from chatbe.embedded import AlreadyRunning, exclusive_var_lock
from chatbe.hub import database, registry
from chatbe.hub.gathering import Answer, Gathering, Question
from chatbe.hub.hub import Hub
from chatbe.hub.layer import PipelinedRedisChannelLayer
from chatbe.wire import frames
from chatbe.wire.codes import CloseCode

if TYPE_CHECKING:
    from chatbe.hub.consumer import SocketConsumer
    from chatbe.hub.fanout import Envelope
    from chatbe.hub.layer import Loss, PipelinedRedisLoopLayer

logger = logging.getLogger("chatbe.hub.node")

P = ParamSpec("P")
T = TypeVar("T")

_current: Node | None = None
_starting: asyncio.Future[Node] | None = None

DATABASE_THREADS = 4
LEAVE_PATIENCE = 1.0
"""Seconds before a group that nobody here follows is left: many leave together, and some come back."""
CALL_PATIENCE = 30.0
"""Seconds in which a call has its answer; longer than `CHATBE_STATEMENT_TIMEOUT` by default."""
LEAVE_SECONDS = 0.1
"""Groups of users who have gone are left together after so long."""
WATCH_PERIOD = 1.0
"""Seconds between two looks for slow sockets, and for those that may have ended."""
NEVER = datetime.max.replace(tzinfo=UTC)


def current() -> Node | None:
    """This process's running node, or None."""
    node = _current
    return node if node is not None and node.loop.is_running() else None


async def running() -> Node:
    """This process's node, started if it was not; on the running event loop."""
    global _current, _starting
    loop = asyncio.get_running_loop()
    if _current is not None and _current.loop is loop:
        return _current
    if _starting is None or _starting.get_loop() is not loop:
        _starting = loop.create_future()
        try:
            node = Node(loop)
            await node.start()
        except BaseException as error:
            starting, _starting = _starting, None
            starting.set_exception(error if isinstance(error, Exception) else Unavailable())
            starting.exception()
            raise
        _current = node
        starting, _starting = _starting, None
        starting.set_result(node)
        return node
    return await asyncio.shield(_starting)


class Node:
    """One server process's hub, channel, threads and the apps' parts."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.id = secrets.token_hex(6)
        self.draining = False
        self.parts: list[registry.Part] = []
        self.handlers: dict[type[frames.Command], registry.Handler] = {}
        self._thread = threading.get_ident()
        self._executor = concurrent.futures.ThreadPoolExecutor(DATABASE_THREADS, "chatbe-database")
        self._tasks: set[asyncio.Task[Any]] = set()
        self._database: database.Database | None = None
        """Where the loop itself puts short questions; on SQLite the threads answer all."""
        self.layer: PipelinedRedisLoopLayer | None = None
        """The Redis layer of this loop; a process that runs alone has nobody to tell and none."""
        self.channel = ""
        self.lagging: set[SocketConsumer] = set()
        self.hub = Hub(self, registry.source())
        self.epoch = ""
        # Read once: Django's settings are slow to ask on the hot path.
        self.rate_limits: bool = settings.CHATBE_RATE_LIMITS
        self.max_unanswered: int = settings.CHATBE_MAX_UNANSWERED
        self._left: set[str] = set()
        self._leaving_users: asyncio.TimerHandle | None = None
        self._answers: dict[str, Callable[..., None]] = {}
        self._gatherings: dict[Callable[..., Any], Gathering[Any, Any]] = {}
        self._servers: list[asyncio.Server] = []
        self.metrics: list[Source] = [self._samples]
        """Who is asked for `/metrics`; parts add theirs."""
        self._first_expiry = NEVER
        """No session of a socket here runs out before."""
        self._joining: Counter[str] = Counter()
        self._abandoned: set[str] = set()
        self._leaving: asyncio.Task[None] | None = None

    # --- life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Join the fan-out and start every part. Raises `Unavailable` where the database cannot be had."""
        if settings.EMBEDDED:
            # `serve` has it already; under another ASGI server nobody else asks for it.
            try:
                exclusive_var_lock()
            except AlreadyRunning as error:
                logger.error("%s", error)  # noqa: TRY400 - its one line says it all
                raise Unavailable(str(error)) from error
        self.epoch = await self.call(registry.epoch())
        if connection.vendor == "postgresql":
            self._database = database.Database()
        layer = get_channel_layer()
        if isinstance(layer, PipelinedRedisChannelLayer):
            self.layer = layer.loop_layer()
            await self.layer.connect()
            self.channel = await self.layer.new_channel("hub")
            self.layer.set_receiver(self.channel, self.hub.apply)
            self.layer.on_loss(self._on_loss)
        for part in registry.parts():
            await part.start(self)
            self.parts.append(part)
            self.handlers.update(part.handlers)
        self.spawn(self._watch())
        logger.info("node started", extra={"node": self.id})

    async def drain(self, timeout: float) -> None:
        """Say goodbye to every socket, finish what was taken, close them with 1012, stop the parts.

        Takes at most `timeout` seconds, and leaves nothing acked undone.
        """
        if self.draining:
            return
        self.draining = True
        deadline = time.monotonic() + timeout
        sockets = list(self.hub.sockets.values())
        logger.info("draining", extra={"node": self.id, "sockets": len(sockets)})
        try:
            otps = await asyncio.wait_for(
                self.call(registry.issue_otps, [socket.identity.session_id for socket in sockets]),
                timeout / 4,
            )
        except (Unavailable, TimeoutError):
            # The clients fetch their own.
            otps = {}
        # Clients come back spread over time: a hundred sockets per second, two seconds at least.
        spread = max(2.0, len(sockets) / 100)
        for socket in sockets:
            bye = frames.Bye(code=CloseCode.RESTARTING, reconnect_after=round(random.uniform(0.1, spread), 3))  # noqa: S311 - jitter
            otp = otps.get(socket.identity.session_id)
            if otp is not None:
                bye.otp = otp
            socket.stop_reading()
            socket.answer(bye)
        await _until(lambda: not any(socket.unanswered for socket in sockets), deadline)
        # Also those that were let in meanwhile.
        for socket in list(self.hub.sockets.values()):
            socket.close(CloseCode.RESTARTING)
        for part in reversed(self.parts):
            try:
                await asyncio.wait_for(part.stop(), max(0.1, deadline - time.monotonic()))
            except TimeoutError:
                # A database that does not answer must not keep the process.
                logger.warning("a part does not stop", extra={"node": self.id, "part": type(part).__name__})
        await _until(lambda: not self.hub.sockets, deadline)
        await self.stop()

    async def stop(self) -> None:
        """Let go of everything; sockets that are still there are lost."""
        global _current
        if self._leaving_users is not None:
            self._leaving_users.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for server in self._servers:
            server.close()
        if self.layer is not None:
            await self.layer.close()
        if self._database is not None:
            self._database.close()
        self._executor.shutdown(wait=False)
        if _current is self:
            _current = None

    # --- work --------------------------------------------------------------------------------------

    def keep(self, server: asyncio.Server) -> None:
        """Close a server with this node."""
        self._servers.append(server)

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine in the background; its failure is logged."""
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("background task failed", exc_info=error)

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        """Begin blocking database work on one of the node's threads; awaiting it gives the result.

        Where the loop can put the same question itself (`chatbe.hub.database`), it does. Raises
        `Unavailable` when the database fails.

        The threads keep their connections. Not for work that may be left half done: what was sent
        to the database goes on when the caller is cancelled.
        """
        if self._database is not None and (question := database.direct(function)) is not None:
            return self._database.ask(question, *args, **kwargs)
        return self._call(function, args, kwargs)

    async def _call(self, function: Callable[..., T], args: Any, kwargs: Any) -> T:
        work = self._executor.submit(_with_connection, function, args, kwargs)
        try:
            # The connections have a deadline of their own; this one is for what waits for a thread.
            return await asyncio.wait_for(asyncio.wrap_future(work), CALL_PATIENCE)
        except TimeoutError as error:
            raise Unavailable("The database does not answer.") from error

    async def call_together(
        self, function: Callable[[list[Question]], list[Answer]], question: Question
    ) -> Answer:
        """As `call`, of a function that answers many questions at once: those that come together share a call."""
        gathering = self._gatherings.get(function)
        if gathering is None:
            gathering = self._gatherings[function] = Gathering(self, function)
        answer: Answer = await gathering.ask(question)
        return answer

    def answer(self, question: str, give: Callable[..., None]) -> None:
        """Let `ask(question, …)` call `give(done, …)` on the loop."""
        self._answers[question] = give

    def ask(self, question: str, *args: Any) -> concurrent.futures.Future[Any]:
        """Ask a part something from another thread; the future has its answer or what it raised."""
        done: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def give() -> None:
            try:
                self._answers[question](done, *args)
            except Exception as error:  # noqa: BLE001 - it is the asking thread's
                done.set_exception(error)

        self.loop.call_soon_threadsafe(give)
        return done

    # --- fan-out -----------------------------------------------------------------------------------

    def publish(self, groups: list[str], envelope: Envelope, ack: frames.Ack | None = None) -> None:
        """Give an envelope to local sockets at once and to the other processes; from any thread."""
        if threading.get_ident() == self._thread:
            self._publish(groups, envelope, ack)
        else:
            self.loop.call_soon_threadsafe(self._publish, groups, envelope, ack)

    def _publish(self, groups: list[str], envelope: Envelope, ack: frames.Ack | None) -> None:
        if self.layer is not None:
            self.layer.publish_elsewhere(groups, envelope)
        self.hub.apply(envelope, ack)

    def _on_loss(self, reason: Loss) -> None:
        """The bus may have lost anything: ask the database, and let the parts look again."""
        logger.warning("fan-out lost messages", extra={"node": self.id, "reason": reason})
        if reason != "disconnected":
            for part in self.parts:
                part.bus_lost()

    @property
    def on_bus(self) -> bool:
        """Whether there are other processes to tell and to hear."""
        return self.layer is not None

    async def join(self, groups: list[str]) -> None:
        """Join groups of the fan-out; returns when Redis has confirmed.

        While Redis is away it returns at once: local events still come, and `bus_lost` follows its return.
        """
        if self.layer is not None:
            await self.layer.group_add_many(groups, self.channel)

    async def leave(self, groups: list[str]) -> None:
        """Leave groups of the fan-out."""
        if self.layer is not None:
            await self.layer.group_discard_many(groups, self.channel)

    @contextmanager
    def joining(self, conversations: Iterable[str]) -> Iterator[list[str]]:
        """Keep the fan-out of these groups until somebody here follows them; gives the names to `join`.

        What nobody follows at the end is left again.
        """
        names = list(conversations)
        self._joining.update(names)
        for name in names:
            self.hub.awaited.setdefault(name, 0)
        try:
            yield [f"conversation.{name}" for name in names]
        finally:
            self._joining.subtract(names)
            for name in names:
                if self._joining[name] <= 0:
                    del self._joining[name], self.hub.awaited[name]
                if name not in self.hub.topics:
                    self.abandon(name)

    def abandon(self, conversation: str) -> None:
        """Nobody here follows a group any more: leave it soon, with others, unless somebody does by then."""
        if not self.on_bus or self.draining:
            # Nothing was joined, or all is left at once.
            return
        self._abandoned.add(conversation)
        if self._leaving is None:
            self._leaving = self.spawn(self._leave_abandoned())

    async def _leave_abandoned(self) -> None:
        try:
            while self._abandoned:
                await asyncio.sleep(LEAVE_PATIENCE)
                abandoned, self._abandoned = self._abandoned, set()
                await self.leave([
                    f"conversation.{name}"
                    for name in abandoned
                    if name not in self.hub.topics and not self._joining[name]
                ])  # fmt: skip
        finally:
            self._leaving = None

    def left(self, user: str) -> None:
        """A user's last socket here is gone: leave their group soon, with others', unless they are back by then."""
        self._left.add(user)
        if self._leaving_users is None:
            self._leaving_users = self.loop.call_later(LEAVE_SECONDS, self._leave_groups)

    def _leave_groups(self) -> None:
        self._leaving_users = None
        left, self._left = self._left, set()
        gone = [user for user in left if user not in self.hub.users]
        if gone:
            self.spawn(self._leave_users(gone))

    async def _leave_users(self, users: list[str]) -> None:
        await self.leave([f"user.{user}" for user in users])
        back = [f"user.{user}" for user in users if user in self.hub.users]
        if back:
            # Back while Redis was told; what was published between is found by the new socket's sync.
            await self.join(back)

    def _samples(self) -> Iterator[Sample]:
        """What the hub and the layer say of themselves; from any thread."""
        hub = self.hub
        yield Sample("gauge", "sockets", "Open sockets.", len(hub.sockets))
        yield Sample("gauge", "users", "Users with sockets here.", len(hub.users))
        yield Sample("gauge", "conversations_followed", "Conversations of those users.", len(hub.topics))
        yield Sample("gauge", "sockets_lagging", "Sockets whose reader is too slow now.", len(self.lagging))
        yield Sample(
            "counter", "gaps_read", "Gaps of a stream that were read from the database.", hub.gaps_read
        )
        if self.layer is not None:
            yield Sample(
                "gauge", "bus_available", "Whether every Redis host is connected.", int(self.layer.available)
            )
            yield Sample("counter", "bus_lost", "Publishes that Redis did not get.", self.layer.lost)

    # --- watching ----------------------------------------------------------------------------------

    def watch(self, socket: SocketConsumer) -> None:
        """Have a new socket closed when its session has run out."""
        self._first_expiry = min(self._first_expiry, socket.identity.expires_at)

    async def _watch(self) -> None:
        """Close the silent, the stuck and those whose session has run out."""
        silence = 3 * settings.CHATBE_HEARTBEAT_INTERVAL
        look_at = 0.0
        while True:
            await asyncio.sleep(WATCH_PERIOD)
            now, moment = time.monotonic(), clock.now()
            for socket in list(self.lagging):
                socket.judge_slowness(now)
            # Looking at ten thousand sockets each second would be a tenth of what they cost while they are idle.
            if now >= look_at or moment >= self._first_expiry:
                look_at = self._close_the_ended(now, moment, silence) + silence

    def _close_the_ended(self, now: float, moment: datetime, silence: float) -> float:
        """Look at all sockets; returns when the one was heard that has been silent for longest."""
        heard, self._first_expiry = now, NEVER
        for socket in list(self.hub.sockets.values()):
            if socket.heartbeats and now - socket.last_frame > silence:
                socket.close(CloseCode.SILENT)
            elif socket.identity.expires_at <= moment:
                socket.close(CloseCode.SESSION_ENDED)
            else:
                if socket.heartbeats and socket.last_frame < heard:
                    heard = socket.last_frame
                self.watch(socket)
        return heard


async def _until(reached: Callable[[], bool], deadline: float) -> None:
    """Look every few milliseconds until it is so; for the drain, where nothing tells when a last one is done."""
    while not reached() and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def _with_connection(function: Callable[..., T], args: Any, kwargs: Any) -> T:
    """Run `function`; a connection that broke is replaced for the next."""
    try:
        return function(*args, **kwargs)
    except (
        OperationalError,
        InterfaceError,
        # A database that takes no writes, among others.
        InternalError,
        psycopg_pool.PoolTimeout,
        psycopg.OperationalError,
    ) as error:
        connections.close_all()
        raise Unavailable("The database does not answer.") from error
    except Exception:
        if connections["default"].in_atomic_block or not connections["default"].is_usable():
            connections.close_all()
        raise


def session_ended(node: Node, notice: dict[str, Any]) -> None:
    """Close the sockets of an ended session (`session`: its id, or empty for all of the user's)."""
    session = notice.get("session", "")
    node.hub.each_of(
        notice["u"],
        lambda socket: (
            socket.close(CloseCode.SESSION_ENDED)
            if not session or str(socket.identity.session_id) == session
            else None
        ),
    )


def suspended(node: Node, notice: dict[str, Any]) -> None:
    """Close all sockets of a suspended user."""
    node.hub.each_of(notice["u"], lambda socket: socket.close(CloseCode.SUSPENDED))


registry.on_control("session_ended", session_ended)
registry.on_control("suspended", suspended)
