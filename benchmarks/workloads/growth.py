"""The same work in a database that grows."""

from __future__ import annotations

from benchmarks.targets import Target
from benchmarks.workloads.messages import PAIRS, Pairs

FIRST = 10_000
EACH = 500
"""Messages in each conversation of the mass, after the first `PAIRS` of them, which have `FIRST` in all."""


def grow(target: Target, *, start: int, total: int) -> int:
    """Bring the database from `start` conversations to `total` messages; returns how many conversations it has."""
    stop = PAIRS + max(total - FIRST, 0) // EACH
    if start < PAIRS:
        target.populate("mass", start=0, stop=PAIRS, each=FIRST // PAIRS)
    if stop > PAIRS:
        target.populate("mass", start=max(start, PAIRS), stop=stop, each=EACH)
    # A database that has grown by itself has its search index; what an import leaves to the servers
    # would be made in the background of the large stages only.
    target.populate("search_index")
    target.settle()
    return stop


def active(conversations: int) -> Pairs:
    """Pairs who write, spread over all that there are."""
    return [
        (f"ga{place}", f"gb{place}") for place in range(0, conversations, max(conversations // PAIRS, 1))
    ][:PAIRS]
