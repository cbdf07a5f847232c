"""The batch as one call of a database function, so that no client round trip happens under its locks.

The function is in postgres.sql, installed by a migration. It is called in autocommit on a
connection of the writer's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from django.db import connection
from psycopg import errors

from chatbe.core import clock
from messaging.writer.base import BatchConflicts, BatchFailed, DatabaseAway, Item, Verdict

FUNCTIONS = (Path(__file__).parent / "postgres.sql").read_text()
CALL = "SELECT * FROM messaging_write(%s::json, %s, %s, %s)"
LOCK_TIMEOUT = "2s"

# The batch is small and every look-up goes by an index, whatever the planner thinks of an array's
# length: a plan made once serves for ever, while tables grow from nothing to millions of rows.
SESSION = (
    "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off;"
    f"SET enable_mergejoin = off; SET jit = off; SET chatbe.writer = 'on'; SET lock_timeout = '{LOCK_TIMEOUT}'"
)


def connect() -> psycopg.Connection[Any]:
    """A connection of the writer's own, by Django's settings, outside its pool."""
    parameters = connection.get_connection_params()
    for key in ("pool", "cursor_factory", "context", "prepare_threshold"):
        parameters.pop(key, None)
    raw = psycopg.connect(**parameters, autocommit=True, prepare_threshold=0)
    raw.execute(SESSION, prepare=False)
    return raw


class PostgresBackend:
    """See `messaging.writer.base.Backend`."""

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]] = connect) -> None:
        self._connect = connect
        self._connection: psycopg.Connection[Any] | None = None

    def commit(self, batch: Sequence[Item], *, now: datetime, policy: str, wait: bool) -> list[Verdict]:
        """Store a batch."""
        try:
            if self._connection is None:
                self._connection = self._connect()
            return call(self._connection, batch, now=now, policy=policy, wait=wait)
        except errors.LockNotAvailable:
            return [Verdict("locked") for _ in batch]
        except (errors.SerializationFailure, errors.DeadlockDetected) as error:
            raise BatchConflicts from error
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            self.close()
            raise DatabaseAway from error
        except psycopg.Error as error:
            raise BatchFailed from error

    def close(self) -> None:
        """Close the connection; the next batch opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def call(
    raw: psycopg.Connection[Any], batch: Sequence[Item], *, now: datetime, policy: str, wait: bool
) -> list[Verdict]:
    """Call the function on a connection; in autocommit this is the whole transaction."""
    items = msgspec.json.encode([
        {
            "i": item.id, "c": item.conversation, "s": item.sender, "k": item.client_id, "b": item.body,
            "r": item.reply_to,
        }
        for item in batch
    ]).decode()  # fmt: skip
    verdicts = []
    stamp = clock.timestamp(now)
    rows = raw.execute(CALL, (items, now, policy, wait), prepare=True).fetchall()
    for item, (code, seq, rev, stored, conversation, created_at) in zip(batch, rows, strict=True):
        if code == "ok":
            verdicts.append(Verdict(code, seq, rev, item.id, item.conversation, stamp))
        elif code == "repeat":
            verdicts.append(
                Verdict(code, seq, rev, str(stored), str(conversation), clock.timestamp(created_at))
            )
        else:
            verdicts.append(Verdict(code))
    return verdicts
