"""Twisted's reactor on a uvloop event loop.

It is Twisted's own asyncio reactor without a logging context around each read and write, which
would cost more than reading from the socket does.

And it knows that uvloop lets go of a descriptor that was reset, after one last call (uvloop#552).
Where bytes had come before the reset, that call reads them and learns nothing of the end; from
then on no event comes, and adding a reader or a writer raises RuntimeError.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import uvloop
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST, installReactor

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
            try:
                self.loop.add_reader(descriptor, self._act, reader, reader.doRead, True)
            except RuntimeError:
                self._was_let_go(reader, descriptor)
            else:
                self._readers[reader] = descriptor

    def addWriter(self, writer: Any) -> None:
        """Have `writer.doWrite` called while the kernel takes more."""
        if writer not in self._writers:
            descriptor = writer.fileno()
            try:
                self.loop.add_writer(descriptor, self._act, writer, writer.doWrite, False)
            except RuntimeError:
                self._was_let_go(writer, descriptor)
            else:
                self._writers[writer] = descriptor

    def is_reading(self, selectable: Any) -> bool:
        """Whether a reader was added and not removed; uvloop may have let go of it all the same."""
        return selectable in self._readers

    def read(self, selectable: Any) -> None:
        """Do what an event would do that there is something to read."""
        self._act(selectable, selectable.doRead, True)

    def end(self, selectable: Any) -> None:
        """End a connection of which all is written, now."""
        if selectable.fileno() != -1:
            self._disconnectSelectable(selectable, CONNECTION_DONE, False)

    def drop(self, selectable: Any) -> None:
        """End a connection that is broken, in a turn of its own: the caller may be telling many of something."""
        self.loop.call_soon(self._drop, selectable)

    def _drop(self, selectable: Any) -> None:
        if selectable.fileno() != -1:
            self._disconnectSelectable(selectable, CONNECTION_LOST, False)

    def _was_let_go(self, selectable: Any, descriptor: int) -> None:
        # Or whoever gets the same descriptor next would find it let go, too.
        self.loop.remove_reader(descriptor)
        self.drop(selectable)

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
