"""A person at a terminal: a program in a pseudo-terminal, its screen, and the keys that they press."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from types import TracebackType
from typing import Self

import pyte

from tests.support.processes import ROOT

PATIENCE = 40.0
KEYS = {
    "Enter": "\r",
    "Tab": "\t",
    "Shift-Tab": "\x1b[Z",
    "PageUp": "\x1b[5~",
    "PageDown": "\x1b[6~",
    "F1": "\x1bOP",
    "F2": "\x1bOQ",
    "Ctrl-Q": "\x11",
    "Alt-Enter": "\x1b\r",
}


class Terminal:
    """`python -m chatbe_client …` on a screen of its own; a context manager."""

    def __init__(self, *arguments: str, columns: int = 80, rows: int = 24) -> None:
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self._master, slave = pty.openpty()
        self._set_size(columns, rows)
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT / "clients/python"),
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
            "TZ": "UTC",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "chatbe_client", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
        )
        os.close(slave)

    @property
    def text(self) -> str:
        """What is on the screen, without the second cells of wide characters."""
        # Not `screen.display`, which fails on wide characters that a narrower window has cut.
        rows, columns = range(self.screen.lines), range(self.screen.columns)
        lines = ("".join(self.screen.buffer[row][column].data for column in columns) for row in rows)
        return "\n".join(line.rstrip() for line in lines)

    def press(self, *keys: str) -> None:
        """Press keys by their names; anything else is typed."""
        for key in keys:
            os.write(self._master, KEYS.get(key, key).encode())

    def expect(self, *texts: str, gone: str = "") -> None:
        """Wait until all of these are on the screen, and `gone` is not."""
        deadline = time.monotonic() + PATIENCE
        while not all(text in self.text for text in texts) or (gone and gone in self.text):
            if not self._read(deadline - time.monotonic()):
                missing = [text for text in texts if text not in self.text]
                raise AssertionError(f"missing: {missing}, or still there: {gone!r}\n{self.text}")

    def line_of(self, text: str) -> str:
        """The screen's line that has it."""
        return next(line for line in self.text.splitlines() if text in line)

    def resize(self, columns: int, rows: int) -> None:
        """Drag the window."""
        self.screen.resize(rows, columns)
        self._set_size(columns, rows)
        os.killpg(self.process.pid, signal.SIGWINCH)

    def ended(self) -> int:
        """Wait until the program has ended; its exit code."""
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(PATIENCE)

    def _set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _read(self, seconds: float) -> bool:
        """Take what is written next; False when there is nothing more, or not in time."""
        if not select.select([self._master], [], [], max(0.0, seconds))[0]:
            return False
        # The other end was closed, by a program that ended.
        with contextlib.suppress(OSError):
            data = os.read(self._master, 65536)
            # As a terminal does when it is asked where the cursor is.
            if b"\x1b[6n" in data:
                os.write(self._master, b"\x1b[1;1R")
            self._stream.feed(data)
            return bool(data)
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)
