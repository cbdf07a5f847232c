"""Makes the segments of PostgreSQL's search, behind the writer's back and at its leisure.

A search needs none to be right: what has no segment is read directly. So this never hurries: each
process spends at most a small share of one core on it, and one process at a time works. Nothing is
noted while messages are sent; what there is to do is found by comparing, conversation by conversation.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from django.conf import settings
from django.db import connection, transaction

from chatbe.core.errors import Unavailable
from chatbe.wire import frames

if TYPE_CHECKING:
    from chatbe.hub import registry
    from chatbe.hub.consumer import SocketConsumer
    from chatbe.hub.node import Node

logger = logging.getLogger("messaging.search")

MESSAGES_AT_ONCE: Final = 2_048
"""So many messages go into segments in one transaction, which lasts some 30 ms."""
LOOK_PERIOD: Final = 10.0
"""Seconds between two looks for work, at least."""
CONVERSATIONS_AT_ONCE: Final = 1_000
_LEADER: Final = 7_260

# Full segments at once; the rest of a conversation when it has been quiet for an hour, unless it is little.
FIND = """
    SELECT c.id, c.last_seq - d.done < 256 OR c.active_at < now() - interval '1 hour'
      FROM messaging_conversation c
     CROSS JOIN LATERAL (
           SELECT greatest(c.purged_seq, (SELECT max(s.last_seq) FROM messaging_segment s
                                           WHERE s.conversation_id = c.id)) AS done) d
     WHERE c.last_seq - d.done >= %s
       AND (c.last_seq - d.done >= 256 OR c.active_at < now() - interval '1 hour' OR %s)
     LIMIT %s"""


def work(
    *, least: int = 32, quiet: bool = False, limit: int = CONVERSATIONS_AT_ONCE
) -> list[tuple[str, bool]]:
    """Conversations with at least `least` messages that want segments, and whether all of them do; blocking.

    With `quiet`, also those where something was said a moment ago. None while another process looks.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [_LEADER])
        if not cursor.fetchone()[0]:
            return []
        cursor.execute(FIND, [least, quiet, limit])
        return [(str(conversation), everything) for conversation, everything in cursor.fetchall()]


def index_next(conversation: str, *, everything: bool, most: int = MESSAGES_AT_ONCE) -> int:
    """Make the next segments of a conversation; returns how many messages they have. Blocking."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT messaging_index_next(%s::uuid, %s, %s)", [conversation, everything, most])
        count: int = cursor.fetchone()[0]
        return count


def index_all(*, progress: Callable[[int], object] = lambda _: None) -> int:
    """Make all segments that are wanted now, at full speed; returns how many messages they have. Blocking.

    For after an import or an upgrade. Safe beside servers and other runs of itself.
    """
    total = 0
    while todo := work(least=1, quiet=True):
        before = total
        for conversation, _ in todo:
            while count := index_next(conversation, everything=True):
                total += count
                progress(count)
        if total == before:
            # Others have made what was found.
            break
    return total


class IndexingPart:
    """Indexes, for as long as the node lives (`chatbe.hub.registry.Part`)."""

    handlers: Mapping[type[frames.Command], registry.Handler]

    def __init__(self) -> None:
        self.handlers = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self, node: Node) -> None:
        """Begin, where there is something to do."""
        self.node = node
        self._share: float = settings.CHATBE_SEARCH_SHARE
        if connection.vendor == "postgresql" and self._share > 0:
            self._task = node.spawn(self._run())

    async def stop(self) -> None:
        """Stop; what was begun in the database is finished there."""
        if self._task is not None:
            self._task.cancel()

    def arriving(self, socket: SocketConsumer) -> None:
        """Nothing to send."""

    async def connected(self, socket: SocketConsumer) -> None:
        """Nothing to send."""

    def disconnected(self, socket: SocketConsumer) -> None:
        """Nothing is kept per socket."""

    def database_replaced(self) -> None:
        """Nothing is kept of the database."""

    def caught_up(self, socket: SocketConsumer) -> None:
        """Nothing to send."""

    def rights_changed(self, user: str) -> None:
        """Rights are judged by each search."""

    def bus_lost(self) -> None:
        """The bus has no part in this."""

    async def _run(self) -> None:
        while True:
            pause = LOOK_PERIOD
            try:
                began = time.monotonic()
                todo = await self.node.call(work)
                pause = max(pause, self._rest(began))
                for conversation, everything in todo:
                    count = MESSAGES_AT_ONCE
                    while count == MESSAGES_AT_ONCE:
                        began = time.monotonic()
                        count = await self.node.call(index_next, conversation, everything=everything)
                        await asyncio.sleep(self._rest(began))
            except Unavailable:
                logger.warning("cannot index", extra={"node": self.node.id})
            except Exception:
                # The search goes on without; the next look tries again.
                logger.exception("failed to index", extra={"node": self.node.id})
            await asyncio.sleep(pause)

    def _rest(self, began: float) -> float:
        """How long to rest after working since `began`, so that the work keeps to its share of the time."""
        return (time.monotonic() - began) * (1 / self._share - 1)
