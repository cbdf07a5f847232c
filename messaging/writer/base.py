"""What goes into a batch and what comes out; the contract of both kinds of backends.

A backend stores a batch of messages in one transaction and has a verdict per item, in order. See
docs/architecture.md, "The writer".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable


@dataclass(slots=True)
class Item:
    """One message to store. Ids are UUIDs in their canonical text form; `id` is new for each item."""

    id: str
    conversation: str
    sender: str
    client_id: str
    body: str
    reply_to: int | None
    names: tuple[str, ...] = ()
    """Whom the body may mention; see `messaging.mentions`."""
    attachments: str | None = None
    """The contract's attachment objects, in JSON."""


@dataclass(slots=True)
class Verdict:
    """What became of an item.

    `code`: `ok` (stored, `seq` and `rev` are its), `repeat` (the sender's `client_id` was stored
    before: everything here is of that message), `locked` (the conversation is in another
    transaction's hands: try again), or an error code that says why it is refused (`conflict`: the
    `client_id` is that of what the server said about a change of the sender's).
    """

    code: str
    seq: int = 0
    rev: int = 0
    id: str = ""
    conversation: str = ""
    created_at: str = ""
    mentions: str = ""
    """The names of those whom it mentions, with blanks between."""


class BatchFailed(Exception):
    """The batch as a whole cannot be stored, and nothing of it was: an item in it is poisoned."""


class BatchConflicts(Exception):
    """The transaction was rolled back for another's sake (deadlock, serialization): run it again."""


class DatabaseAway(Exception):
    """The database does not answer, or takes no writes. Whether the batch was committed is unknown."""


Outcome = list[Verdict] | Exception
"""Verdicts, or a `BatchFailed`, `BatchConflicts` or `DatabaseAway`."""


class ThreadBackend(Protocol):
    """Stores batches, blocking; used by one thread at a time."""

    def commit(self, batch: Sequence[Item], *, now: datetime, policy: str, wait: bool) -> list[Verdict]:
        """Store a batch; no two items have the same (sender, client_id).

        Without `wait`, a conversation that is locked elsewhere is passed over (`locked`); with
        it, it is waited for, but not for ever. Raises `BatchFailed`, `BatchConflicts` or
        `DatabaseAway`.
        """

    def close(self) -> None:
        """Let go of the connection."""


@runtime_checkable
class LoopBackend(Protocol):
    """Stores batches without blocking; used on one event loop, one batch at a time."""

    def begin(
        self,
        batch: Sequence[Item],
        *,
        now: datetime,
        policy: str,
        wait: bool,
        done: Callable[[Outcome], None],
    ) -> None:
        """As `ThreadBackend.commit`; `done` is called later, on the loop, with what came of it."""

    def close(self) -> None:
        """Let go of the connection."""


Backend = ThreadBackend | LoopBackend
