"""Limits that hold across processes and restarts: attempts counted in the database, by fixed windows.

One atomic upsert per attempt, so simultaneous ones are all counted. Keys are hashed: the table
tells neither addresses nor names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from django.conf import settings
from django.db import connection

from accounts.models import Attempts
from chatbe.core import clock
from chatbe.core.errors import RateLimited


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `count` within a window of `seconds`."""

    name: str
    count: int
    seconds: int

    def of(self, subject: str) -> Key:
        """This limit for one account, address or session."""
        return Key(self, hashlib.sha256(f"{self.name}\0{subject}".encode()).digest())


@dataclass(frozen=True, slots=True)
class Key:
    """A limit and whom it is about."""

    limit: Limit
    digest: bytes

    def window(self, now: float) -> int:
        """The start of the window that `now` is in, in Unix seconds."""
        return int(now) // self.limit.seconds * self.limit.seconds

    def retry_after(self, now: float) -> float:
        """Seconds until the next window."""
        return self.window(now) + self.limit.seconds - now


LOGIN_PER_ACCOUNT: Final = Limit("login-account", 10, 300)
LOGIN_PER_ADDRESS: Final = Limit("login-address", 50, 300)
PASSWORD_PER_USER: Final = Limit("password-user", 10, 300)
REGISTER_PER_ADDRESS: Final = Limit("register-address", 100, 3600)
OTP_PER_SESSION: Final = Limit("otp-session", 30, 60)

LONGEST_WINDOW: Final = max(
    limit.seconds
    for limit in (
        LOGIN_PER_ACCOUNT,
        LOGIN_PER_ADDRESS,
        PASSWORD_PER_USER,
        REGISTER_PER_ADDRESS,
        OTP_PER_SESSION,
    )
)


def attempts_check(keys: Sequence[Key]) -> None:
    """Raise `RateLimited` if any of `keys` is used up. Counts nothing."""
    if not settings.CHATBE_RATE_LIMITS:
        return
    now = clock.now().timestamp()
    counts = {
        (bytes(digest), window): count
        for digest, window, count in Attempts.objects.filter(
            key__in=[key.digest for key in keys], window__in={key.window(now) for key in keys}
        ).values_list("key", "window", "count")
    }
    _refuse(
        [key for key in keys if counts.get((key.digest, key.window(now)), 0) >= key.limit.count],
        now,
    )


def attempts_count(keys: Sequence[Key]) -> None:
    """Count one attempt under each of `keys`. Raises `RateLimited` if that is one too many for any."""
    if not settings.CHATBE_RATE_LIMITS:
        return
    now = clock.now().timestamp()
    # In the order of the digests, so that two of these cannot wait for each other.
    ordered = sorted(keys, key=lambda key: key.digest)
    with connection.cursor() as cursor:
        cursor.execute(
            'INSERT INTO accounts_attempts ("key", "window", "count") VALUES '  # noqa: S608 - only placeholders
            + ", ".join(["(%s, %s, 1)"] * len(ordered))
            + ' ON CONFLICT ("key", "window") DO UPDATE SET "count" = accounts_attempts."count" + 1'
            ' RETURNING "key", "count"',
            [value for key in ordered for value in (key.digest, key.window(now))],
        )
        counts = {bytes(digest): count for digest, count in cursor.fetchall()}
    _refuse([key for key in keys if counts[key.digest] > key.limit.count], now)


def _refuse(used_up: list[Key], now: float) -> None:
    if used_up:
        raise RateLimited(retry_after=max(key.retry_after(now) for key in used_up))
