"""`Authorization: Bearer <access_token>`: the token's signature and time, and its session as it is now."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.request import Request

from accounts import selectors, tokens
from accounts.errors import InvalidToken, SessionEnded
from accounts.models import Session, User
from chatbe.core import clock
from chatbe.core.errors import Suspended


class BearerAuthentication(BaseAuthentication):
    """Sets `request.user`, and `request.auth` to the `Session`. One query per request."""

    def authenticate(self, request: Request) -> tuple[User, Session] | None:
        """None without a bearer token. Raises `InvalidToken`, `SessionEnded` or `Suspended`."""
        scheme, _, token = get_authorization_header(request).partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        try:
            claims = tokens.access_claims(token.strip().decode("ascii"))
        except UnicodeDecodeError:
            raise InvalidToken from None
        session = selectors.session_with_user(session_id=claims.session_id)
        if session is None:
            raise SessionEnded
        now = clock.now()
        if session.user.suspended(now=now):
            raise Suspended
        if not session.alive(now=now):
            raise SessionEnded
        return session.user, session

    def authenticate_header(self, request: Request) -> str:  # noqa: ARG002 - the framework's signature
        """For `WWW-Authenticate`: makes a missing token a 401, not a 403."""
        return 'Bearer realm="chatbe"'


class BearerScheme(OpenApiAuthenticationExtension):
    """For OpenAPI."""

    target_class = BearerAuthentication
    name = "bearer"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:  # noqa: ARG002 - the framework's signature
        """The security scheme object."""
        return {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "The `access_token` of POST /v1/auth/login or POST /v1/auth/token.",
        }
