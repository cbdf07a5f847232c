"""Pages of other origins may call the API where the settings name them, and only there."""

import pytest
from django.test import Client, override_settings

from chatbe import web

ORIGIN = "https://app.example.org"


@pytest.mark.django_db
@override_settings(CORS_ALLOWED_ORIGINS=[ORIGIN])
def test_a_named_origin_may_call_the_api() -> None:
    answer = Client().options(
        "/v1/conversations",
        headers={
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        },
    )
    assert answer.status_code == 200
    assert answer["Access-Control-Allow-Origin"] == ORIGIN
    assert {"authorization", "content-type"} <= set(answer["Access-Control-Allow-Headers"].split(", "))
    # Tokens travel in headers: a foreign page has no use for cookies.
    assert "Access-Control-Allow-Credentials" not in answer
    refused = Client().get("/v1/me", headers={"Origin": ORIGIN})
    assert refused.status_code == 401
    assert refused["Access-Control-Allow-Origin"] == ORIGIN


@pytest.mark.django_db
@pytest.mark.parametrize(("origin", "path"), [("https://evil.example", "/v1/me"), (ORIGIN, "/admin/login/")])
def test_nobody_else_and_nothing_else(origin: str, path: str) -> None:
    with override_settings(CORS_ALLOWED_ORIGINS=[ORIGIN]):
        answer = Client().get(path, headers={"Origin": origin})
    assert "Access-Control-Allow-Origin" not in answer


@pytest.mark.pure
def test_the_page_allows_no_script_that_stands_in_it() -> None:
    answer = Client().get("/")
    assert answer.status_code == 200
    policy = answer["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert b"<script>" not in answer.content
    assert b"style=" not in answer.content


@pytest.mark.pure
def test_pictures_may_come_from_the_bucket_that_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bucket:
        def url(self, name: str) -> str:
            return f"https://files.example.org/{name}?signature=1"

    web._bucket.cache_clear()
    monkeypatch.setattr(web, "storages", {"attachments": Bucket()})
    with override_settings(CHATBE_ATTACHMENT_STORAGE="s3"):
        policy = Client().get("/")["Content-Security-Policy"]
    web._bucket.cache_clear()
    assert "img-src 'self' blob: data: https://files.example.org;" in policy
    assert policy.count("files.example.org") == 1
