"""Questions that the loop puts to PostgreSQL itself, against a real server."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import psycopg
import pytest
import pytest_asyncio

from chatbe.core.errors import Unavailable
from chatbe.hub import database
from chatbe.hub.database import Database, Direct, Row

pytestmark = [pytest.mark.asyncio, pytest.mark.cluster, pytest.mark.usefixtures("transactional_db")]

Ask = Callable[..., Any]


@pytest_asyncio.fixture
async def asked() -> AsyncIterator[Database]:
    made = Database()
    yield made
    made.close()
    end_the_sleepers()


@pytest.fixture
def table() -> Iterator[str]:
    """A table of numbers whose uniqueness is judged at the commit."""
    name = f"numbers_{uuid.uuid4().hex}"
    with database.connect() as connection:
        connection.execute(f"CREATE TABLE {name} (n bigint UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        yield name
        connection.execute(f"DROP TABLE {name}")


def question(statement: str, *, writes: bool = False) -> Direct:
    """Its parameters are given when it is asked; the answer is the first value of the first row."""
    return Direct(
        name=f"test-{hash(statement)}".encode(),
        statement=statement.encode(),
        values=lambda *values: [None if value is None else str(value).encode() for value in values],
        answer=_first,
        writes=writes,
    )


def _first(rows: list[Row], *_values: object) -> bytes | None:
    return rows[0][0] if rows else None


TEN_BY = question("SELECT 10 / $1::bigint")
ECHO = question("SELECT $1::text")
BACKEND = question("SELECT pg_backend_pid()")
SLEEP = question("SELECT pg_sleep($1::float)")


def terminate(pid: bytes | None) -> None:
    with database.connect() as connection:
        connection.execute("SELECT pg_terminate_backend(%s)", [int(pid or 0)])


def end_the_sleepers() -> None:
    """PostgreSQL does not notice that a client has gone while it sleeps for it."""
    with database.connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND query LIKE 'SELECT pg_sleep%'"
        )


async def test_each_of_a_crowd_gets_its_own_answer(asked: Database) -> None:
    texts = [f"text {number} – ✓" for number in range(500)]
    answers = await asyncio.gather(*(asked.ask(ECHO, text) for text in texts))
    assert [answer.decode() for answer in answers] == texts


async def test_null_is_told_from_an_empty_text(asked: Database) -> None:
    assert await asked.ask(ECHO, None) is None
    assert await asked.ask(ECHO, "") == b""


async def test_what_changes_something_shares_its_commits_and_is_told_after_them(
    asked: Database, table: str
) -> None:
    insert = question(f"INSERT INTO {table} VALUES ($1::bigint) RETURNING pg_current_xact_id()", writes=True)

    async def store(number: int) -> bytes:
        transaction: bytes = await asked.ask(insert, number)
        with database.connect() as other:
            assert other.execute(f"SELECT FROM {table} WHERE n = %s", [number]).fetchall()
        return transaction

    transactions = await asyncio.gather(*(store(number) for number in range(20)))
    assert len(set(transactions)) < 5


async def test_one_that_fails_fails_alone(asked: Database) -> None:
    answers = await asyncio.gather(
        *(asked.ask(TEN_BY, number) for number in (1, 2, 0, 5, 0, 10)), return_exceptions=True
    )
    assert [answer for answer in answers if isinstance(answer, bytes)] == [b"10", b"5", b"2", b"1"]
    assert [type(answer) for answer in answers if not isinstance(answer, bytes)] == [
        psycopg.errors.DivisionByZero
    ] * 2
    assert await asked.ask(TEN_BY, 2) == b"5"


async def test_one_whose_commit_fails_fails_alone(asked: Database, table: str) -> None:
    insert = question(f"INSERT INTO {table} VALUES ($1::bigint) RETURNING n", writes=True)
    assert await asked.ask(insert, 1) == b"1"
    answers = await asyncio.gather(
        *(asked.ask(insert, number) for number in (1, 2, 3)), return_exceptions=True
    )
    assert isinstance(answers[0], psycopg.errors.UniqueViolation)
    assert answers[1:] == [b"2", b"3"]


async def test_a_statement_that_cannot_be_prepared_fails_alone(asked: Database) -> None:
    bad = question("SELECT no_such_column")
    answers = await asyncio.gather(
        asked.ask(ECHO, "a"), asked.ask(bad), asked.ask(TEN_BY, 5), return_exceptions=True
    )
    assert answers[0] == b"a"
    assert isinstance(answers[1], psycopg.errors.UndefinedColumn)
    assert answers[2] == b"2"


async def test_a_long_answer_holds_up_nobody(asked: Database) -> None:
    sleeping = asked.ask(SLEEP, 60)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await asyncio.wait_for(asked.ask(ECHO, "quick"), 10) == b"quick"
    assert not sleeping.done()
    sleeping.cancel()


async def test_who_is_cancelled_while_it_connects_leaves_no_connection_open() -> None:
    made: list[psycopg.Connection[Any]] = []
    begun, go_on = threading.Event(), threading.Event()

    def connect() -> psycopg.Connection[Any]:
        begun.set()
        go_on.wait(10)
        made.append(database.connect())
        return made[0]

    asked = Database(connect)
    before = asyncio.all_tasks()
    waiting = asked.ask(ECHO, "never")
    while not begun.is_set():
        await asyncio.sleep(0.01)
    (opening,) = asyncio.all_tasks() - before
    opening.cancel()
    await asyncio.wait([opening])
    go_on.set()
    while not (made and made[0].closed):
        await asyncio.sleep(0.01)
    waiting.cancel()
    asked.close()


async def test_a_connection_that_was_cut_while_idle_is_not_noticed(asked: Database) -> None:
    pid = await asked.ask(BACKEND)
    terminate(pid)
    while True:
        try:
            other = await asked.ask(BACKEND)
        except Unavailable:
            # Cut at the very moment.
            continue
        if other != pid:
            break


async def test_a_connection_that_was_cut_under_way_is_unavailable(asked: Database) -> None:
    pid = await asked.ask(BACKEND)
    sleeping = asked.ask(SLEEP, 60)
    while not sleeping.done():
        terminate(pid)
        await asyncio.sleep(0.05)
    assert isinstance(sleeping.exception(), Unavailable)
    assert await asked.ask(ECHO, "again") == b"again"


async def test_a_silent_database_is_given_up(asked: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "ANSWER_SECONDS", 0.2)
    assert await asked.ask(ECHO, "there") == b"there"
    with pytest.raises(Unavailable):
        await asyncio.wait_for(asked.ask(SLEEP, 60), 10)
    assert await asked.ask(ECHO, "again") == b"again"


async def test_a_database_that_is_away_keeps_nobody_waiting() -> None:
    away = True

    def connect() -> psycopg.Connection[Any]:
        if away:
            raise psycopg.OperationalError("connection refused")
        return database.connect()

    asked = Database(connect)
    answers = await asyncio.gather(
        *(asked.ask(ECHO, number) for number in range(200)), return_exceptions=True
    )
    assert all(isinstance(answer, Unavailable) for answer in answers)
    away = False
    assert await asked.ask(ECHO, "back") == b"back"
    asked.close()


async def test_who_goes_away_harms_no_other(asked: Database) -> None:
    waiting = [asked.ask(ECHO, number) for number in range(20)]
    for future in waiting[::2]:
        future.cancel()
    assert [int(await future) for future in waiting[1::2]] == list(range(1, 20, 2))


async def test_closing_tells_all_who_wait() -> None:
    asked = Database()
    assert await asked.ask(ECHO, "open") == b"open"
    waiting = [asked.ask(SLEEP, 60), asked.ask(ECHO, "too late")]
    await asyncio.sleep(0.01)
    asked.close()
    results = await asyncio.gather(*waiting, asked.ask(ECHO, "later still"), return_exceptions=True)
    end_the_sleepers()
    assert all(isinstance(result, Unavailable) for result in results)
