"""Refusals of accounts that need a code of their own."""

from typing import ClassVar

from chatbe.core.errors import NotAuthenticated


class InvalidCredentials(NotAuthenticated):
    """Wrong password, or no such account: the two are never told apart."""

    code: ClassVar[str] = "invalid_credentials"
    default_detail: ClassVar[str] = "Username, email or password is wrong."


class InvalidToken(NotAuthenticated):
    """The token is malformed, forged, expired or of another kind."""

    code: ClassVar[str] = "invalid_token"
    default_detail: ClassVar[str] = "The token is invalid or has expired."


class SessionEnded(NotAuthenticated):
    """The token was good, but its session has ended."""

    code: ClassVar[str] = "session_ended"
    default_detail: ClassVar[str] = "This session has ended. Sign in again."
