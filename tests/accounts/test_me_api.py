"""`/v1/me`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from accounts import services
from accounts.models import Block, Contact, RetiredUsername, Session, User
from chatbe.core import clock
from chatbe.core.errors import Unavailable
from tests.accounts.conftest import PASSWORD, FanOut
from tests.support.http import Device, DocumentedClient

pytestmark = pytest.mark.django_db


def test_a_profile_is_changed_field_by_field(sign_in: Callable[..., Device]) -> None:
    device = sign_in("alice")
    body = device.patch("/v1/me", display_name="Alice L.").json()
    assert (body["display_name"], body["email"]) == ("Alice L.", "alice@example.org")
    body = device.patch("/v1/me", email="New@Example.org").json()
    assert (body["display_name"], body["email"]) == ("Alice L.", "new@example.org")
    assert device.get("/v1/me").json() == body
    assert device.patch("/v1/me", display_name="").json()["display_name"] == ""


def test_a_username_does_not_change(sign_in: Callable[..., Device]) -> None:
    device = sign_in("alice")
    assert device.patch("/v1/me", username="mallory").json()["username"] == "alice"


def test_anothers_email_is_a_conflict_and_ones_own_is_not(
    sign_in: Callable[..., Device], make_user: Callable[..., User]
) -> None:
    make_user("bob")
    device = sign_in("alice")
    response = device.patch("/v1/me", email="BOB@example.org")
    assert response.status_code == 409
    assert response.json()["errors"][0]["field"] == "email"
    assert device.patch("/v1/me", email="ALICE@example.org").status_code == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"email": "x"}, "email"),
        ({"email": None}, "email"),
        ({"email": 5}, "email"),
        ({"display_name": "\u0007"}, "display_name"),
        ({"display_name": 5}, "display_name"),
        ({"read_receipts": "yes"}, "read_receipts"),
        ({"read_receipts": 1}, "read_receipts"),
        ({"read_receipts": None}, "read_receipts"),
    ],
)
def test_a_bad_value_is_named(sign_in: Callable[..., Device], body: dict[str, Any], field: str) -> None:
    response = sign_in("alice").patch("/v1/me", **body)
    assert response.status_code == 400
    assert [error["field"] for error in response.json()["errors"]] == [field]


# --- erasing --------------------------------------------------------------------------------------


def test_erasing_leaves_nothing_but_the_retired_name(
    stranger: DocumentedClient,
    sign_in: Callable[..., Device],
    make_user: Callable[..., User],
    sent: FanOut,
    committing: Callable[[], Any],
) -> None:
    device = sign_in("alice")
    other = sign_in(device.user)
    bob, carol, dave, eve = (make_user(name) for name in ("bob", "carol", "dave", "eve"))
    for owner, target in ((device.user, bob), (carol, device.user), (device.user, eve)):
        Contact.objects.create(owner=owner, target=target)
    for blocker, blocked in ((device.user, dave), (eve, device.user)):
        Block.objects.create(blocker=blocker, blocked=blocked)
    with committing():
        assert device.delete("/v1/me", password=PASSWORD).status_code == 204
    assert not User.objects.filter(username="alice").exists()
    assert not Session.objects.exists()
    assert not Contact.objects.exists()
    assert not Block.objects.exists()
    assert RetiredUsername.objects.count() == 1
    assert device.get("/v1/me").status_code == 401
    assert {control[1]["session"] for control in sent.controls(device.user)} == {
        str(device.session.id),
        str(other.session.id),
    }
    peer = {"peer": str(device.user.id)}
    assert sent.controls(bob) == sent.controls(carol) == [("contacts_changed", peer)]
    assert sent.events(bob) == [b'{"type":"contact","username":"alice","added":false,"mutual":false}']
    assert sent.events(carol) == sent.events(eve) == []
    bob.refresh_from_db()
    carol.refresh_from_db()
    assert (bob.control_rev, carol.control_rev) == (1, 1)

    response = stranger.post(
        "/v1/auth/register",
        {"username": "Alice", "email": "alice@example.org", "password": PASSWORD},
        format="json",
    )
    assert response.status_code == 409
    assert [error["field"] for error in response.json()["errors"]] == ["username"]


def test_erasing_wants_the_password(sign_in: Callable[..., Device]) -> None:
    device = sign_in("alice")
    response = device.delete("/v1/me", password="wrong")
    assert (response.status_code, response.json()["errors"][0]["field"]) == (400, "password")
    assert device.delete("/v1/me").status_code == 400
    assert device.get("/v1/me").status_code == 200


def test_other_apps_take_part_in_erasing_and_can_stop_it(
    sign_in: Callable[..., Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = sign_in("alice")
    calls: list[Any] = []

    def fail(user_id: Any) -> None:
        calls.append((user_id, User.objects.filter(id=user_id).exists()))
        raise Unavailable

    monkeypatch.setattr(services, "erasure_hooks", [fail])
    assert device.delete("/v1/me", password=PASSWORD).status_code == 503
    assert calls == [(device.user.id, True)]
    assert device.get("/v1/me").status_code == 200
    assert not RetiredUsername.objects.exists()


def test_what_refers_to_a_user_who_goes_is_looked_for_again(
    make_user: Callable[..., User], monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db import IntegrityError

    user = make_user("alice")
    tries: list[Any] = []

    def lose_twice(user_id: Any) -> None:
        tries.append(user_id)
        if len(tries) < 3:
            raise IntegrityError

    monkeypatch.setattr(services, "erasure_hooks", [lose_twice])
    services.user_erase(user_id=user.id)
    assert len(tries) == 3
    assert not User.objects.exists()


# --- export ---------------------------------------------------------------------------------------


def test_an_export_holds_everything_but_secrets(
    sign_in: Callable[..., Device], make_user: Callable[..., User], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = sign_in("alice", device="laptop")
    bob = make_user("bob")
    Contact.objects.create(owner=device.user, target=bob)
    Contact.objects.create(owner=bob, target=device.user)
    Block.objects.create(blocker=device.user, blocked=bob)
    monkeypatch.setattr(services, "export_hooks", {"messages": lambda user_id: [{"sender": user_id}]})
    response = device.get("/v1/me/export")
    assert response["Content-Disposition"] == 'attachment; filename="chatbe-alice.json"'
    body = response.json()
    assert body["profile"]["email"] == "alice@example.org"
    assert body["sessions"][0]["device"] == "laptop"
    assert [each["username"] for each in body["contacts"] + body["contact_of"] + body["blocks"]] == [
        "bob"
    ] * 3
    assert body["messages"] == [{"sender": str(device.user.id)}]
    text = response.content.decode()
    assert "argon2" not in text
    assert device.session.refresh_jti.hex not in text.replace("-", "")


def test_exports_are_limited(sign_in: Callable[..., Device], settings: Any) -> None:
    settings.CHATBE_RATE_LIMITS = True
    device = sign_in("alice")
    statuses = [device.get("/v1/me/export").status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    assert 1 <= int(device.get("/v1/me/export")["Retry-After"]) <= 60


def test_an_export_is_a_constant_number_of_queries(
    sign_in: Callable[..., Device],
    make_user: Callable[..., User],
    monkeypatch: pytest.MonkeyPatch,
    django_assert_num_queries: Any,
) -> None:
    monkeypatch.setattr(services, "export_hooks", {})
    device = sign_in("alice")
    for number in range(5):
        Contact.objects.create(owner=device.user, target=make_user(f"user{number}"), created_at=clock.now())
    # Five are the account's own; each other app adds as many as it has kinds of things.
    with django_assert_num_queries(5):
        assert device.get("/v1/me/export").status_code == 200
