"""Kinds are told by content, names by both."""

from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attachments import content
from attachments.content import Kind

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\xff\xd8\xff\xe0", content.JPEG), (b"\x89PNG\r\n\x1a\n", content.PNG), (b"GIF89a", content.GIF),
        (b"RIFF\0\0\0\0WEBPVP8 ", content.WEBP), (b"RIFF\0\0\0\0WAVE", content.WAV), (b"RIFF\0\0\0\0AVI ", None),
        (b"%PDF-1.7", content.PDF), (b"PK\x03\x04", content.ZIP), (b"\0\0\0\x18ftypmp42", content.MP4),
        (b"\0\0\0\x18ftypheic", None), (b"\0\0\0\x18ftypavif", None), (b"\0\0\0\x18ftypM4A ", content.M4A),
        (b"\x7fELF\x02", None), (b"MZ\x90\0", None), (b"", None), (b"hello", content.TEXT),
        ("здравствуй 😀\n\ttab\x1b[0m".encode(), content.TEXT), (b"caf\xe9", None), (b"a\0b", None),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", content.TEXT), (b"<!doctype html>", content.TEXT),
        (b"x" * 70_000 + "é".encode()[:1], None), (b"x" * 65_535 + "é".encode(), content.TEXT),
    ],
)  # fmt: skip
def test_the_kind_is_told_by_content(data: bytes, kind: Kind | None) -> None:
    assert content.kind_of(BytesIO(data)) == kind


def test_nothing_is_served_as_what_a_browser_would_run() -> None:
    kinds = [kind for kind in vars(content).values() if isinstance(kind, Kind)]
    assert len(kinds) > 10
    for kind in kinds:
        assert not {"html", "htm", "svg", "xml", "js", "exe"} & set(kind.extensions)
        assert kind.content_type.split("/")[0] in {"image", "audio", "video", "application", "text"}
        assert "svg" not in kind.content_type
        assert "html" not in kind.content_type


@pytest.mark.parametrize(
    ("given", "kind", "name"),
    [
        ("river.JPG", content.JPEG, "river.JPG"),
        ("river.html", content.JPEG, "river.html.jpg"),
        ("../../etc/passwd", content.TEXT, "passwd.txt"),
        ("C:\\temp\\notes.md", content.TEXT, "notes.md"),
        ("invoice\u202egpj.exe", content.PNG, "invoicegpj.exe.png"),
        ("a\0b\nc.png", content.PNG, "abc.png"),
        ("", content.PDF, "file.pdf"),
        (".png", content.PNG, "png.png"),
        ("…", content.ZIP, "….zip"),
        ("x" * 300 + ".docx", content.ZIP, "x" * 250 + ".docx"),
    ],
)  # fmt: skip
def test_a_name_says_what_the_content_is(given: str, kind: Kind, name: str) -> None:
    assert content.name_for(given, kind) == name


@given(st.text(max_size=400), st.sampled_from([content.PNG, content.TEXT, content.ZIP]))
def test_no_name_is_a_path_or_too_long(text: str, kind: Kind) -> None:
    name = content.name_for(text, kind)
    assert 1 <= len(name) <= content.MAX_NAME
    assert not set(name) & set("/\\\0\n\r")
    assert name.rpartition(".")[2].lower() in kind.extensions
