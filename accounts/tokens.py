"""The two tokens of a session, on simplejwt: what is in them, and how they are read.

Both name their session (`sid`). Which refresh token is good is kept in the session's row; an
access token is good as long as its signature, its time and its session are.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from django.conf import settings
from rest_framework_simplejwt.exceptions import TokenError
from rest_framework_simplejwt.tokens import AccessToken, RefreshToken, Token

from accounts.errors import InvalidToken
from accounts.models import Session


@dataclass(frozen=True, slots=True)
class Tokens:
    """A fresh pair, and when each of the two expires."""

    session_id: UUID
    access_token: str
    access_token_expires_at: datetime
    refresh_token: str
    refresh_token_expires_at: datetime


@dataclass(frozen=True, slots=True)
class Claims:
    """What a good token says."""

    session_id: UUID
    jti: UUID


def tokens_for(*, session: Session, refresh_jti: UUID, now: datetime) -> Tokens:
    """A pair for `session`; neither outlives it."""
    access, access_expires_at = _signed(
        AccessToken(), session, now + min(settings.CHATBE_ACCESS_LIFETIME, session.expires_at - now)
    )
    refresh = RefreshToken()
    refresh["jti"] = refresh_jti.hex
    refresh_token, refresh_expires_at = _signed(refresh, session, session.expires_at)
    return Tokens(session.id, access, access_expires_at, refresh_token, refresh_expires_at)


def access_claims(token: str) -> Claims:
    """What an access token says. Raises `InvalidToken`."""
    return _claims(AccessToken, token)


def refresh_claims(token: str) -> Claims:
    """What a refresh token says. Raises `InvalidToken`."""
    return _claims(RefreshToken, token)


def _signed(token: Token, session: Session, expires_at: datetime) -> tuple[str, datetime]:
    token["sub"] = str(session.user_id)
    token["sid"] = str(session.id)
    token.set_exp(from_time=expires_at, lifetime=timedelta())
    return str(token), datetime.fromtimestamp(token["exp"], UTC)


def _claims(kind: type[AccessToken | RefreshToken], encoded: str) -> Claims:
    # PyJWT encodes the text, so what is not ASCII is no token and need not reach it.
    if not encoded.isascii():
        raise InvalidToken
    try:
        token = kind(encoded)  # type: ignore[arg-type]  # simplejwt annotates the encoded form as Token
        return Claims(session_id=UUID(token["sid"]), jti=UUID(token["jti"]))
    except (TokenError, KeyError, ValueError, AttributeError, TypeError):
        # Of another kind, or signed here for another purpose with claims of another shape.
        raise InvalidToken from None
