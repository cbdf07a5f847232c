"""The two ways to run that every test meets: embedded (SQLite, memory) and cluster (PostgreSQL, Redis).

CHATBE_TEST_BACKEND chooses; without it, tests run embedded. The servers of DATABASE_URL and REDIS_URL
are used where those are set, else such are started from wheels.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
from pathlib import Path
from types import FrameType
from typing import Literal, get_args

from tests.support.servers import PostgresServer, RedisServer

Backend = Literal["embedded", "cluster"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)


class BackendError(ValueError):
    """The environment asks for what there is not."""


def chosen() -> Backend:
    """What CHATBE_TEST_BACKEND says."""
    name = os.environ.get("CHATBE_TEST_BACKEND") or "embedded"
    for backend in BACKENDS:
        if backend == name:
            return backend
    raise BackendError(f"CHATBE_TEST_BACKEND is {' or '.join(BACKENDS)}, not {name}.")


class Servers:
    """The servers of a test run: named in `os.environ` while they run, for this process and its children."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def start(self) -> None:
        """Start what the environment does not name yet."""
        # However this process is ended, but for kill -9, it ends what it started.
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _end)
        if not os.environ.get("DATABASE_URL", "").startswith(("postgres://", "postgresql://")):
            os.environ["DATABASE_URL"] = self._stack.enter_context(PostgresServer()).url
            self._stack.callback(os.environ.pop, "DATABASE_URL", None)
        if not os.environ.get("REDIS_URL"):
            os.environ["REDIS_URL"] = self._stack.enter_context(RedisServer()).url
            self._stack.callback(os.environ.pop, "REDIS_URL", None)

    def close(self) -> None:
        """End what `start` started. May be called twice."""
        self._stack.close()


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def set_environment(backend: Backend, folder: Path, worker: str) -> None:
    """Set what chatbe.settings will read in this process; `folder` and `worker` are this process's own."""
    ours = [name for name in os.environ if name.startswith("CHATBE_") and not name.startswith("CHATBE_TEST_")]
    for name in (*ours, "ALLOWED_HOSTS", "CSRF_TRUSTED_ORIGINS", "DEBUG"):
        os.environ.pop(name, None)
    if backend == "embedded":
        os.environ.pop("DATABASE_URL", None)
        os.environ.pop("REDIS_URL", None)
    os.environ.update(
        CHATBE_ENV_FILE="none",
        CHATBE_VAR_DIR=str(folder),
        CHATBE_REDIS_PREFIX=f"chatbe-test-{secrets.token_hex(4)}-{worker}",
        SECRET_KEY="a-key-for-tests-only-" + "0" * 43,
    )
