"""The HTTP foundations: what a body may be, methods and media types, addresses, buckets."""

from __future__ import annotations

import io
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from django.core.asgi import get_asgi_application
from django.test import Client, RequestFactory
from hypothesis import given
from hypothesis import strategies as st
from rest_framework import exceptions

from chatbe import api
from chatbe.core import addresses
from chatbe.core.errors import ChatError, Invalid, TooLarge

pytestmark = pytest.mark.embedded


def parse(data: bytes) -> Any:
    return api.StrictJSONParser().parse(io.BytesIO(data))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b'"x"', b"1", b"null", b'{"a":NaN}', b'{"a":Infinity}', b'{"a":1e999}', b'{"a":"\\ud800"}',
        b'{"a":"\xff"}', b'{"a":"\xed\xa0\x80"}', b'\xef\xbb\xbf{"a":1}', b'{"a":1}x', b"[" * 100_000,
        b'{"a":' * 50_000, '{"a":1}'.encode("utf-16"), b"{'a':1}", b'{"a":1,}',
    ],
)  # fmt: skip
def test_what_is_not_one_json_object_is_invalid(data: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        parse(data)
    assert caught.value.errors[0].field == "body"


def test_an_object_is_parsed() -> None:
    assert parse(b' {"a":"\\u0000\\ud83d\\ude00","b":[1.5,true,null]} ') == {
        "a": "\0😀",
        "b": [1.5, True, None],
    }


def test_a_body_over_the_limit_is_too_large(settings: Any) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 10
    assert parse(b'{"a":1234}') == {"a": 1234}
    with pytest.raises(TooLarge):
        parse(b'{"a":12345}')


@given(st.binary(max_size=200))
def test_no_bytes_are_a_fault(data: bytes) -> None:
    try:
        assert isinstance(parse(data), dict)
    except ChatError:
        return


def login(client: Client, data: bytes, content_type: str = "application/json", **extra: Any) -> Any:
    return client.post("/v1/auth/login", data, content_type=content_type, **extra)


@pytest.mark.django_db
def test_bodies_over_http(client: Client) -> None:
    for data, content_type, status, code in (
        (b"{", "application/json", 400, "invalid"),
        (b"", "application/json", 400, "invalid"),
        (b'{"password":"' + b"x" * 300_000 + b'"}', "application/json", 413, "too_large"),
        (b"{}", "text/plain", 415, "unsupported_media_type"),
        (b"a=b", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (b"{}", "multipart/form-data; boundary=x", 415, "unsupported_media_type"),
        (b"{}", "nonsense", 415, "unsupported_media_type"),
        (b'{"username":"alice\\u0000","password":"x"}', "application/json; charset=latin-1", 400, "invalid"),
    ):
        response = login(client, data, content_type)
        assert (response.status_code, response.json()["code"]) == (status, code), (data[:20], content_type)
        assert response["Content-Type"] == "application/problem+json"


@pytest.mark.asyncio
async def test_a_body_may_come_in_chunks(settings: Any) -> None:
    async def login_in_chunks(*chunks: bytes) -> tuple[int, Any]:
        async def body() -> AsyncIterator[bytes]:
            for chunk in chunks:
                yield chunk

        transport = httpx.ASGITransport(get_asgi_application())  # type: ignore[arg-type]  # Django says dict, httpx MutableMapping
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            response = await client.post(
                "/v1/auth/login", content=body(), headers={"content-type": "application/json"}
            )
        assert "transfer-encoding" in response.request.headers
        return response.status_code, response.json()

    status, problem = await login_in_chunks(b'{"username":"nobody"', b',"password":"x" x')
    assert (status, problem["errors"][0]["code"]) == (400, "malformed")
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 100
    status, problem = await login_in_chunks(*[b" " * 60] * 2)
    assert (status, problem["code"]) == (413, "too_large")


@pytest.mark.django_db
def test_methods_and_media_types(client: Client) -> None:
    response = client.get("/v1/auth/login")
    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")
    assert "POST" in response["Allow"]
    for accept in ("text/csv", "application/xml;q=0.9"):
        response = login(client, b"{}", headers={"accept": accept})
        assert (response.status_code, response.json()["code"]) == (406, "not_acceptable")
        assert response["Content-Type"] == "application/problem+json"
    assert client.options("/v1/auth/login").status_code == 200
    problem = login(client, b"{}", headers={"accept": "application/problem+json"})
    assert (problem.status_code, problem["Content-Type"]) == (400, "application/problem+json")
    assert client.get("/healthz", headers={"accept": "application/problem+json"}).status_code == 200
    schema = client.post("/v1/schema", headers={"accept": "application/vnd.oai.openapi"})
    assert (schema.status_code, schema["Content-Type"]) == (405, "application/problem+json")
    assert schema.json()["code"] == "method_not_allowed"


def test_half_a_surrogate_pair_is_named(client: Client) -> None:
    response = login(client, b'{"username":"\\ud83d"}')
    assert (response.status_code, response.json()["errors"][0]["detail"]) == (
        400,
        "Half of a surrogate pair.",
    )


@pytest.mark.django_db
def test_a_browser_gets_a_refusal_as_a_page(client: Client) -> None:
    response = client.get("/v1/me", headers={"accept": "text/html"})
    assert response.status_code == 401
    assert response["Content-Type"].startswith("text/html")
    assert b"not_authenticated" in response.content


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("192.0.2.1:80", None),
        ("", None),
        ("localhost", None),
    ],
)
def test_addresses_have_one_form(text: str, plain: str | None) -> None:
    assert addresses.plain(text) == plain


def test_limits_count_by_customer() -> None:
    assert addresses.block("192.0.2.1") == "192.0.2.1"
    assert addresses.block("2001:db8::1") == addresses.block("2001:db8::ffff:1") == "2001:db8::/64"
    assert addresses.block("2001:db8:0:1::1") != addresses.block("2001:db8::1")
    assert addresses.block(None) == "unknown"


def test_an_address_may_be_unknown() -> None:
    request = RequestFactory().get("/")
    request.META["REMOTE_ADDR"] = ""
    assert api.client_address(request) is None


def asking(address: str) -> Any:
    request = RequestFactory().get("/", REMOTE_ADDR=address)
    request.user = SimpleNamespace(is_authenticated=False)  # type: ignore[assignment]  # all that is asked of it
    return request


def test_a_bucket_lets_a_burst_through_and_then_its_rate(
    monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.CHATBE_RATE_LIMITS = True
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    class Throttle(api.BucketThrottle):
        capacity = 2
        rate = 0.5
        remembered = 2

    def allowed(address: str = "192.0.2.1") -> float:
        throttle = Throttle()
        return 0.0 if throttle.allow_request(asking(address), None) else throttle.wait() or 0.0  # type: ignore[arg-type]  # it asks nothing of the view

    assert [allowed(), allowed(), allowed()] == [0.0, 0.0, 2.0]
    assert allowed("192.0.2.2") == 0.0
    now[0] += 2
    assert [allowed(), allowed()] == [0.0, 2.0]
    # What is remembered is bounded: the one not heard of for longest is forgotten.
    allowed("192.0.2.3")
    assert len(Throttle._buckets) == 2
    settings.CHATBE_RATE_LIMITS = False
    assert [allowed() for _ in range(5)] == [0.0] * 5


def test_a_line_has_no_control_characters() -> None:
    field = api.LineField(max_length=10)
    assert field.run_validation(" Zoë 😀 ") == "Zoë 😀"
    for text in ("a\0b", "a\nb", "a\x7fb", "a\u2028b", "\ud800"):
        with pytest.raises(exceptions.ValidationError):
            field.run_validation(text)
