"""The registries behind one face, for one suite: made, aged, and robbed of their memory."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Protocol

from redis import Redis

from presence.registry.base import MICROSECONDS, PresenceRegistry, Terms
from presence.registry.memory import MemoryRegistry
from presence.registry.redis import RedisRegistry
from tests.support.servers import RedisServer

# So long that nothing runs out by itself while a test runs: time passes by `age` alone.
TERMS = Terms(lease=1000.0, grace=100.0, claim=300.0, retention=10_000_000.0)


class World(Protocol):
    def registry(self) -> PresenceRegistry:
        """One process's registry; all of a world share what is registered."""

    def age(self, seconds: float) -> None:
        """Let `seconds` pass."""

    def now(self) -> datetime:
        """The registry's present."""

    def clear(self) -> None:
        """Make it as new."""


class MemoryWorld:
    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._passed = 0.0
        self._registry = MemoryRegistry(TERMS, clock=lambda: time.time() + self._passed)

    def registry(self) -> PresenceRegistry:
        return self._registry

    def age(self, seconds: float) -> None:
        self._passed += seconds

    def now(self) -> datetime:
        return datetime.fromtimestamp(time.time() + self._passed, UTC)


# Instead of moving Redis' clock, everything that it has is moved into the past.
_AGE = """
local by = tonumber(ARGV[2])
local function text(number) return string.format('%.0f', number) end
for _, name in ipairs({'leases', 'changed'}) do
  local entries = redis.call('ZRANGE', ARGV[1] .. name, 0, -1, 'WITHSCORES')
  for i = 1, #entries, 2 do
    redis.call('ZADD', ARGV[1] .. name, text(entries[i + 1] - by), entries[i])
  end
end
for _, field in ipairs({'born', 'settled'}) do
  local value = redis.call('HGET', ARGV[1] .. 'meta', field)
  if value then redis.call('HSET', ARGV[1] .. 'meta', field, text(value - by)) end
end
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. 'user:*')) do
  redis.call('HSET', key, 'seen', text(redis.call('HGET', key, 'seen') - by))
end
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. '*:*')) do
  local left = redis.call('PTTL', key)
  if left > by / 1000 then
    redis.call('PEXPIRE', key, text(left - by / 1000))
  elseif left > 0 then
    redis.call('DEL', key)
  end
end
"""


class RedisWorld:
    _prefixes = itertools.count()

    @classmethod
    def on(cls, server: RedisServer, *, hosts: int) -> RedisWorld:
        """On databases of one server, which know nothing of each other, like hosts."""
        return cls([server.url.removesuffix("0") + str(number) for number in range(hosts)])

    def __init__(self, urls: Sequence[str]) -> None:
        self.urls = urls
        self.clients = [Redis.from_url(url, protocol=2) for url in urls]
        self.clear()

    def clear(self) -> None:
        self.prefix = f"test-{next(self._prefixes)}"

    def registry(self, terms: Terms = TERMS, timeout: float = 5.0) -> RedisRegistry:
        return RedisRegistry(self.urls, terms, prefix=self.prefix, timeout=timeout)

    def age(self, seconds: float) -> None:
        for client in self.clients:
            client.eval(_AGE, 0, f"{self.prefix}:presence:", int(seconds * MICROSECONDS))

    def now(self) -> datetime:
        return datetime.now(UTC)

    def lose_memory(self) -> None:
        for client in self.clients:
            client.flushdb()

    def close(self) -> None:
        for client in self.clients:
            client.close()
