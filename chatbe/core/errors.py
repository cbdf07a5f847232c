"""Errors that a caller may be told: each has a code, an HTTP status and one sentence.

Services raise them; one place each turns them into an answer: `chatbe.problems` on HTTP
and `chatbe.hub.consumer` on the socket.
"""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with one field of a request."""

    field: str
    code: str
    detail: str


class ChatError(Exception):
    """Something the caller did or met. Nothing was changed unless a subclass says otherwise."""

    code: ClassVar[str] = "invalid"
    status: ClassVar[int] = 400
    default_detail: ClassVar[str] = "The request cannot be carried out."

    def __init__(self, detail: str | None = None, *, retry_after: float | None = None) -> None:
        """`retry_after` is in seconds; only `RateLimited` and `Unavailable` have one."""
        self.detail = detail or self.default_detail
        self.retry_after = retry_after
        super().__init__(self.detail)


class Invalid(ChatError):
    """A value is malformed or out of range; `errors` names the fields."""

    default_detail = "A value is missing or malformed."

    def __init__(self, detail: str | None = None, *, errors: tuple[FieldError, ...] = ()) -> None:
        super().__init__(detail)
        self.errors = errors


class NotAuthenticated(ChatError):
    """No credentials, or bad ones."""

    code = "not_authenticated"
    status = 401
    default_detail = "Sign in first."


class NotFound(ChatError):
    """It does not exist, or the caller may not know that it does."""

    code = "not_found"
    status = 404
    default_detail = "There is no such thing, or none that you may see."


class Forbidden(ChatError):
    """The caller knows it and may not do this."""

    code = "forbidden"
    status = 403
    default_detail = "You may not do this."


class NotAContact(Forbidden):
    """The message policy wants a contact first."""

    code = "not_contact"
    default_detail = "Add this user to your contacts first."


class Blocked(Forbidden):
    """The other side has blocked the caller."""

    code = "blocked"
    default_detail = "You cannot write to this user."


class Suspended(Forbidden):
    """The caller's account is suspended."""

    code = "suspended"
    default_detail = "This account is suspended."


class Conflict(ChatError):
    """The request contradicts what is stored; `errors` may name the fields."""

    code = "conflict"
    status = 409
    default_detail = "This contradicts what is stored."

    def __init__(self, detail: str | None = None, *, errors: tuple[FieldError, ...] = ()) -> None:
        """`errors` names the fields whose values are taken."""
        super().__init__(detail)
        self.errors = errors


class TooLarge(ChatError):
    """Over a limit of size."""

    code = "too_large"
    status = 413
    default_detail = "This is over the limit of size."


class Expired(ChatError):
    """The time in which this could be done has passed."""

    code = "expired"
    status = 403
    default_detail = "The time for this has passed."


class RateLimited(ChatError):
    """Too many requests; `retry_after` says when to try again."""

    code = "rate_limited"
    status = 429
    default_detail = "Too many requests. Try again later."


class Unavailable(ChatError):
    """A dependency is down or busy; whether a write was committed may be unknown."""

    code = "unavailable"
    status = 503
    default_detail = "The service cannot do this right now. Try again, with the same client_id."

    def __init__(self, detail: str | None = None, *, retry_after: float | None = None) -> None:
        super().__init__(detail, retry_after=1.0 if retry_after is None else retry_after)
