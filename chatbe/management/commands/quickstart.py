"""`manage.py quickstart`: from nothing to a chat that runs; what `make run` does."""

import errno
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.migrations.executor import MigrationExecutor

from chatbe.embedded import AlreadyRunning, exclusive_var_lock
from chatbe.hub.listening import CannotListen, Endpoint
from messaging import demo


class Command(BaseCommand):
    """See the module."""

    help = "Migrate, seed a small demo on the first run, and serve."
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's declaration; `serve` does them

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the options."""
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
        parser.add_argument("--port", type=int, default=8000, help="TCP port (default: %(default)s)")

    def handle(self, *_args: Any, host: str, port: int, **_options: Any) -> None:
        """Prepare what is missing, then serve until it is stopped."""
        _require(host, port)
        self._migrate()
        sign_ins = demo.seed_demo()
        if sign_ins:
            self._show(sign_ins, f"{host}:{port}")
        self.stdout.write(
            f"Chat on http://{host}:{port}/, try the API on http://{host}:{port}/v1/docs. Ctrl-C stops."
        )
        connections.close_all()
        call_command("serve", host=host, port=port)

    def _migrate(self) -> None:
        executor = MigrationExecutor(connections[DEFAULT_DB_ALIAS])
        plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
        if plan:
            self.stdout.write(f"Preparing the database ({len(plan)} migrations) …")
            call_command("migrate", interactive=False, verbosity=0)

    def _show(self, sign_ins: Sequence[tuple[str, str]], server: str) -> None:
        """Print how to sign in as the demo's people, and how to let two of them chat."""
        width = max(len("username"), *(len(username) for username, _ in sign_ins))
        rows = "\n".join(f"  {username:{width}}  {password}" for username, password in sign_ins)
        (one, password), (other, _) = sign_ins[:2]
        self.stdout.write(f"""
Three people are here, contacts of each other, with a conversation to look at:

  {"username":{width}}  password
{rows}

Chat as {one} in another terminal (and as {other} in a third):

  .venv/bin/pip install websockets
  .venv/bin/python examples/chat.py {one} {password} {other} {server}
\n""")


def _require(host: str, port: int) -> None:
    """Take the embedded data, and see that the port can be had, before anything is made."""
    taken = ""
    try:
        Endpoint(host=host, port=port).open().close()
    except CannotListen as error:
        cause = error.__cause__
        if not (isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE):
            raise CommandError(str(error)) from error
        taken = f"Port {port} is in use"
    if settings.EMBEDDED:
        try:
            exclusive_var_lock()
        except AlreadyRunning as error:
            raise CommandError(f"{taken}: {error}" if taken else str(error)) from error
    if taken:
        raise CommandError(f"{taken}. Try: make run PORT={port + 1}")
