"""The client against a real server: it comes back, and nothing is lost on the way."""

from __future__ import annotations

import asyncio
import os
import secrets
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple

import httpx
import pytest
import pytest_asyncio
from chatbe_client import (
    Client,
    Connected,
    MessageReceived,
    Options,
    Refused,
    SignedOut,
    StartedAfresh,
    Tokens,
)
from chatbe_client.backoff import Backoff

from tests.faults.proxy import Link
from tests.support.people import PASSWORD
from tests.support.processes import AppServer, Deployment

PATIENCE = 20.0
QUICK = Options(first_backoff=0.05, longest_backoff=0.2, retry_after=0.1, http_timeout=PATIENCE)


class Pair(NamedTuple):
    """The usernames of two people, contacts of each other."""

    alice: str
    bob: str


@pytest.fixture(scope="module")
def own_deployment(migrated_deployment: Deployment, backend: str) -> Iterator[Deployment]:
    """A chatbe for these tests together: none of them needs it empty."""
    names = {"database_url": "DATABASE_URL", "redis_url": "REDIS_URL"} if backend == "cluster" else {}
    with Deployment(
        **{argument: os.environ[name] for argument, name in names.items()},
        settings={"CHATBE_RATE_LIMITS": "off"},
        template=migrated_deployment,
    ) as deployment:
        yield deployment


@pytest.fixture(scope="module")
def server(own_deployment: Deployment) -> AppServer:
    return own_deployment.server()


@pytest.fixture
def pair(server: AppServer) -> Pair:
    mark = secrets.token_hex(4)
    pair = Pair(f"alice-{mark}", f"bob-{mark}")
    with httpx.Client(base_url=server.url, timeout=PATIENCE) as http:
        tokens = []
        for name in pair:
            fields = {"username": name, "email": f"{name}@example.org", "password": PASSWORD}
            assert http.post("/v1/auth/register", json=fields).status_code == 201
            del fields["email"]
            tokens.append(http.post("/v1/auth/login", json=fields).json()["access_token"])
        for token, other in zip(tokens, reversed(pair), strict=True):
            added = http.post(
                "/v1/contacts", json={"username": other}, headers={"Authorization": f"Bearer {token}"}
            )
            assert added.status_code == 201
    return pair


@pytest_asyncio.fixture
async def link(server: AppServer) -> AsyncIterator[Link]:
    link = await Link(server.port).open()
    yield link
    link.close()


def client_of(name: str, at: AppServer | Link, **options: Any) -> Client:
    return Client(f"http://127.0.0.1:{at.port}", name, PASSWORD, options=QUICK, **options)


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not reached():
            await asyncio.sleep(0.01)


def bodies(client: Client) -> list[str | None]:
    return [
        held.messages[seq].body
        for held in client.state.conversations.values()
        for seq in sorted(held.messages)
    ]


@pytest.mark.asyncio
async def test_two_clients_chat(pair: Pair, server: AppServer) -> None:
    async with client_of(pair.alice, server) as alice, client_of(pair.bob, server) as bob:
        ack = await alice.send("hello", to=pair.bob)
        assert (ack.seq, ack.duplicate) == (1, False)
        async with asyncio.timeout(PATIENCE):
            async for event in bob:
                if isinstance(event, MessageReceived):
                    assert (event.message.body, event.message.sender, event.new) == (
                        "hello",
                        pair.alice,
                        True,
                    )
                    break
        bob.mark(ack.conversation, read=1)
        await until(lambda: alice.state.conversations[ack.conversation].marks.get(pair.bob) == (1, 1))
        await until(lambda: alice.state.friends[pair.bob].online)
        assert [message.body for message in await bob.history(ack.conversation)] == ["hello"]


@pytest.mark.asyncio
async def test_what_is_sent_while_cut_off_arrives_once_and_in_order(
    pair: Pair, server: AppServer, link: Link
) -> None:
    async with client_of(pair.alice, link) as alice, client_of(pair.bob, server) as bob:
        await alice.send("0", to=pair.bob)
        acks = []
        for number in range(1, 61):
            acks.append(alice.submit(str(number), to=pair.bob))
            if number % 12 == 0:
                # Frames may be on their way, their acks, or neither.
                await asyncio.sleep(0.003)
                link.cut()
        async with asyncio.timeout(PATIENCE):
            settled = await asyncio.gather(*acks)
        assert [ack.seq for ack in settled] == list(range(2, 62))
        await until(lambda: len(bodies(bob)) == 61)
        await until(lambda: bodies(alice) == bodies(bob) == [str(number) for number in range(61)])
        assert alice.connections > 1


@pytest.mark.asyncio
async def test_whoever_was_away_is_told_what_was_missed(pair: Pair, server: AppServer) -> None:
    async with client_of(pair.alice, server) as alice, client_of(pair.bob, server) as bob:
        ack = await alice.send("before", to=pair.bob)
        await until(lambda: bodies(bob) == ["before"])
        bob.mark(ack.conversation, delivered=1)
        await bob.disconnect()
        for number in range(3):
            await alice.send(str(number), to=pair.bob)
        waiting = bob.submit("from afar", to=pair.alice)
        bob.start()
        assert (await asyncio.wait_for(waiting, PATIENCE)).seq == 5
        await until(lambda: bodies(bob) == ["before", "0", "1", "2", "from afar"])


