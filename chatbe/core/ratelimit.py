"""Token buckets: bursts up to a capacity, a steady rate after that. Time is passed in."""


class TokenBucket:
    """`capacity` tokens at most, refilled at `rate` tokens per second. Not thread-safe.

    The algorithm is the token bucket of RFC 2697's family, kept as (tokens, last time)
    and refilled when asked, so that an idle bucket costs nothing.
    """

    __slots__ = ("_capacity", "_rate", "_tokens", "_updated")

    def __init__(self, *, capacity: float, rate: float, now: float) -> None:
        self._capacity = capacity
        self._rate = rate
        self._tokens = capacity
        self._updated = now

    def take(self, *, now: float, tokens: float = 1.0) -> float:
        """Take `tokens`; returns 0.0 when they were there, else the seconds until they will be."""
        available = min(self._capacity, self._tokens + (now - self._updated) * self._rate)
        self._updated = now
        if available >= tokens:
            self._tokens = available - tokens
            return 0.0
        self._tokens = available
        return (tokens - available) / self._rate
