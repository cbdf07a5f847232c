"""The servers that are measured: how each is started, filled, signed in to and spoken to."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import psycopg
import redis

from benchmarks import machine, profiler
from benchmarks.errors import TargetError
from benchmarks.measure import Meter
from tests.support.servers import (
    PostgresServer,
    RedisServer,
    database_create,
    database_drop,
    database_url,
    free_port,
)

CHATBE_EVENT_BYTES = 470
"""About so long is chatbe's event of a message with a body of 100 bytes."""
ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0


class Stage:
    """PostgreSQL and Redis, on the servers' core; commits are flushed to the disk."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="chatbe-benchmarks-"))
        with machine.on_core(machine.SERVER_CORE):
            self.postgres = PostgresServer(
                fsync=True,
                settings={
                    "shared_buffers": "1GB",
                    "max_wal_size": "4GB",
                    "checkpoint_timeout": "15min",
                    "jit": "off",
                },
            )
            self.redis = RedisServer()
            self.postgres.start()
            self.redis.start()

    def written_bytes(self) -> int:
        """Bytes that PostgreSQL has written ahead (WAL) since it was made."""
        with psycopg.connect(self.postgres.url) as connection:
            rows = connection.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchall()
            return int(rows[0][0])

    def redis_bytes(self) -> int:
        """What Redis holds."""
        with redis.Redis.from_url(self.redis.url) as client:
            return int(client.info("memory")["used_memory"])

    def close(self) -> None:
        """End both, and forget the servers' logs."""
        self.redis.close()
        self.postgres.close()
        shutil.rmtree(self.folder)

    def describe(self) -> dict[str, str]:
        """Versions, and the settings of PostgreSQL that decide what a commit costs."""
        names = ("server_version", "synchronous_commit", "fsync", "full_page_writes", "shared_buffers")
        with psycopg.connect(self.postgres.url) as connection:
            rows = connection.execute(
                "SELECT name, current_setting(name) FROM unnest(%s::text[]) AS name", [list(names)]
            )
            return dict(rows.fetchall())


class Target:
    """One server with a database of its own. `start` and `stop` may be called again and again."""

    name: ClassVar[str]
    family: ClassVar[str]
    """Who fills its database: see `benchmarks.population`."""
    dialect: ClassVar[Dialect]
    path: ClassVar[str]

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.profile = False
        self.log = stage.folder / f"{self.name}.log"
        self.database_name = f"bench_{self.family}"
        self.database = database_url(stage.postgres.url, self.database_name)

    # --- what differs ------------------------------------------------------------------------------

    def command(self) -> list[str]:
        """The command line of the server, listening on `self.port`."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Environment variables of the server and of what fills its database."""
        return {"DATABASE_URL": self.database, "REDIS_URL": self.stage.redis.url}

    def install(self) -> None:
        """Make the tables in the new database."""
        raise NotImplementedError

    # --- life --------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The process that was started; the others of the server are its children."""
        assert self.process is not None
        return self.process.pid

    @contextlib.contextmanager
    def measured(self) -> Iterator[Meter]:
        """What the app, PostgreSQL and Redis use while the block runs; profiled, if that was asked for."""
        processes = {"app": self.pid, "postgres": self.stage.postgres.pid, "redis": self.stage.redis.pid}
        with profiler.profiled(self.pid, self.name) if self.profile else contextlib.nullcontext():
            meter = Meter(processes)
            yield meter
            meter.end()

    def reset(self) -> None:
        """A new, empty database."""
        database_drop(self.stage.postgres.url, self.database_name)
        database_create(self.stage.postgres.url, self.database_name)
        self.install()

    def start(self) -> None:
        """Start the server on its core and wait until it listens."""
        self.port = free_port()
        environment = {**_neutral_environment(), **self.environment()}
        with machine.on_core(machine.SERVER_CORE), self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not self._listens():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise TargetError(f"{self.name} did not start:\n{self.log_end()}")
            time.sleep(0.02)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """End the server."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def log_end(self) -> str:
        """The last lines of the server's log."""
        return self.log.read_text(errors="replace")[-3000:]

    def run(self, *command: str, request: str = "") -> str:
        """Run a command in the server's environment, off the server's core; returns what it printed."""
        # Millions of rows are one statement.
        patience = {"CHATBE_STATEMENT_TIMEOUT": "0"}
        result = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env={**_neutral_environment(), **self.environment(), **patience},
            input=request,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            raise TargetError(f"{' '.join(command)} failed:\n{result.stderr[-3000:]}")
        return result.stdout

    def populate(self, what: str, **request: Any) -> dict[str, Any]:
        """Have something made in the database; see `benchmarks.population`."""
        answer: dict[str, Any] = json.loads(
            self.run("-m", "benchmarks.population", self.family, request=json.dumps({"do": what, **request}))
        )
        return answer

    def settle(self) -> None:
        """Leave nothing to be done later: statistics, dead rows, dirty pages."""
        with psycopg.connect(self.database, autocommit=True) as connection:
            connection.execute("VACUUM (ANALYZE)")
            connection.execute("CHECKPOINT")

    def table_bytes(self, table: str) -> int:
        """Bytes of a table with its indexes."""
        with psycopg.connect(self.database) as connection:
            return int(connection.execute("SELECT pg_total_relation_size(%s)", [table]).fetchall()[0][0])

    def people(self, friendships: Sequence[tuple[str, str]], others: Sequence[str] = ()) -> None:
        """Make users who are mutual contacts, and others who know nobody."""
        self.populate("people", friendships=friendships, others=others)

    def urls(self, users: Sequence[str]) -> list[str]:
        """The URL that opens one socket of each user, in order."""
        tickets: list[str] = self.populate("tickets", users=users)["tickets"]
        return [
            self.dialect.url(self.port, user, ticket) for user, ticket in zip(users, tickets, strict=True)
        ]


