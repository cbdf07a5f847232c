"""Every refusal over HTTP is a problem object."""

from __future__ import annotations

from typing import Any

import psycopg_pool
import pytest
from django.core.exceptions import DisallowedHost, PermissionDenied, RequestDataTooBig, ValidationError
from django.db import InterfaceError, InternalError, OperationalError
from django.http import Http404, HttpRequest
from django.test import Client, RequestFactory
from rest_framework import exceptions, serializers

from chatbe import problems
from chatbe.core.errors import Conflict, FieldError, Invalid, NotFound, RateLimited, Unavailable

pytestmark = pytest.mark.embedded


class MemberSerializer(serializers.Serializer[Any]):
    username = serializers.CharField(min_length=3)


class GroupSerializer(serializers.Serializer[Any]):
    title = serializers.CharField()
    members = MemberSerializer(many=True)
    tags = serializers.ListField(child=serializers.IntegerField(), required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        raise serializers.ValidationError("never", code="never")


def refusal(data: Any) -> exceptions.ValidationError:
    serializer = GroupSerializer(data=data)
    with pytest.raises(exceptions.ValidationError) as caught:
        serializer.is_valid(raise_exception=True)
    return caught.value


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Invalid(), 400, "invalid"),
        (NotFound(), 404, "not_found"),
        (Conflict(), 409, "conflict"),
        (RateLimited(retry_after=1.2), 429, "rate_limited"),
        (Unavailable(), 503, "unavailable"),
        (Http404(), 404, "not_found"),
        (PermissionDenied(), 403, "forbidden"),
        (exceptions.ParseError(), 400, "invalid"),
        (exceptions.NotAuthenticated(), 401, "not_authenticated"),
        (exceptions.PermissionDenied(), 403, "forbidden"),
        (exceptions.MethodNotAllowed("PUT"), 405, "method_not_allowed"),
        (exceptions.NotAcceptable(), 406, "not_acceptable"),
        (exceptions.UnsupportedMediaType("text/plain"), 415, "unsupported_media_type"),
        (exceptions.Throttled(wait=3.2), 429, "rate_limited"),
        (ValidationError("bad"), 400, "invalid"),
        (RequestDataTooBig(), 413, "too_large"),
        (DisallowedHost(), 400, "invalid"),
        (OperationalError("gone"), 503, "unavailable"),
        (InterfaceError("gone"), 503, "unavailable"),
        (psycopg_pool.PoolTimeout("none free"), 503, "unavailable"),
    ],
)
def test_every_kind_of_error_has_its_problem(error: Exception, status: int, code: str) -> None:
    response = problems.exception_handler(error, {})
    assert response is not None
    assert response.content_type == "application/problem+json"
    assert response.status_code == response.data["status"] == status
    assert response.data["code"] == code
    assert response.data.keys() - {"errors"} == {"type", "title", "status", "detail", "code"}
    assert response.has_header("Retry-After") == (status in (429, 503))
    assert response.has_header("WWW-Authenticate") == (status == 401)


def test_retry_after_is_whole_seconds_rounded_up() -> None:
    for error, seconds in (
        (RateLimited(retry_after=1.2), "2"),
        (RateLimited(), "1"),
        (Unavailable(retry_after=0.1), "1"),
    ):
        problem = problems.problem_of(error)
        assert problem is not None
        assert problem.headers() == {"Retry-After": seconds}


def test_a_fault_of_the_server_is_nobodys_problem() -> None:
    assert problems.exception_handler(ZeroDivisionError(), {}) is None


def test_fields_are_named_by_their_path() -> None:
    def errors(error: Exception) -> list[tuple[str, str]]:
        problem = problems.problem_of(error)
        assert problem is not None
        return [(each["field"], each["code"]) for each in problem.body()["errors"]]

    assert errors(
        refusal({"members": [{"username": "alice"}, {"username": "al"}, {}], "tags": [1, "x"]})
    ) == [
        ("title", "required"),
        ("members.1.username", "min_length"),
        ("members.2.username", "required"),
        ("tags.1", "invalid"),
    ]
    assert errors(refusal({"title": "x", "members": []})) == [("body", "never")]
    assert errors(refusal([])) == [("body", "invalid")]
    assert errors(ValidationError({"email": ValidationError("bad", code="bad"), "__all__": "worse"})) == [
        ("email", "bad"),
        ("body", "invalid"),
    ]
    assert errors(Invalid(errors=(FieldError("seq", "max", "Too high."),))) == [("seq", "max")]


def test_a_logged_failure_of_a_dependency(caplog: pytest.LogCaptureFixture) -> None:
    problems.problem_of(OperationalError("connection refused"))
    assert caplog.records[0].__dict__["reason"] == "OperationalError"


def test_a_database_that_takes_no_writes_is_unavailable() -> None:
    problem = problems.problem_of(InternalError("cannot execute UPDATE in a read-only transaction"))
    assert problem is not None
    assert (problem.status, problem.retry_after is not None) == (503, True)


# --- paths that no API view answers ----------------------------------------------------------------


@pytest.mark.parametrize("accept", ["*/*", "text/html", "application/json"])
def test_an_unknown_path_of_the_api_is_a_problem(client: Client, accept: str) -> None:
    response = client.get("/v1/nothing", headers={"accept": accept})
    assert response.status_code == 404
    assert response["Content-Type"] == "application/problem+json"
    assert response.json()["code"] == "not_found"


def test_people_get_pages_elsewhere(client: Client) -> None:
    assert client.get("/nothing", headers={"accept": "text/html"})["Content-Type"].startswith("text/html")
    assert client.get("/nothing")["Content-Type"] == "application/problem+json"


def request_for(path: str, accept: str) -> HttpRequest:
    return RequestFactory().get(path, headers={"accept": accept})


def test_the_other_handlers_answer_in_kind() -> None:
    for answer, status in (
        (problems.bad_request, 400),
        (problems.forbidden, 403),
        (lambda request, error: problems.server_error(request), 500),
    ):
        problem = answer(request_for("/v1/x", "*/*"), PermissionDenied() if status == 403 else Http404())
        page = answer(request_for("/x", "text/html"), PermissionDenied())
        assert problem["Content-Type"] == "application/problem+json"
        assert page["Content-Type"].startswith("text/html")
        assert page.status_code == status


def test_a_bad_host_is_a_problem(client: Client) -> None:
    response = client.get("/v1/nothing", headers={"host": "evil.example"})
    assert (response.status_code, response.json()["code"]) == (400, "invalid")


def test_a_fault_is_answered_without_its_cause(
    client: Client, monkeypatch: pytest.MonkeyPatch, db: None
) -> None:
    from accounts import services

    def fail(**_fields: Any) -> None:
        raise ZeroDivisionError("a secret of the server")

    monkeypatch.setattr(services, "sign_in", fail)
    client.raise_request_exception = False
    response = client.post(
        "/v1/auth/login", {"username": "alice", "password": "x"}, content_type="application/json"
    )
    assert response.status_code == 500
    assert response["Content-Type"] == "application/problem+json"
    assert response.json()["code"] == "internal"
    assert b"secret" not in response.content


def test_a_database_that_is_down_is_503(client: Client, monkeypatch: pytest.MonkeyPatch, db: None) -> None:
    from accounts import selectors

    def fail(**_fields: Any) -> None:
        raise OperationalError("connection refused")

    monkeypatch.setattr(selectors, "user_by_identifier", fail)
    response = client.post(
        "/v1/auth/login", {"username": "alice", "password": "x"}, content_type="application/json"
    )
    assert (response.status_code, response.json()["code"]) == (503, "unavailable")
    assert response["Retry-After"] == "1"
