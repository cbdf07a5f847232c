"""Accounts in the admin, and signing in to the pages."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from django.test import Client

from accounts import services
from accounts.models import Block, Contact, RetiredUsername, Session, User
from tests.accounts.conftest import PASSWORD
from tests.support.http import Device

pytestmark = pytest.mark.django_db


@pytest.fixture
def root(make_user: Callable[..., User], client: Client) -> Client:
    user = make_user("root", is_staff=True, is_superuser=True)
    client.force_login(user)
    return client


@pytest.fixture
def people(sign_in: Callable[..., Device]) -> dict[str, Device]:
    devices = {name: sign_in(name, device=f"{name}'s") for name in ("alice", "bob")}
    alice, bob = devices["alice"].user, devices["bob"].user
    Contact.objects.create(owner=alice, target=bob)
    Block.objects.create(blocker=bob, blocked=alice)
    services.otp_issue(session_id=devices["alice"].session.id)
    return devices


@pytest.mark.parametrize("model", ["user", "session", "contact", "block"])
@pytest.mark.parametrize(
    "query",
    ["", "?q=ali", "?suspended=yes", "?suspended=no", "?state=alive", "?state=revoked", "?state=expired"],
)
def test_lists_load(root: Client, people: dict[str, Device], model: str, query: str) -> None:
    response = root.get(f"/admin/accounts/{model}/{query}", follow=True)
    assert response.status_code == 200
    if query == "?q=ali":
        assert b"alice" in response.content


def test_pages_load_and_show_no_secret(root: Client, people: dict[str, Device]) -> None:
    alice = people["alice"]
    contact, block = Contact.objects.get(), Block.objects.get()
    paths = [
        f"user/{alice.user.id}/change/", f"user/{alice.user.id}/password/", f"user/{alice.user.id}/delete/",
        f"user/{alice.user.id}/history/", "user/add/", f"session/{alice.session.id}/change/",
        f"contact/{contact.id}/change/", f"block/{block.id}/change/",
    ]  # fmt: skip
    for path in paths:
        response = root.get(f"/admin/accounts/{path}")
        assert response.status_code == 200, path
        text = response.content.decode()
        assert "argon2" not in text
        assert alice.session.refresh_jti.hex not in text.replace("-", "")


def test_lists_are_a_constant_number_of_queries(
    root: Client,
    people: dict[str, Device],
    sign_in: Callable[..., Device],
    django_assert_max_num_queries: Any,
) -> None:
    for number in range(10):
        device = sign_in(f"user{number}")
        Contact.objects.create(owner=device.user, target=people["alice"].user)
        Block.objects.create(blocker=device.user, blocked=people["alice"].user)
    for model in ("user", "session", "contact", "block"):
        with django_assert_max_num_queries(7):
            root.get(f"/admin/accounts/{model}/")


@pytest.mark.parametrize("path", ["session/add/", "contact/add/", "block/add/"])
def test_what_services_promise_is_read_only(root: Client, path: str) -> None:
    assert root.get(f"/admin/accounts/{path}").status_code == 403


def act(client: Client, model: str, action: str, *objects: Any) -> Any:
    return client.post(
        f"/admin/accounts/{model}/",
        {"action": action, "_selected_action": [str(each.pk) for each in objects], "index": "0"},
        follow=True,
    )


def test_suspending_and_restoring(root: Client, people: dict[str, Device]) -> None:
    alice = people["alice"]
    for action in ("suspend", "suspend_for_a_day"):
        assert act(root, "user", action, alice.user).status_code == 200
        assert alice.get("/v1/me").json()["code"] == "suspended"
        assert b"alice" in root.get("/admin/accounts/user/?suspended=yes").content
        act(root, "user", "restore", alice.user)
        assert alice.get("/v1/me").json()["code"] == "session_ended"
    assert people["bob"].get("/v1/me").status_code == 200


def test_signing_out_and_revoking(root: Client, people: dict[str, Device]) -> None:
    act(root, "user", "sign_out", people["alice"].user)
    act(root, "session", "revoke", people["bob"].session)
    assert {device.get("/v1/me").json()["code"] for device in people.values()} == {"session_ended"}
    assert Session.objects.exclude(revoked_at=None).count() == 2


def test_deleting_a_user_erases_them(root: Client, people: dict[str, Device]) -> None:
    alice = people["alice"].user
    root.post(f"/admin/accounts/user/{alice.id}/delete/", {"post": "yes"})
    act(root, "user", "delete_selected", people["bob"].user)
    root.post(
        "/admin/accounts/user/",
        {"action": "delete_selected", "_selected_action": [str(people["bob"].user.id)], "post": "yes"},
    )
    assert list(User.objects.values_list("username", flat=True)) == ["root"]
    assert RetiredUsername.objects.count() == 2


def test_changing_a_password_ends_all_sessions(root: Client, people: dict[str, Device]) -> None:
    alice = people["alice"]
    response = root.post(
        f"/admin/accounts/user/{alice.user.id}/password/",
        {"usable_password": "true", "password1": "another fine phrase", "password2": "another fine phrase"},
    )
    assert response.status_code == 302
    assert alice.get("/v1/me").status_code == 401
    alice.user.refresh_from_db()
    assert alice.user.check_password("another fine phrase")


def test_adding_a_user_keeps_the_rules_of_registration(root: Client) -> None:
    RetiredUsername.objects.create(digest=services._username_digest("retired"))
    fields = {
        "email": "New@Example.org",
        "usable_password": "true",
        "password1": PASSWORD,
        "password2": PASSWORD,
    }
    for name in ("retired", "root", "no"):
        response = root.post("/admin/accounts/user/add/", {**fields, "username": name})
        assert response.status_code == 200
    assert root.post("/admin/accounts/user/add/", {**fields, "username": "NewOne"}).status_code == 302
    user = User.objects.get(username="newone")
    assert (user.email, user.check_password(PASSWORD)) == ("new@example.org", True)


def test_saving_a_user_keeps_name_and_state(root: Client, people: dict[str, Device]) -> None:
    alice = people["alice"].user
    response = root.post(
        f"/admin/accounts/user/{alice.id}/change/",
        {"username": "mallory", "email": "", "display_name": "Alice", "is_active": ""},
    )
    assert response.status_code == 302
    alice.refresh_from_db()
    assert (alice.username, alice.email, alice.display_name, alice.is_active) == (
        "alice",
        None,
        "Alice",
        True,
    )


def test_staff_cannot_touch_superusers_nor_give_rights(
    make_user: Callable[..., User], client: Client, people: dict[str, Device]
) -> None:
    from django.contrib.auth.models import Permission

    root, staff = make_user("root", is_superuser=True, is_staff=True), make_user("staff", is_staff=True)
    staff.user_permissions.set(Permission.objects.filter(content_type__app_label="accounts"))
    client.force_login(staff)
    assert client.post(f"/admin/accounts/user/{root.id}/password/", {}).status_code == 403
    assert client.post(f"/admin/accounts/user/{root.id}/delete/", {"post": "yes"}).status_code == 403
    act(client, "user", "suspend", root, staff)
    client.post(
        f"/admin/accounts/user/{staff.id}/change/",
        {"email": "staff@example.org", "display_name": "", "is_superuser": "on", "is_staff": "on"},
    )
    root.refresh_from_db()
    staff.refresh_from_db()
    assert (root.is_active, staff.is_active, staff.is_superuser) == (True, True, False)


# --- signing in to the pages ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Alice", "ALICE@example.org"])
def test_a_browser_signs_in_with_the_same_account(
    client: Client, make_user: Callable[..., User], name: str
) -> None:
    make_user("alice")
    assert client.get("/auth/login/").status_code == 200
    response = client.post("/auth/login/?next=/v1/me", {"username": name, "password": PASSWORD})
    assert (response.status_code, response["Location"]) == (302, "/v1/me")
    page = client.get("/v1/me", headers={"accept": "text/html"})
    assert page.status_code == 200
    assert page["Content-Type"].startswith("text/html")
    assert b"alice@example.org" in page.content


def test_every_page_of_the_browsable_api_loads(client: Client, make_user: Callable[..., User]) -> None:
    client.force_login(make_user("alice"))
    paths = (
        "me",
        "contacts",
        "blocks",
        "auth/sessions",
        "users?search=a",
        "auth/login",
        "auth/register",
        "auth/password",
        "contacts/bob",
    )
    for path in paths:
        page = client.get(f"/v1/{path}", headers={"accept": "text/html"})
        assert page["Content-Type"].startswith("text/html"), path
        assert page.status_code in (200, 405), path


def test_a_suspended_browser_is_signed_out(client: Client, make_user: Callable[..., User]) -> None:
    user = make_user("alice")
    client.force_login(user)
    assert client.get("/v1/me").status_code == 200
    services.user_suspend(user_id=user.id)
    assert client.get("/v1/me").status_code == 401
    response = client.post("/auth/login/", {"username": "alice", "password": PASSWORD})
    assert response.status_code == 200


def test_page_sign_ins_are_limited_like_those_of_the_api(
    client: Client, make_user: Callable[..., User], noon: list[datetime]
) -> None:
    make_user("alice")
    for _ in range(10):
        assert client.post("/auth/login/", {"username": "alice", "password": "wrong"}).status_code == 200
    assert client.post("/auth/login/", {"username": "alice", "password": PASSWORD}).status_code == 200
    assert client.get("/v1/me").status_code == 401


def test_a_browser_changes_its_password_and_stays_and_logs_out(
    client: Client, sign_in: Callable[..., Device]
) -> None:
    device = sign_in("alice")
    client.force_login(device.user)
    fields = {"current_password": PASSWORD, "new_password": "another fine phrase"}
    assert client.post("/v1/auth/password", fields, content_type="application/json").status_code == 204
    assert client.get("/v1/me").status_code == 200
    assert device.get("/v1/me").status_code == 401
    assert client.post("/v1/auth/otp").status_code == 403
    assert client.post("/v1/auth/logout").status_code == 204
    assert client.get("/v1/me").status_code == 401


def test_a_browser_needs_its_csrf_token(make_user: Callable[..., User]) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(make_user("alice"))
    response = client.post("/v1/auth/logout")
    assert (response.status_code, response.json()["code"]) == (403, "forbidden")


def test_createsuperuser(db: None) -> None:
    from django.core.management import call_command

    call_command("createsuperuser", username="root", email="root@example.org", interactive=False)
    assert User.objects.get().is_superuser
