"""Several server processes on one port: started, watched, restarted, stopped together.

Each worker has a listening socket of its own on the same port (SO_REUSEPORT), so the kernel
spreads connections evenly; waiting on one shared socket instead, the same idle worker would win
again and again. The supervisor holds the sockets, so that what connects while a worker is being
replaced waits for the next one and is not refused. A unix socket or a given descriptor is shared.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from chatbe.hub import listening
from chatbe.hub.listening import Endpoint

logger = logging.getLogger("chatbe.hub.workers")

QUICK_DEATH = 5.0
"""Seconds; when one worker after another dies younger, the next starts after a growing delay."""
MIN_DELAY = 0.5
MAX_DELAY = 30.0

Command = Callable[[int, int, str], list[str]]
"""The command line of a worker, given its listening descriptor, the one of its supervisor, and a folder that
only the workers share."""


@dataclass(slots=True)
class _Worker:
    """One process."""

    process: asyncio.subprocess.Process
    link: socket.socket
    """It says "ready" here; its end tells the worker that the supervisor is gone."""

    def stop(self) -> None:
        """Ask it to drain and end."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()


class Supervisor:
    """Keeps `count` workers running until a signal says otherwise.

    SIGTERM and SIGINT drain and end all; a second one kills them. SIGHUP replaces one after another:
    the new one accepts connections before the old one is drained. `patience` is how many seconds a
    worker may take to drain before it is killed.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        count: int,
        command: Command,
        *,
        on_ready: Callable[[list[str]], None],
        patience: float,
    ) -> None:
        self._command = command
        self._count = count
        self._on_ready = on_ready
        self._patience = patience
        self._stopping = asyncio.Event()
        self._failed = False
        self._workers: dict[int, _Worker] = {}
        """The newest worker of each slot."""
        self._running: list[_Worker] = []
        self._ready: set[int] = set()
        self._replacing: asyncio.Task[None] | None = None
        self._spreads = not endpoint.path and endpoint.descriptor is None
        self._endpoint = endpoint
        self._listeners: dict[int, socket.socket] = {}
        self._folder = ""

    def _open_listeners(self) -> None:
        """Raises CannotListen."""
        first = self._endpoint.open()
        if not self._spreads:
            self._listeners = dict.fromkeys(range(self._count), first)
            return
        # The first, opened alone, proved that nobody else has the port, and says which it is.
        self._endpoint = replace(self._endpoint, port=first.getsockname()[1])
        first.close()
        for slot in range(self._count):
            self._listeners[slot] = self._endpoint.open(shared=True)

    async def run(self) -> int:
        """Serve; returns the exit code. Raises CannotListen."""
        self._open_listeners()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        try:
            with tempfile.TemporaryDirectory(prefix="chatbe-workers-") as self._folder:
                await asyncio.gather(*(self._keep(slot) for slot in range(self._count)))
        finally:
            for listener in self._listeners.values():
                listener.close()
        return 1 if self._failed else 0

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stopping.is_set():
            logger.warning("workers are killed by a second signal")
            self._failed = True
            for worker in self._running:
                worker.kill()
        else:
            self._stop(number.name)

    def _stop(self, reason: str) -> None:
        logger.info("stopping", extra={"reason": reason, "workers": len(self._running)})
        self._stopping.set()
        for worker in self._running:
            worker.stop()

    # --- one worker after another in a slot --------------------------------------------------------

    async def _keep(self, slot: int) -> None:
        """Have a worker in this slot until all stop."""
        quick_deaths = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            worker = await self._start(slot)
            if await self._becomes_ready(worker):
                self._note_ready(slot)
            elif len(self._ready) < self._count and not self._stopping.is_set():
                # It never worked: that is for people to mend, not for another try.
                logger.error("a worker did not start; see above")
                self._failed = True
                self._stop("a worker did not start")
            code = await self._outlive(slot, worker)
            if self._stopping.is_set():
                return
            quick_deaths = quick_deaths + 1 if code and time.monotonic() - started < QUICK_DEATH else 0
            logger.warning(
                "a worker has ended and is replaced", extra={"pid": worker.process.pid, "code": code}
            )
            if quick_deaths > 1:
                await self._wait_to_restart(slot, min(MAX_DELAY, MIN_DELAY * 2 ** (quick_deaths - 2)))

    async def _start(self, slot: int) -> _Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            listener = self._listeners[slot]
            process = await asyncio.create_subprocess_exec(
                *self._command(listener.fileno(), theirs.fileno(), self._folder),
                pass_fds=(listener.fileno(), theirs.fileno()),
                # Ctrl-C is for the supervisor, which passes it on.
                start_new_session=True,
            )
        ours.setblocking(False)
        worker = self._workers[slot] = _Worker(process, ours)
        self._running.append(worker)
        if self._stopping.is_set():
            worker.stop()
        return worker

    async def _becomes_ready(self, worker: _Worker) -> bool:
        """Wait until it says so, or has ended."""
        return bool(await asyncio.get_running_loop().sock_recv(worker.link, 64))

    def _note_ready(self, slot: int) -> None:
        if slot in self._ready:
            return
        self._ready.add(slot)
        if len(self._ready) == self._count:
            urls = dict.fromkeys(listening.url(listener) for listener in self._listeners.values())
            self._on_ready(list(urls))

    async def _outlive(self, slot: int, worker: _Worker) -> int:
        """Wait for its end, and for that of the one that replaced it in the meantime; the exit code."""
        while True:
            code = await self._end_of(worker)
            successor = self._workers[slot]
            if successor is worker:
                del self._workers[slot]
                return code
            worker = successor

    async def _end_of(self, worker: _Worker) -> int:
        ended = asyncio.ensure_future(worker.process.wait())
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait([ended, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not ended.done():
            await asyncio.wait([ended], timeout=self._patience)
            if not ended.done():
                logger.warning(
                    "a worker did not drain in time and is killed", extra={"pid": worker.process.pid}
                )
                worker.kill()
        code = await ended
        worker.link.close()
        if worker in self._running:
            self._running.remove(worker)
        return code

    async def _wait_to_restart(self, slot: int, delay: float) -> None:
        """Wait; meanwhile nobody shall connect to a socket that nobody accepts from."""
        if self._spreads:
            self._listeners[slot].close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._stopping.wait()
        if self._spreads and not self._stopping.is_set():
            self._listeners[slot] = self._endpoint.open(shared=True)

    # --- replacing ---------------------------------------------------------------------------------

    def _on_hangup(self) -> None:
        if self._replacing is None or self._replacing.done():
            self._replacing = asyncio.get_running_loop().create_task(self._replace_all())

    async def _replace_all(self) -> None:
        for slot in range(self._count):
            old = self._workers.get(slot)
            if old is None or self._stopping.is_set():
                continue
            logger.info("replacing a worker", extra={"pid": old.process.pid})
            new = await self._start(slot)
            if not await self._becomes_ready(new):
                logger.error("its successor did not start; the others stay", extra={"pid": new.process.pid})
                self._workers[slot] = old
                return
            old.stop()
            await old.process.wait()
