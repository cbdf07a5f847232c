"""Short questions to PostgreSQL, put by the event loop itself: no thread, no ORM.

A function that asks the database one thing may say how the loop puts the same question
(`put_by_loop`); `Node.call` then does so where the database is PostgreSQL, and runs the function on
a thread elsewhere. Both ways give the same answer, and one suite tests both.

Connections are libpq's, in pipeline mode. What is asked while a connection is busy goes to it next,
in one write and as one transaction; so an arriving crowd costs few round trips, and those of its
questions that change something share their commits. No answer is told before the commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg
from django.db import connection
from psycopg import errors, pq

from chatbe.core.errors import Unavailable

logger = logging.getLogger("chatbe.hub.database")

P = ParamSpec("P")
T = TypeVar("T")

Value = bytes | None
"""A value in PostgreSQL's text form; None is NULL."""
Row = tuple[Value, ...]

READERS = 2
"""Connections for questions that only read; a long answer on one does not hold up those on the other."""
TOGETHER = 64
"""So many questions at most go to a connection at once."""
CONNECT_SECONDS = 5
ANSWER_SECONDS = 20.0
"""A connection that has not answered for so long is given up."""

# Every look-up goes by an index, whatever the planner thinks of tables that are empty now or of an
# array's length: a plan made once serves for ever, while tables grow from nothing to millions of rows.
PLANS = (
    "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off;"
    "SET enable_mergejoin = off; SET jit = off; "
)
SESSION = PLANS + "SET lock_timeout = '2s'"


@dataclass(frozen=True, slots=True, eq=False)
class Direct:
    """How the loop asks what a function asks."""

    name: bytes
    """Of the prepared statement."""
    statement: bytes
    values: Callable[..., Sequence[Value] | None]
    """Its parameters, from the function's arguments; None where the answer is known without asking."""
    answer: Callable[..., Any]
    """What the function returns, from the rows (none where nothing was asked) and its arguments."""
    writes: bool


_direct: dict[Callable[..., Any], Direct] = {}


