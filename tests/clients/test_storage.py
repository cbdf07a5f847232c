"""What is kept between runs: nothing is lost, and nothing is told twice, from one run to the next."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from chatbe_client import (
    Client,
    FileStorage,
    MemoryStorage,
    MessageReceived,
    Refusal,
    Sent,
    Storage,
)

from tests.clients.test_client import (
    PATIENCE,
    QUICK,
    Pair,
    bodies,
    client_of,
    link,
    own_deployment,
    pair,
    server,
    until,
)
from tests.faults.proxy import Link
from tests.support.people import PASSWORD
from tests.support.processes import AppServer

__all__ = ["link", "own_deployment", "pair", "server"]

Open = Callable[[], Storage]


@pytest.fixture(params=["memory", "file"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the same storage anew."""
    if request.param == "memory":
        kept = MemoryStorage()
        return lambda: kept
    return lambda: FileStorage(tmp_path / "kept.sqlite3")


@pytest.mark.pure
def test_what_is_written_is_there_when_it_is_opened_again(reopen: Open) -> None:
    storage = reopen()
    storage.write({"a": "1", "b": "2"})
    storage.write({"a": None, "b": "3", "c": "ü"})
    storage.close()
    assert reopen().load() == {"b": "3", "c": "ü"}


@pytest.mark.pure
def test_a_file_is_its_owners_and_one_clients(tmp_path: Path) -> None:
    path = tmp_path / "kept.sqlite3"
    storage = FileStorage(path)
    storage.write({"a": "1"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        FileStorage(path)
    storage.close()
    FileStorage(path).close()


@pytest.mark.asyncio
async def test_the_next_run_goes_on_where_the_application_was(
    pair: Pair, server: AppServer, reopen: Open
) -> None:
    async with client_of(pair.alice, server) as alice:
        for number in range(3):
            await alice.send(str(number), to=pair.bob)
        async with client_of(pair.bob, server, storage=reopen()) as bob:
            async with asyncio.timeout(PATIENCE):
                async for event in bob:
                    # It dies over the second one: the first is done with, the second is not.
                    if isinstance(event, MessageReceived) and event.message.body == "1":
                        break
        await alice.send("3", to=pair.bob)
        async with client_of(pair.bob, server, storage=reopen()) as bob:
            async with asyncio.timeout(PATIENCE):
                told = []
                async for event in bob:
                    if isinstance(event, MessageReceived):
                        told.append(event.message.body)
                        if event.message.body == "3":
                            break
        assert told == ["1", "2", "3"]


@pytest.mark.asyncio
async def test_a_message_written_while_offline_is_sent_by_the_next_run_once(
    pair: Pair, server: AppServer, link: Link, reopen: Open
) -> None:
    async with client_of(pair.bob, server) as bob:
        alice = client_of(pair.alice, link, storage=reopen())
        async with alice:
            await alice.send("first", to=pair.bob)
            # What leaves from now on may arrive or not; no ack comes back.
            link.freeze("back")
            waiting = [alice.submit(str(number), to=pair.bob) for number in range(3)]
            await until(lambda: len(bodies(bob)) > 1)
            link.cut()
            link.heal()
            await alice.disconnect()
            waiting.append(alice.submit("last", to=pair.bob))
        assert all(future.exception() is not None for future in waiting if not future.cancelled())
        again = client_of(pair.alice, server, storage=reopen())
        again.start()
        sent = [frame["client_id"] for frame in again.unsent]
        assert len(sent) == len(waiting)
        async with again:
            acked = []
            async with asyncio.timeout(PATIENCE):
                async for event in again:
                    if isinstance(event, Sent):
                        acked.append(event.ack.client_id)
                        if len(acked) == len(sent):
                            break
            assert acked == sent
            await until(lambda: bodies(bob) == ["first", "0", "1", "2", "last"])
            await until(lambda: bodies(again)[-1:] == ["last"])
    kept = reopen().load()
    assert not [name for name in kept if name.startswith("unsent/")]
    assert json.loads(kept["tokens"])["refresh_token"]


@pytest.mark.asyncio
async def test_a_refusal_of_an_earlier_runs_message_is_told(
    pair: Pair, server: AppServer, reopen: Open
) -> None:
    alice = client_of(pair.alice, server, storage=reopen())
    async with alice:
        await alice.disconnect()
        alice.submit("hello?", to="nobody-here")
    async with client_of(pair.alice, server, storage=reopen()) as again:
        async with asyncio.timeout(PATIENCE):
            async for event in again:
                if isinstance(event, Refusal):
                    assert event.frame["code"] == "not_found"
                    assert (event.sent or {})["body"] == "hello?"
                    break
    assert not [name for name in reopen().load() if name.startswith("unsent/")]


@pytest.mark.asyncio
async def test_tokens_are_kept_so_that_no_password_is_asked_for_again(
    pair: Pair, server: AppServer, reopen: Open
) -> None:
    async with client_of(pair.alice, server, storage=reopen()) as alice:
        await alice.send("first run", to=pair.bob)
    async with Client(server.url, pair.alice, "", options=QUICK, storage=reopen()) as again:
        assert len(await again.conversations()) == 1


@pytest.mark.asyncio
async def test_a_storage_is_one_accounts(pair: Pair, server: AppServer, reopen: Open) -> None:
    async with client_of(pair.alice, server, storage=reopen()):
        pass
    other = Client(server.url, pair.bob, PASSWORD, options=QUICK, storage=reopen())
    with pytest.raises(ValueError, match=pair.alice):
        async with other:
            raise AssertionError("signed in")
    await other.close()
