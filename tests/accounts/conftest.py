"""Accounts under test: people, clients that hold answers against the OpenAPI document, recorded fan-out."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.hashers import make_password
from django.urls import include, path
from drf_spectacular.generators import SchemaGenerator
from rest_framework.test import APIClient

from accounts import services
from accounts.models import Session, User
from accounts.tokens import Tokens
from chatbe.core import clock
from chatbe.hub import fanout

PASSWORD = "correct horse battery staple"


@functools.cache
def hashed_password() -> str:
    return make_password(PASSWORD)


@functools.cache
def documented() -> dict[str, Any]:
    generator = SchemaGenerator(patterns=[path("v1/", include("accounts.api.urls"))])
    schema: dict[str, Any] = generator.get_schema(request=None, public=True)
    return schema


class DocumentedClient(APIClient):
    """Fails when an answer's status or content type is not in the OpenAPI document."""

    def request(self, **kwargs: Any) -> Any:
        response = super().request(**kwargs)
        match = response.wsgi_request.resolver_match
        if match is not None and match.route.startswith("v1/"):
            template = "/" + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", match.route)
            operation = documented()["paths"][template].get(kwargs["REQUEST_METHOD"].lower())
            if operation is not None:
                answer = operation["responses"].get(str(response.status_code))
                assert answer is not None, (template, response.status_code, response.content)
                if response.content:
                    assert response["Content-Type"].partition(";")[0] in answer["content"]
        return response


@pytest.fixture
def make_user(db: None) -> Callable[..., User]:
    def make(username: str, **fields: Any) -> User:
        fields.setdefault("email", f"{username}@example.org")
        return User.objects.create(username=username, password=hashed_password(), **fields)

    return make


class Device:
    """A signed-in client."""

    def __init__(self, user: User, session: Session, tokens: Tokens) -> None:
        self.user = user
        self.session = session
        self.tokens = tokens
        self.http = DocumentedClient()
        self.http.credentials(HTTP_AUTHORIZATION=f"Bearer {tokens.access_token}")

    def get(self, url: str, **query: Any) -> Any:
        return self.http.get(url, query)

    def post(self, url: str, **body: Any) -> Any:
        return self.http.post(url, body, format="json")

    def put(self, url: str, **body: Any) -> Any:
        return self.http.put(url, body, format="json")

    def patch(self, url: str, **body: Any) -> Any:
        return self.http.patch(url, body, format="json")

    def delete(self, url: str, **body: Any) -> Any:
        return self.http.delete(url, body or None, format="json")


@pytest.fixture
def sign_in(make_user: Callable[..., User]) -> Callable[..., Device]:
    def sign(who: str | User, **fields: Any) -> Device:
        user = make_user(who) if isinstance(who, str) else who
        return Device(user, *services.session_open(user=user, **fields))

    return sign


@pytest.fixture
def stranger(db: None) -> DocumentedClient:
    return DocumentedClient()


class FanOut:
    """What was fanned out."""

    def __init__(self) -> None:
        self.envelopes: list[fanout.Envelope] = []

    def controls(self, user: User | UUID) -> list[tuple[str, dict[str, Any]]]:
        key = str(getattr(user, "id", user))
        return [
            (each["a"], {name: value for name, value in each.items() if len(name) > 1 and name != "type"})
            for each in self.envelopes
            if each["k"] == "k" and each["u"] == key
        ]

    def events(self, user: User) -> list[bytes]:
        return [each["d"] for each in self.envelopes if each["k"] == "e" and each["u"] == str(user.id)]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> FanOut:
    recorded = FanOut()
    monkeypatch.setattr(fanout, "send", lambda _groups, envelope: recorded.envelopes.append(envelope))
    return recorded


@pytest.fixture
def committing(django_capture_on_commit_callbacks: Any) -> Callable[[], Any]:
    """`with committing():` what was to happen after the commit happens at its end."""
    return functools.partial(django_capture_on_commit_callbacks, execute=True)


@pytest.fixture
def noon(monkeypatch: pytest.MonkeyPatch, settings: Any) -> list[datetime]:
    """A clock that stands still 30 s into every window; `noon[0]` moves it."""
    settings.CHATBE_RATE_LIMITS = True
    # Ahead of the true time, so that tokens made by this clock are good.
    start = (clock.now().timestamp() // 3600 + 1) * 3600 + 30
    now = [datetime.fromtimestamp(start, UTC)]
    monkeypatch.setattr(clock, "now", lambda: now[0])
    return now
