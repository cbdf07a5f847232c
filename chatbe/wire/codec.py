"""Bytes to frames and back. Knows sizes and shapes; knows no socket."""

from typing import Any, Final

import msgspec

from chatbe.wire import frames
from chatbe.wire.codes import ErrorCode


class ProtocolError(Exception):
    """A frame that is refused: `code`, one sentence, and the frame's `ref` where it could be read."""

    def __init__(self, code: ErrorCode, detail: str, ref: str | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.ref = ref


AnyCommand = (
    frames.Send | frames.Sync | frames.Edit | frames.Delete | frames.React | frames.Read
    | frames.Delivered | frames.Typing | frames.Heartbeat
)  # fmt: skip

_KNOWN_TYPES: Final = frozenset(str(command.__struct_config__.tag) for command in frames.COMMANDS)
_decode = msgspec.json.Decoder(AnyCommand).decode
encode = msgspec.json.Encoder().encode
"""A frame (or any of its objects) as compact UTF-8 JSON."""


def decode(data: str | bytes) -> frames.Command:
    """The command in one text frame.

    Raises `ProtocolError` with `too_large`, `bad_frame`, `unknown_type` or `invalid`.
    """
    if len(data) > frames.MAX_UP_BYTES or (
        isinstance(data, str)
        and len(data) * 4 > frames.MAX_UP_BYTES
        and len(data.encode()) > frames.MAX_UP_BYTES
    ):
        raise ProtocolError(ErrorCode.TOO_LARGE, f"A frame has at most {frames.MAX_UP_BYTES} bytes.")
    try:
        command: frames.Command = _decode(data)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise _refusal(data, str(error)) from None
    if isinstance(command, frames.Send):
        if "\0" in command.body:
            raise ProtocolError(ErrorCode.INVALID, "`body` may not contain U+0000.", command.ref)
        if (command.to.username is None) == (command.to.conversation is None):
            raise ProtocolError(ErrorCode.INVALID, "`to` names a username or a conversation.", command.ref)
    elif isinstance(command, frames.Edit) and "\0" in command.body:
        raise ProtocolError(ErrorCode.INVALID, "`body` may not contain U+0000.", command.ref)
    elif isinstance(command, frames.Sync) and command.others not in ("state", "all"):
        raise ProtocolError(ErrorCode.INVALID, "`others` is `state` or `all`.", command.ref)
    return command


def _refusal(data: str | bytes, reason: str) -> ProtocolError:
    """Why `data` is no command, as exactly as can be told."""
    try:
        loose: Any = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return ProtocolError(ErrorCode.BAD_FRAME, "A frame is one JSON object in UTF-8.")
    if not isinstance(loose, dict):
        return ProtocolError(ErrorCode.BAD_FRAME, "A frame is one JSON object.")
    ref = loose.get("ref")
    if not isinstance(ref, str) or len(ref) > 64:
        ref = None
    kind = loose.get("type")
    if not isinstance(kind, str):
        return ProtocolError(ErrorCode.BAD_FRAME, "A frame has a `type`, which is a string.", ref)
    if kind not in _KNOWN_TYPES:
        return ProtocolError(ErrorCode.UNKNOWN_TYPE, "There is no frame of this type.", ref)
    return ProtocolError(ErrorCode.INVALID, reason, ref)
