"""The codec: every frame decodes, and whatever else is sent has a code."""

from __future__ import annotations

import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbe.wire import codec, frames
from chatbe.wire.codes import CloseCode, ErrorCode

CONVERSATION = str(uuid.uuid4())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "send", "to": {"username": "bob"}, "client_id": str(uuid.uuid4()), "body": "x", "ref": "1"},
        {
            "type": "send",
            "to": {"conversation": CONVERSATION},
            "client_id": str(uuid.uuid4()),
            "body": "x",
            "reply_to": 3,
        },
        {"type": "read", "conversation": CONVERSATION, "seq": 1},
        {"type": "delivered", "conversation": CONVERSATION, "seq": 1},
        {"type": "typing", "conversation": CONVERSATION, "on": True},
        {"type": "heartbeat"},
        {"type": "sync"},
        {"type": "sync", "conversations": {CONVERSATION: 0}, "others": "all", "ref": "s"},
    ],
)
def test_every_command_is_decoded_and_unknown_fields_are_ignored(frame: dict[str, object]) -> None:
    command = codec.decode(json.dumps({**frame, "from a newer client": [1, 2]}))
    assert command.__struct_config__.tag == frame["type"]


@given(text=st.text())
def test_any_text_is_a_command_or_has_a_code(text: str) -> None:
    try:
        command = codec.decode(text)
    except codec.ProtocolError as error:
        assert error.code in ErrorCode
    else:
        assert isinstance(command, frames.COMMANDS)


@given(data=st.binary())
def test_any_bytes_are_a_command_or_have_a_code(data: bytes) -> None:
    try:
        codec.decode(data)
    except codec.ProtocolError as error:
        assert error.code in ErrorCode


FIELDS = ["to", "body", "client_id", "seq", "conversation", "on", "conversations", "others", "reply_to"]
KINDS = [command.__struct_config__.tag for command in frames.COMMANDS]


@given(
    kind=st.sampled_from(KINDS),
    fields=st.dictionaries(st.sampled_from(FIELDS), JSON),
    ref=st.text(max_size=64),
)
def test_what_is_wrong_with_a_known_frame_is_told_with_its_ref(
    kind: str, fields: dict[str, object], ref: str
) -> None:
    try:
        codec.decode(json.dumps({**fields, "type": kind, "ref": ref}))
    except codec.ProtocolError as error:
        assert error.code in {ErrorCode.INVALID, ErrorCode.BAD_FRAME}
        if error.code is ErrorCode.INVALID:
            assert error.ref == ref


@pytest.mark.parametrize("filler", ["x", "é", "😀"])
def test_the_limit_counts_bytes(filler: str) -> None:
    empty = json.dumps({"type": "heartbeat", "filler": ""}, ensure_ascii=False)
    width = len(filler.encode())
    room = (frames.MAX_UP_BYTES - len(empty)) // width
    fitting = json.dumps({"type": "heartbeat", "filler": filler * room}, ensure_ascii=False)
    assert isinstance(codec.decode(fitting), frames.Heartbeat)
    too_large = json.dumps(
        {"type": "heartbeat", "filler": filler * (room + 1) + "." * width}, ensure_ascii=False
    )
    with pytest.raises(codec.ProtocolError) as error:
        codec.decode(too_large)
    assert error.value.code is ErrorCode.TOO_LARGE


@given(before=st.text(max_size=50), after=st.text(max_size=50))
def test_a_body_has_no_nul(before: str, after: str) -> None:
    body = f"{before}\0{after}"
    with pytest.raises(codec.ProtocolError) as error:
        codec.decode(json.dumps({
            "type": "send", "to": {"username": "bob"}, "client_id": str(uuid.uuid4()), "body": body,
        }))  # fmt: skip
    assert error.value.code is ErrorCode.INVALID


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(codec.ProtocolError) as error:
        codec.decode("[" * 60_000)
    assert error.value.code is ErrorCode.BAD_FRAME


def test_close_codes_say_whether_to_come_back() -> None:
    stay_away = {code for code in CloseCode if not code.resumable}
    assert stay_away == {1003, 1007, 1009, 4001, 4003, 4401}
