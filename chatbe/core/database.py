"""Connections to PostgreSQL that never wait for ever.

`statement_timeout` is kept by the server, and the kernel of a frozen one still acknowledges what it is sent:
only the client's own clock notices a server that neither answers nor refuses.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.errors import _WaitTimeout


def bounded(patience: float) -> type[psycopg.Connection[Any]]:
    """A class of connections whose every answer comes within `patience` seconds.

    After that they are closed and raise `psycopg.OperationalError`; whether the statement was carried out
    is then unknown.
    """

    class BoundedConnection(psycopg.Connection[Any]):
        def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
            try:
                return super().wait(gen, interval=interval, timeout=patience if timeout is None else timeout)
            except _WaitTimeout as error:
                self.pgconn.finish()
                raise psycopg.OperationalError("The server does not answer.") from error

    return BoundedConnection