def _neutral_environment() -> dict[str, str]:
    """This process's, without what would configure a server by accident."""
    ours = ("CHATBE_", "DATABASE_URL", "REDIS_URL", "SECRET_KEY", "DJANGO_SETTINGS_MODULE", "DEBUG")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
        "PYTHONPATH": str(ROOT),
    }


# --- what is said on the wire ------------------------------------------------------------------------


class Dialect:
    """How a kind of server is spoken to. Frames are told apart by their first bytes: cheap, and exact for each."""

    message = b'{"type":"message"'
    ack = b'{"type":"ack"'
    error = b'{"type":"error"'
    presence = b'{"type":"presence"'
    synced: bytes | None = b'{"type":"synced"'
    """The frame that ends signing in; None: there is none."""
    greeted = b'{"type":"friends"'
    """The last frame before the client's hello."""
    hello: bytes | None = None
    """What the client says first."""
    client_id = b'"client_id":"'

    def url(self, port: int, user: str, ticket: str) -> str:
        """Where a user's socket is opened."""
        raise NotImplementedError

    def send(self, peer: str, client_id: bytes, body: bytes) -> bytes:
        """The frame that sends a message."""
        raise NotImplementedError


class ChatbeDialect(Dialect):
    """The public contract."""

    hello = b'{"type":"sync","ref":"s"}'

    def url(self, port: int, user: str, ticket: str) -> str:
        """With a one-time password."""
        return f"ws://127.0.0.1:{port}/v1/ws?otp={ticket}&username={user}"

    def send(self, peer: str, client_id: bytes, body: bytes) -> bytes:
        """To a username, with a ref."""
        return b'{"type":"send","ref":"%b","to":{"username":"%b"},"client_id":"%b","body":"%b"}' % (
            client_id[:8], peer.encode(), client_id, body,
        )  # fmt: skip


class SketchDialect(Dialect):
    """The sketch's own."""

    synced = None

    def url(self, port: int, user: str, ticket: str) -> str:
        """No ticket."""
        return f"ws://127.0.0.1:{port}/ws/?u={user}"

    def send(self, peer: str, client_id: bytes, body: bytes) -> bytes:
        """To a name."""
        return b'{"type":"message.send","id":1,"to":"%b","client_id":"%b","body":"%b"}' % (
            peer.encode(), client_id, body,
        )  # fmt: skip


class TutorialDialect(Dialect):
    """JSON as `json.dumps` writes it."""

    message = b'{"type": "message"'
    ack = b'{"type": "ack"'
    error = b'{"type": "error"'
    presence = b'{"type": "presence"'
    synced = b'{"type": "synced"'
    client_id = b'"client_id": "'

    def url(self, port: int, user: str, ticket: str) -> str:
        """With a ticket."""
        return f"ws://127.0.0.1:{port}/ws/?ticket={ticket}"

    def send(self, peer: str, client_id: bytes, body: bytes) -> bytes:
        """To a name."""
        return b'{"ref":"%b","to":"%b","client_id":"%b","body":"%b"}' % (
            client_id[:8],
            peer.encode(),
            client_id,
            body,
        )


# --- the servers -------------------------------------------------------------------------------------


class Chatbe(Target):
    """chatbe, everything switched on but the limits that would stop the load."""

    family = "chatbe"
    dialect = ChatbeDialect()
    _secret = secrets.token_urlsafe(48)

    def environment(self) -> dict[str, str]:
        """As in production, without rate limits."""
        return {
            **super().environment(),
            "DJANGO_SETTINGS_MODULE": "chatbe.settings",
            "CHATBE_ENV_FILE": "none",
            "CHATBE_RATE_LIMITS": "off",
            "SECRET_KEY": self._secret,
        }

    def install(self) -> None:
        """Migrate."""
        self.run("manage.py", "migrate", "--verbosity=0", "--skip-checks")


