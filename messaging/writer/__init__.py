"""Group commit: what arrived while the last batch was in flight is the next batch.

One batch is in flight per process; all but a blocking backend happens on the event loop. Alone, a
message waits for nothing.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace

from django.conf import settings
from django.db import connection

from chatbe.core import clock
from chatbe.core.errors import Unavailable
from chatbe.core.metrics import Sample
from messaging.writer.base import (
    Backend,
    BatchConflicts,
    BatchFailed,
    DatabaseAway,
    Item,
    LoopBackend,
    Outcome,
    ThreadBackend,
    Verdict,
)
from messaging.writer.orm import OrmBackend
from messaging.writer.postgres import PostgresBackend

__all__ = ["Backend", "Item", "Verdict", "Writer", "backend", "settle"]

logger = logging.getLogger("messaging.writer")

Done = Callable[[Verdict | None], None]
"""Called on the loop with the verdict, or None when the commit is unknown or did not happen: `unavailable`."""

TURNS_UNTIL_ALONE = 3
"""So many times a locked conversation is passed over; then its messages wait for the lock, which holds up
all others: for no longer than the backend's lock timeout, and with a pause before the next time."""
ALONE_PAUSE = 1.0
CONFLICTS = 10
WATCH_PERIOD = 1.0
AWAY_PAUSE = 1.0
"""Seconds between attempts while the database is away; `retry_after` of what is refused meanwhile."""


def backend() -> Backend:
    """The backend for the database in use; PostgreSQL's is of the running event loop."""
    return PostgresBackend() if connection.vendor == "postgresql" else OrmBackend()


Settling = Generator[Sequence[Item], list[Verdict], "list[Verdict | None]"]


def settling(batch: Sequence[Item]) -> Settling:
    """Have a batch stored, whatever is wrong with parts of it; None for items whose commit is unknown.

    Yields what to store next and is sent the verdicts, or thrown what went wrong. Conflicts are
    run again. After a lost connection the batch is run again too: its first step looks up
    (sender, client_id), so what was committed is found, told by its id, and counts as stored now.
    A batch with a poisoned row is halved until the row is alone.
    """
    conflicts = lost = 0
    while True:
        try:
            verdicts = yield batch
        except BatchConflicts:
            conflicts += 1
            if conflicts > CONFLICTS:
                logger.exception("batch conflicts again and again", extra={"items": len(batch)})
                return [None] * len(batch)
        except DatabaseAway as error:
            lost += 1
            if lost > 1:
                logger.warning(
                    "database away", extra={"items": len(batch), "reason": str(error.__cause__)[:200]}
                )
                return [None] * len(batch)
        except BatchFailed:
            if len(batch) == 1:
                logger.exception("message cannot be stored", extra={"id": batch[0].id})
                return [Verdict("invalid")]
            middle = len(batch) // 2
            first = yield from settling(batch[:middle])
            # What was passed over in the first half must not be overtaken in the second.
            locked = {
                item.conversation
                for item, verdict in zip(batch[:middle], first, strict=True)
                if verdict is not None and verdict.code == "locked"
            }
            rest = [item for item in batch[middle:] if item.conversation not in locked]
            second = iter((yield from settling(rest)) if rest else ())
            return [
                *first,
                *(
                    Verdict("locked") if item.conversation in locked else next(second)
                    for item in batch[middle:]
                ),
            ]
        else:
            return [
                replace(verdict, code="ok") if verdict.code == "repeat" and verdict.id == item.id else verdict
                for item, verdict in zip(batch, verdicts, strict=True)
            ]


def settle(store: ThreadBackend, batch: Sequence[Item], *, policy: str, wait: bool) -> list[Verdict | None]:
    """`settling` with a blocking backend."""
    steps = settling(batch)
    request = next(steps)
    while True:
        try:
            try:
                verdicts = store.commit(request, now=clock.now(), policy=policy, wait=wait)
            except (BatchConflicts, DatabaseAway, BatchFailed) as error:
                request = steps.throw(error)
            else:
                request = steps.send(verdicts)
        except StopIteration as end:
            settled: list[Verdict | None] = end.value
            return settled


class _Entry:
    """An item in the queue, who waits for it, and how often it was passed over."""

    __slots__ = ("deadline", "done", "followers", "item", "told", "turns")

    def __init__(self, item: Item, done: Done, deadline: float) -> None:
        self.item = item
        self.done = done
        self.deadline = deadline
        self.followers: list[Done] | None = None
        self.turns = 0
        self.told = False


