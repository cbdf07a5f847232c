"""Static files are compressed, and nothing else."""

import gzip

import pytest
from django.conf import settings
from django.test import Client

ADDRESS = "/static/chatbe/chatbe.js"
SOURCE = (settings.BASE_DIR / "clients/js/src/chatbe.js").read_bytes()

pytestmark = pytest.mark.pure


def body(response: object) -> bytes:
    streamed = getattr(response, "streaming_content", None)
    return b"".join(streamed) if streamed is not None else response.content  # type: ignore[attr-defined]  # a response


def test_a_static_file_is_compressed_for_those_who_take_it() -> None:
    for _ in range(2):  # made, and kept
        answer = Client().get(ADDRESS, headers={"Accept-Encoding": "gzip, deflate, br"})
        assert answer["Content-Encoding"] == "gzip"
        assert answer["Content-Length"] == str(len(body(answer)))
        assert gzip.decompress(body(answer)) == SOURCE
        assert answer["Content-Type"].startswith("text/javascript")
        assert "Accept-Encoding" in answer["Vary"]
        assert len(body(answer)) < len(SOURCE) / 3


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
