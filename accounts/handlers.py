"""How a socket signs in: its one-time password, then, once it has joined the fan-out, its session."""

from __future__ import annotations

from uuid import UUID

from accounts import selectors, services
from chatbe.hub.registry import Admission, Identity
from chatbe.wire.codes import CloseCode


def authenticate(otp: str, username: str | None) -> Identity | None:
    """Take the one-time password. None when it is bad, used, expired, or another user's.

    A wrong username uses it up as well: who holds a stolen one has a single try. Blocking.
    """
    session = services.otp_take(otp=otp)
    if session is None or (username is not None and username.lower() != session.user.username):
        return None
    return Identity(
        user_id=session.user_id,
        username=session.user.username,
        session_id=session.id,
        expires_at=session.expires_at,
    )


def admit(identity: Identity) -> Admission:
    """Whether the session still stands, read after its user's news have begun to arrive. Blocking."""
    state = selectors.session_state(session_id=identity.session_id)
    if state is not None and state.suspended:
        return Admission(CloseCode.SUSPENDED)
    if state is None or not state.alive:
        return Admission(CloseCode.SESSION_ENDED)
    return Admission(None)


def issue_otps(sessions: list[UUID]) -> dict[UUID, str]:
    """A fresh one-time password for each of these sessions that is alive. Blocking."""
    return services.otps_issue(session_ids=sessions)
