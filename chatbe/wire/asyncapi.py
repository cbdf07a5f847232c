"""The AsyncAPI 3.0 document of the socket, made from the frames and codes that the server runs on.

Pure and deterministic: the same code gives the same document on every machine.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from chatbe.wire import codes, frames

CHANNEL: Final = "socket"
ADDRESS: Final = "/v1/ws"
DESCRIPTION: Final = f"""\
One WebSocket per device. Text frames of at most {frames.MAX_UP_BYTES // 1024} KiB up and \
{frames.MAX_DOWN_BYTES // 1024} KiB down, each one JSON object with a `type`. Clients ignore types and \
fields that they do not know.

The socket is opened with a one-time password from `POST /v1/auth/login` or `POST /v1/auth/otp`, in the \
query string or, from a browser, as the subprotocol `otp.<value>` beside `chatbe.v1`. No conversation \
event comes before the client's `sync`."""

ANSWERS: Final[Mapping[type[frames.Command], tuple[type[frames.Event], ...]]] = {
    frames.Sync: (frames.Conversation, frames.Message, frames.Marks, frames.Muted, frames.Synced),
    frames.Send: (frames.Ack,),
    frames.Edit: (frames.Ack,),
    frames.Delete: (frames.Ack,),
    frames.React: (frames.Ack,),
    frames.Read: (),
    frames.Delivered: (),
    frames.Typing: (),
    frames.Heartbeat: (frames.HeartbeatEvent,),
}
"""What each command is answered with when it is carried out; any of them may get an `error` instead."""

ALL: Final[tuple[type[msgspec.Struct], ...]] = (*frames.COMMANDS, *frames.EVENTS)

Document = dict[str, Any]


def tag_of(frame: type[msgspec.Struct]) -> str:
    """The `type` by which a frame is known on the wire."""
    return str(frame.__struct_config__.tag)


def summary_of(frame: type[msgspec.Struct]) -> str:
    """What a frame or an object is for: its docstring."""
    return inspect.cleandoc(frame.__doc__ or "")


def schemas() -> dict[str, Document]:
    """The JSON Schema of every frame and object, by the name of its Struct, in the order of frames.py."""
    _, components = msgspec.json.schema_components(ALL, ref_template="#/components/schemas/{name}")
    order = {name: place for place, name in enumerate(vars(frames))}
    named = {name: _tidy(components[name]) for name in sorted(components, key=lambda name: order[name])}
    named["Error"]["properties"]["code"]["x-extensible-enum"] = [str(code) for code in codes.ErrorCode]
    return named


def document() -> Document:
    """The whole AsyncAPI document."""
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "chatbe socket", "version": "1", "description": DESCRIPTION},
        "defaultContentType": "application/json",
        "servers": {
            "local": {
                "host": "127.0.0.1:8000",
                "protocol": "ws",
                "description": "`make run`; in production `wss`, behind the proxy's name.",
                "security": [{"$ref": "#/components/securitySchemes/otp"}],
            }
        },
        "channels": {CHANNEL: _channel()},
        "operations": {
            **{f"receive{frame.__name__}": _command(frame) for frame in frames.COMMANDS},
            **{f"send{frame.__name__}": _event(frame) for frame in frames.EVENTS},
        },
        "components": {
            "messages": {frame.__name__: _message(frame) for frame in ALL},
            "schemas": schemas(),
            "securitySchemes": {
                "otp": {
                    "type": "httpApiKey",
                    "in": "query",
                    "name": "otp",
                    "description": "A one-time password: lives 60 s, opens one socket.",
                }
            },
        },
    }


def _channel() -> Document:
    return {
        "address": ADDRESS,
        "description": DESCRIPTION,
        "messages": {frame.__name__: {"$ref": f"#/components/messages/{frame.__name__}"} for frame in ALL},
        "bindings": {
            "ws": {
                "method": "GET",
                "query": {
                    "type": "object",
                    "properties": {
                        "otp": {"type": "string", "description": "A one-time password of the user."},
                        "username": {
                            "type": "string",
                            "description": "Whose it is; must be the one-time password's user.",
                        },
                    },
                },
                "headers": {
                    "type": "object",
                    "properties": {
                        "Sec-WebSocket-Protocol": {
                            "type": "string",
                            "description": "`chatbe.v1, otp.<value>` in place of the query; "
                            "the server selects `chatbe.v1`.",
                        }
                    },
                },
                "bindingVersion": "0.1.0",
            }
        },
        "x-close-codes": [
            {
                "code": int(code),
                "name": code.name.lower(),
                "meaning": codes.CLOSE_MEANINGS[code],
                "resumable": code.resumable,
                "client": str(code.remedy),
            }
            for code in codes.CloseCode
        ],
        "x-error-codes": [
            {"code": str(code), "meaning": codes.ERROR_MEANINGS[code]} for code in codes.ErrorCode
        ],
    }


def _message(frame: type[msgspec.Struct]) -> Document:
    return {
        "name": tag_of(frame),
        "title": tag_of(frame),
        "description": summary_of(frame),
        "contentType": "application/json",
        "payload": {"$ref": f"#/components/schemas/{frame.__name__}"},
    }


def _command(frame: type[frames.Command]) -> Document:
    return {
        "action": "receive",
        "channel": {"$ref": f"#/channels/{CHANNEL}"},
        "summary": f"The client sends `{tag_of(frame)}`.",
        "messages": [_in_channel(frame)],
        "reply": {
            "channel": {"$ref": f"#/channels/{CHANNEL}"},
            "messages": [*map(_in_channel, ANSWERS[frame]), _in_channel(frames.Error)],
        },
    }


def _event(frame: type[frames.Event]) -> Document:
    return {
        "action": "send",
        "channel": {"$ref": f"#/channels/{CHANNEL}"},
        "summary": f"The server sends `{tag_of(frame)}`.",
        "messages": [_in_channel(frame)],
    }


def _in_channel(frame: type[msgspec.Struct]) -> Document:
    return {"$ref": f"#/channels/{CHANNEL}/messages/{frame.__name__}"}


def _tidy(schema: Any) -> Any:
    """Without the indentation of docstrings, which differs between versions of Python."""
    if isinstance(schema, dict):
        return {
            key: inspect.cleandoc(value) if key == "description" and isinstance(value, str) else _tidy(value)
            for key, value in schema.items()
        }
    if isinstance(schema, list):
        return [_tidy(item) for item in schema]
    return schema
