from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hub.redis_server import RedisServer
from tests.presence.backends import Backend, MemoryBackend, RedisBackend


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture(params=[1, 2], ids=["one-host", "two-hosts"])
def redis_backend(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[RedisBackend]:
    # Databases of one server know nothing of each other, like hosts.
    backend = RedisBackend([f"redis://127.0.0.1:{redis_server.port}/{number}" for number in range(request.param)])
    yield backend
    backend.close()


@pytest.fixture(params=["memory", "redis", "redis-two-hosts"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    if request.param == "memory":
        yield MemoryBackend()
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    hosts = 2 if request.param == "redis-two-hosts" else 1
    redis = RedisBackend([f"redis://127.0.0.1:{server.port}/{number}" for number in range(hosts)])
    yield redis
    redis.close()
