"""Error codes and close codes of the socket, each once.

The range of a close code tells a client what to do, as in centrifuge: 4000–4099 with the
exceptions below and the RFC's own codes mean "come back", 4001, 4003 and 4401 mean "stop".
"""

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


_RESUMABLE = frozenset({
    CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.INTERNAL_ERROR, CloseCode.RESTARTING,
    CloseCode.TOO_SLOW, CloseCode.TOO_MANY_FRAMES, CloseCode.SILENT,
})  # fmt: skip
