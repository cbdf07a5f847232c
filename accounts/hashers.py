"""Argon2, a few at a time: each hash takes 100 MiB of memory and a core."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from django.contrib.auth.hashers import Argon2PasswordHasher

from chatbe.core.errors import Unavailable

AT_ONCE = 4
PATIENCE = 10.0
"""Seconds that a sign-in waits for its turn."""

_turns = threading.BoundedSemaphore(AT_ONCE)


class BoundedArgon2PasswordHasher(Argon2PasswordHasher):
    """Django's Argon2, at most `AT_ONCE` per process: a wave of sign-ins must not take all memory.

    Raises `Unavailable` (503 with Retry-After) when its turn does not come.
    """

    def encode(self, password: str, salt: str) -> str:
        """Hash."""
        with _turn():
            return super().encode(password, salt)

    def verify(self, password: str, encoded: str) -> bool:
        """Compare, in constant time."""
        with _turn():
            return super().verify(password, encoded)


@contextlib.contextmanager
def _turn() -> Iterator[None]:
    if not _turns.acquire(timeout=PATIENCE):
        raise Unavailable("Too many are signing in. Try again in a moment.", retry_after=5.0)
    try:
        yield
    finally:
        _turns.release()
