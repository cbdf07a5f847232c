"""A hook that hears everything a client sends and receives."""

from __future__ import annotations

from typing import Protocol


class Recorder(Protocol):
    """Told of every frame as it stands on the wire.

    `connection` counts this client's connections from 1; the server's own names for it are in
    its `welcome` frame. Called on the client's event loop; must not block and must not raise.
    """

    def opened(self, connection: int, url: str) -> None:
        """A socket is open; `url` is without its query, which holds the one-time password."""

    def received(self, connection: int, frame: str) -> None:
        """A text frame came in; before the client acts on it."""

    def sent(self, connection: int, frame: str) -> None:
        """A text frame was handed to the socket; whether it arrived is unknown."""

    def closed(self, connection: int, code: int, reason: str) -> None:
        """The socket is gone: the server's close code, or 1006 when there was none."""


class NoRecorder:
    """Hears and forgets."""

    def opened(self, connection: int, url: str) -> None:
        """Nothing."""

    def received(self, connection: int, frame: str) -> None:
        """Nothing."""

    def sent(self, connection: int, frame: str) -> None:
        """Nothing."""

    def closed(self, connection: int, code: int, reason: str) -> None:
        """Nothing."""
