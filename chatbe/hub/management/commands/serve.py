"""`manage.py serve`: Daphne, in one process or several."""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.utils.module_loading import import_string

from chatbe.embedded import AlreadyRunning, exclusive_var_lock
from chatbe.hub.listening import CannotListen, Endpoint
from chatbe.hub.workers import Supervisor


class Command(BaseCommand):
    """Serves HTTP and WebSockets until SIGTERM or SIGINT, then drains."""

    help = "Serve HTTP and WebSockets. SIGTERM and SIGINT drain; a second one stops at once."

    def add_arguments(self, parser: CommandParser) -> None:
        """Where to listen, and with how many processes."""
        where = parser.add_mutually_exclusive_group()
        where.add_argument(
            "--port", type=int, default=8000, help="TCP port; 0 takes a free one (default 8000)"
        )
        where.add_argument("--uds", default="", metavar="PATH", help="listen on a unix socket instead")
        where.add_argument("--fd", type=int, metavar="N", help="accept on a listening descriptor instead")
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
        parser.add_argument(
            "--workers",
            type=int,
            default=1,
            metavar="N",
            help="processes on the port; more than one need PostgreSQL and Redis; SIGHUP replaces each",
        )
        # The descriptor of the supervisor, and the workers' folder; it starts its workers with them.
        parser.add_argument("--supervised", type=int, help=argparse.SUPPRESS)
        parser.add_argument("--siblings", type=Path, help=argparse.SUPPRESS)

    def handle(self, **options: Any) -> None:
        """Serve, and exit with what came of it."""
        endpoint = Endpoint(options["host"], options["port"], options["uds"], options["fd"])
        try:
            if options["workers"] > 1:
                code = self._supervise(endpoint, options["workers"])
            elif options["workers"] == 1:
                code = self._serve(endpoint, options["supervised"], options["siblings"])
            else:
                raise CommandError("--workers is 1 or more.")
        except (AlreadyRunning, CannotListen) as error:
            raise CommandError(str(error)) from error
        sys.exit(code)

    def _supervise(self, endpoint: Endpoint, workers: int) -> int:
        if settings.EMBEDDED or connection.vendor != "postgresql":
            raise CommandError(
                "--workers needs servers that several processes can share: set DATABASE_URL=postgres://… and "
                "REDIS_URL=redis://…"
            )

        _look_at_database()

        def command(listener: int, link: int, folder: str) -> list[str]:
            worker = [sys.executable, sys.argv[0], "serve", "--fd", str(listener), "--supervised", str(link)]
            return [*worker, "--siblings", folder, "--skip-checks"]

        supervisor = Supervisor(
            endpoint, workers, command, on_ready=self._say, patience=settings.CHATBE_DRAIN_TIMEOUT + 10
        )
        return asyncio.run(supervisor.run())

    def _serve(self, endpoint: Endpoint, supervised: int | None, folder: Path | None) -> int:
        if settings.EMBEDDED:
            exclusive_var_lock()
        listener = endpoint.open()
        if supervised is None:
            _look_at_database()
        # From here on this process has Twisted's reactor, which a supervisor does not want.
        from chatbe.hub import node, siblings  # noqa: PLC0415 - as said
        from chatbe.hub.server import Server, ServerOptions  # noqa: PLC0415 - as said

        async def start() -> None:
            running = await node.running()
            if folder is not None:
                await siblings.listen(folder, running)

        async def drain() -> None:
            running = node.current()
            if running is not None:
                await running.drain(settings.CHATBE_DRAIN_TIMEOUT)

        return Server(
            import_string(settings.ASGI_APPLICATION),
            [listener],
            options=ServerOptions(
                max_sockets=settings.CHATBE_MAX_SOCKETS,
                max_body=settings.DATA_UPLOAD_MAX_MEMORY_SIZE,
                upload_path=settings.CHATBE_UPLOAD_PATH,
                max_upload=settings.CHATBE_UPLOAD_BYTES,
                ping_interval=settings.CHATBE_HEARTBEAT_INTERVAL,
                drain_timeout=settings.CHATBE_DRAIN_TIMEOUT,
            ),
            start=start,
            drain=drain,
            on_ready=None if supervised is not None else self._say,
            parent=socket.socket(fileno=supervised) if supervised is not None else None,
        ).run()

    def _say(self, urls: list[str]) -> None:
        for url in urls:
            self.stdout.write(f"listening on {url}")
        self.stdout.flush()


def _look_at_database() -> None:
    """Raises CommandError where the database cannot be had, or lacks tables that this code needs."""
    try:
        executor = MigrationExecutor(connection)
        missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except DatabaseError as error:
        raise CommandError(f"The database does not answer: {error}") from error
    finally:
        connection.close()
    if missing:
        raise CommandError(f"The database lacks {len(missing)} migrations. Run: python manage.py migrate")
