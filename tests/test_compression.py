"""Static files are compressed, and nothing else."""

import gzip
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

ADDRESS = "/static/chatbe/chatbe.js"
SOURCE = (settings.BASE_DIR / "clients/js/src/chatbe.js").read_bytes()

pytestmark = pytest.mark.pure


def body(response: Any) -> bytes:
    return b"".join(response.streaming_content) if response.streaming else bytes(response.content)


def test_a_static_file_is_compressed_for_those_who_take_it() -> None:
    for _ in range(2):  # made, and kept
        answer = Client().get(ADDRESS, headers={"Accept-Encoding": "gzip, deflate, br"})
        assert answer["Content-Encoding"] == "gzip"
        content = body(answer)
        assert answer["Content-Length"] == str(len(content))
        assert gzip.decompress(content) == SOURCE
        assert answer["Content-Type"].startswith("text/javascript")
        assert "Accept-Encoding" in answer["Vary"]
        assert len(content) < len(SOURCE) / 3


@pytest.mark.parametrize(
    "headers", [{}, {"Accept-Encoding": "br"}, {"Accept-Encoding": "gzip;q=0"}], ids=["none", "br", "q=0"]
)
def test_others_get_it_as_it_is(headers: dict[str, str]) -> None:
    answer = Client().get(ADDRESS, headers=headers)
    assert "Content-Encoding" not in answer
    assert body(answer) == SOURCE
    assert "Accept-Encoding" in answer["Vary"]


def test_who_has_it_already_and_who_asks_for_a_part_get_that() -> None:
    first = Client().get(ADDRESS, headers={"Accept-Encoding": "gzip"})
    assert body(first)
    again = Client().get(
        ADDRESS, headers={"Accept-Encoding": "gzip", "If-Modified-Since": first["Last-Modified"]}
    )
    assert (again.status_code, body(again)) == (304, b"")
    part = Client().get(ADDRESS, headers={"Accept-Encoding": "gzip", "Range": "bytes=0-9"})
    assert (part.status_code, body(part)) == (206, SOURCE[:10])


def test_what_is_no_static_file_is_left_alone() -> None:
    answer = Client().get("/", headers={"Accept-Encoding": "gzip"})
    assert answer.status_code == 200
    assert "Content-Encoding" not in answer


def test_a_small_file_is_sent_as_it_is() -> None:
    for _ in range(2):
        answer = Client().get("/static/web/theme.js", headers={"Accept-Encoding": "gzip"})
        assert "Content-Encoding" not in answer
        assert body(answer) == (settings.BASE_DIR / "web/theme.js").read_bytes()
