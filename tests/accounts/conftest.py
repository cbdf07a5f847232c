"""Accounts under test: people, clients that hold answers against the OpenAPI document, recorded fan-out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.hashers import make_password

from accounts.models import User
from chatbe.core import clock
from chatbe.hub import fanout
from tests.support.http import Device, DocumentedClient

PASSWORD = "correct horse battery staple"


@functools.cache
def hashed_password() -> str:
    return make_password(PASSWORD)


@pytest.fixture
def make_user(db: None) -> Callable[..., User]:
    def make(username: str, **fields: Any) -> User:
        fields.setdefault("email", f"{username}@example.org")
        return User.objects.create(username=username, password=hashed_password(), **fields)

    return make


@pytest.fixture
def sign_in(make_user: Callable[..., User]) -> Callable[..., Device]:
    def sign(who: str | User, **fields: Any) -> Device:
        user = make_user(who) if isinstance(who, str) else who
        return Device(user, **fields)

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
