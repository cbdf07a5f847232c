"""Presence between people on real servers, which are killed, paused, drained and robbed of their Redis."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from redis import Redis

from tests.support.backends import Backend
from tests.support.people import Frame, Person, Socket, befriend, close_all, new_name
from tests.support.processes import AppServer, Deployment
from tests.support.servers import RedisServer

SHORT = {"CHATBE_PRESENCE_LEASE": "1.5", "CHATBE_PRESENCE_GRACE": "0.5", "CHATBE_PRESENCE_SWEEP": "0.1"}
# So long that a test would fail of impatience if it had to wait for it.
LONG = {"CHATBE_PRESENCE_LEASE": "120", "CHATBE_PRESENCE_GRACE": "100", "CHATBE_PRESENCE_SWEEP": "0.1"}


@pytest.fixture(autouse=True)
def connections() -> Iterator[None]:
    yield
    close_all()


@pytest.fixture(scope="module")
def shared(
    request: pytest.FixtureRequest, migrated_deployment: Deployment, backend: Backend
) -> Iterator[tuple[Deployment, list[AppServer]]]:
    """Two servers on one database and Redis; embedded, one and the same. Each test has people of its own."""
    with migrated_deployment.copy() as deployment:
        deployment.environment.update(LONG if request.param == "long" else SHORT)
        first = deployment.server()
        yield deployment, [first, deployment.server() if backend == "cluster" else first]


@pytest.fixture
def servers(shared: tuple[Deployment, list[AppServer]]) -> list[AppServer]:
    for server in shared[1]:
        # Whoever killed it or let it stand still may have failed before it was mended.
        if server.running:
            server.resume()
        else:
            server.start()
    return shared[1]


short = pytest.mark.parametrize("shared", ["short"], indirect=True)
long = pytest.mark.parametrize("shared", ["long"], indirect=True)


def meet(servers: list[AppServer]) -> tuple[Person, Person]:
    """Alice on the first server, bob on the second, contacts of each other."""
    alice, bob = Person(servers[0].url, new_name("alice")), Person(servers[1].url, new_name("bob"))
    befriend(alice, bob)
    return alice, bob


def told(socket: Socket) -> list[tuple[str, bool | None]]:
    """What a socket was told of others since `friends`."""
    return [(frame["username"], frame["online"]) for frame in socket.of_type("presence")]


def expect(socket: Socket, person: Person, *, online: bool | None) -> Frame:
    return socket.expect(
        "presence", lambda frame: frame["username"] == person.username and frame["online"] is online
    )


@short
def test_coming_and_going_is_told_once(servers: list[AppServer]) -> None:
    alice, bob = meet(servers)
    one = alice.socket()
    assert one.frames[1] == {
        "type": "friends",
        "total": 1,
        "online": 0,
        "friends": [{"username": bob.username, "online": False, "last_seen": None}],
    }
    other = bob.socket()
    (friend,) = other.frames[1]["friends"]
    assert friend["online"] is True
    expect(one, bob, online=True)
    (contact,) = alice.http.get("/v1/contacts").json()["results"]
    assert (contact["mutual"], contact["online"]) == (True, True)

    other.close()
    frame = expect(one, bob, online=False)
    (contact,) = alice.http.get("/v1/contacts").json()["results"]
    assert (contact["online"], contact["last_seen"]) == (False, frame["last_seen"])
    bob.socket()
    expect(one, bob, online=True)
    assert told(one) == [(bob.username, True), (bob.username, False), (bob.username, True)]


@long
def test_logout_is_told_at_once_but_not_while_another_device_is_there(servers: list[AppServer]) -> None:
    alice, bob = meet(servers)
    laptop = bob.socket()
    phone = Person(servers[0].url, bob.username, register=False)
    on_phone = phone.socket()
    one = alice.socket()
    phone.http.post("/v1/auth/logout")
    assert on_phone.closed() == 4001
    bob.http.post("/v1/auth/logout")
    assert laptop.closed() == 4001
    expect(one, bob, online=False)
    assert told(one) == [(bob.username, False)]


@long
def test_blocks_and_removals_hide_both_ways(servers: list[AppServer]) -> None:
    alice, bob = meet(servers)
    one, other = alice.socket(), bob.socket()
    expect(one, bob, online=True)
    bob.http.put(f"/v1/blocks/{alice.username}")
    assert expect(one, bob, online=None)["last_seen"] is None
    expect(other, alice, online=None)
    assert alice.http.get("/v1/contacts").json()["results"][0]["online"] is None
    assert alice.socket().frames[1]["friends"] == []
    bob.http.delete(f"/v1/blocks/{alice.username}")
    befriend(alice, bob)
    expect(one, bob, online=True)
    expect(other, alice, online=True)
    alice.http.delete(f"/v1/contacts/{bob.username}")
    expect(one, bob, online=None)
    expect(other, alice, online=None)


@pytest.mark.cluster
@short
def test_the_users_of_a_killed_server_are_told_offline_once(servers: list[AppServer]) -> None:
    alice, bob = meet(servers)
    one, _ = alice.socket(), bob.socket()
    expect(one, bob, online=True)
    servers[1].kill()
    frame = expect(one, bob, online=False)
    (contact,) = alice.http.get("/v1/contacts").json()["results"]
    assert contact["last_seen"] == frame["last_seen"]
    # Whatever would come twice comes before what happens next.
    servers[1].start()
    bob.socket(servers[1].url)
    expect(one, bob, online=True)
    assert told(one) == [(bob.username, True), (bob.username, False), (bob.username, True)]


@pytest.mark.cluster
@short
def test_a_paused_server_comes_back_into_the_truth(servers: list[AppServer]) -> None:
    alice, bob = meet(servers)
    one, other = alice.socket(), bob.socket()
    expect(one, bob, online=True)
    servers[1].pause()
    expect(one, bob, online=False)
    one.close()
    servers[1].resume()
    # Alice's going was published while that server stood still.
    expect(other, alice, online=False)
    two = alice.socket()
    if not two.frames[1]["friends"][0]["online"]:
        expect(two, bob, online=True)
    expect(other, alice, online=True)


@pytest.mark.cluster
def test_a_rolling_restart_is_told_to_nobody(deployment: Deployment) -> None:
    # The lease must outlast the drain and the way back.
    deployment.environment.update(SHORT | {"CHATBE_PRESENCE_LEASE": "15", "CHATBE_PRESENCE_GRACE": "0.2"})
    servers = [deployment.server(), deployment.server()]
    alice, bob = meet(servers)
    one, other = alice.socket(), bob.socket()
    expect(one, bob, online=True)
    servers[1].terminate()
    assert other.closed() == 1012
    bye = other.of_type("bye")[0]
    again = Socket(
        servers[0].socket_url, query=f"?otp={bye['otp']}&username={bob.username}", username=bob.username
    )
    again.expect("friends")
    # A change that comes after all that might have been told of bob.
    carol = Person(servers[0].url, new_name("carol"))
    befriend(alice, carol)
    carol.socket()
    expect(one, carol, online=True)
    assert [entry for entry in told(one) if entry[0] == bob.username] == [(bob.username, True)]


@pytest.mark.cluster
@short
def test_an_emptied_redis_makes_nobody_offline(
    servers: list[AppServer], shared: tuple[Deployment, list[AppServer]]
) -> None:
    alice, bob = meet(servers)
    one, other = alice.socket(), bob.socket()
    expect(one, bob, online=True)
    with Redis.from_url(os.environ["REDIS_URL"], protocol=2) as redis:
        redis.delete(*redis.keys(f"{shared[0].environment['CHATBE_REDIS_PREFIX']}:presence:*"))
    carol = Person(servers[1].url, new_name("carol"))
    befriend(alice, carol)
    on_carol = carol.socket()
    expect(one, carol, online=True)
    on_carol.close()
    # Told only when all servers have had a lease's time to register their users again.
    expect(one, carol, online=False)
    other.close()
    expect(one, bob, online=False)
    assert [entry for entry in told(one) if entry[0] == bob.username] == [
        (bob.username, True),
        (bob.username, False),
    ]


@pytest.mark.cluster
def test_a_redis_that_was_away_ends_in_the_truth(migrated_deployment: Deployment) -> None:
    with (
        RedisServer() as redis,
        Deployment(
            database_url=os.environ["DATABASE_URL"],
            redis_url=redis.url,
            settings=SHORT,
            template=migrated_deployment,
        ) as deployment,
    ):
        servers = [deployment.server(), deployment.server()]
        alice, bob = meet(servers)
        carol = Person(servers[1].url, new_name("carol"))
        befriend(alice, carol)
        one, on_bob = alice.socket(), bob.socket()
        on_carol = carol.socket()
        expect(one, bob, online=True)
        expect(one, carol, online=True)
        redis.kill()
        on_bob.close()
        on_bob.closed()
        redis.start()
        expect(one, bob, online=False)
        on_carol.close()
        expect(one, carol, online=False)
        assert told(one) == [
            (bob.username, True),
            (carol.username, True),
            (bob.username, False),
            (carol.username, False),
        ]
