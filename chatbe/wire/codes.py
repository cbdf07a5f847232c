"""Error codes and close codes of the socket, each once.

The range of a close code tells a client what to do, as in centrifuge: 4000–4099 with the
exceptions below and the RFC's own codes mean "come back", 4001, 4003 and 4401 mean "stop".
"""

from collections.abc import Mapping
from enum import IntEnum, StrEnum


class ErrorCode(StrEnum):
    """Codes of `error` frames; HTTP problems share them."""

    BAD_FRAME = "bad_frame"
    UNKNOWN_TYPE = "unknown_type"
    INVALID = "invalid"
    NOT_FOUND = "not_found"
    FORBIDDEN = "forbidden"
    NOT_CONTACT = "not_contact"
    BLOCKED = "blocked"
    CONFLICT = "conflict"
    TOO_LARGE = "too_large"
    SUSPENDED = "suspended"
    EXPIRED = "expired"
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"


class Remedy(StrEnum):
    """What a client does about a closed socket."""

    RESUME = "comes back after `reconnect_after`, or with backoff and jitter, and syncs"
    SIGN_IN = "fetches a new one-time password and tries again, once"
    STOP = "stops, and asks the user"
    FIX = "has a bug"


class CloseCode(IntEnum):
    """Close codes (RFC 6455, section 7.4, and chatbe's own from 4000)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    UNSUPPORTED_DATA = 1003
    INVALID_PAYLOAD = 1007
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    RESTARTING = 1012
    SESSION_ENDED = 4001
    SUSPENDED = 4003
    TOO_SLOW = 4008
    TOO_MANY_FRAMES = 4009
    SILENT = 4010
    NOT_SIGNED_IN = 4401

    @property
    def resumable(self) -> bool:
        """Whether a client should come back by itself and sync."""
        return self in _RESUMABLE

    @property
    def remedy(self) -> Remedy:
        """What a client should do."""
        if self in _RESUMABLE:
            return Remedy.RESUME
        return _REMEDIES.get(self, Remedy.FIX)


_RESUMABLE = frozenset({
    CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.INTERNAL_ERROR, CloseCode.RESTARTING,
    CloseCode.TOO_SLOW, CloseCode.TOO_MANY_FRAMES, CloseCode.SILENT,
})  # fmt: skip
_REMEDIES: Mapping[CloseCode, Remedy] = {
    CloseCode.SESSION_ENDED: Remedy.STOP,
    CloseCode.SUSPENDED: Remedy.STOP,
    CloseCode.NOT_SIGNED_IN: Remedy.SIGN_IN,
}

ERROR_MEANINGS: Mapping[ErrorCode, str] = {
    ErrorCode.BAD_FRAME: "The text is no JSON object with a `type`.",
    ErrorCode.UNKNOWN_TYPE: "The server does not know this `type`.",
    ErrorCode.INVALID: "A field is missing, malformed or out of range; `detail` says which.",
    ErrorCode.NOT_FOUND: "No such conversation, message or user, or none that the client may know of.",
    ErrorCode.FORBIDDEN: "Known, but not allowed.",
    ErrorCode.NOT_CONTACT: "The message policy wants the recipient among one's contacts first.",
    ErrorCode.BLOCKED: "The recipient has blocked the sender.",
    ErrorCode.CONFLICT: "It contradicts what was done before: a second `sync`, say.",
    ErrorCode.TOO_LARGE: "The frame is over the limit of size.",
    ErrorCode.SUSPENDED: "The account is suspended.",
    ErrorCode.EXPIRED: "The time for this has passed.",
    ErrorCode.RATE_LIMITED: "Too many frames: try again after `retry_after` seconds.",
    ErrorCode.UNAVAILABLE: "A dependency is away, and the commit may be unknown: send again with the same "
    "`client_id` after `retry_after` seconds.",
}

CLOSE_MEANINGS: Mapping[CloseCode, str] = {
    CloseCode.NORMAL: "The connection was closed.",
    CloseCode.GOING_AWAY: "The other side went away.",
    CloseCode.UNSUPPORTED_DATA: "The client sent a binary frame.",
    CloseCode.INVALID_PAYLOAD: "The client sent text that is no UTF-8.",
    CloseCode.MESSAGE_TOO_BIG: "The client sent a frame far over the limit of size.",
    CloseCode.INTERNAL_ERROR: "The server failed, or a dependency stayed away for too long.",
    CloseCode.RESTARTING: "The server restarts; `bye` came before.",
    CloseCode.SESSION_ENDED: "The session ended: logout, revocation or expiry.",
    CloseCode.SUSPENDED: "The account is suspended.",
    CloseCode.TOO_SLOW: "The client took nothing of what was sent to it for too long.",
    CloseCode.TOO_MANY_FRAMES: "The client sent on and on over the limit of frames.",
    CloseCode.SILENT: "The client sends heartbeats, and none came for three intervals.",
    CloseCode.NOT_SIGNED_IN: "The one-time password is bad, used or expired, or another user's.",
}
