"""Several processes' hubs on one event loop, for tests that choose every interleaving.

Consumers, hubs, writers and the database are the real ones. What is not: time, which jumps to the next
timer when nothing else is left to do; threads, since database work runs where it is called; the bus,
which loses, delays and doubles what it is told to; and the transports, which stall when they are told to.
So a test says what happens before what, and the same seed happens the same way again.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import uuid
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, TypeVar

import msgspec
import pytest
from django.conf import settings
from django.db import connection

from accounts.models import Contact, User
from chatbe.core.errors import Unavailable
from chatbe.hub import consumer, outbox, registry
from chatbe.hub import node as nodes
from chatbe.hub.consumer import SocketConsumer
from chatbe.hub.fanout import Envelope
from chatbe.hub.node import Node
from chatbe.hub.registry import Admission, Identity
from chatbe.hub.transport import EXTENSION, payloads
from chatbe.wire import frames
from messaging import stream, tails, writer
from messaging.handlers import MessagingPart
from messaging.models import Conversation, Membership
from messaging.writer.base import BatchConflicts, BatchFailed, DatabaseAway, Verdict
from messaging.writer.orm import OrmBackend
from messaging.writer.postgres import DirectBackend

T = TypeVar("T")
Frame = dict[str, Any]

FOREVER = datetime(9999, 1, 1, tzinfo=UTC)
LONG = 20.0
"""Virtual seconds in which everything that can come to an end has done so."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer when nothing is ready; nothing sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__()

    def time(self) -> float:
        """Virtual seconds."""
        return self.now

    def _run_once(self) -> None:
        # asyncio's own, which its types leave out.
        base: Any = self
        if not base._ready:
            timers = [timer.when() for timer in base._scheduled if not timer.cancelled()]
            self.now = max(self.now, min(timers, default=self.now))
        run_once: Callable[[], None] = getattr(super(), "_run_once")  # noqa: B009
        run_once()


class Wire:
    """A socket's transport: the client's end keeps what came through, in order."""

    last_inbound = 0.0
    socket: SocketConsumer

    def __init__(self, context: contextvars.Context) -> None:
        self.frames: list[Frame] = []
        """What the client has received."""
        self.code: int | None = None
        """The code that the socket was closed with."""
        self.stalled = False
        self.paused = False
        self.peak = 0
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.on_frame: Callable[[Frame], None] = lambda _frame: None
        self._context = context
        self._unread: list[bytes] = []
        self._unsent: list[str] = []
        self._on_text: Callable[[Any], None] | None = None
        self._on_drain: Callable[[], None] = lambda: None

    # --- the server's end (`chatbe.hub.transport.Transport`) -----------------------------------------

    @property
    def buffered(self) -> int:
        return sum(map(len, self._unread))

    def write_frames(self, data: bytes) -> None:
        if self.code is not None:
            return
        if self.stalled:
            self._unread.append(data)
            self.peak = max(self.peak, self.buffered)
        else:
            self._receive(data)

    def set_drain(self, on_drain: Callable[[], None]) -> None:
        self._on_drain = on_drain

    def set_receiver(self, on_text: Callable[[Any], None], on_binary: Any, on_lost: Any) -> None:
        self._on_text = on_text

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False
        while self._unsent and not self.paused:
            self._hand_over(self._unsent.pop(0))

    def close(self, code: int, reason: str = "") -> None:
        if self.code is None:
            self.code = code
            self._unread.clear()
            self.inbox.put_nowait({"type": "websocket.disconnect", "code": code})

    def abort(self) -> None:
        self.close(1006)

    # --- the client's end ----------------------------------------------------------------------------

    def send(self, **frame: Any) -> None:
        """Send a frame; it waits while the server does not read."""
        text = json.dumps(frame)
        if self.paused or self._on_text is None:
            self._unsent.append(text)
        else:
            self._hand_over(text)

    def drop(self) -> None:
        """Cut the connection without a goodbye."""
        self.close(1006)

    def stall(self) -> None:
        """Read nothing more."""
        self.stalled = True

    def resume(self) -> None:
        """Read everything that waits."""
        self.stalled = False
        unread, self._unread = self._unread, []
        for data in unread:
            self._receive(data)
        if unread:
            self._context.copy().run(self._on_drain)

    def of_type(self, kind: str) -> list[Frame]:
        """What came of one type."""
        return [frame for frame in self.frames if frame["type"] == kind]

    def _receive(self, data: bytes) -> None:
        for payload in payloads(data):
            frame = msgspec.json.decode(payload)
            self.frames.append(frame)
            self.on_frame(frame)

    def _hand_over(self, text: str) -> None:
        if self.code is None and self._on_text is not None:
            self._context.copy().run(self._on_text, text)


