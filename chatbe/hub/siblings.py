"""The workers of one supervisor: a scrape of `/metrics` reaches any of them, and it asks the others.

Each answers on a unix socket in a folder that its supervisor has made, with its node's id and samples
as JSON.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from pathlib import Path

import msgspec

from chatbe.core.metrics import Sample, samples
from chatbe.hub.node import Node

logger = logging.getLogger("chatbe.hub.siblings")

PATIENCE = 2.0
"""Seconds in which a sibling has answered; one that has not is left out."""


class Said(msgspec.Struct):
    """What a worker says of itself."""

    node: str
    samples: list[Sample]


_own: Path | None = None
"""This worker's socket, once it listens."""


async def listen(folder: Path, node: Node) -> None:
    """Answer the other workers, from now on."""
    global _own

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(msgspec.json.encode(Said(node.id, samples(node.metrics))))
            await writer.drain()
        except ConnectionError:
            logger.info("a sibling did not wait for its answer")
        finally:
            writer.close()

    path = folder / f"{os.getpid()}.sock"
    path.unlink(missing_ok=True)
    node.keep(await asyncio.start_unix_server(answer, path))
    _own = path


def others() -> dict[str, list[Sample]]:
    """The samples of the other workers, by their nodes' ids; blocks."""
    if _own is None:
        return {}
    said = {}
    for path in sorted(_own.parent.glob("*.sock")):
        if path != _own and (each := _ask(path)) is not None:
            said[each.node] = each.samples
    return said


def _ask(path: Path) -> Said | None:
    received = bytearray()
    try:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(PATIENCE)
            asking.connect(str(path))
            while part := asking.recv(65536):
                received += part
        return msgspec.json.decode(received, type=Said)
    except (ConnectionRefusedError, FileNotFoundError):
        # It was killed; its successor has a socket of its own.
        path.unlink(missing_ok=True)
    except (OSError, msgspec.DecodeError) as error:
        logger.warning("a worker does not tell its metrics", extra={"reason": type(error).__name__})
    return None
