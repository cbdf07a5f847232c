"""Changes that the bus lost, and that no later event would reveal.

Every few seconds, and at once when the bus may have lost something, each process asks the
database what was committed since its last question: by transaction, not by time. What it finds
and has not seen is read and sent on; so are changes of rights (see `changelog.sql`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from django.conf import settings
from django.db import connection

from accounts import selectors as accounts
from chatbe.core import clock, ids
from chatbe.core.errors import Unavailable
from chatbe.hub import fanout
from chatbe.wire import frames
from chatbe.wire.codes import CloseCode
from messaging import stream
from messaging.models import Membership, Message
from messaging.services import Mark, tell_lost_marks

if TYPE_CHECKING:
    from chatbe.hub import registry
    from chatbe.hub.consumer import SocketConsumer
    from chatbe.hub.node import Node

logger = logging.getLogger("messaging.tails")

KEPT_SECONDS = 600.0
"""Rows of the log live at least so long; a process that did not ask for half of it begins afresh."""
SLOWEST_COMMIT = timedelta(seconds=60)
"""What was made before a question is committed, or never, within so long; another server's clock may differ by less."""

ASK = """
    SELECT pg_current_snapshot()::text, pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
           pg_snapshot_xmax(pg_current_snapshot())::text::bigint, (SELECT value FROM messaging_epoch LIMIT 1)"""

SINCE = """
    SELECT l.conversations::text[], l.heads, l.opened::text[], l.users::text[], l.marks
      FROM messaging_change l
     WHERE l.xid >= pg_snapshot_xmin(%s::pg_snapshot)
       AND NOT pg_visible_in_snapshot(l.xid, %s::pg_snapshot)"""


@dataclass(slots=True)
class Found:
    """The answer to one question."""

    snapshot: str
    xmin: int
    xmax: int
    epoch: str
    heads: dict[str, int] = field(default_factory=dict)
    opened: set[str] = field(default_factory=set)
    users: set[str] = field(default_factory=set)
    marks: list[Mark] = field(default_factory=list)


def ask(since: str) -> Found:
    """What was committed and not visible in the snapshot `since` (none for an empty one); blocking, PostgreSQL.

    The new snapshot is taken first, so what commits between the two statements is found twice
    rather than not at all.
    """
    with connection.cursor() as cursor:
        cursor.execute(ASK)
        found = Found(*cursor.fetchone())
        if since:
            cursor.execute(SINCE, [since, since])
            for conversations, heads, opened, users, marks in cursor.fetchall():
                for conversation, head in zip(conversations or (), heads or (), strict=True):
                    found.heads[conversation] = max(head, found.heads.get(conversation, 0))
                found.opened.update(opened or ())
                found.users.update(users or ())
                found.marks.extend(Mark(*mark) for mark in (json.loads(marks) if marks else ()))
    return found


