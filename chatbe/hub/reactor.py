"""Twisted's reactor on a uvloop event loop.

It is Twisted's own asyncio reactor without a logging context around each read and write, which
would cost more than reading from the socket does.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import uvloop
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.main import installReactor

logger = logging.getLogger("chatbe.hub.reactor")


class UvloopReactor(AsyncioSelectorReactor):
    """Reads and writes of descriptors go from uvloop straight to the descriptor."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that it runs."""
        loop: asyncio.AbstractEventLoop = self._asyncioEventloop
        return loop

    def addReader(self, reader: Any) -> None:
        """Have `reader.doRead` called while there is something to read."""
        if reader not in self._readers:
            descriptor = reader.fileno()
            self.loop.add_reader(descriptor, self._act, reader, reader.doRead, True)
            self._readers[reader] = descriptor

    def addWriter(self, writer: Any) -> None:
        """Have `writer.doWrite` called while the kernel takes more."""
        if writer not in self._writers:
            descriptor = writer.fileno()
            self.loop.add_writer(descriptor, self._act, writer, writer.doWrite, False)
            self._writers[writer] = descriptor

    def _act(self, selectable: Any, act: Any, is_read: bool) -> None:
        try:
            why = act()
        except Exception as error:
            logger.exception("a connection failed and is dropped")
            why = error
        if why:
            self._disconnectSelectable(selectable, why, is_read)


def install() -> UvloopReactor:
    """Make this process's reactor, once; before anything imports `twisted.internet.reactor`."""
    installed = sys.modules.get("twisted.internet.reactor")
    if installed is None:
        loop = uvloop.new_event_loop()
        asyncio.set_event_loop(loop)
        reactor = UvloopReactor(loop)
        installReactor(reactor)
        return reactor
    if not isinstance(installed, UvloopReactor):
        raise RuntimeError(f"another Twisted reactor is installed already: {installed!r}")
    return installed
