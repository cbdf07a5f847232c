"""The AsyncAPI document has all that the code has, and nothing that does not lead anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from chatbe.wire import asyncapi, codes, frames


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for item in node:
            yield from references(item)


def test_every_frame_has_a_message_a_schema_and_an_operation() -> None:
    document = asyncapi.document()
    operations = document["operations"].values()
    for frame, action in [
        *((frame, "receive") for frame in frames.COMMANDS),
        *((frame, "send") for frame in frames.EVENTS),
    ]:
        name = frame.__name__
        message = document["components"]["messages"][name]
        assert message["name"] == asyncapi.tag_of(frame)
        assert message["description"]
        assert document["components"]["schemas"][name]["properties"]["type"]["enum"] == [message["name"]]
        reference = {"$ref": f"#/channels/socket/messages/{name}"}
        assert any(
            operation["action"] == action and reference in operation["messages"] for operation in operations
        )


def test_every_struct_of_the_module_is_in_the_document() -> None:
    structs = {
        name
        for name, value in vars(frames).items()
        if isinstance(value, type)
        and issubclass(value, msgspec.Struct)
        and value.__module__ == frames.__name__
    }
    assert structs - {"ChangeAck", "Command", "Event"} == set(asyncapi.schemas())


def test_every_reference_leads_somewhere() -> None:
    document = asyncapi.document()
    found = list(references(document))
    assert found
    for reference in found:
        node = document
        for key in reference.removeprefix("#/").split("/"):
            node = node[key]


def test_every_code_is_explained() -> None:
    channel = asyncapi.document()["channels"]["socket"]
    assert [entry["code"] for entry in channel["x-close-codes"]] == [int(code) for code in codes.CloseCode]
    assert [entry["code"] for entry in channel["x-error-codes"]] == [str(code) for code in codes.ErrorCode]
    assert all(entry["meaning"] for entry in channel["x-close-codes"] + channel["x-error-codes"])


def test_the_channel_says_how_it_is_opened() -> None:
    channel = asyncapi.document()["channels"]["socket"]
    assert channel["address"] == "/v1/ws"
    assert set(channel["bindings"]["ws"]["query"]["properties"]) == {"otp", "username"}


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (codes.CloseCode.RESTARTING, codes.Remedy.RESUME),
        (codes.CloseCode.SESSION_ENDED, codes.Remedy.STOP),
        (codes.CloseCode.SUSPENDED, codes.Remedy.STOP),
        (codes.CloseCode.NOT_SIGNED_IN, codes.Remedy.SIGN_IN),
        (codes.CloseCode.UNSUPPORTED_DATA, codes.Remedy.FIX),
    ],
)
def test_a_close_code_says_what_the_client_does(code: codes.CloseCode, remedy: codes.Remedy) -> None:
    assert code.remedy is remedy
    assert code.resumable == (remedy is codes.Remedy.RESUME)
