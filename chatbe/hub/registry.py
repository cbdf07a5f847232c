"""What the apps give to the hub: handlers by frame type, the sign-in, and parts with a life of their own.

The hub imports no app. Each app registers from its `AppConfig.ready`, before any server runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from chatbe.wire import frames

if TYPE_CHECKING:
    from chatbe.hub.consumer import SocketConsumer
    from chatbe.hub.hub import Source
    from chatbe.hub.node import Node


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a socket belongs to; `expires_at` is when its session ends by itself."""

    user_id: UUID
    username: str
    session_id: UUID
    expires_at: datetime


Handler = Callable[["SocketConsumer", Any], None]
"""`handler(socket, command)`: runs on the event loop and must not block; raises `ChatError` to refuse."""

Authenticate = Callable[[str, str | None], Identity | None]
"""`authenticate(otp, username)`: takes the one-time password; runs in a thread. None: not signed in."""

Admit = Callable[[Identity], "Admission"]
"""Reads, after the socket's user has joined the fan-out, whether the session still stands; in a thread."""


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a socket may stay: `close_code` is None, or 4001 or 4003."""

    close_code: int | None


class Part(Protocol):
    """A piece of an app that lives in each server process, between the node's start and its drain."""

    handlers: Mapping[type[frames.Command], Handler]
    """Who takes which frames of admitted sockets."""

    async def start(self, node: Node) -> None:
        """Begin; called on the node's event loop, before the first socket."""

    async def stop(self) -> None:
        """Finish what was taken and let go of every resource."""

    def arriving(self, socket: SocketConsumer) -> None:
        """A socket's user has joined the fan-out, and its session is being judged.

        What `connected` will send may be asked for already, at one go with that.
        """

    async def connected(self, socket: SocketConsumer) -> None:
        """A socket was admitted; `welcome` has been sent. What this sends comes next on the socket."""

    def disconnected(self, socket: SocketConsumer) -> None:
        """A socket that had arrived has gone, admitted or not."""

    def caught_up(self, socket: SocketConsumer) -> None:
        """A socket that had lagged has its conversations again; what else it may have missed is sent afresh."""

    def rights_changed(self, user: str) -> None:
        """The news of a change to a local user's contacts, blocks or memberships may have been lost."""

    def bus_lost(self) -> None:
        """The fan-out may have lost any number of events since the last call."""

    def database_replaced(self) -> None:
        """The database went back, or is another: nothing that is remembered of it holds."""


_parts: list[Callable[[], Part]] = []
_controls: dict[str, list[Callable[[Node, dict[str, Any]], None]]] = {}
_sign_in: list[tuple[Authenticate, Admit]] = []
_sources: list[Source] = []
_epochs: list[Callable[[], str]] = []
_otp_issuers: list[Callable[[list[UUID]], dict[UUID, str]]] = []


def part(factory: Callable[[], Part]) -> None:
    """Let each node build one of these, in the order of registration."""
    _parts.append(factory)


def parts() -> list[Part]:
    """New instances of every registered part."""
    return [factory() for factory in _parts]


def on_control(action: str, receiver: Callable[[Node, dict[str, Any]], None]) -> None:
    """Call `receiver(node, notice)` on the loop of every process that has sockets of the notice's user."""
    _controls.setdefault(action, []).append(receiver)


def control_receivers(action: str) -> list[Callable[[Node, dict[str, Any]], None]]:
    """Who listens to `action`."""
    return _controls.get(action, [])


def sign_in(authenticate: Authenticate, admit: Admit) -> None:
    """Say how one-time passwords are taken and sessions judged."""
    _sign_in.append((authenticate, admit))


def signing_in() -> tuple[Authenticate, Admit]:
    """What `sign_in` was told last."""
    return _sign_in[-1]


def reads_from(source: Source) -> None:
    """Say where conversations are read from, and how a socket catches up."""
    _sources.append(source)


def source() -> Source:
    """What `reads_from` was told last."""
    return _sources[-1]


def epoch_by(read: Callable[[], str]) -> None:
    """Say how the database's epoch is read; blocking."""
    _epochs.append(read)


def epoch() -> Callable[[], str]:
    """What `epoch_by` was told last."""
    return _epochs[-1]


def otps_by(issue: Callable[[list[UUID]], dict[UUID, str]]) -> None:
    """Say how fresh one-time passwords are made for `bye`: session ids to passwords; runs in a thread."""
    _otp_issuers.append(issue)


def issue_otps(sessions: list[UUID]) -> dict[UUID, str]:
    """A fresh one-time password for each live session; blocking."""
    return _otp_issuers[-1](sessions) if _otp_issuers else {}
