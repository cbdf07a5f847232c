"""Frames as bytes, checked against the `websockets` library's own framing."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode
from websockets.streams import StreamReader

from chatbe.wire import websocket


def parsed(data: bytes, *, mask: bool) -> Frame:
    reader = StreamReader()
    reader.feed_data(data)
    parser = Frame.parse(reader.read_exact, mask=mask)
    with pytest.raises(StopIteration) as done:
        next(parser)
    frame = done.value.value
    assert isinstance(frame, Frame)
    return frame


def masked(payload: bytes, opcode: Opcode = Opcode.TEXT, *, fin: bool = True) -> bytes:
    return Frame(opcode, payload, fin=fin).serialize(mask=True)


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65535, 65536, 262144])
def test_a_text_frame_is_read_back_at_every_length_form(length: int) -> None:
    payload = b"x" * length
    frame = parsed(websocket.encode_text_frame(payload), mask=False)
    assert (frame.opcode, frame.fin, frame.data) == (Opcode.TEXT, True, payload)


@pytest.mark.parametrize("code", [1000, 1003, 1009, 1012, 4008, 4401])
def test_a_close_frame_carries_any_code(code: int) -> None:
    frame = parsed(websocket.encode_close_frame(code, "why"), mask=False)
    assert frame.opcode == Opcode.CLOSE
    assert Close.parse(frame.data) == Close(code, "why")


def test_a_close_reason_is_cut_at_a_character() -> None:
    frame = parsed(websocket.encode_close_frame(1012, "é" * 100), mask=False)
    assert Close.parse(frame.data) == Close(1012, "é" * 61)


def test_the_ping_is_a_ping() -> None:
    frame = parsed(websocket.PING, mask=False)
    assert (frame.opcode, frame.fin, frame.data) == (Opcode.PING, True, b"")


@given(st.lists(st.binary(max_size=300), max_size=5), st.integers(0, 3))
def test_frames_one_after_another_are_taken_in_order(payloads: list[bytes], lead: int) -> None:
    data = bytes(lead) + b"".join(map(masked, payloads))
    position, found = lead, []
    while (taken := websocket.take_text_frame(data, position, 65536)) is not None:
        payload, position = taken
        found.append(payload)
    assert found == payloads
    assert position == len(data)


@pytest.mark.parametrize("length", [0, 125, 126, 65535, 65536, 70000])
def test_each_length_form_is_taken_and_its_every_cut_is_left(length: int) -> None:
    payload = os.urandom(length)
    data = masked(payload)
    assert websocket.take_text_frame(data, 0, 70000) == (payload, len(data))
    for cut in {1, 2, 5, 6, 7, 9, 13, 14, len(data) - 1}:
        if cut < len(data):
            assert websocket.take_text_frame(data[:cut], 0, 70000) is None


@pytest.mark.parametrize(
    "data",
    [
        masked(b"x" * 101),
        masked(b"x", Opcode.BINARY),
        masked(b"x", Opcode.PING),
        masked(b"x", Opcode.CLOSE),
        masked(b"x", Opcode.CONT),
        masked(b"x", fin=False),
        Frame(Opcode.TEXT, b"x" * 20).serialize(mask=False),
        b"\xc1" + masked(b"x")[1:],
        b"\x81\xfe\x00\x05mask12345",
        b"\x81\xff\x00\x00\x00\x00\x00\x00\x00\x05mask12345",
    ],
    ids=[
        "too-long",
        "binary",
        "ping",
        "close",
        "continuation",
        "fragment",
        "unmasked",
        "reserved",
        "long-16",
        "long-64",
    ],
)
def test_all_but_the_plain_case_is_left_to_a_full_parser(data: bytes) -> None:
    assert websocket.take_text_frame(data, 0, 100) is None
