"""Who is online, as all server processes agree on it: the contract that every registry keeps.

A connection takes a *lease* and its process renews it; a user is online while any of their leases
is left. Only `connect`, `refresh`, `sweep` and `logout` change whether a user is online, each
change gets a higher *version* than every change before it on the same host, and is remembered in
two ways: as *changed* until some process has confirmed that it was told, and in a log that
`changed_since` reads, for whoever may have missed it.

The registry keeps levels, not edges: repeating any call leads to the same state, so a caller that
does not know whether a call came through simply goes on (a lease that got lost is registered
again by the next `refresh`, one that was not given back runs out).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, NamedTuple

from chatbe.core.errors import Unavailable

MICROSECONDS = 1_000_000


class PresenceUnavailable(Unavailable):
    """The registry's host does not answer; what was asked of it may or may not have been done."""

    default_detail: ClassVar[str] = "Presence does not answer right now."


class Status(NamedTuple):
    """Whether a user is online.

    `version` rises with every change; 0 belongs to a user whom the registry does not know, who is
    offline. `last_seen` is the last moment at which the registry knows that the user came or was
    there: while online, of the last coming or going of one of their connections.
    """

    online: bool
    version: int
    last_seen: datetime | None


class Change(NamedTuple):
    """A user's status as of its last change; what lay before it is superseded."""

    user: str
    status: Status


Cursor = tuple[tuple[str, int], ...]
"""A place in the log of changes: for each host its epoch and a version."""


class Changes(NamedTuple):
    """What changed after a cursor, and the cursor to go on from.

    Not `complete`: the log does not reach back to the cursor, or a host lost its memory, so that
    versions told before mean nothing. The caller compares all it knows by `read`.
    """

    changes: list[Change]
    cursor: Cursor
    complete: bool


class Lease(NamedTuple):
    """Whose connection it is, and of which session."""

    user: str
    session: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The durations of a registry, in seconds; all processes must use the same."""

    lease: float = 20.0
    """A connection counts as alive for so long after it was last refreshed."""
    grace: float = 3.0
    """After a disconnect the user has so long to come back unnoticed; at most `lease`."""
    claim: float = 5.0
    """Changes that one process took and did not confirm are given to another after so long."""
    retention: float = 86_400.0
    """Users who went offline, and entries of the log, are forgotten after so long."""

    def __post_init__(self) -> None:
        if not 0 < self.grace <= self.lease:
            raise ValueError("The grace must be above zero and at most the lease.")
        if self.claim <= 0 or self.retention < self.lease:
            raise ValueError("The claim must be above zero, and the retention at least the lease.")


class PresenceRegistry(ABC):
    """Leases, statuses and changes. Used on one event loop.

    Users, connections and sessions are non-empty texts without white space. Every method may raise
    `PresenceUnavailable`, within seconds. With several hosts, methods that ask all of them raise it
    only when none answers, unless they say otherwise.
    """

    @abstractmethod
    async def start(self) -> None:
        """Make ready. Needs no host to answer yet."""

    @abstractmethod
    async def close(self) -> None:
        """Finish what is under way and let go of every resource."""

    @abstractmethod
    async def connect(self, user: str, connection: str, session: str) -> bool:
        """Take a lease, unless the session has ended; returns whether this made the user online."""

    @abstractmethod
    async def disconnect(self, user: str, connection: str) -> None:
        """Shorten the lease to now + grace; it is never lengthened, and need not exist."""

    @abstractmethod
    async def logout(self, user: str, session: str) -> bool:
        """Drop the leases of a session that has ended, and take no new one of it.

        The user is offline at once if no lease of another session is left; returns whether this
        made them so.
        """

    @abstractmethod
    async def refresh(self, connections: Mapping[str, Lease]) -> set[str]:
        """Renew the leases of all these connections in one go. Returns those that were missing.

        The missing ones are registered as new, as by `connect`. Raises `PresenceUnavailable` when
        any host did not answer, after the others have been served.
        """

    @abstractmethod
    async def sweep(self, limit: int) -> int:
        """Take the expired leases (at most `limit` per host), each by one process only.

        Users who have none left are offline from now on. Returns how many leases were taken. While
        a host that lost its memory waits for all processes to register again, it takes none.
        """

    @abstractmethod
    async def take_changed(self, limit: int) -> list[Change]:
        """Changes that nobody has confirmed (at most `limit` per host), for this caller to tell.

        Others are not given the same ones until `claim` seconds have passed.
        """

    @abstractmethod
    async def confirm(self, changes: Iterable[Change]) -> None:
        """These were told: forget them, except where the user has changed again since."""

    @abstractmethod
    async def read(self, users: Sequence[str]) -> dict[str, Status]:
        """The present status of each of `users`.

        Left out are those of whom nothing can be said now: of a host that does not answer (while
        another does), or that lost its memory less than a lease ago.
        """

    @abstractmethod
    async def changed_since(self, cursor: Cursor | None) -> Changes:
        """All changes after `cursor`, each user's latest only; None asks for the present cursor.

        A host that does not answer keeps its place in the cursor.
        """
