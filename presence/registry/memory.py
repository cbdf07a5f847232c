"""The registry of a single process, in its memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice

from chatbe.core.clock import moment
from presence.registry.base import (
    MICROSECONDS,
    Change,
    Changes,
    Cursor,
    Lease,
    PresenceRegistry,
    Status,
    Terms,
)

NEVER_SEEN = Status(online=False, version=0, last_seen=None)

_EPOCH = "memory"


class _Entry:
    """What is known of one user; times in Unix microseconds."""

    __slots__ = ("leases", "online", "seen", "version")

    def __init__(self) -> None:
        self.leases: dict[str, _Held] = {}
        self.online = False
        self.version = 0
        self.seen = 0


class _Held:
    """One lease."""

    __slots__ = ("expires", "session")

    def __init__(self, session: str, expires: int) -> None:
        self.session = session
        self.expires = expires


class MemoryRegistry(PresenceRegistry):
    """The contract in dictionaries. Only `statuses` may be called from other threads."""

    def __init__(self, terms: Terms, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives Unix seconds."""
        self._clock = clock
        self._lease = int(terms.lease * MICROSECONDS)
        self._grace = int(terms.grace * MICROSECONDS)
        self._claim = int(terms.claim * MICROSECONDS)
        self._retention = int(terms.retention * MICROSECONDS)
        self._version = 0
        self._trimmed = 0
        self._forget()

    def _forget(self) -> None:
        self._users: dict[str, _Entry] = {}
        self._log: dict[str, int] = {}
        """User → version, in rising order of versions."""
        self._changed: dict[str, int] = {}
        """User → the time from which the change may be taken."""
        self._ended: dict[str, int] = {}
        """Session that has ended → until when its leases are refused."""

    async def start(self) -> None:
        """Nothing to make ready."""

    async def close(self) -> None:
        """Forget everyone."""
        self._forget()

    async def connect(self, user: str, connection: str, session: str) -> bool:
        """See `PresenceRegistry`."""
        return self._register(user, connection, session, self._now())

    async def disconnect(self, user: str, connection: str) -> None:
        """See `PresenceRegistry`."""
        entry = self._users.get(user)
        held = entry.leases.get(connection) if entry is not None else None
        if entry is not None and held is not None:
            now = self._now()
            held.expires = min(held.expires, now + self._grace)
            entry.seen = now

    async def logout(self, user: str, session: str) -> bool:
        """See `PresenceRegistry`."""
        now = self._now()
        self._ended[session] = now + 2 * self._lease
        entry = self._users.get(user)
        if entry is None:
            return False
        dropped = [connection for connection, held in entry.leases.items() if held.session == session]
        for connection in dropped:
            del entry.leases[connection]
        if dropped:
            entry.seen = now
        return self._judge(user, entry, now)

    async def refresh(self, connections: Mapping[str, Lease]) -> set[str]:
        """See `PresenceRegistry`."""
        now = self._now()
        expires = now + self._lease
        missing = set()
        for connection, (user, session) in connections.items():
            entry = self._users.get(user)
            held = entry.leases.get(connection) if entry is not None else None
            if held is not None:
                held.expires = expires
            else:
                missing.add(connection)
                self._register(user, connection, session, now)
        return missing

    async def sweep(self, limit: int) -> int:
        """See `PresenceRegistry`."""
        now = self._now()
        expired = (
            (user, entry, connection, held)
            for user, entry in self._users.items()
            for connection, held in entry.leases.items()
            if held.expires <= now
        )
        taken = list(islice(expired, limit))
        for user, entry, connection, held in taken:
            del entry.leases[connection]
            entry.seen = max(entry.seen, held.expires - self._lease)
            self._judge(user, entry, now)
        self._trim(now)
        return len(taken)

    async def take_changed(self, limit: int) -> list[Change]:
        """See `PresenceRegistry`."""
        now = self._now()
        users = list(islice((user for user, since in self._changed.items() if since <= now), limit))
        for user in users:
            self._changed[user] = now + self._claim
        return [Change(user, _status(self._users[user])) for user in users]

    async def confirm(self, changes: Iterable[Change]) -> None:
        """See `PresenceRegistry`."""
        for user, status in changes:
            entry = self._users.get(user)
            if entry is not None and entry.version == status.version:
                self._changed.pop(user, None)

    async def read(self, users: Sequence[str]) -> dict[str, Status]:
        """See `PresenceRegistry`."""
        return self.statuses(users)

    async def changed_since(self, cursor: Cursor | None) -> Changes:
        """See `PresenceRegistry`."""
        present: Cursor = ((_EPOCH, self._version),)
        if cursor is None:
            return Changes([], present, complete=True)
        ((epoch, after),) = cursor
        if epoch != _EPOCH or after < self._trimmed:
            return Changes([], present, complete=False)
        users = []
        for user in reversed(self._log):
            if self._log[user] <= after:
                break
            users.append(user)
        changes = [Change(user, _status(self._users[user])) for user in reversed(users)]
        return Changes(changes, present, complete=True)

    def statuses(self, users: Iterable[str]) -> dict[str, Status]:
        """As `read`; from any thread."""
        known = self._users
        found = ((user, known.get(user)) for user in users)
        return {user: NEVER_SEEN if entry is None else _status(entry) for user, entry in found}

    # --- inner -------------------------------------------------------------------------------------

    def _now(self) -> int:
        return int(self._clock() * MICROSECONDS)

    def _register(self, user: str, connection: str, session: str, now: int) -> bool:
        if self._ended.get(session, 0) > now:
            return False
        entry = self._users.get(user)
        if entry is None:
            entry = self._users[user] = _Entry()
        entry.leases[connection] = _Held(session, now + self._lease)
        return self._judge(user, entry, now)

    def _judge(self, user: str, entry: _Entry, now: int) -> bool:
        """Bring `online` in line with the leases; returns whether it changed."""
        online = bool(entry.leases)
        if online == entry.online:
            return False
        entry.seen = now if online else entry.seen
        self._version = max(self._version + 1, now)
        # The version last: a thread that reads in between never has it with the old value.
        entry.online = online
        entry.version = self._version
        self._log.pop(user, None)
        self._log[user] = self._version
        self._changed[user] = now
        return True

    def _trim(self, now: int) -> None:
        """Forget what is older than the retention."""
        bound = now - self._retention
        while self._log and (oldest := next(iter(self._log.items())))[1] < bound:
            user, version = oldest
            del self._log[user]
            self._trimmed = version
            if not self._users[user].online:
                self._changed.pop(user, None)
                del self._users[user]
        for session in [session for session, until in self._ended.items() if until <= now]:
            del self._ended[session]


def _status(entry: _Entry) -> Status:
    return Status(entry.online, entry.version, moment(entry.seen))