@pytest.mark.asyncio
async def test_marks_reach_the_server_although_the_socket_was_lost(
    pair: Pair, server: AppServer, link: Link
) -> None:
    async with client_of(pair.alice, server) as alice, client_of(pair.bob, link) as bob:
        ack = await alice.send("read me", to=pair.bob)
        await until(lambda: bodies(bob) == ["read me"])
        link.freeze("there")
        bob.mark(ack.conversation, read=1)
        link.cut()
        link.heal()
        await until(lambda: alice.state.conversations[ack.conversation].marks.get(pair.bob) == (1, 1))


@pytest.mark.asyncio
async def test_a_repeated_client_id_gets_the_first_ack(pair: Pair, server: AppServer) -> None:
    async with client_of(pair.alice, server) as alice:
        client_id = str(uuid.uuid4())
        first, again = await asyncio.gather(
            alice.submit("once", to=pair.bob, client_id=client_id),
            alice.submit("once", to=pair.bob, client_id=client_id),
        )
        assert (first.id, first.seq, first.duplicate) == (again.id, again.seq, False)
        assert again.duplicate
        assert bodies(alice) == ["once"]


@pytest.mark.asyncio
async def test_a_refusal_is_raised(pair: Pair, server: AppServer) -> None:
    async with client_of(pair.alice, server) as alice:
        with pytest.raises(Refused) as refused:
            await alice.send("hello?", to="nobody-here")
        assert refused.value.code == "not_found"


@pytest.mark.asyncio
async def test_a_drain_is_survived_with_the_ticket_of_its_goodbye(
    pair: Pair, server: AppServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client_of(pair.alice, server) as alice:
        await alice.send("before", to=pair.bob)
        tickets = alice.api.call
        asked: list[str] = []

        async def call(method: str, path: str, **options: Any) -> Any:
            asked.append(path)
            return await tickets(method, path, **options)

        monkeypatch.setattr(alice.api, "call", call)
        await asyncio.to_thread(server.restart)
        ack = await asyncio.wait_for(alice.send("after", to=pair.bob), PATIENCE)
        assert ack.seq == 2
        assert "/v1/auth/otp" not in asked


@pytest.mark.asyncio
async def test_a_wrong_password_is_told_at_once(pair: Pair, server: AppServer) -> None:
    with pytest.raises(SignedOut):
        async with Client(server.url, pair.alice, "not this one", options=QUICK):
            raise AssertionError("signed in")


@pytest.mark.asyncio
async def test_an_ended_session_is_told(pair: Pair, server: AppServer) -> None:
    async with client_of(pair.alice, server) as alice:
        await alice.api.call("POST", "/v1/auth/logout")
        assert alice.task is not None
        with pytest.raises(SignedOut):
            await asyncio.wait_for(alice.task, PATIENCE)


@pytest.mark.asyncio
async def test_nobody_waits_for_an_ack_when_the_session_has_ended(pair: Pair, server: AppServer) -> None:
    async with client_of(pair.alice, server) as first:
        tokens = first.api.tokens
    async with Client(server.url, pair.alice, "", tokens=tokens, options=QUICK) as alice:
        await alice.disconnect()
        waiting = alice.submit("waits", to=pair.bob)
        await alice.api.call("POST", "/v1/auth/logout")
        alice.start()
        with pytest.raises(SignedOut):
            await asyncio.wait_for(waiting, PATIENCE)
        with pytest.raises(SignedOut):
            await asyncio.wait_for(alice.send("too late", to=pair.bob), PATIENCE)
        # It goes out in a run that is signed in.
        assert [frame["body"] for frame in alice.unsent] == ["waits"]


@pytest.mark.asyncio
async def test_tokens_of_an_earlier_run_go_on(pair: Pair, server: AppServer) -> None:
    async with client_of(pair.alice, server) as alice:
        await alice.send("first run", to=pair.bob)
        tokens = alice.api.tokens
    assert isinstance(tokens, Tokens)
    async with Client(server.url, pair.alice, "", tokens=tokens, options=QUICK) as again:
        await until(lambda: bodies(again) == ["first run"])


@pytest.mark.asyncio
async def test_another_epoch_starts_afresh(pair: Pair, server: AppServer, own_deployment: Deployment) -> None:
    async with client_of(pair.alice, server) as alice:
        await alice.send("kept", to=pair.bob)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(own_deployment.manage, "epoch", "--new")
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(PATIENCE):
            async for event in alice:
                if isinstance(event, StartedAfresh):
                    break
        await until(lambda: bodies(alice) == ["kept"])


@pytest.mark.asyncio
async def test_events_are_kept_until_there_is_a_reader(pair: Pair, server: AppServer) -> None:
    async with client_of(pair.alice, server) as alice:
        async with asyncio.timeout(PATIENCE):
            async for event in alice:
                assert isinstance(event, Connected) or event is not None
                break


@pytest.mark.pure
def test_waits_grow_to_their_bound_and_differ() -> None:
    backoff = Backoff(first=1.0, longest=8.0)
    waits = [backoff.next() for _ in range(200)]
    assert all(wait <= bound for wait, bound in zip(waits, (1, 2, 4, 8, 8, 8), strict=False))
    assert max(waits) <= 8.0
    assert min(waits[3:]) >= 0.8
    assert len(set(waits)) > 150
    backoff.succeeded()
    assert backoff.next() <= 1.0
