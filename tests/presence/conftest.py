from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.presence.worlds import MemoryWorld, RedisWorld, World
from tests.support.servers import RedisServer


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """For all tests here; each has keys of its own."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """For a test that kills or pauses it."""
    with RedisServer() as server:
        yield server


@pytest.fixture(params=[1, 2], ids=["one-host", "two-hosts"])
def redis_world(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[RedisWorld]:
    world = RedisWorld.on(redis_server, hosts=request.param)
    yield world
    world.close()


@pytest.fixture(params=["memory", "redis", "redis-two-hosts"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "memory":
        yield MemoryWorld()
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    redis_world = RedisWorld.on(server, hosts=2 if request.param == "redis-two-hosts" else 1)
    yield redis_world
    redis_world.close()
