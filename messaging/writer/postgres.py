"""The batch as one call of a database function, so that no client round trip happens under its locks.

The functions are in postgres.sql, installed by a migration. They are called in autocommit, on a
connection of the writer's own, by libpq's asynchronous interface: the event loop sends and is told
when the answer is there, so a batch costs neither a thread's wake-up nor a fight for the GIL.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from django.db import connection
from psycopg import errors, pq

from chatbe.core import clock
from chatbe.hub import database
from messaging.writer.base import BatchConflicts, BatchFailed, DatabaseAway, Item, Outcome, Verdict

logger = logging.getLogger("messaging.writer")

FUNCTIONS = (Path(__file__).parent / "postgres.sql").read_text()
MENTIONS_FUNCTION = (Path(__file__).parent / "mentions.sql").read_text()
BATCH = "SELECT * FROM messaging_write({}::json, {}::timestamptz, {}::text, {}::boolean)"
MENTIONS = "SELECT * FROM messaging_write_mentions({}::json, {}::timestamptz, {}::text, {}::boolean)"
ONE = (
    "SELECT * FROM messaging_write_one({}::uuid, {}::uuid, {}::uuid, {}::uuid, {}::text, {}::bigint,"
    " {}::timestamptz, {}::text)"
)
LOCK_TIMEOUT = "200ms"
SESSION = database.PLANS + f"SET chatbe.writer = 'on'; SET lock_timeout = '{LOCK_TIMEOUT}'"


def connect() -> psycopg.Connection[Any]:
    """A connection of the writer's own; blocking."""
    return database.connect(SESSION)


def call(
    raw: psycopg.Connection[Any], batch: Sequence[Item], *, now: datetime, policy: str, wait: bool
) -> list[Verdict]:
    """Call the batch function on any connection, also within a transaction of the caller's; blocking."""
    stamp = clock.timestamp(now)
    statement = MENTIONS if _mentioning(batch) else BATCH
    rows = raw.execute(
        statement.format("%s", "%s", "%s", "%s"), (_items(batch).decode(), stamp, policy, wait)
    ).fetchall()
    return [
        _verdict(item, stamp, *(value if value is None else str(value) for value in row))
        for item, row in zip(batch, rows, strict=True)
    ]


def _mentioning(batch: Sequence[Item]) -> bool:
    return any(item.names for item in batch)


def _items(batch: Sequence[Item]) -> bytes:
    """The batch as the function's JSON."""
    rows = [
        {
            "i": item.id, "c": item.conversation, "s": item.sender, "k": item.client_id, "b": item.body,
            "r": item.reply_to, **({"a": item.attachments} if item.attachments is not None else {}),
        }
        for item in batch
    ]  # fmt: skip
    if _mentioning(batch):
        for row, item in zip(rows, batch, strict=True):
            if item.names:
                row["m"] = " ".join(item.names)
    return msgspec.json.encode(rows)


def _verdict(  # noqa: PLR0917 - a row's columns
    item: Item,
    stamp: str,
    code: str | None,
    seq: Any,
    rev: Any,
    stored: Any,
    conversation: Any,
    created_at: Any,
    mentions: Any = None,
) -> Verdict:
    """One row of the function's answer."""
    if code == "ok":
        return Verdict(code, int(seq), int(rev), item.id, item.conversation, stamp, mentions or "")
    if code == "repeat":
        return Verdict(code, int(seq), int(rev), stored, conversation, created_at, mentions or "")
    return Verdict(code or "locked")


class DirectBackend:
    """`messaging.writer.base.ThreadBackend` on Django's own connection: for processes without a node.

    Within a transaction of the caller's the batch is a part of it.
    """

    def commit(self, batch: Sequence[Item], *, now: datetime, policy: str, wait: bool) -> list[Verdict]:
        """Store a batch."""
        try:
            connection.ensure_connection()
            return call(connection.connection, batch, now=now, policy=policy, wait=wait)
        except errors.LockNotAvailable:
            return [Verdict("locked") for _ in batch]
        except psycopg.Error as error:
            raise _failure(error) from error

    def close(self) -> None:
        """Close this thread's connection."""
        connection.close()