class Writer:
    """The queue, on the event loop; see the module."""

    def __init__(self, store: Backend, *, policy: str) -> None:
        self._store = store
        self._policy = policy
        self._capacity: int = settings.CHATBE_WRITER_QUEUE
        self._batch_size: int = settings.CHATBE_WRITER_BATCH
        self._waiting: list[_Entry] = []
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._in_flight = False
        self._stopped = False
        self._flight_began = 0.0
        self._away_until = 0.0
        self._alone_again = 0.0
        self.stored = self.batches = self.in_doubt = 0
        self._deadline: float = settings.CHATBE_SEND_DEADLINE
        self._watch: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop = asyncio.get_running_loop()
        # Asked once: a protocol is slow to check.
        self._on_loop = store if isinstance(store, LoopBackend) else None
        self._thread = (
            None if isinstance(store, LoopBackend) else _Thread(store, policy, self._loop, self._finish)
        )

    def submit(self, item: Item, done: Done) -> None:
        """Queue a message. Raises `Unavailable` at once when the queue is full, the database away, or all has ended."""
        now = time.monotonic()
        if self._stopped:
            raise Unavailable("This server is going.")
        if len(self._entries) >= self._capacity:
            raise Unavailable("Too much is waiting to be stored.")
        if now < self._away_until:
            raise Unavailable("The database does not answer.", retry_after=round(self._away_until - now, 3))
        key = (item.sender, item.client_id)
        entry = self._entries.get(key)
        if entry is not None:
            if entry.told:
                # Its sender was told `unavailable`, and it is still not known what became of it.
                raise Unavailable("The database does not answer.", retry_after=AWAY_PAUSE)
            if entry.followers is None:
                entry.followers = []
            entry.followers.append(done)
            return
        entry = self._entries[key] = _Entry(item, done, now + self._deadline)
        self._waiting.append(entry)
        if not self._in_flight:
            self._in_flight = True
            self._idle.clear()
            if self._watch is None:
                self._watch = self._loop.call_later(WATCH_PERIOD, self._expire)
            # The rest of this turn of the loop still gets into the batch.
            self._loop.call_soon(self._next)

    def samples(self) -> Iterator[Sample]:
        """What `/metrics` says of the writer."""
        yield Sample("counter", "messages_stored", "Messages that this process committed.", self.stored)
        yield Sample("counter", "batches_stored", "Transactions that they took.", self.batches)
        yield Sample(
            "counter", "messages_in_doubt", "Messages whose commit is unknown or failed.", self.in_doubt
        )
        yield Sample("gauge", "messages_waiting", "Messages that wait for their commit.", len(self._entries))

    async def stop(self) -> None:
        """Finish what was taken, then let go of the database."""
        while self._in_flight:
            await self._idle.wait()
        # In the same turn: whoever comes now, over HTTP, would wait for nobody.
        self._stopped = True
        if self._watch is not None:
            self._watch.cancel()
        if self._thread is None:
            self._store.close()
        else:
            await self._loop.run_in_executor(None, self._thread.stop)

    def _next(self) -> None:
        """Send the next batch to the thread, or rest."""
        if not self._waiting:
            self._in_flight = False
            self._idle.set()
            return
        first = self._waiting[0]
        self._flight_began = time.monotonic()
        if first.turns >= TURNS_UNTIL_ALONE and self._flight_began >= self._alone_again:
            self._alone_again = self._flight_began + ALONE_PAUSE
            conversation = first.item.conversation
            batch = [entry for entry in self._waiting if entry.item.conversation == conversation][
                : self._batch_size
            ]
            chosen = set(map(id, batch))
            self._waiting = [entry for entry in self._waiting if id(entry) not in chosen]
            self._store_batch(batch, wait=True)
        else:
            batch, self._waiting = self._waiting[: self._batch_size], self._waiting[self._batch_size :]
            self._store_batch(batch, wait=False)

    def _store_batch(self, batch: list[_Entry], *, wait: bool) -> None:
        if self._thread is not None:
            self._thread.put(batch, wait=wait)
            return
        steps = settling([entry.item for entry in batch])
        self._begin(next(steps), batch, steps, wait=wait)

    def _begin(self, request: Sequence[Item], batch: list[_Entry], steps: Settling, *, wait: bool) -> None:
        assert self._on_loop is not None  # noqa: S101 - else there is a thread
        self._on_loop.begin(
            request,
            now=clock.now(),
            policy=self._policy,
            wait=wait,
            done=lambda outcome: self._step(outcome, batch, steps, wait=wait),
        )

    def _step(self, outcome: Outcome, batch: list[_Entry], steps: Settling, *, wait: bool) -> None:
        try:
            request = steps.throw(outcome) if isinstance(outcome, Exception) else steps.send(outcome)
        except StopIteration as end:
            self._finish(batch, end.value)
        except Exception:
            # Nobody may wait for ever; whether the commit happened is not known.
            logger.exception("batch failed")
            self._finish(batch, [None] * len(batch))
        else:
            self._begin(request, batch, steps, wait=wait)

    def _finish(self, batch: list[_Entry], verdicts: Sequence[Verdict | None]) -> None:
        now = time.monotonic()
        self.batches += 1
        again: list[_Entry] = []
        # None at all: the database is away. Any other answer shows that it is back.
        self._away_until = now + AWAY_PAUSE if all(verdict is None for verdict in verdicts) else 0.0
        for entry, verdict in zip(batch, verdicts, strict=True):
            locked = verdict is not None and verdict.code == "locked"
            if locked and now < entry.deadline:
                entry.turns += 1
                again.append(entry)
                continue
            del self._entries[entry.item.sender, entry.item.client_id]
            if verdict is None:
                self.in_doubt += 1
            elif verdict.code == "ok":
                self.stored += 1
            self._tell(entry, None if locked else verdict)
        if again:
            self._put_back(again)
        if again and len(again) == len(self._waiting):
            self._loop.call_later(0.005, self._next)
        else:
            self._next()

    def _put_back(self, passed_over: list[_Entry]) -> None:
        """Let what is locked go behind all others, so that it holds up nobody, and in front of what follows it
        in its conversation, so that nothing overtakes it."""
        locked = {entry.item.conversation for entry in passed_over}
        others = [entry for entry in self._waiting if entry.item.conversation not in locked]
        following = [entry for entry in self._waiting if entry.item.conversation in locked]
        self._waiting = [*others, *passed_over, *following]

    def _expire(self) -> None:
        """Tell senders whose deadline has passed, while a batch may be stuck in the database.

        As long as one is, the database counts as away and nobody else has to wait for it.
        """
        self._watch = None
        if not self._in_flight:
            return
        self._watch = self._loop.call_later(WATCH_PERIOD, self._expire)
        now = time.monotonic()
        if now - self._flight_began >= self._deadline:
            self._away_until = now + WATCH_PERIOD + AWAY_PAUSE
        for entry in [entry for entry in self._entries.values() if entry.deadline <= now and not entry.told]:
            self._tell(entry, None)
            entry.told = True

    def _tell(self, entry: _Entry, verdict: Verdict | None) -> None:
        if entry.told:
            return
        for number, done in enumerate((entry.done, *(entry.followers or ()))):
            try:
                if number and verdict is not None and verdict.code == "ok":
                    done(replace(verdict, code="repeat"))
                else:
                    done(verdict)
            except Exception:
                logger.exception("the sender of a message cannot be told")


class _Thread:
    """Stores batches through a blocking backend, one after another."""

    def __init__(
        self,
        store: ThreadBackend,
        policy: str,
        loop: asyncio.AbstractEventLoop,
        finish: Callable[[list[_Entry], Sequence[Verdict | None]], None],
    ) -> None:
        self._store = store
        self._policy = policy
        self._loop = loop
        self._finish = finish
        self._requests: queue.SimpleQueue[tuple[list[_Entry], bool] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="chatbe-writer", daemon=True)
        self._thread.start()

    def put(self, batch: list[_Entry], *, wait: bool) -> None:
        """Store this batch next."""
        self._requests.put((batch, wait))

    def stop(self) -> None:
        """End when all is stored; blocking."""
        self._requests.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (request := self._requests.get()) is not None:
            batch, wait = request
            verdicts: list[Verdict | None]
            try:
                verdicts = settle(
                    self._store, [entry.item for entry in batch], policy=self._policy, wait=wait
                )
            except Exception:
                # Nobody may wait for ever; whether the commit happened is not known.
                logger.exception("batch failed")
                self._store.close()
                verdicts = [None] * len(batch)
            self._loop.call_soon_threadsafe(self._finish, batch, verdicts)
        self._store.close()
