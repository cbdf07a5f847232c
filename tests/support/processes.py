"""chatbe's own server processes, as a user runs them: `manage.py serve`, with an environment of their own."""

from __future__ import annotations

import atexit
import contextlib
import http.client
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import psutil

from tests.support.servers import database_create, database_drop

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0
_READY_LINE = re.compile(rb"listening on http://(?P<host>[\w.\[\]:]+):(?P<port>\d+)")
# How often a server that listens is asked whether it is ready: it gives no event to wait for.
_POLL_INTERVAL = 0.02
# What the environment of a test run holds and no process may inherit by accident.
_OURS = (
    "CHATBE_",
    "DATABASE_URL",
    "REDIS_URL",
    "SECRET_KEY",
    "DJANGO_SETTINGS_MODULE",
    "DEBUG",
    "ALLOWED_HOSTS",
)


class ProcessError(RuntimeError):
    """A process did not start or a command failed; the message holds the end of what it said."""


class AppServer:
    """One `manage.py serve`, with all its workers.

    `port` 0 lets the kernel choose at the first start; later starts take that port again. What it
    says goes to `log`.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        port: int = 0,
        workers: int = 1,
        arguments: Iterable[str] = (),
        log: Path | None = None,
    ) -> None:
        self.port = port
        self.environment = dict(environment)
        self._arguments = [
            "--port",
            "{port}",
            *(["--workers", str(workers)] if workers > 1 else []),
            *arguments,
        ]
        self._folder = Path(tempfile.mkdtemp(prefix="chatbe-app-"))
        self.log = log or self._folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._listening = threading.Event()
        atexit.register(self.close)

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def socket_url(self) -> str:
        """`ws://127.0.0.1:PORT/v1/ws`, without the query."""
        return f"ws://127.0.0.1:{self.port}/v1/ws"

    @property
    def pid(self) -> int:
        """The first process's id (with workers: that which holds them). Raises ProcessError without one."""
        if self._process is None:
            raise ProcessError("the server is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it is there; a paused one is."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, wait: bool = True) -> Self:
        """Start; with `wait`, return when it is ready. Raises ProcessError when it ends or is late."""
        self._listening.clear()
        command = [sys.executable, "manage.py", "serve"]
        command += [argument.format(port=self.port) for argument in self._arguments]
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._keep_log, args=(self._process.stdout,), daemon=True)
        self._reader.start()
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, timeout: float = START_TIMEOUT) -> None:
        """Wait until /readyz answers 200."""
        deadline = time.monotonic() + timeout
        # Also set when the process has ended.
        self._listening.wait(timeout)
        while not self._is_ready():
            if not self.running or time.monotonic() > deadline:
                state = "did not get ready" if self.running else "ended at its start"
                self.kill()
                raise ProcessError(f"the server {state}:\n{self.said()[-4000:]}")
            time.sleep(_POLL_INTERVAL)

    def terminate(self, timeout: float = STOP_TIMEOUT) -> int:
        """SIGTERM, so that it drains, and wait. Returns its exit code; raises ProcessError if it is late."""
        if self._process is None:
            raise ProcessError("the server is not running")
        self.resume()
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise ProcessError(
                f"the server did not end in {timeout:.0f} s:\n{self.said()[-4000:]}"
            ) from error
        self._reader.join(STOP_TIMEOUT)
        self._process = None
        return code

    def kill(self) -> None:
        """kill -9 for it and its workers, and wait until they are gone."""
        if self._process is None:
            return
        for member in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        self._process.wait(STOP_TIMEOUT)
        # It reads to the end, which comes when the last worker is gone.
        self._reader.join(STOP_TIMEOUT)
        self._process = None

    def restart(self) -> None:
        """Drain, end, and start again on the same port."""
        self.terminate()
        self.start()

    def pause(self) -> None:
        """SIGSTOP for it and its workers."""
        for member in self.family():
            member.suspend()

    def resume(self) -> None:
        """Go on after `pause`."""
        for member in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                member.resume()

    def family(self) -> list[psutil.Process]:
        """Its processes, the first one first; empty when it is not running."""
        if not self.running:
            return []
        parent = psutil.Process(self.pid)
        return [parent, *parent.children(recursive=True)]

    def said(self) -> str:
        """All that it has logged."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def close(self) -> None:
        """End it and remove its folder. May be called twice."""
        atexit.unregister(self.close)
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _keep_log(self, output: IO[bytes]) -> None:
        with output, self.log.open("ab", buffering=0) as log:
            for line in output:
                log.write(line)
                if not self._listening.is_set() and (found := _READY_LINE.search(line)):
                    self.port = int(found["port"])
                    self._listening.set()
        self._listening.set()

    def _is_ready(self) -> bool:
        if not self.port:
            return False
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


class Deployment:
    """A chatbe of its own to run servers on: embedded, or on a database made for it and on Redis.

    Give both URLs or neither. The database is dropped and the processes are ended by `close`.
    """

    def __init__(
        self,
        *,
        database_url: str = "",
        redis_url: str = "",
        settings: Mapping[str, str] | None = None,
        template: Deployment | None = None,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="chatbe-var-"))
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(_OURS)},
            "CHATBE_ENV_FILE": "none",
            "CHATBE_VAR_DIR": str(self.folder),
            "DJANGO_SETTINGS_MODULE": "tests.support.settings",
            "PYTHONUNBUFFERED": "1",
            "SECRET_KEY": secrets.token_hex(32),
        }
        self._servers: list[AppServer] = []
        self._settings = dict(settings or {})
        self._address = database_url
        self.database = f"chatbe_{secrets.token_hex(6)}"
        if database_url:
            copied = {"template": template.database} if template is not None else {}
            self.environment["DATABASE_URL"] = database_create(database_url, self.database, **copied)
            self.environment["REDIS_URL"] = redis_url
            self.environment["CHATBE_REDIS_PREFIX"] = self.database
        elif template is not None:
            for file in template.folder.glob("chatbe.sqlite3*"):
                shutil.copy2(file, self.folder)
        self.environment.update(settings or {})

    def copy(self) -> Deployment:
        """A deployment of its own that begins with this one's data; close it too."""
        return Deployment(
            database_url=self._address,
            redis_url=self.environment.get("REDIS_URL", ""),
            settings=self._settings,
            template=self,
        )

    def manage(self, *arguments: str) -> str:
        """Run a command of manage.py; returns what it printed. Raises ProcessError when it fails."""
        result = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            capture_output=True,
            check=False,
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        if result.returncode:
            raise ProcessError(f"manage.py {' '.join(arguments)} failed:\n{result.stdout}{result.stderr}")
        return result.stdout

    def server(self, *, workers: int = 1, port: int = 0, arguments: Iterable[str] = ()) -> AppServer:
        """A server on it, started and ready."""
        server = AppServer(self.environment, port=port, workers=workers, arguments=arguments)
        self._servers.append(server)
        return server.start()

    def close(self) -> None:
        """End its servers, drop its database, remove its folder."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        if self._address:
            database_drop(self._address, self.database)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