class PostgresBackend(database.LoopConnection):
    """See `messaging.writer.base.LoopBackend`: one batch at a time, driven by the event loop."""

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]] = connect) -> None:
        super().__init__()
        self._connect = connect
        self._answer: Callable[[Sequence[pq.abc.PGresult] | Exception], None] | None = None
        self._results: list[pq.abc.PGresult] = []
        self._opening: asyncio.Task[None] | None = None

    def begin(
        self,
        batch: Sequence[Item],
        *,
        now: datetime,
        policy: str,
        wait: bool,
        done: Callable[[Outcome], None],
    ) -> None:
        """Store a batch; `done` is called on the loop with the verdicts or with what went wrong."""
        if self._pg is None:
            self._opening = self._loop.create_task(self._open(batch, now, policy, wait, done))
            return
        stamp = clock.timestamp(now)
        if len(batch) == 1 and not wait and not batch[0].names and batch[0].attachments is None:
            item = batch[0]

            def alone(answer: Sequence[pq.abc.PGresult] | Exception) -> None:
                if isinstance(answer, errors.LockNotAvailable):
                    # The sender's marks are being moved, and that takes its time.
                    done([Verdict("locked")])
                    return
                if not isinstance(answer, Exception) and answer[0].get_value(0, 0) is None:
                    # Something speaks against it: the batch function says what.
                    self._send_batch(batch, stamp, policy, wait=False, done=done)
                    return
                done(answer if isinstance(answer, Exception) else _verdicts(batch, stamp, answer[0]))

            reply_to = None if item.reply_to is None else str(item.reply_to).encode()
            self._send(
                b"one",
                [
                    item.id.encode(), item.conversation.encode(), item.sender.encode(), item.client_id.encode(),
                    item.body.encode(), reply_to, stamp.encode(), policy.encode(),
                ],
                alone,
            )  # fmt: skip
        else:
            self._send_batch(batch, stamp, policy, wait=wait, done=done)

    def close(self) -> None:
        """Close the connection; the next batch opens another. What was sent may still be committed."""
        self._detach()
        self._results = []

    # --- inner -------------------------------------------------------------------------------------

    @property
    def _waits(self) -> bool:
        return self._answer is not None

    def _send_batch(
        self, batch: Sequence[Item], stamp: str, policy: str, *, wait: bool, done: Callable[[Outcome], None]
    ) -> None:
        def together(answer: Sequence[pq.abc.PGresult] | Exception) -> None:
            if isinstance(answer, errors.LockNotAvailable):
                done([Verdict("locked") for _ in batch])
            else:
                done(answer if isinstance(answer, Exception) else _verdicts(batch, stamp, answer[0]))

        self._send(
            b"mentions" if _mentioning(batch) else b"batch",
            [_items(batch), stamp.encode(), policy.encode(), b"t" if wait else b"f"],
            together,
        )

    async def _open(
        self,
        batch: Sequence[Item],
        now: datetime,
        policy: str,
        wait: bool,
        done: Callable[[Outcome], None],
    ) -> None:
        """Connect in a thread, prepare, then store the batch."""
        try:
            raw = await self._made(self._prepared)
        except (psycopg.Error, OSError) as error:
            away = DatabaseAway()
            away.__cause__ = error
            done(away)
            return
        self._attach(raw)
        self.begin(batch, now=now, policy=policy, wait=wait, done=done)

    def _prepared(self) -> psycopg.Connection[Any]:
        raw = self._connect()
        for name, text, count in ((b"one", ONE, 8), (b"batch", BATCH, 4), (b"mentions", MENTIONS, 4)):
            statement = text.format(*(f"${number}" for number in range(1, count + 1)))
            result = raw.pgconn.prepare(name, statement.encode())
            if result.status != pq.ExecStatus.COMMAND_OK:
                raw.close()
                raise psycopg.OperationalError(result.error_message.decode(errors="replace"))
        return raw

    def _send(
        self,
        statement: bytes,
        values: list[bytes | None],
        answer: Callable[[Sequence[pq.abc.PGresult] | Exception], None],
    ) -> None:
        assert self._pg is not None  # noqa: S101 - the callers have opened it
        self._answer = answer
        self._await_answer()
        try:
            self._pg.send_query_prepared(statement, values)
            self._flush(self._pg)
        except (psycopg.OperationalError, RuntimeError) as error:
            # RuntimeError is uvloop's, which has seen the end of the connection before libpq.
            self._lost(error)

    def _readable(self) -> None:
        connected = self._pg
        if connected is None:
            return
        try:
            connected.consume_input()
            while not connected.is_busy():
                result = connected.get_result()
                if result is None:
                    self._complete()
                    return
                self._results.append(result)
        except psycopg.OperationalError as error:
            self._lost(error)

    def _complete(self) -> None:
        results, self._results = self._results, []
        answer, self._answer = self._answer, None
        if answer is None:
            return
        status = results[0].status if results else pq.ExecStatus.FATAL_ERROR
        if status == pq.ExecStatus.TUPLES_OK:
            answer(results)
            return
        error: psycopg.Error = (
            errors.error_from_result(results[0]) if results else psycopg.OperationalError("no answer")
        )
        if isinstance(error, errors.LockNotAvailable):
            answer(error)
            return
        failure = _failure(error)
        if isinstance(failure, DatabaseAway):
            self.close()
        answer(_because(failure, error))

    def _lost(self, error: Exception) -> None:
        self.close()
        answer, self._answer = self._answer, None
        if answer is not None:
            answer(_because(DatabaseAway(), error))


def _failure(error: psycopg.Error) -> Exception:
    """What an error of PostgreSQL means for the batch."""
    if isinstance(error, errors.SerializationFailure | errors.DeadlockDetected):
        return BatchConflicts()
    if isinstance(error, errors.UniqueViolation) and error.diag.constraint_name == "message_client_id_unique":
        # Stored meanwhile, by another process: the next run finds it.
        return BatchConflicts()
    if isinstance(error, psycopg.DataError | psycopg.IntegrityError):
        return BatchFailed()
    # No other error is a message's own: a standby that takes no writes, a function that is being replaced.
    return DatabaseAway()


def _because(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def _verdicts(batch: Sequence[Item], stamp: str, result: pq.abc.PGresult) -> list[Verdict]:
    """The verdicts in a result of either function."""
    value, columns = result.get_value, range(1, result.nfields)
    verdicts = []
    for row, item in enumerate(batch):
        code = value(row, 0)
        if code == b"ok" and not item.names:
            verdicts.append(
                Verdict(
                    "ok", int(value(row, 1) or 0), int(value(row, 2) or 0), item.id, item.conversation, stamp
                )
            )
        else:
            rest = [(value(row, column) or b"").decode() for column in columns]
            verdicts.append(_verdict(item, stamp, (code or b"").decode(), *rest))
    return verdicts
