"""How long to wait before coming back, so that many clients do not come in one wave."""

from __future__ import annotations

import random


class Backoff:
    """Exponential, with full jitter: each wait is uniform between a tenth and the whole of its bound."""

    def __init__(self, *, first: float, longest: float) -> None:
        """Bounds in seconds: of the first wait, and of any."""
        self._first = first
        self._longest = longest
        self._failures = 0

    def succeeded(self) -> None:
        """Begin anew."""
        self._failures = 0

    def next(self) -> float:
        """Seconds to wait after one more failure."""
        bound = min(self._longest, self._first * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return random.uniform(bound / 10, bound)  # noqa: S311 - jitter