def put_by_loop(
    statement: str,
    *,
    values: Callable[P, Sequence[Value] | None],
    answer: Callable[Concatenate[list[Row], P], T],
    writes: bool = False,
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Say how the loop asks PostgreSQL what the decorated function asks; the function stays as it is.

    `statement` has parameters `$1`, `$2`, …, each with its type. `writes`: it changes something. Those
    asked together are put in the order of their first value, which names the row that they lock: so
    no two processes wait for each other.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        name = f"{function.__module__}.{function.__qualname__}".encode()
        _direct[function] = Direct(name, statement.encode(), values, answer, writes)
        return function

    return decorate


def direct(function: Callable[..., Any]) -> Direct | None:
    """How the loop asks what `function` asks, if it can."""
    return _direct.get(function)


def connect(session: str = SESSION) -> psycopg.Connection[Any]:
    """A connection by Django's settings, outside its pool, in autocommit; blocking."""
    parameters = connection.get_connection_params()
    for key in ("pool", "cursor_factory", "context", "prepare_threshold"):
        parameters.pop(key, None)
    raw = psycopg.connect(**{**parameters, "connect_timeout": CONNECT_SECONDS}, autocommit=True)
    raw.execute(session, prepare=False)
    return raw


class Database:
    """One event loop's connections for short questions."""

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]] = connect) -> None:
        self._reads = Lane(connect, READERS, in_order=False)
        # Those that write wait for commits; those that read need not wait behind them.
        self._writes = Lane(connect, 1, in_order=True)

    def ask(self, question: Direct, *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        """Ask; the future has the answer, or raises `Unavailable` when the database fails."""
        values = question.values(*args, **kwargs)
        lane = self._writes if question.writes else self._reads
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if values is None:
            done.set_result(question.answer([], *args, **kwargs))
        else:
            lane.put(Asked(question, values, done, args, kwargs))
        return done

    def close(self) -> None:
        """Close the connections; who still waits is told `Unavailable`."""
        self._reads.close()
        self._writes.close()


@dataclass(slots=True, eq=False)
class Asked:
    """A question on its way."""

    question: Direct
    values: Sequence[Value]
    done: asyncio.Future[Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    alone: bool = False
    """Whether it is asked by itself, since it was among several of which one failed."""

    def answer(self, rows: list[Row]) -> None:
        """Tell the answer, unless nobody waits any more."""
        if self.done.done():
            return
        try:
            self.done.set_result(self.question.answer(rows, *self.args, **self.kwargs))
        except Exception as error:  # noqa: BLE001 - it is the asking one's
            self.done.set_exception(error)

    def fail(self, error: Exception) -> None:
        """Tell what went wrong, unless nobody waits any more."""
        if not self.done.done():
            self.done.set_exception(error)


class Lane:
    """Questions that wait for the next free connection of a few."""

    def __init__(
        self, connect: Callable[[], psycopg.Connection[Any]], connections: int, *, in_order: bool
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._in_order = in_order
        self._closed = False
        self._waiting: deque[Asked] = deque()
        self._due = False
        self._lines = [Line(connect, self) for _ in range(connections)]

    def put(self, asked: Asked) -> None:
        """Have it asked, together with all that this turn of the loop asks."""
        if self._closed:
            asked.fail(_unavailable(psycopg.OperationalError("closed")))
            return
        self._waiting.append(asked)
        if not self._due:
            self._due = True
            self._loop.call_soon(self._hand_out)

    def again(self, group: Sequence[Asked]) -> None:
        """Ask each of these by itself, before all others."""
        for asked in reversed(group):
            asked.alone = True
            self._waiting.appendleft(asked)
        self.next()

    def next(self) -> None:
        """A connection is free."""
        if self._waiting and not self._due:
            self._due = True
            self._loop.call_soon(self._hand_out)

    def _hand_out(self) -> None:
        self._due = False
        for line in self._lines:
            if not self._waiting:
                return
            if line.free:
                line.send(self._take())

    def _take(self) -> list[Asked]:
        waiting = self._waiting
        group = [waiting.popleft()]
        while waiting and len(group) < TOGETHER and not (group[0].alone or waiting[0].alone):
            group.append(waiting.popleft())
        if self._in_order and len(group) > 1:
            group.sort(key=_first_value)
        return group

    def give_up(self, error: Exception) -> None:
        """No connection can be made: nobody waits for one attempt after another."""
        waiting, self._waiting = self._waiting, deque()
        for asked in waiting:
            asked.fail(_unavailable(error))

    def close(self) -> None:
        """Close the connections and let go of who waits."""
        self._closed = True
        for line in self._lines:
            line.close(psycopg.OperationalError("closed"))
        self.give_up(psycopg.OperationalError("closed"))


class Opening:
    """A connection that a thread is making for a loop that may be gone before it is there."""

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._made: psycopg.Connection[Any] | None = None
        self._abandoned = False

    def run(self) -> psycopg.Connection[Any]:
        """Connect; for the thread."""
        made = self._connect()
        with self._lock:
            self._made = made
            if self._abandoned:
                made.close()
        return made

    def abandon(self) -> None:
        """Nobody takes it any more: it is closed, now or as soon as it is there."""
        with self._lock:
            self._abandoned = True
            if self._made is not None:
                self._made.close()


class LoopConnection(ABC):
    """libpq's connection on the event loop: what is alike for all who ask by one, one thing at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection: psycopg.Connection[Any] | None = None
        self._pg: pq.abc.PGconn | None = None
        self._fd = -1
        self._timer: asyncio.TimerHandle | None = None
        self._sent_at = 0.0

    @property
    @abstractmethod
    def _waits(self) -> bool:
        """Whether an answer is still to come."""

    @abstractmethod
    def _readable(self) -> None:
        """Bytes have come: take what is complete."""

    @abstractmethod
    def _lost(self, error: Exception) -> None:
        """The connection is gone; whether what was asked was committed is unknown."""

    async def _made(self, connect: Callable[[], psycopg.Connection[Any]]) -> psycopg.Connection[Any]:
        """Connect in a thread; who is cancelled meanwhile leaves no connection open."""
        opening = Opening(connect)
        try:
            return await self._loop.run_in_executor(None, opening.run)
        except asyncio.CancelledError:
            opening.abandon()
            raise

    def _attach(self, raw: psycopg.Connection[Any]) -> pq.abc.PGconn:
        """Have the loop drive a connection."""
        pg = raw.pgconn
        self._connection, self._pg = raw, pg
        pg.nonblocking = 1
        self._fd = pg.socket
        self._loop.add_reader(self._fd, self._readable)
        return pg

    def _detach(self) -> None:
        """Close the connection, if there is one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._connection is not None:
            with contextlib.suppress(ValueError, OSError):
                # libpq has closed the descriptor itself when the server was lost.
                self._loop.remove_reader(self._fd)
                self._loop.remove_writer(self._fd)
            self._connection.close()
            self._connection = self._pg = None

    def _await_answer(self) -> None:
        """From now on an answer is waited for."""
        self._sent_at = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(ANSWER_SECONDS, self._look)

    def _look(self) -> None:
        """Give up a connection that has not answered for too long."""
        self._timer = None
        if not self._waits:
            return
        waited = self._loop.time() - self._sent_at
        if waited < ANSWER_SECONDS:
            self._timer = self._loop.call_later(ANSWER_SECONDS - waited, self._look)
        else:
            self._lost(psycopg.OperationalError("the database has not answered"))

    def _flush(self, pg: pq.abc.PGconn) -> None:
        """Send what libpq has taken, the rest of it when the socket takes more."""
        if pg.flush():
            self._loop.add_writer(self._fd, self._writable)

    def _writable(self) -> None:
        try:
            if self._pg is None or not self._pg.flush():
                self._loop.remove_writer(self._fd)
        except psycopg.OperationalError as error:
            self._lost(error)


class Line(LoopConnection):
    """One connection: a group of questions at a time, all in one transaction."""

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]], lane: Lane) -> None:
        super().__init__()
        self._connect = connect
        self._lane = lane
        self._opening: asyncio.Task[None] | None = None
        self._prepared: set[bytes] = set()
        self._group: list[Asked] = []
        self._expected: deque[bytes | None] = deque()
        """What is still to be answered, in order: the name of a statement that is prepared, or None: a question."""
        self._rows: list[list[Row]] = []
        self._failure: psycopg.Error | None = None

    @property
    def _waits(self) -> bool:
        return bool(self._group)

    @property
    def free(self) -> bool:
        """Whether it can take a group now."""
        return not self._group

    def send(self, group: list[Asked]) -> None:
        """Ask all of `group`; connects first where it must."""
        self._group = group
        if self._pg is None:
            self._opening = self._loop.create_task(self._open())
        else:
            self._send(self._pg)

    async def _open(self) -> None:
        """Connect in a thread, then ask."""
        try:
            raw = await self._made(self._connect)
        except (psycopg.Error, OSError) as error:
            logger.warning("no connection to the database", extra={"reason": type(error).__name__})
            self._end(error)
            self._lane.give_up(error)
            return
        if not self._group:
            # Closed meanwhile.
            raw.close()
            return
        pg = self._attach(raw)
        pg.enter_pipeline_mode()
        self._send(pg)

    def _send(self, pg: pq.abc.PGconn) -> None:
        self._await_answer()
        expected: deque[bytes | None] = deque()
        self._expected, self._rows, self._failure = expected, [], None
        try:
            for asked in self._group:
                question = asked.question
                if question.name not in self._prepared and question.name not in expected:
                    pg.send_prepare(question.name, question.statement)
                    expected.append(question.name)
                pg.send_query_prepared(question.name, asked.values)
                expected.append(None)
            pg.pipeline_sync()
            self._flush(pg)
        except (psycopg.OperationalError, RuntimeError) as error:
            # RuntimeError is uvloop's, which has seen the end of the connection before libpq.
            self._lost(error)

    def _readable(self) -> None:
        pg = self._pg
        if pg is None:
            return
        try:
            pg.consume_input()
            between = False
            while not pg.is_busy():
                result = pg.get_result()
                if result is None:
                    # The end of one question's results; twice in a row, of all that has come.
                    if between:
                        return
                    between = True
                    continue
                between = False
                if result.status == pq.ExecStatus.PIPELINE_SYNC:
                    self._complete()
                    return
                self._take(result)
        except psycopg.OperationalError as error:
            self._lost(error)

    def _take(self, result: pq.abc.PGresult) -> None:
        status = result.status
        if status == pq.ExecStatus.FATAL_ERROR:
            self._failure = self._failure or errors.error_from_result(result)
        if not self._expected:
            # The commit's own failure.
            return
        prepared = self._expected.popleft()
        if prepared is not None:
            if status == pq.ExecStatus.COMMAND_OK:
                self._prepared.add(prepared)
            return
        columns, value = range(result.nfields), result.get_value
        self._rows.append([
            tuple([value(row, column) for column in columns]) for row in range(result.ntuples)
        ])  # fmt: skip

    def _complete(self) -> None:
        """The transaction has ended: tell the answers, or what failed."""
        group, self._group = self._group, []
        failure, rows = self._failure, self._rows
        if failure is not None:
            if len(group) > 1:
                # One of them; which of the others would have been answered is found by asking.
                self._lane.again(group)
                return
            for asked in group:
                asked.fail(_told(failure))
            # What the session holds of a statement may be what is wrong: a new one begins afresh.
            self.close(failure)
        else:
            for asked, found in zip(group, rows, strict=True):
                asked.answer(found)
        self._lane.next()

    def _lost(self, error: Exception) -> None:
        self.close(error)
        self._lane.next()

    def close(self, error: Exception) -> None:
        """Close the connection; the next question opens another."""
        self._detach()
        self._prepared.clear()
        self._end(error)

    def _end(self, error: Exception) -> None:
        group, self._group = self._group, []
        for asked in group:
            asked.fail(_unavailable(error))


def _first_value(asked: Asked) -> bytes:
    return asked.values[0] or b""


def _told(error: psycopg.Error) -> Exception:
    """What the asking one gets for an error of PostgreSQL."""
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | psycopg.InternalError):
        return _unavailable(error)
    return error


def _unavailable(cause: Exception) -> Unavailable:
    error = Unavailable("The database does not answer.")
    error.__cause__ = cause
    return error
