"""What a client keeps between runs: cursors, messages that are not acked, marks, tokens.

A storage is a small table of texts by name. The names, and what stands under them, are the client's:
`epoch`, `tokens`, `cursor/<conversation>`, `unsent/<number>`, `mark/<conversation>`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class Storage(Protocol):
    """Where a client keeps what the next run goes on from; one account's, one client's at a time.

    Called on the client's event loop, between frames: it must be quick, and must not lose what it took.
    """

    def load(self) -> dict[str, str]:
        """All that is kept, by name."""

    def write(self, changes: Mapping[str, str | None]) -> None:
        """Keep these texts, and forget those that are None: all of them or, after a crash, none."""

    def close(self) -> None:
        """The client is closed for good."""


class MemoryStorage:
    """Keeps until the process ends; what a client has if none is given."""

    def __init__(self) -> None:
        self._kept: dict[str, str] = {}

    def load(self) -> dict[str, str]:
        """All that is kept, by name."""
        return dict(self._kept)

    def write(self, changes: Mapping[str, str | None]) -> None:
        """Keep these texts, and forget those that are None."""
        for name, text in changes.items():
            if text is None:
                self._kept.pop(name, None)
            else:
                self._kept[name] = text

    def close(self) -> None:
        """It may be given to another client."""


class FileStorage:
    """Keeps in an SQLite file that only its owner may read: it holds tokens, which are as good as a password."""

    def __init__(self, path: Path | str) -> None:
        """Open the file, or make it. Raises `sqlite3.OperationalError` while another client has it."""
        file = Path(path)
        file.touch(mode=0o600, exist_ok=True)
        file.chmod(0o600)
        self._database = sqlite3.connect(file, isolation_level=None, timeout=1.0)
        # Two clients with one file would undo each other's work, and spend each other's refresh token.
        self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
        # The next run depends on it, so it is on the disk when `write` returns.
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("BEGIN IMMEDIATE")
        self._database.execute("CREATE TABLE IF NOT EXISTS kept (name TEXT PRIMARY KEY, text TEXT NOT NULL)")
        self._database.execute("COMMIT")

    def load(self) -> dict[str, str]:
        """All that is kept, by name."""
        return dict(self._database.execute("SELECT name, text FROM kept"))

    def write(self, changes: Mapping[str, str | None]) -> None:
        """Keep these texts, and forget those that are None, in one transaction."""
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            for name, text in changes.items():
                if text is None:
                    self._database.execute("DELETE FROM kept WHERE name = ?", (name,))
                else:
                    self._database.execute(
                        "INSERT INTO kept VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET text = excluded.text",
                        (name, text),
                    )

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()