def forget(before: int) -> None:
    """Delete the log's rows of transactions before `before`; blocking."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM messaging_change WHERE xid < %s::text::xid8", [str(before)])


def opened_since(moment: datetime) -> list[tuple[str, str]]:
    """Conversations whose first message was taken in after `moment`, each with each of its members; blocking.

    For a process that is alone with its database: ids are of its own clock, and in the order of time.
    """
    firsts = Message.objects.filter(id__gte=ids.uuid7_floor(moment), seq=1)
    rows = Membership.objects.filter(active=True, conversation__in=firsts.values("conversation"))
    return [
        (str(conversation), str(user))
        for conversation, user in rows.values_list("conversation_id", "user_id")
    ]


def members_here(conversations: list[str], users: list[str]) -> list[tuple[str, str]]:
    """Which of `users` are members of which of `conversations`; blocking."""
    rows = Membership.objects.filter(
        conversation__in=map(UUID, conversations), user__in=map(UUID, users), active=True
    )
    return [
        (str(conversation), str(user))
        for conversation, user in rows.values_list("conversation_id", "user_id")
    ]


class TailPart:
    """Asks, for as long as the node lives (`chatbe.hub.registry.Part`)."""

    handlers: Mapping[type[frames.Command], registry.Handler]

    def __init__(self) -> None:
        self.handlers = {}

    async def start(self, node: Node) -> None:
        """Take the first snapshot, before the first socket."""
        self.node = node
        self._wake = asyncio.Event()
        self._snapshot = ""
        self._xmax = 0
        self._asked_at = time.monotonic()
        self._old: list[tuple[float, int]] = []
        self._looked_at = clock.now()
        if connection.vendor == "postgresql":
            found = await node.call(ask, "")
            self._snapshot, self._xmax = found.snapshot, found.xmax
        self._task = node.spawn(self._run())

    async def stop(self) -> None:
        """Stop asking."""
        self._task.cancel()

    def arriving(self, socket: SocketConsumer) -> None:
        """Nothing to ask for."""

    async def connected(self, socket: SocketConsumer) -> None:
        """Nothing to send."""

    def disconnected(self, socket: SocketConsumer) -> None:
        """Nothing is kept per socket."""

    def caught_up(self, socket: SocketConsumer) -> None:
        """Nothing to send."""

    def rights_changed(self, user: str) -> None:
        """It is this part that finds it."""

    def bus_lost(self) -> None:
        """Ask at once."""
        self._wake.set()

    def database_replaced(self) -> None:
        """It is this part that finds it."""

    async def _run(self) -> None:
        period = settings.CHATBE_TAIL_PERIOD
        while True:
            with contextlib.suppress(TimeoutError):
                # Jittered, so that many processes do not ask together.
                await asyncio.wait_for(self._wake.wait(), period * random.uniform(0.8, 1.2))  # noqa: S311
            self._wake.clear()
            try:
                await self._look()
            except Unavailable:
                logger.warning("cannot ask what changed", extra={"node": self.node.id})
            except Exception:
                # Nothing may end the asking: the same question is asked again.
                logger.exception("failed to ask what changed", extra={"node": self.node.id})

    async def _look(self) -> None:
        hub = self.node.hub
        if connection.vendor != "postgresql":
            moment = clock.now()
            if await self.node.call(stream.epoch) != self.node.epoch or await hub.is_ahead():
                await self._database_went_back()
            for conversation, user in await self.node.call(opened_since, self._looked_at - SLOWEST_COMMIT):
                hub.discover(conversation, user)
            await hub.check_all()
            hub.forget_heard()
            self._looked_at = moment
            return
        now = time.monotonic()
        found = await self.node.call(ask, self._snapshot)
        for conversation, head in found.heads.items():
            hub.note_head(conversation, head)
        if found.epoch != self.node.epoch or found.xmax < self._xmax or await hub.is_ahead():
            await self._database_went_back()
        elif now - self._asked_at > KEPT_SECONDS / 2:
            # The log may have been cut meanwhile: of what was opened, of rights and of marks nothing else tells.
            logger.warning("could not ask for too long", extra={"node": self.node.id})
            await self._begin_afresh()
        if found.opened and hub.users:
            # One member may follow it here while the news of it was lost for the other.
            for conversation, user in await self.node.call(members_here, list(found.opened), list(hub.users)):
                hub.discover(conversation, user)
        tell_lost_marks(hub, found.marks)
        changed = [user for user in found.users if user in hub.users]
        if changed:
            await self._tell_who_added(changed, since=clock.now() - timedelta(seconds=now - self._asked_at))
        hub.forget_heard()
        for user in changed:
            await self._rights_changed(user)
        # Only now: had something failed, the same question is asked again.
        self._snapshot, self._xmax, self._asked_at = found.snapshot, found.xmax, now
        self._old.append((now, found.xmin))
        if self._old[0][0] < now - KEPT_SECONDS:
            await self.node.call(forget, self._old[0][1])
            self._old = [entry for entry in self._old if entry[0] >= now - KEPT_SECONDS]

    async def _tell_who_added(self, users: list[str], *, since: datetime) -> None:
        """Tell local users of those who have added them since a moment, if it was not heard."""
        hub = self.node.hub
        targets = [UUID(user) for user in users]
        for added in await self.node.call(
            accounts.contacts_added, targets=targets, since=since - SLOWEST_COMMIT
        ):
            user = str(added.target)
            if not hub.has_heard(user, added.identity):
                event = frames.Contact(username=added.username, added=True, mutual=added.mutual)
                hub.apply(fanout.user_envelope(user, event, identity=added.identity))

    async def _rights_changed(self, user: str) -> None:
        """Judge the user's sockets again, and let the parts look at contacts and memberships."""
        local = self.node.hub.users.get(user)
        for socket in list(local.sockets) if local is not None else ():
            await socket.judge_session()
        for part in self.node.parts:
            part.rights_changed(user)

    async def _database_went_back(self) -> None:
        logger.error("the database went back", extra={"node": self.node.id})
        await self._begin_afresh()

    async def _begin_afresh(self) -> None:
        """Nothing that this process knows of the database holds: close every socket, forget every position."""
        self.node.epoch = await self.node.call(stream.epoch)
        self._old.clear()
        for socket in list(self.node.hub.sockets.values()):
            socket.close(CloseCode.RESTARTING)
        self.node.hub.forget_all()
        for part in self.node.parts:
            part.database_replaced()
