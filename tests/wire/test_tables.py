"""The Markdown tables of the protocol."""

from __future__ import annotations

from chatbe.wire import asyncapi, frames, tables


def test_every_frame_and_object_has_a_section() -> None:
    for text, members in ((tables.commands(), frames.COMMANDS), (tables.events(), frames.EVENTS)):
        assert text.count("### `") == len(members)
        for frame in members:
            assert f"### `{asyncapi.tag_of(frame)}`\n" in text
    for name in ("Target", "MessageObject", "Limits"):
        assert f"### {name}\n" in tables.objects()


def test_fields_have_types_limits_and_defaults() -> None:
    text = tables.commands()
    assert (
        "| `body` | string | always | 0 to 4,000 characters. Text without U+0000; empty only with attachments. |"
        in text
    )
    assert "| `to` | [Target](#target) | always |  |" in text
    assert "| `others` | string | default `state` |" in text
    assert "| `client_id` | uuid | always |" in text
    assert "| `marks` | map to map to [integer, integer] | always |" in tables.events()


def test_a_cell_stays_one_cell() -> None:
    assert tables.table(("a", "b"), [("x | y", "one\ntwo")]).splitlines()[2] == r"| x \| y | one two |"