class ChatbeServe(Chatbe):
    """`manage.py serve`: Daphne as chatbe runs it."""

    name = "chatbe"

    def command(self) -> list[str]:
        """One worker."""
        return [sys.executable, "manage.py", "serve", "--port", str(self.port)]


class ChatbeUvicorn(Chatbe):
    """The same application on uvicorn."""

    name = "chatbe-uvicorn"

    def command(self) -> list[str]:
        """One process on uvloop."""
        return [
            sys.executable, "-m", "uvicorn", "chatbe.asgi:application", "--port", str(self.port),
            "--loop", "uvloop", "--ws", "websockets-sansio", "--no-access-log", "--log-level", "warning",
        ]  # fmt: skip


class Sketch(Target):
    """The sketch on stock Daphne with uvloop."""

    name = "sketch"
    family = "sketch"
    dialect = SketchDialect()
    application = "benchmarks.baseline.sketch.hotpath:application"

    def command(self) -> list[str]:
        """One process, without access log."""
        return [
            sys.executable, "-m", "benchmarks.baseline.daphne_on_uvloop", "-b", "127.0.0.1", "-p", str(self.port),
            "--access-log", "/dev/null", self.application,
        ]  # fmt: skip

    def install(self) -> None:
        """Its two tables."""
        with psycopg.connect(self.database) as connection:
            connection.execute((ROOT / "benchmarks/baseline/sketch/schema.sql").read_bytes())

    def people(self, friendships: Sequence[tuple[str, str]], others: Sequence[str] = ()) -> None:
        """It knows no users."""

    def urls(self, users: Sequence[str]) -> list[str]:
        """It has no tickets."""
        return [self.dialect.url(self.port, user, "") for user in users]


class SketchUvicorn(Sketch):
    """The sketch on uvicorn."""

    name = "sketch-uvicorn"

    def command(self) -> list[str]:
        """One process on uvloop."""
        return [
            sys.executable, "-m", "uvicorn", self.application, "--port", str(self.port), "--loop", "uvloop",
            "--ws", "websockets-sansio", "--no-access-log", "--log-level", "warning",
        ]  # fmt: skip


class Tutorial(Target):
    """A Channels server the usual way, on stock Daphne with uvloop."""

    name = "tutorial"
    family = "tutorial"
    dialect = TutorialDialect()

    def environment(self) -> dict[str, str]:
        """Its settings."""
        return {**super().environment(), "DJANGO_SETTINGS_MODULE": "benchmarks.baseline.tutorial.settings"}

    def command(self) -> list[str]:
        """One process, without access log."""
        return [
            sys.executable, "-m", "benchmarks.baseline.daphne_on_uvloop", "-b", "127.0.0.1", "-p", str(self.port),
            "--access-log", "/dev/null", "benchmarks.baseline.tutorial.asgi:application",
        ]  # fmt: skip

    def install(self) -> None:
        """Tables without migrations."""
        self.run("-m", "django", "migrate", "--run-syncdb", "--verbosity=0")


class BareDialect(Dialect):
    """A text is an event; the crowd is at a path of its own."""

    def url(self, port: int, user: str, ticket: str) -> str:
        """By who it is."""
        return f"ws://127.0.0.1:{port}/{'crowd' if 'crowd' in user else 'sender'}"

    def send(self, peer: str, client_id: bytes, body: bytes) -> bytes:
        """What the crowd gets, as long as chatbe's event of the same message."""
        frame = b'{"type":"message","client_id":"%b","body":"%b","rest":"' % (client_id, body)
        return frame.ljust(CHATBE_EVENT_BYTES - 2, b"x") + b'"}'


class Bare(Target):
    """No chat: a loop of ASGI `send` on stock Daphne with uvloop."""

    name = "bare"
    family = ""
    dialect = BareDialect()

    def command(self) -> list[str]:
        """One process, without access log."""
        return [
            sys.executable, "-m", "benchmarks.baseline.daphne_on_uvloop", "-b", "127.0.0.1", "-p", str(self.port),
            "--access-log", "/dev/null", "benchmarks.baseline.bare:application",
        ]  # fmt: skip

    def reset(self) -> None:
        """It has no database."""

    def people(self, friendships: Sequence[tuple[str, str]], others: Sequence[str] = ()) -> None:
        """It knows no users."""

    def urls(self, users: Sequence[str]) -> list[str]:
        """It has no tickets."""
        return [self.dialect.url(self.port, user, "") for user in users]


TARGETS: tuple[type[Target], ...] = (ChatbeServe, ChatbeUvicorn, Sketch, SketchUvicorn, Tutorial, Bare)
