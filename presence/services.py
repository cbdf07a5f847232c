"""Presence in one server process: keeps its leases, tells transitions, and tells its sockets the truth.

A transition travels in three steps, each of which may be lost or doubled without harm:

1. The registry records it (`connect`, `logout`, or `sweep` by whichever process comes first).
2. Some process takes it, publishes it to all processes, and confirms. If it dies before that,
   another process is given the same transition.
3. Each process compares it with what it told its sockets last, and tells the difference. What did
   not arrive is found by `changed_since`, every period and whenever the bus was interrupted.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol
from uuid import UUID

from django.db import connections, transaction
from django.db.models import Case, Value, When

from accounts.models import User
from chatbe.core import clock
from chatbe.core.errors import Unavailable
from chatbe.wire import frames
from presence.registry.base import Change, Cursor, Lease, PresenceRegistry, PresenceUnavailable, Status

logger = logging.getLogger("presence")

BATCH: Final = 500
"""Users, leases or changes in one request."""
MERGE_SECONDS: Final = 0.02
"""Transitions of so short a time are told together."""
FRIENDS_LISTED: Final = 1_500
"""So many are named in one `friends` frame, which thereby stays under the limit of a frame."""

UNHEARD: Final = Status(online=False, version=-1, last_seen=None)
"""Stands in for a user of whom the registry could say nothing; whatever it says later is newer."""


class MutualContact(Protocol):
    """One of a user's mutual contacts, as `accounts.selectors.mutual_contacts` gives them."""

    @property
    def key(self) -> str:
        """Who: their id as text."""

    @property
    def username(self) -> str:
        """Their name on the wire."""

    @property
    def last_seen_at(self) -> datetime | None:
        """When they were last online, as far as the database knows."""


class Bus(Protocol):
    """The way to all server processes; may lose what is given to it."""

    def publish(self, changes: Sequence[Change]) -> None:
        """Pass `changes` to `PresenceService.on_bus` of every process, this one included."""


class Sockets(Protocol):
    """The sockets of this process."""

    def send(self, connections: Iterable[str], events: Sequence[frames.Event]) -> None:
        """Send events, in order, to those of `connections` that are still there; encoded once."""


class Directory(Protocol):
    """What the database knows. Raises `chatbe.core.errors.Unavailable` when it does not answer."""

    def mutual_contacts(self, user: str) -> Awaitable[Sequence[MutualContact]]:
        """Those with whom `user` has added each other, and neither blocks the other."""

    async def store_last_seen(self, seen: Mapping[str, datetime]) -> None:
        """Keep when users were last online; never moved back."""


class _Watched:
    """A user whose status some local user is told."""

    __slots__ = ("_told", "status", "stored_seen", "user", "username", "watchers")

    def __init__(self, user: str, username: str, stored_seen: datetime | None) -> None:
        self.user = user
        self.username = username
        self.stored_seen = stored_seen
        self.status: Status | None = None
        """What every told socket of every watcher knows; None until the registry was asked."""
        self.watchers: set[_LocalUser] = set()
        self._told: tuple[datetime | None, str | None] = (None, None)

    @property
    def last_seen(self) -> str | None:
        """In the form of the wire; made once, for all who are told."""
        seen = (self.status.last_seen if self.status is not None else None) or self.stored_seen
        if self._told[0] is not seen:
            self._told = (seen, clock.optional_timestamp(seen))
        return self._told[1]


class _LocalUser:
    """A user with sockets in this process."""

    __slots__ = ("connections", "contacts", "revision", "user")

    def __init__(self, user: str) -> None:
        self.user = user
        self.connections: dict[str, bool] = {}
        """Connection → whether it was sent `friends`; only such ones are told changes."""
        self.contacts: dict[str, _Watched] = {}
        self.revision = 0
        """Raised when the contacts have changed in the database."""

    @property
    def told(self) -> list[str]:
        """The connections that are told changes."""
        return [connection for connection, introduced in self.connections.items() if introduced]


_Reading = tuple[int, Awaitable[Sequence[MutualContact]]]
"""The user's `revision` before it, and the contacts that are being read."""


