"""Who is online, shared by all server processes: `base` is the contract, `memory` and `redis` keep it.

The functions here choose between the two by the settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from presence.registry.base import PresenceRegistry, Status, Terms
from presence.registry.memory import MemoryRegistry
from presence.registry.redis import RedisReader, RedisRegistry

READ_TIMEOUT = 1.0
"""Seconds that a thread waits for a Redis host."""


def terms() -> Terms:
    """The durations that the settings ask for. Raises `ImproperlyConfigured`."""
    if settings.CHATBE_PRESENCE_SWEEP <= 0:
        raise ImproperlyConfigured("CHATBE_PRESENCE_SWEEP must be above zero.")
    try:
        return Terms(lease=settings.CHATBE_PRESENCE_LEASE, grace=settings.CHATBE_PRESENCE_GRACE)
    except ValueError as error:
        raise ImproperlyConfigured(f"CHATBE_PRESENCE_LEASE, CHATBE_PRESENCE_GRACE: {error}") from error


@cache
def _memory() -> MemoryRegistry:
    return MemoryRegistry(terms())


@cache
def _reader() -> RedisReader:
    return RedisReader(
        settings.REDIS_URLS, terms(), prefix=settings.CHATBE_REDIS_PREFIX, timeout=READ_TIMEOUT
    )


def build() -> PresenceRegistry:
    """A registry for one event loop: on Redis, or without it this process's memory."""
    if settings.REDIS_URLS:
        return RedisRegistry(settings.REDIS_URLS, terms(), prefix=settings.CHATBE_REDIS_PREFIX)
    return _memory()


def read(users: Sequence[str]) -> dict[str, Status]:
    """The status of each of `users`, from any thread; left out are those of whom nothing can be said now."""
    return _reader().read(users) if settings.REDIS_URLS else _memory().statuses(users)
