"""The embedded default runs as one process: what lies under var/ has one owner at a time."""

from __future__ import annotations

import fcntl
import os

from django.conf import settings

_held: list[int] = []
"""The descriptor of the lock file, once this process has it; the lock lasts as long as it is open."""


class AlreadyRunning(Exception):
    """Another process has the data; `process` is its id, or None where it cannot be told."""

    def __init__(self, process: int | None) -> None:
        self.process = process
        who = "" if process is None else f" (process {process})"
        super().__init__(
            f"chatbe already runs on {settings.CHATBE_VAR_DIR}{who}. Stop it first, or give this one a "
            "directory of its own with CHATBE_VAR_DIR. Several processes at once need PostgreSQL and Redis."
        )


def exclusive_var_lock() -> None:
    """Take var/ for this process until it ends, however it ends. Repeatable. Raises `AlreadyRunning`."""
    if _held:
        return
    path = settings.CHATBE_VAR_DIR / "lock"
    settings.CHATBE_VAR_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(descriptor, 20).decode(errors="replace").strip()
        os.close(descriptor)
        raise AlreadyRunning(int(owner) if owner.isdigit() else None) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    _held.append(descriptor)
