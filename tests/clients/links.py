"""The fault proxy for clients in other languages: links to a server, made and broken over HTTP."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from tests.faults.proxy import Link

TIMEOUT = 20.0


class _Faults:
    """A link, and how often it has cut by itself."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.cuts = 0
        self._pieces = 0

    def close(self) -> None:
        self.link.refusing = True
        self.link.cut()

    def open(self) -> None:
        self.link.heal()

    def cut_instead_of(self, text: bytes) -> None:
        def cuts(data: bytes) -> bool:
            if text not in data:
                return False
            self.link.cuts = None
            self.cuts += 1
            return True

        self.link.cuts = cuts

    def cut_every(self, pieces: int) -> None:
        def cuts(_: bytes) -> bool:
            self._pieces += 1
            due = self._pieces % pieces == 0
            self.cuts += due
            return due

        self.link.cuts = cuts if pieces else None


class Links:
    """`POST /links` makes one to `target`, a loopback port; `POST /links/{id}/{fault}` breaks it."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._links: dict[str, _Faults] = {}
        self._loop = asyncio.new_event_loop()
        links = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                try:
                    said = links.on(links._do(f"{self.command} {self.path}", body))
                except LookupError:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Access-Control-Allow-Origin", "*")
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(said).encode())

            def do_OPTIONS(self) -> None:
                self.send_response(204)
                self.send_header("Access-Control-Allow-Origin", "*")
                self.send_header("Access-Control-Allow-Methods", "GET, POST, DELETE")
                self.end_headers()

            do_GET = do_POST = do_DELETE = _answer  # noqa: N815 - their names

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._threads = [
            threading.Thread(target=run, daemon=True)
            for run in (self._loop.run_forever, self._server.serve_forever)
        ]

    @property
    def url(self) -> str:
        """Where links are asked for."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def on(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Do something on the links' loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(TIMEOUT)

    async def _do(self, call: str, body: bytes) -> dict[str, Any]:
        if call == "POST /links":
            link = await Link(self._target).open()
            identity = str(len(self._links))
            self._links[identity] = _Faults(link)
            return {"id": identity, "url": f"http://127.0.0.1:{link.port}"}
        method, _, path = call.partition(" /links/")
        identity, _, fault = path.partition("/")
        faults = self._links[identity]
        if method == "DELETE":
            faults.link.close()
            return {}
        if method == "GET":
            return {"cuts": faults.cuts}
        todo: dict[str, Callable[[], None]] = {
            "close": faults.close,
            "open": faults.open,
            "cut-instead-of": lambda: faults.cut_instead_of(body),
            "cut-every": lambda: faults.cut_every(int(body)),
        }
        todo[fault]()
        return {}

    async def _close(self) -> None:
        for faults in self._links.values():
            faults.link.close()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.on(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._threads[0].join(TIMEOUT)
        self._loop.close()