class PresenceService:
    """See the module. Lives on one event loop; nothing here blocks it."""

    def __init__(
        self,
        *,
        registry: PresenceRegistry,
        bus: Bus,
        sockets: Sockets,
        directory: Directory,
        refresh_every: float,
        sweep_every: float,
    ) -> None:
        """Times in seconds; `refresh_every` at most a third of the lease, so that two refreshes may fail."""
        self._registry = registry
        self._bus = bus
        self._sockets = sockets
        self._directory = directory
        self._refresh_every = refresh_every
        self._sweep_every = sweep_every
        self._leases: dict[str, Lease] = {}
        self._users: dict[str, _LocalUser] = {}
        self._arriving: dict[str, tuple[_LocalUser, int, asyncio.Future[Sequence[MutualContact]]]] = {}
        """Connections that are not admitted yet, each with the reading of its user's contacts."""
        self._watched: dict[str, _Watched] = {}
        self._gathered: dict[str, list[frames.Event]] | None = None
        """While changes that came together are taken in: what each connection is told."""
        self._cursor: Cursor | None = None
        self._compare_due = False
        self._versions_void = False
        self._untold = asyncio.Event()
        self._hurry = asyncio.Event()
        self._unstored: dict[str, Change] = {}
        self._to_store = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._errands: set[asyncio.Task[None]] = set()
        self._refresh_due = False
        self._contacts_due: set[str] = set()
        self._draining = False
        self._left_while_draining: set[str] = set()

    # --- life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to refresh, sweep, tell and store."""
        await self._registry.start()
        self._hurry.set()
        self._loops = [
            asyncio.create_task(self._forever(self.keep, self._hurry, self._refresh_every)),
            asyncio.create_task(self._forever(self.tell, self._untold, self._sweep_every)),
            asyncio.create_task(self._forever(self.store, self._to_store, self._sweep_every)),
        ]

    def drain(self) -> None:
        """From now on leases of sockets that go are left to run out.

        The clients of a server that is restarted come back within that time, and their contacts
        hear nothing of it.
        """
        self._draining = True

    async def stop(self) -> None:
        """End everything; whoever is still here was last seen now."""
        self._draining = True
        for task in self._loops:
            task.cancel()
        await asyncio.gather(*self._loops, *self._errands, return_exceptions=True)
        seen = dict.fromkeys((*self._users, *self._left_while_draining), clock.now())
        try:
            if seen:
                await self._directory.store_last_seen(seen)
            await self.store()
        except Unavailable as error:
            logger.warning("presence did not finish what it had to store", extra={"reason": error.detail})
        self._leases.clear()
        self._users.clear()
        self._watched.clear()
        await self._registry.close()

    async def _forever(
        self, work: Callable[[], Awaitable[None]], hurry: asyncio.Event, period: float
    ) -> None:
        """Do `work` every `period` seconds, or when told to hurry.

        The period is spread a little, so that processes do not act in step.
        """
        patience = period
        while True:
            try:
                async with asyncio.timeout(patience * random.uniform(0.9, 1.0)):  # noqa: S311 - jitter
                    await hurry.wait()
                await asyncio.sleep(MERGE_SECONDS)
            except TimeoutError:
                pass
            hurry.clear()
            try:
                await work()
            except Unavailable:
                # Whoever does not answer has been logged; the state is kept, and tried again soon.
                patience = min(period, self._sweep_every)
            except Exception:
                logger.exception("presence failed at one of its periodic duties and goes on")
                patience = period
            else:
                patience = period

    # --- sockets -----------------------------------------------------------------------------------

    def arriving(self, *, user: str, connection: str) -> None:
        """A socket may be admitted: begin to read its user's contacts. `connected` or `disconnected` follows."""
        local = self._local(user, connection)
        reading = asyncio.ensure_future(self._directory.mutual_contacts(user))
        self._arriving[connection] = (local, local.revision, reading)

    async def connected(self, *, user: str, connection: str, session: str) -> None:
        """A socket was admitted: take its lease, and send it `friends`.

        Raises `Unavailable` when the database does not answer; without the registry the last known
        statuses are told.
        """
        local = self._local(user, connection)
        self._leases[connection] = Lease(user, session)
        early = self._arriving.pop(connection, None)
        await self._load_contacts(local, begun=None if early is None else early[1:])
        if connection not in local.connections:
            return
        registering = asyncio.create_task(self._register(connection, local.user, session))
        # In the same turn of the loop, so that both go to the registry in one write.
        await self._ask(local.contacts.values())
        await registering
        if connection in local.connections:
            self._introduce(local, connection)

    def disconnected(self, connection: str) -> None:
        """A socket is gone; repeatable."""
        early = self._arriving.pop(connection, None)
        if early is not None:
            local, _, reading = early
            if not reading.cancel() and not reading.cancelled():
                # Nobody wants to know any more, not even why it failed.
                reading.exception()
            self._leave(local, connection)
        lease = self._forget(connection)
        if lease is None:
            return
        if self._draining:
            self._left_while_draining.add(lease.user)
        else:
            self._errand(self._registry.disconnect(lease.user, connection))

    def logged_out(self, *, user: str, session: str | None) -> None:
        """A session has ended (None: all of the user's): its sockets no longer make the user online."""
        local = self._users.get(user)
        if local is None:
            return
        leases = {
            connection: self._leases[connection]
            for connection in local.connections
            if connection in self._leases
        }
        ended = {
            connection: lease.session
            for connection, lease in leases.items()
            if session in (None, lease.session)
        }
        for connection in ended:
            self._forget(connection)
        for each in set(ended.values()):
            self._errand(self._end_session(user, each))

    def contacts_changed(self, user: str) -> None:
        """A user's contacts or blocks have changed in the database: tell their sockets what follows."""
        local = self._users.get(user)
        if local is not None:
            local.revision += 1
            self._errand(self._reload_contacts(local))

    def friends_again(self, connection: str) -> None:
        """Send `friends` to a socket that may have missed something."""
        lease = self._leases.get(connection)
        local = self._users.get(lease.user) if lease is not None else None
        if local is not None and local.connections[connection]:
            self._introduce(local, connection)

    # --- bus ---------------------------------------------------------------------------------------

    def on_bus(self, changes: Iterable[Change]) -> None:
        """Some process has published these."""
        gathered = self._gathered = {}
        try:
            for user, status in changes:
                watched = self._watched.get(user)
                if watched is not None:
                    self._apply(watched, status)
        finally:
            self._gathered = None
        # Who watches the same people is told the same, and what one is told goes in one piece.
        audiences: dict[tuple[int, ...], tuple[list[str], list[frames.Event]]] = {}
        for connection, events in gathered.items():
            audiences.setdefault(tuple(map(id, events)), ([], events))[0].append(connection)
        for audience, events in audiences.values():
            self._sockets.send(audience, events)

    def bus_interrupted(self) -> None:
        """The bus may have lost something: ask the registry what has changed."""
        self._hurry.set()

    # --- periodic work -----------------------------------------------------------------------------

    async def keep(self) -> None:
        """Refresh all leases of this process and hear what has changed, in one go."""
        for user in self._contacts_due:
            self.contacts_changed(user)
        refreshing, hearing = await asyncio.gather(
            self._registry.refresh(dict(self._leases)), self._catch_up(), return_exceptions=True
        )
        for failure in (refreshing, hearing):
            if isinstance(failure, BaseException):
                raise failure
        if refreshing:
            self._untold.set()

    async def tell(self) -> None:
        """Take expired leases, and publish every transition that nobody has told yet."""
        while await self._registry.sweep(BATCH) >= BATCH:
            pass
        if self._refresh_due:
            self._refresh_due = False
            self._hurry.set()
        while changes := await self._registry.take_changed(BATCH):
            self._bus.publish(changes)
            departures = [change for change in changes if not change.status.online]
            # Someone who went offline is confirmed when the time is stored, so that it is not lost either.
            self._unstored.update((change.user, change) for change in departures)
            if departures:
                self._to_store.set()
            if arrivals := [change for change in changes if change.status.online]:
                await self._registry.confirm(arrivals)

    async def store(self) -> None:
        """Keep in the database when those who went offline were last seen."""
        while self._unstored:
            batch = list(self._unstored.values())[:BATCH]
            await self._directory.store_last_seen(
                {user: status.last_seen for user, status in batch if status.last_seen is not None}
            )
            for change in batch:
                if self._unstored.get(change.user) is change:
                    del self._unstored[change.user]
            await self._registry.confirm(batch)

    async def _catch_up(self) -> None:
        begins = self._cursor is None
        changes, self._cursor, complete = await self._registry.changed_since(self._cursor)
        if begins or not complete:
            # What was told before, if anything, may stem from before a loss of memory.
            self._compare_due = self._versions_void = True
        self.on_bus(changes)
        if self._compare_due:
            await self._compare()

    async def _compare(self) -> None:
        """Compare all that was told with the registry; due until it could say something of everyone."""
        if self._versions_void:
            for watched in self._watched.values():
                if watched.status is not None:
                    watched.status = watched.status._replace(version=UNHEARD.version)
        users = list(self._watched)
        heard = 0
        for start in range(0, len(users), BATCH):
            statuses = await self._registry.read(users[start : start + BATCH])
            heard += len(statuses)
            self.on_bus(Change(user, status) for user, status in statuses.items())
        if heard == len(users):
            self._compare_due = self._versions_void = False

    # --- inner: connections ------------------------------------------------------------------------

    async def _register(self, connection: str, user: str, session: str) -> None:
        try:
            if await self._registry.connect(user, connection, session):
                self._untold.set()
        except PresenceUnavailable:
            # A refresh, once the registry answers again, finds it missing and registers it.
            self._refresh_due = True

    async def _end_session(self, user: str, session: str) -> None:
        if await self._registry.logout(user, session):
            self._untold.set()

    def _forget(self, connection: str) -> Lease | None:
        """Let go of a connection, and of its user with the last one."""
        lease = self._leases.pop(connection, None)
        if lease is None:
            return None
        self._leave(self._users[lease.user], connection)
        return lease

    def _local(self, user: str, connection: str) -> _LocalUser:
        """The user, with this connection among theirs."""
        local = self._users.get(user)
        if local is None:
            local = self._users[user] = _LocalUser(user)
        local.connections.setdefault(connection, False)
        return local

    def _leave(self, local: _LocalUser, connection: str) -> None:
        """The user has lost a connection; with the last one they are forgotten."""
        del local.connections[connection]
        if not local.connections:
            del self._users[local.user]
            self._contacts_due.discard(local.user)
            for watched in local.contacts.values():
                self._unwatch(local, watched)
            local.contacts = {}

    def _errand(self, work: Any) -> None:
        """Do something in the background; the periodic work makes good what does not succeed."""
        task = asyncio.get_running_loop().create_task(_tolerant(work))
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    # --- inner: contacts ---------------------------------------------------------------------------

    async def _reload_contacts(self, local: _LocalUser) -> None:
        # Due until it has succeeded, whatever fails before.
        self._contacts_due.add(local.user)
        await self._load_contacts(local)
        self._contacts_due.discard(local.user)
        await self._ask([watched for watched in local.contacts.values() if watched.status is None])

    async def _load_contacts(self, local: _LocalUser, *, begun: _Reading | None = None) -> None:
        """Bring a local user's contacts to the state of the database; their sockets are told what follows.

        A reading that has `begun` counts, unless there was news since.
        """
        while True:
            revision, reading = begun or (local.revision, self._directory.mutual_contacts(local.user))
            begun = None
            contacts = await reading
            if revision == local.revision:
                break
        if self._users.get(local.user) is not local:
            return
        present = {contact.key: contact for contact in contacts}
        for user in [user for user in local.contacts if user not in present]:
            watched = local.contacts.pop(user)
            self._unwatch(local, watched)
            gone = frames.Presence(username=watched.username, online=None, last_seen=None)
            self._send(local.told, gone)
        for user, contact in present.items():
            if user not in local.contacts:
                self._watch(local, user, contact)

    def _watch(self, local: _LocalUser, user: str, contact: MutualContact) -> None:
        watched = self._watched.get(user)
        if watched is None:
            watched = self._watched[user] = _Watched(user, contact.username, contact.last_seen_at)
        watched.watchers.add(local)
        local.contacts[user] = watched
        if watched.status is not None:
            self._send(local.told, _presence(watched))

    def _unwatch(self, local: _LocalUser, watched: _Watched) -> None:
        watched.watchers.discard(local)
        if not watched.watchers:
            self._watched.pop(watched.user, None)

    # --- inner: statuses ---------------------------------------------------------------------------

    async def _ask(self, contacts: Collection[_Watched]) -> None:
        """Ask the registry for the present statuses. Of whom it is silent the last known counts, else offline."""
        asked = {watched.user: watched for watched in contacts}
        if not asked:
            return
        try:
            statuses = await self._registry.read(list(asked))
        except PresenceUnavailable:
            statuses = {}
        if len(statuses) < len(asked):
            self._compare_due = True
        for user, watched in asked.items():
            status = statuses.get(user)
            if status is not None or watched.status is None:
                self._apply(watched, status or UNHEARD)

    def _apply(self, watched: _Watched, status: Status) -> None:
        """Take a status in; if it is newer and another value, every told socket that watches is told."""
        known = watched.status
        if known is not None and status.version <= known.version:
            return
        watched.status = status
        if known is None or known.online != status.online:
            self._send(
                [connection for local in watched.watchers for connection in local.told], _presence(watched)
            )

    def _send(self, connections: list[str], event: frames.Event) -> None:
        if self._gathered is not None:
            for connection in connections:
                self._gathered.setdefault(connection, []).append(event)
        elif connections:
            self._sockets.send(connections, (event,))

    def _introduce(self, local: _LocalUser, connection: str) -> None:
        """Send `friends`, and from here on changes: in one turn of the loop, so that none falls between."""
        contacts = sorted(local.contacts.values(), key=_present_first)
        listed, rest = contacts[:FRIENDS_LISTED], contacts[FRIENDS_LISTED:]
        friends = frames.Friends(
            total=len(contacts),
            online=sum(_is_online(watched) for watched in contacts),
            friends=[
                frames.Friend(
                    username=watched.username, online=_is_online(watched), last_seen=watched.last_seen
                )
                for watched in listed
            ],
        )
        more = [_presence(watched) for watched in rest if _is_online(watched)]
        self._sockets.send([connection], [friends, *more])
        local.connections[connection] = True


