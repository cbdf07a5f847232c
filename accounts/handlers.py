"""How a socket signs in: its one-time password, then, once it has joined the fan-out, its session."""

from __future__ import annotations

from uuid import UUID

from accounts import selectors, services
from chatbe.core import clock
from chatbe.hub.database import Row, Value, put_by_loop
from chatbe.hub.registry import Admission, Identity
from chatbe.wire.codes import CloseCode


def _otp_values(otp: str, _username: str | None) -> list[Value] | None:
    digest = services.otp_digest(otp)
    return None if digest is None else [b"\\x" + digest.hex().encode(), clock.timestamp(clock.now()).encode()]


def _identity(rows: list[Row], _otp: str, username: str | None) -> Identity | None:
    if not rows:
        return None
    session, rest = (str(value, "ascii") for value in rows[0] if value is not None)
    user, name, expires_at = rest.split(" ")
    if username is not None and username.lower() != name:
        return None
    return Identity(
        user_id=UUID(user), username=name, session_id=UUID(session), expires_at=clock.moment(int(expires_at))
    )


def _session_values(identity: Identity) -> list[Value]:
    return [str(identity.session_id).encode(), clock.timestamp(clock.now()).encode()]


def _admission(rows: list[Row], _identity: Identity) -> Admission:
    alive, suspended = rows[0] if rows else (b"f", b"f")
    if suspended == b"t":
        return Admission(CloseCode.SUSPENDED)
    return Admission(None if alive == b"t" else CloseCode.SESSION_ENDED)


@put_by_loop(services.OTP_TAKE, values=_otp_values, answer=_identity, writes=True)
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


@put_by_loop(selectors.SESSION_STATE, values=_session_values, answer=_admission)
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
