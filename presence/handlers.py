"""Presence in a node: the seams between the hub and `presence.services`."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.conf import settings

from accounts import selectors as accounts
from chatbe.core.clock import microseconds, moment
from chatbe.hub.registry import Handler
from chatbe.wire import codec, frames
from chatbe.wire.websocket import encode_text_frame
from presence import registry, services
from presence.registry.base import Change, Status

if TYPE_CHECKING:
    from chatbe.hub.consumer import SocketConsumer
    from chatbe.hub.node import Node

logger = logging.getLogger("presence.handlers")

GROUP = "presence"
"""The fan-out's group that every node joins.

A change goes to all processes at once instead of to a group per contact: one publish for any number
of changes, no subscription per socket, and no query for whose contact it is, since each process
knows whom its own sockets watch. docs/adr/0006-presence-is-a-level.md has the figures.
"""


class PresencePart:
    """One node's presence (`chatbe.hub.registry.Part`)."""

    handlers: Mapping[type[frames.Command], Handler] = {}

    async def start(self, node: Node) -> None:
        """Begin."""
        self._node = node
        self.service = services.PresenceService(
            registry=registry.build(),
            bus=_NodeBus(node),
            sockets=_NodeSockets(node),
            directory=_NodeDirectory(node),
            refresh_every=settings.CHATBE_PRESENCE_LEASE / 3,
            sweep_every=settings.CHATBE_PRESENCE_SWEEP,
        )
        await node.join([GROUP])
        await self.service.start()

    async def stop(self) -> None:
        """Finish."""
        await self.service.stop()

    def arriving(self, socket: SocketConsumer) -> None:
        """Ask for the contacts."""
        self.service.arriving(user=socket.user_key, connection=socket.connection)

    async def connected(self, socket: SocketConsumer) -> None:
        """Send `friends`, and count the socket as its user's."""
        await self.service.connected(
            user=socket.user_key, connection=socket.connection, session=str(socket.identity.session_id)
        )

    def disconnected(self, socket: SocketConsumer) -> None:
        """Count the socket out; those of a node that drains keep their leases for a while."""
        if self._node.draining:
            self.service.drain()
        self.service.disconnected(socket.connection)

    def caught_up(self, socket: SocketConsumer) -> None:
        """What the socket missed of presence is in a fresh `friends`."""
        self.service.friends_again(socket.connection)

    def rights_changed(self, user: str) -> None:
        """Look at the user's contacts and blocks again."""
        self.service.contacts_changed(user)

    def bus_lost(self) -> None:
        """Ask the registry what has changed."""
        self.service.bus_interrupted()

    def database_replaced(self) -> None:
        """Every socket is closed, and contacts are read anew when they come back."""


def on_presence(node: Node, notice: dict[str, Any]) -> None:
    """Changes that some node has published."""
    changes = [
        Change(user, Status(bool(online), version, moment(seen) if seen else None))
        for user, online, version, seen in notice["s"]
    ]
    for service in _services(node):
        service.on_bus(changes)


def on_contacts_changed(node: Node, notice: dict[str, Any]) -> None:
    """A user's contacts or blocks have changed."""
    for service in _services(node):
        service.contacts_changed(notice["u"])


def on_session_ended(node: Node, notice: dict[str, Any]) -> None:
    """A session of a user has ended, or all of them (no `session`)."""
    for service in _services(node):
        service.logged_out(user=notice["u"], session=notice.get("session") or None)


def on_suspended(node: Node, notice: dict[str, Any]) -> None:
    """A suspended user is not online."""
    for service in _services(node):
        service.logged_out(user=notice["u"], session=None)


def _services(node: Node) -> list[services.PresenceService]:
    """The node's one; none while it starts, when there is no socket yet that a notice could concern."""
    return [part.service for part in node.parts if isinstance(part, PresencePart)]


class _NodeBus:
    """`services.Bus` over the node's fan-out."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def publish(self, changes: Sequence[Change]) -> None:
        """Tell all nodes."""
        told = [
            (
                user,
                int(status.online),
                status.version,
                microseconds(status.last_seen) if status.last_seen else 0,
            )
            for user, status in changes
        ]
        self._node.publish([GROUP], {"type": "hub.fanout", "k": "k", "a": "presence", "u": "", "s": told})


class _NodeSockets:
    """`services.Sockets` over the node's hub."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def send(self, connections: Iterable[str], events: Sequence[frames.Event]) -> None:
        """Offer the same ready frames to each, in one piece."""
        sockets = self._node.hub.sockets
        ready = b"".join([encode_text_frame(codec.encode(event)) for event in events])
        for connection in connections:
            socket = sockets.get(connection)
            if socket is not None:
                socket.offer_event(ready, in_stream=False)


class _NodeDirectory:
    """`services.Directory` on the node's database threads."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def mutual_contacts(self, user: str) -> Awaitable[Sequence[services.MutualContact]]:
        """One query."""
        return self._node.call(accounts.mutual_contacts, user_id=UUID(user))

    async def store_last_seen(self, seen: Mapping[str, datetime]) -> None:
        """Three statements for any number of users."""
        by_id = {UUID(user): when for user, when in seen.items()}
        await self._node.call(partial(services.last_seen_store, seen=by_id))
