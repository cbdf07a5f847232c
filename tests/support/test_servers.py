from __future__ import annotations

import psycopg
import pytest
import redis

from tests.support.servers import (
    PostgresServer,
    RedisServer,
    ServerError,
    database_create,
    database_drop,
    database_url,
)

pytestmark = pytest.mark.pure


def test_postgres_keeps_what_was_committed_when_it_is_killed() -> None:
    with PostgresServer() as server:
        with psycopg.connect(server.url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS number")
        first = server.pid
        server.kill()
        assert not server.running
        with pytest.raises(ServerError):
            _ = server.pid
        server.start()
        assert server.pid != first
        with psycopg.connect(server.socket_url) as connection:
            assert connection.execute("SELECT number FROM kept").fetchone() == (1,)
            assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
        folder = server.folder
    assert not folder.exists()


def test_databases_are_copied_from_a_template_and_dropped_in_use() -> None:
    with PostgresServer() as server:
        template = database_create(server.url, "template")
        with psycopg.connect(template) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS number")
        copy = database_create(server.url, "copy", template="template")
        assert copy == database_url(server.url, "copy")
        with psycopg.connect(copy, autocommit=True) as connection:
            assert connection.execute("SELECT number FROM kept").fetchone() == (1,)
            database_drop(server.url, "copy")
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@127.0.0.1:5432/chatbe?sslmode=disable",
        "postgresql://me:secret@/chatbe?sslmode=disable",
    ],
)
def test_a_database_url_changes_only_its_database(url: str) -> None:
    assert database_url(url, "other") == url.replace("/chatbe?", "/other?")


@pytest.mark.parametrize("persistent", [False, True])
def test_redis_keeps_what_it_held_only_when_it_is_persistent(persistent: bool) -> None:
    with RedisServer(persistent=persistent) as server:
        with redis.Redis.from_url(server.url) as client:
            client.set("key", "value")
        server.kill()
        server.start()
        with redis.Redis.from_url(server.socket_url) as client:
            assert client.get("key") == (b"value" if persistent else None)
        assert server.log.exists()
        folder = server.folder
    assert not folder.exists()


def test_a_server_that_cannot_start_says_why() -> None:
    with RedisServer() as one, pytest.raises(ServerError, match="in use"), RedisServer(port=one.port):
        pass
