"""Listening sockets: how they are opened, named, and what is said when they cannot be."""

from __future__ import annotations

import errno
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

BACKLOG = 1024


class CannotListen(Exception):
    """Says in one line what is in the way and what to do."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to listen: a TCP address, a unix socket's path, or a descriptor that listens already."""

    host: str = "127.0.0.1"
    port: int = 8000
    path: str = ""
    descriptor: int | None = None

    def open(self, *, shared: bool = False) -> socket.socket:
        """A listening, non-blocking socket. Raises CannotListen.

        With `shared`, other sockets of this user may be opened on the same TCP port, and the kernel
        spreads new connections over them.
        """
        if self.descriptor is not None:
            return _adopt(self.descriptor)
        if self.path:
            return _open_unix(self.path)
        return _open_tcp(self.host, self.port, shared=shared)


def url(listener: socket.socket) -> str:
    """How to reach it, for people: `http://127.0.0.1:8000`, or `unix:/path`."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _open_tcp(host: str, port: int, *, shared: bool) -> socket.socket:
    if not 0 <= port <= 65535:
        raise CannotListen(f"{port} is no TCP port. Take one from 1 to 65535, or 0 for any that is free.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise CannotListen(f"{host}:{port} is no address of this machine: {error}.") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise CannotListen(_explain(error, host, port)) from error
    listener.setblocking(False)
    return listener


def _explain(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} on {host} is in use. Stop what listens there, or take another: --port {port + 1}"
    if error.errno == errno.EACCES:
        return f"Port {port} needs rights that this user does not have. Take one above 1023: --port 8000"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine. Take one that is: --host 127.0.0.1"
    return f"Cannot listen on {host}:{port}: {error}."


def _open_unix(path: str) -> socket.socket:
    if os.path.exists(path):  # noqa: PTH110 - Path has no answer for names that are too long
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            raise CannotListen(f"{path} exists and is no socket. Remove it, or take another path: --uds")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(path)
            except OSError:
                # Left behind by a server that is gone.
                Path(path).unlink(missing_ok=True)
            else:
                raise CannotListen(f"{path} is in use. Stop what listens there, or take another path: --uds")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise CannotListen(f"Cannot listen on {path}: {error}.") from error
    listener.setblocking(False)
    return listener


def _adopt(descriptor: int) -> socket.socket:
    try:
        listener = socket.socket(fileno=descriptor)
        accepting = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise CannotListen(f"Descriptor {descriptor} is no socket: {error}.") from error
    if not accepting:
        raise CannotListen(f"Descriptor {descriptor} is a socket that does not listen.")
    listener.setblocking(False)
    return listener
