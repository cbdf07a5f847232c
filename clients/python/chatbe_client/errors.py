"""What can go wrong, by what the caller can do about it."""

from __future__ import annotations


class ChatError(Exception):
    """Base of this package's errors."""


class Refused(ChatError):
    """The server answered, and its answer is no. `code` is the contract's (`blocked`, `not_found`, …)."""

    def __init__(self, code: str, detail: str, *, status: int = 0, retry_after: float | None = None) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.status = status
        """Of an HTTP answer; 0 for a frame."""
        self.retry_after = retry_after


class Unreachable(ChatError):
    """No server answered. `maybe_done` says whether what was asked for may have happened all the same."""

    def __init__(self, reason: str, *, maybe_done: bool = False) -> None:
        super().__init__(reason)
        self.maybe_done = maybe_done


class SignedOut(ChatError):
    """The session has ended or the account is suspended: only the user can go on."""


class Closed(ChatError):
    """The client was closed before the answer came."""
