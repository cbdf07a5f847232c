"""Real servers on a PostgreSQL and a Redis of their own, which freeze: everything stays connected, nothing answers."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from tests.support.people import PATIENCE, Frame, Person, Socket, befriend, close_all, new_name
from tests.support.processes import AppServer, Deployment
from tests.support.servers import PostgresServer, RedisServer

pytestmark = pytest.mark.cluster

DEADLINE = 1.0


@dataclass
class Stand:
    """Two servers and what they stand on."""

    postgres: PostgresServer
    redis: RedisServer
    servers: tuple[AppServer, AppServer]


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with (
        PostgresServer() as postgres,
        RedisServer() as redis,
        Deployment(
            database_url=postgres.url,
            redis_url=redis.url,
            settings={
                "CHATBE_RATE_LIMITS": "off",
                "CHATBE_SEND_DEADLINE": str(DEADLINE),
                "CHATBE_STATEMENT_TIMEOUT": "1",
                "CHATBE_TAIL_PERIOD": "0.3",
            },
        ) as deployment,
    ):
        deployment.manage("migrate", "--verbosity", "0")
        yield Stand(postgres, redis, (deployment.server(), deployment.server()))


@pytest.fixture
def sockets(stand: Stand) -> Iterator[tuple[Socket, Socket]]:
    """Alice on the first server and bob on the second, friends who have spoken."""
    alice = Person(stand.servers[0].url, new_name("alice"))
    bob = Person(stand.servers[1].url, new_name("bob"))
    befriend(alice, bob)
    a, b = alice.live(), bob.live()
    a.message(bob.username, "0")
    b.expect("message")
    yield a, b
    close_all()


def send(socket: Socket, to: str, body: str, client_id: str) -> None:
    socket.send(type="send", ref=body, to={"username": to}, client_id=client_id, body=body)


def answer_in(socket: Socket, ref: str) -> tuple[Frame, float]:
    began = time.monotonic()
    return socket.answer(ref), time.monotonic() - began


def heard(socket: Socket) -> list[str]:
    return [frame["message"]["body"] for frame in socket.of_type("message")]


def test_a_database_that_freezes_is_unavailable_and_loses_nothing(
    stand: Stand, sockets: tuple[Socket, Socket]
) -> None:
    alice, bob = sockets
    first, second, third = (str(uuid.uuid4()) for _ in range(3))
    stand.postgres.pause()
    try:
        send(alice, bob.username, "1", first)
        error, took = answer_in(alice, "1")
        assert (error["code"], error["retry_after"] > 0) == ("unavailable", True)
        assert took >= DEADLINE * 0.8
        for number in range(5):
            # While it is known to be away: at once, for those who ask again and for others.
            send(alice, bob.username, f"2.{number}", second)
            error, took = answer_in(alice, f"2.{number}")
            assert error["code"] == "unavailable"
            assert took < DEADLINE / 2
            send(alice, bob.username, f"1.{number}", first)
            assert answer_in(alice, f"1.{number}")[1] < DEADLINE / 2
            time.sleep(0.4)
        alice.ask_time()
    finally:
        stand.postgres.resume()
    acks = {}
    for name, client_id in (("1", first), ("2", second), ("3", third)):
        deadline = time.monotonic() + 20
        while True:
            ref = f"{name} {uuid.uuid4().hex}"
            alice.send(type="send", ref=ref, to={"username": bob.username}, client_id=client_id, body=name)
            answer = alice.answer(ref)
            if answer["type"] == "ack":
                acks[name] = answer
                break
            assert answer["code"] == "unavailable"
            assert time.monotonic() < deadline
            time.sleep(answer["retry_after"])
    assert [ack["seq"] for ack in acks.values()] == [2, 3, 4]
    bob.expect("message", lambda frame: frame["message"]["seq"] == 4)
    assert [frame["message"]["seq"] for frame in bob.of_type("message")] == [1, 2, 3, 4]


def test_http_and_changes_wait_for_a_frozen_database_no_longer_than_they_say(
    stand: Stand, sockets: tuple[Socket, Socket]
) -> None:
    alice, _ = sockets
    conversation = next(iter(alice.of_type("ack")))["conversation"]
    url = stand.servers[0].url
    stand.postgres.pause()
    try:
        alice.send(type="typing", ref="r", conversation=conversation, on=True)
        ready = httpx.get(f"{url}/readyz", timeout=PATIENCE)
        assert (ready.status_code, ready.json()["checks"]["database"]) == (503, "unavailable")
        login = {"username": "nobody", "password": "whatever it is"}
        answer = httpx.post(f"{url}/v1/auth/login", json=login, timeout=PATIENCE)
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert answer.headers["Retry-After"]
        assert alice.answer("r")["code"] == "unavailable"
    finally:
        stand.postgres.resume()
    deadline = time.monotonic() + PATIENCE
    while httpx.get(f"{url}/readyz").status_code != 200:
        assert time.monotonic() < deadline


def test_a_redis_that_freezes_delays_only_what_crosses(stand: Stand, sockets: tuple[Socket, Socket]) -> None:
    alice, bob = sockets
    stand.redis.pause()
    try:
        took = []
        for number in range(1, 4):
            began = time.monotonic()
            alice.message(bob.username, str(number), ref=f"m{number}")
            took.append(time.monotonic() - began)
        assert max(took) < 2.0, took
        # Nothing came over the bus; the question to the database finds it.
        bob.expect("message", lambda frame: frame["message"]["body"] == "3")
    finally:
        stand.redis.resume()
    alice.message(bob.username, "4", ref="m4")
    bob.expect("message", lambda frame: frame["message"]["body"] == "4")
    bob.ask_time()
    assert heard(bob) == ["0", "1", "2", "3", "4"]


def test_a_paused_server_holds_up_nobody(stand: Stand, sockets: tuple[Socket, Socket]) -> None:
    """It may stop in the middle of a batch: no lock is held across a round trip."""
    alice, bob = sockets
    for number in range(300):
        send(alice, bob.username, str(number), str(uuid.uuid4()))
    alice.expect("ack")
    stand.servers[0].pause()
    try:
        for number in range(5):
            # Its ack comes while the other server stands still.
            bob.message(alice.username, f"b{number}", ref=f"b{number}")
    finally:
        stand.servers[0].resume()
    while len(alice.of_type("ack")) < 301 or len(alice.of_type("message")) < 5:
        alice.receive()
    revs = [frame["rev"] if frame["type"] == "ack" else frame["message"]["rev"] for frame in alice.frames
            if frame["type"] in {"ack", "message"}]  # fmt: skip
    assert revs == list(range(1, 307))
    # Perhaps all of it came while bob waited for his own acks.
    while len(heard(bob)) < 301:
        bob.receive()
    assert heard(bob) == ["0", *(str(number) for number in range(300))]
