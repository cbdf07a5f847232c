"""WebSocket frames as bytes (RFC 6455, section 5.2), for a server: written unmasked, read masked.

Pure: no socket is known here. A server's frames carry no mask, so one encoded frame can be sent
to any number of sockets.
"""

from typing import Final

PING: Final = b"\x89\x00"
"""A ping without a payload."""

CLOSE_REASON_LIMIT: Final = 123
"""Bytes of reason that fit into a close frame beside its code."""

_TEXT: Final = 0x81
_CLOSE: Final = 0x88
_PONG: Final = 0x8A
_MASKED: Final = 0x80


def encode_text_frame(payload: bytes) -> bytes:
    """One complete, unmasked text frame around `payload`, which must be UTF-8."""
    length = len(payload)
    if length < 126:
        return b"\x81%c%b" % (length, payload)
    if length < 65536:
        return b"\x81\x7e%b%b" % (length.to_bytes(2, "big"), payload)
    return b"\x81\x7f%b%b" % (length.to_bytes(8, "big"), payload)


def encode_close_frame(code: int, reason: str = "") -> bytes:
    """A close frame with any code; a reason too long for it is cut at a character."""
    text = reason.encode()[:CLOSE_REASON_LIMIT].decode(errors="ignore").encode()
    return b"%c%c%b%b" % (_CLOSE, 2 + len(text), code.to_bytes(2, "big"), text)


def take_text_frame(data: bytes, start: int, limit: int) -> tuple[bytes, int] | None:
    """Read the frame at `start` if it is the plain case: a whole, masked, unfragmented text message.

    Returns its unmasked payload (not yet known to be UTF-8) and where the next frame begins. None
    means that the frame is incomplete, longer than `limit` bytes, not encoded in the fewest bytes,
    a control or binary frame, a fragment or an error: a full parser has to look at it.
    """
    available = len(data) - start
    if available < 6 or data[start] != _TEXT:
        return None
    length = data[start + 1] - _MASKED
    body = start + 6
    if length < 0:
        return None
    if length == 126:
        if available < 8:
            return None
        length = int.from_bytes(data[start + 2 : start + 4], "big")
        if length < 126:
            return None
        body = start + 8
    elif length == 127:
        if available < 14:
            return None
        length = int.from_bytes(data[start + 2 : start + 10], "big")
        if length < 65536:
            return None
        body = start + 14
    end = body + length
    if length > limit or end > len(data):
        return None
    return unmask(data[body:end], data[body - 4 : body]), end


def skip_pong(data: bytes, start: int) -> int:
    """Where the frame after a whole pong at `start` begins; `start` itself if there is no whole pong."""
    if len(data) - start < 6 or data[start] != _PONG:
        return start
    end = start + 6 + data[start + 1] - _MASKED
    return end if start + 6 <= end <= min(start + 6 + 125, len(data)) else start


def unmask(payload: bytes, mask: bytes) -> bytes:
    """XOR `payload` with the four bytes of `mask`, repeated."""
    # One XOR of two long integers: the cheapest way without an extension module.
    length = len(payload)
    repeated = (mask * (length // 4 + 1))[:length]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(repeated, "little")).to_bytes(length, "little")