class Gate:
    """Holds one call at a chosen point until the test lets it go on."""

    def __init__(self, after: bool) -> None:
        self.after = after
        self._reached = asyncio.Event()
        self._open = asyncio.Event()

    async def pass_through(self) -> None:
        self._reached.set()
        await self._open.wait()

    async def reached(self) -> None:
        """Return once a call stands at the gate."""
        await asyncio.wait_for(self._reached.wait(), LONG)

    def open(self) -> None:
        """Let it go on."""
        self._open.set()


class Process(Node):
    """One process's node: messaging and its tails, on the world's bus."""

    tails: tails.TailPart
    messaging: MessagingPart

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world.loop)
        self.world = world
        self.name = name
        self.context = contextvars.copy_context()
        self.context.run(_acting.set, self)

    async def start(self) -> None:
        """Start the parts of messaging; the questions are asked when the test says so."""
        self.epoch = await self.call(stream.epoch)
        self.messaging, self.tails = MessagingPart(), tails.TailPart()
        for part in (self.messaging, self.tails):
            await part.start(self)
            self.parts.append(part)
            self.handlers.update(part.handlers)
        await self.tails.stop()

    async def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run it here and now, unless the world holds it or the database is away."""
        await self.world.at(self, function.__name__, after=False)
        if self.world.database_away():
            raise Unavailable("The database does not answer.")
        with _blocking():
            result = function(*args, **kwargs)
        await self.world.at(self, function.__name__, after=True)
        return result

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """In this process's context, so that what it publishes is this process's."""
        return self.context.copy().run(super().spawn, coroutine)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.world.errors.append(error)

    def _publish(self, groups: list[str], envelope: Envelope, ack: frames.Ack | None) -> None:
        self.world.bus.publish(self, groups, envelope)
        self.hub.apply(envelope, ack)

    @property
    def on_bus(self) -> bool:
        """The world's."""
        return True

    async def join(self, groups: list[str]) -> None:
        """Subscribe."""
        for group in groups:
            self.world.bus.members[group].add(self)
        await self.world.at(self, "join", after=True)

    async def leave(self, groups: list[str]) -> None:
        """Unsubscribe."""
        for group in groups:
            self.world.bus.members[group].discard(self)

    async def look(self) -> None:
        """Ask the database what changed since the last question."""
        await self.tails._look()


class Bus:
    """Carries envelopes between processes, as bytes; `plan` says how often and with which delays."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.members: dict[str, set[Process]] = defaultdict(set)
        self.plan: Callable[[Envelope], list[float]] = lambda _envelope: [0.0]

    def publish(self, sender: Process | None, groups: list[str], envelope: Envelope) -> None:
        """Send to the processes in each of the groups, but for the sender."""
        data = msgspec.msgpack.encode(envelope)
        for group in groups:
            for target in self.members[group]:
                if target is not sender:
                    for delay in self.plan(envelope):
                        self._loop.call_later(delay, _deliver, target, data, context=target.context.copy())


@contextlib.contextmanager
def _blocking() -> Iterator[None]:
    """Database work, as if on a thread: Django finds the test's own connection and no running loop."""
    loop = asyncio.get_running_loop()
    asyncio.events._set_running_loop(None)
    try:
        yield
    finally:
        asyncio.events._set_running_loop(loop)


def _deliver(target: Process, data: bytes) -> None:
    target.hub.apply(msgspec.msgpack.decode(data))