def _is_online(watched: _Watched) -> bool:
    return watched.status is not None and watched.status.online


def _present_first(watched: _Watched) -> tuple[bool, str]:
    return (not _is_online(watched), watched.username)


def _presence(watched: _Watched) -> frames.Presence:
    return frames.Presence(username=watched.username, online=_is_online(watched), last_seen=watched.last_seen)


async def _tolerant(work: Awaitable[None]) -> None:
    try:
        await work
    except Unavailable as error:
        logger.info("presence goes on later", extra={"reason": error.detail})


# The rows are locked in one order, so that two processes cannot wait for each other.
LAST_SEEN = """
    UPDATE accounts_user u SET last_seen_at = later.seen
      FROM (SELECT x.id, told.seen
              FROM unnest(%s::uuid[], %s::timestamptz[]) AS told(id, seen) JOIN accounts_user x ON x.id = told.id
             WHERE x.last_seen_at IS NULL OR x.last_seen_at < told.seen
             ORDER BY x.id FOR NO KEY UPDATE OF x) later
     WHERE u.id = later.id"""


def last_seen_store(*, seen: Mapping[UUID, datetime]) -> None:
    """Keep when users were last online, where that is later than what is stored. Blocking."""
    database = connections["default"]
    if database.vendor == "postgresql":
        with database.cursor() as cursor:
            cursor.execute(LAST_SEEN, [list(seen), list(seen.values())])
        return
    with transaction.atomic():
        rows = User.objects.filter(pk__in=seen).order_by("pk").values_list("pk", "last_seen_at")
        later = {pk: seen[pk] for pk, stored in rows if stored is None or stored < seen[pk]}
        if later:
            moments = Case(*(When(pk=pk, then=Value(moment)) for pk, moment in later.items()))
            User.objects.filter(pk__in=later).update(last_seen_at=moments)