class InlineStore:
    """The writer's backend, run on the loop; `world.writes` may delay and fail it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._store = _blocking_backend()

    def begin(
        self, batch: Any, *, now: datetime, policy: str, wait: bool, done: Callable[[Any], None]
    ) -> None:
        process = _acting.get()

        async def store() -> None:
            await self._world.at(process, "store", after=False)
            outcome: list[Verdict] | Exception
            if self._world.database_away():
                outcome = DatabaseAway()
            else:
                try:
                    with _blocking(), _lock_timeout(on=wait):
                        outcome = self._store.commit(batch, now=now, policy=policy, wait=wait)
                except (BatchConflicts, BatchFailed, DatabaseAway) as error:
                    outcome = error
                if self._world.answer_lost():
                    outcome = DatabaseAway()
            await self._world.at(process, "store", after=True)
            done(outcome)

        process.spawn(store())

    def close(self) -> None:
        pass


@contextlib.contextmanager
def _lock_timeout(*, on: bool) -> Iterator[None]:
    """Whoever waits for a lock waits in real time, so not for long."""
    if not on or connection.vendor != "postgresql":
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '20ms'")
        try:
            yield
        finally:
            cursor.execute("SET lock_timeout = 0")


def _blocking_backend() -> Any:
    return DirectBackend() if connection.vendor == "postgresql" else OrmBackend()


_acting: contextvars.ContextVar[Process] = contextvars.ContextVar("acting")


class World:
    """Processes, people and their sockets. Make it with `world`, which sets up and takes down."""

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.bus = Bus(self.loop)
        self.processes: list[Process] = []
        self.errors: list[BaseException] = []
        self.ended: dict[uuid.UUID, int] = {}
        """Sessions that have ended, with the close code of the judgement."""
        self.identities: dict[str, Identity] = {}
        self.database_away: Callable[[], bool] = lambda: False
        self.answer_lost: Callable[[], bool] = lambda: False
        self.delay: Callable[[], float] = lambda: 0.0
        self._gates: dict[tuple[Process, str], Gate] = {}
        self._served: list[asyncio.Task[None]] = []

    # --- time ----------------------------------------------------------------------------------------

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end."""
        return self.loop.run_until_complete(coroutine)

    def pass_time(self, seconds: float = LONG) -> None:
        """Let so much virtual time go by; by default until nothing is left to happen."""
        self.run(asyncio.sleep(seconds))

    def hold(self, process: Process, name: str, *, after: bool = True) -> Gate:
        """Hold the next call of a function of this name before it runs or, `after`, before it returns."""
        gate = self._gates[process, name] = Gate(after)
        return gate

    async def at(self, process: Process, name: str, *, after: bool) -> None:
        """A point where something else may happen."""
        gate = self._gates.get((process, name))
        if gate is not None and gate.after is after:
            del self._gates[process, name]
            await gate.pass_through()
        elif (delay := self.delay()) > 0:
            await asyncio.sleep(delay)

    # --- processes and people ------------------------------------------------------------------------

    def process(self) -> Process:
        """One more process."""
        process = Process(self, f"process {len(self.processes)}")
        process.context.copy().run(self.run, process.start())
        self.processes.append(process)
        return process

    def user(self) -> User:
        """Somebody."""
        return User.objects.create(username=f"u{uuid.uuid4().hex[:20]}", password="!")

    def friends(self, count: int) -> list[User]:
        """People who have all added each other."""
        users = [self.user() for _ in range(count)]
        Contact.objects.bulk_create(
            Contact(owner=one, target=other) for one in users for other in users if one != other
        )
        return users

    def group(self, *users: User) -> Conversation:
        """A group that has begun."""
        made = Conversation.objects.create(kind="group", title="Group", head_rev=1, state_rev=1)
        for user in users:
            Membership.objects.create(conversation=made, user=user, joined_rev=1)
        return made

    def connect(self, process: Process, user: User) -> Wire:
        """A socket that has had its `welcome`; its stream has not begun."""
        context = process.context.copy()
        wire = Wire(context)
        self.run(self._connect(process, user, wire, context))
        return wire

    async def _connect(self, process: Process, user: User, wire: Wire, context: contextvars.Context) -> None:
        otp = uuid.uuid4().hex
        self.identities[otp] = Identity(user.pk, user.username, uuid.uuid4(), FOREVER)
        scope = {
            "type": "websocket",
            "extensions": {EXTENSION: wire},
            "query_string": f"otp={otp}&username={user.username}".encode(),
        }
        wire.inbox.put_nowait({"type": "websocket.connect"})
        wire.socket = SocketConsumer()

        async def accept(_message: Frame) -> None: ...

        task = self.loop.create_task(wire.socket(scope, wire.inbox.get, accept), context=context)
        self._served.append(task)
        while not wire.frames and wire.code is None:
            await asyncio.sleep(0.001)

    def live(self, process: Process, user: User, **revs: Any) -> Wire:
        """A socket whose stream has begun."""
        wire = self.connect(process, user)
        wire.send(type="sync", conversations={}, **revs)
        self.pass_time(1.0)
        assert wire.of_type("synced")
        return wire

    def authenticate(self, otp: str, _username: str | None) -> Identity | None:
        """The hub's sign-in."""
        return self.identities.get(otp)

    def admit(self, identity: Identity) -> Admission:
        """Whether the session stands."""
        return Admission(self.ended.get(identity.session_id))

    def close(self) -> None:
        """End everything; raises what failed in the background."""

        async def end() -> None:
            # Some begin others as they end.
            while tasks := [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

        served = [task.exception() for task in self._served if task.done() and not task.cancelled()]
        self.run(end())
        self.loop.close()
        for error in [*self.errors, *served]:
            if error is not None:
                raise error


@contextlib.contextmanager
def world() -> Iterator[World]:
    """A world, with Django and the hub made to live in it."""
    with pytest.MonkeyPatch.context() as patch:
        made = World()
        asyncio.set_event_loop(made.loop)
        patch.setattr(registry, "_sign_in", [(made.authenticate, made.admit)])
        patch.setattr(nodes, "current", lambda: _acting.get(None))
        patch.setattr(nodes, "running", _running)
        patch.setattr(writer, "backend", lambda: InlineStore(made))
        patch.setattr(settings, "CHATBE_RATE_LIMITS", False)
        for module in (consumer, nodes, outbox, tails, writer):
            patch.setattr(module, "time", SimpleNamespace(monotonic=made.loop.time))
        try:
            yield made
        finally:
            try:
                made.close()
            finally:
                asyncio.set_event_loop(None)


async def _running() -> Process:
    return _acting.get()
