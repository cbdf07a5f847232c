"""`/v1/auth/*`."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth import hashers
from django.contrib.auth.hashers import Argon2PasswordHasher

from accounts import services, tokens
from accounts.models import OneTimePassword, RetiredUsername, Session, User
from chatbe.core import clock
from tests.accounts.conftest import PASSWORD, FanOut
from tests.support.http import Device, DocumentedClient

pytestmark = pytest.mark.django_db


def login(client: DocumentedClient, *, status: int = 200, **fields: str) -> dict[str, Any]:
    return try_login(client, status, fields)


def try_login(client: DocumentedClient, status: int, fields: dict[str, str]) -> dict[str, Any]:
    response = client.post("/v1/auth/login", fields, format="json")
    assert response.status_code == status, response.content
    body: dict[str, Any] = response.json()
    return body


def bearer(token: str) -> DocumentedClient:
    client = DocumentedClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
    return client


# --- register -------------------------------------------------------------------------------------


def test_registering_answers_with_the_user_and_keeps_names_in_lower_case(stranger: DocumentedClient) -> None:
    response = stranger.post(
        "/v1/auth/register",
        {"username": "Alice", "email": "Alice@Example.org", "password": PASSWORD, "display_name": "Alice L."},
        format="json",
    )
    assert response.status_code == 201
    body = response.json()
    user = User.objects.get()
    assert body == {
        "id": str(user.id),
        "username": "alice",
        "email": "alice@example.org",
        "display_name": "Alice L.",
        "created_at": clock.timestamp(user.created_at),
        "read_receipts": True,
    }
    assert user.password.startswith("argon2$argon2id$")


@pytest.mark.parametrize(
    ("taken", "fields"),
    [
        ({"username": "ALICE", "email": "other@example.org"}, ["username"]),
        ({"username": "other", "email": "ALICE@example.ORG"}, ["email"]),
        ({"username": "alice", "email": "alice@example.org"}, ["username", "email"]),
    ],
)
def test_registering_says_what_is_taken(
    stranger: DocumentedClient, make_user: Callable[..., User], taken: dict[str, str], fields: list[str]
) -> None:
    make_user("alice")
    response = stranger.post("/v1/auth/register", {**taken, "password": PASSWORD}, format="json")
    assert response.status_code == 409
    assert response.json()["code"] == "conflict"
    assert [(error["field"], error["code"]) for error in response.json()["errors"]] == [
        (field, "taken") for field in fields
    ]


def test_a_retired_username_is_taken(stranger: DocumentedClient) -> None:
    RetiredUsername.objects.create(digest=services._username_digest("alice"))
    response = stranger.post(
        "/v1/auth/register",
        {"username": "alice", "email": "a@example.org", "password": PASSWORD},
        format="json",
    )
    assert response.status_code == 409
    assert response.json()["errors"][0]["field"] == "username"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"username": "al"}, "username"),
        ({"username": "a" * 33}, "username"),
        ({"username": "alice!"}, "username"),
        ({"username": "alice\n"}, "username"),
        ({"username": "\u212aelvin"}, "username"),
        ({"username": None}, "username"),
        ({"username": ["alice"]}, "username"),
        ({"username": 123456}, "username"),
        ({"email": 5}, "email"),
        ({"password": 123456789012}, "password"),
        ({"email": "not an address"}, "email"),
        ({"email": ""}, "email"),
        ({"email": "a\u0000@example.org"}, "email"),
        ({"password": "short"}, "password"),
        ({"password": "password123"}, "password"),
        ({"password": "x" * 257}, "password"),
        ({"password": "nul\u0000 in the middle"}, "password"),
        ({"display_name": "x" * 65}, "display_name"),
        ({"display_name": "two\nlines"}, "display_name"),
        ({"display_name": "nul\u0000"}, "display_name"),
    ],
)
def test_registering_names_the_bad_field(
    stranger: DocumentedClient, change: dict[str, Any], field: str
) -> None:
    fields = {"username": "alice", "email": "alice@example.org", "password": PASSWORD, **change}
    response = stranger.post("/v1/auth/register", fields, format="json")
    assert response.status_code == 400
    assert response.json()["code"] == "invalid"
    assert {error["field"] for error in response.json()["errors"]} == {field}
    assert not User.objects.exists()


# --- login ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        {"username": "alice"},
        {"username": "ALICE"},
        {"email": "Alice@Example.Org"},
        {"username": "alice@example.org"},
    ],
)
def test_login_by_username_or_email_in_any_case(
    stranger: DocumentedClient, make_user: Callable[..., User], name: dict[str, str]
) -> None:
    user = make_user("alice")
    body = try_login(stranger, 200, {**name, "password": PASSWORD, "device": "laptop"})
    assert body.keys() == {
        "session_id", "access_token", "access_token_expires_at", "refresh_token", "refresh_token_expires_at",
        "otp", "otp_expires_at", "user",
    }  # fmt: skip
    assert body["user"]["email"] == "alice@example.org"
    session = Session.objects.get()
    assert (str(session.id), session.user, session.device, session.address) == (
        body["session_id"], user, "laptop", "127.0.0.1",
    )  # fmt: skip
    assert bearer(body["access_token"]).get("/v1/me").json() == body["user"]


def test_a_login_is_kept_by_no_cache(stranger: DocumentedClient, make_user: Callable[..., User]) -> None:
    make_user("alice")
    response = stranger.post("/v1/auth/login", {"username": "alice", "password": PASSWORD}, format="json")
    assert response["Cache-Control"] == "no-store"


def test_login_tells_nobody_whether_an_account_exists(
    stranger: DocumentedClient, make_user: Callable[..., User], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_user("alice")
    hashes: list[str] = []

    class Counted(Argon2PasswordHasher):
        def verify(self, password: str, encoded: str) -> bool:
            hashes.append("verify")
            return super().verify(password, encoded)

        def encode(self, password: str, salt: str) -> str:
            hashes.append("encode")
            return super().encode(password, salt)

    monkeypatch.setattr(hashers, "get_hashers", lambda: [Counted()])
    monkeypatch.setattr(hashers, "get_hashers_by_algorithm", lambda: {"argon2": Counted()})
    wrong = login(stranger, status=401, username="alice", password="wrong")
    assert len(hashes) == 1
    unknown = login(stranger, status=401, username="nobody", password="wrong")
    assert len(hashes) == 2
    unknown_email = login(stranger, status=401, email="nobody@example.org", password="wrong")
    assert len(hashes) == 3
    assert wrong == unknown == unknown_email
    assert wrong["code"] == "invalid_credentials"


def test_a_suspended_account_is_told_only_to_who_knows_its_password(
    stranger: DocumentedClient, make_user: Callable[..., User]
) -> None:
    make_user("alice", suspended_until=clock.now() + timedelta(hours=1))
    assert login(stranger, status=401, username="alice", password="wrong")["code"] == "invalid_credentials"
    assert login(stranger, status=403, username="alice", password=PASSWORD)["code"] == "suspended"


@pytest.mark.parametrize(
    "fields",
    [
        {"password": "x"},
        {"username": "alice"},
        {"username": "alice", "email": "a@example.org", "password": "x"},
    ],
)
def test_login_wants_one_name_and_a_password(stranger: DocumentedClient, fields: dict[str, str]) -> None:
    assert try_login(stranger, 400, fields)["code"] == "invalid"


def test_a_name_with_u0000_is_refused_without_a_fault(stranger: DocumentedClient) -> None:
    assert login(stranger, status=400, email="a\u0000@b", password="x")["errors"][0]["field"] == "email"


def test_a_stale_token_does_not_hinder_a_login(make_user: Callable[..., User]) -> None:
    make_user("alice")
    assert login(bearer("stale"), username="alice", password=PASSWORD)["otp"]


# --- tokens ---------------------------------------------------------------------------------------


def test_refreshing_rotates_the_refresh_token(
    stranger: DocumentedClient, sign_in: Callable[..., Device]
) -> None:
    device = sign_in("alice")
    response = stranger.post("/v1/auth/token", {"refresh_token": device.tokens.refresh_token}, format="json")
    assert response.status_code == 200
    fresh = response.json()
    assert fresh["refresh_token"] != device.tokens.refresh_token
    assert fresh["session_id"] == str(device.session.id)
    # The session's life is not drawn out.
    assert fresh["refresh_token_expires_at"] == clock.timestamp(device.tokens.refresh_token_expires_at)
    assert bearer(fresh["access_token"]).get("/v1/me").status_code == 200
    again = stranger.post("/v1/auth/token", {"refresh_token": fresh["refresh_token"]}, format="json")
    assert again.status_code == 200


def test_a_spent_refresh_token_ends_its_session(
    stranger: DocumentedClient, sign_in: Callable[..., Device], sent: FanOut, committing: Callable[[], Any]
) -> None:
    device = sign_in("alice")
    other = sign_in(device.user)
    spent = device.tokens.refresh_token
    fresh = stranger.post("/v1/auth/token", {"refresh_token": spent}, format="json").json()
    with committing():
        response = stranger.post("/v1/auth/token", {"refresh_token": spent}, format="json")
    assert response.status_code == 401
    assert response["WWW-Authenticate"].startswith("Bearer")
    assert response.json()["code"] == "session_ended"
    assert device.get("/v1/me").status_code == 401
    assert bearer(fresh["access_token"]).get("/v1/me").status_code == 401
    assert (
        stranger.post("/v1/auth/token", {"refresh_token": fresh["refresh_token"]}, format="json").status_code
        == 401
    )
    assert other.get("/v1/me").status_code == 200
    assert sent.controls(device.user) == [("session_ended", {"session": str(device.session.id)})]
    device.user.refresh_from_db()
    assert device.user.control_rev == 1


def test_neither_token_passes_for_the_other(
    stranger: DocumentedClient, sign_in: Callable[..., Device]
) -> None:
    device = sign_in("alice")
    assert bearer(device.tokens.refresh_token).get("/v1/me").status_code == 401
    response = stranger.post("/v1/auth/token", {"refresh_token": device.tokens.access_token}, format="json")
    assert (response.status_code, response.json()["code"]) == (401, "invalid_token")
    assert device.get("/v1/me").status_code == 200


@pytest.mark.parametrize("token", ["x", "a.b.c", "é", "\ud7ff", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0."])
def test_what_is_no_token_is_refused(stranger: DocumentedClient, token: str) -> None:
    response = stranger.post("/v1/auth/token", {"refresh_token": token}, format="json")
    assert (response.status_code, response.json()["code"]) == (401, "invalid_token")


def test_an_access_token_does_not_outlive_its_time_nor_its_session(
    sign_in: Callable[..., Device], monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.CHATBE_SESSION_LIFETIME = timedelta(minutes=5)
    device = sign_in("alice")
    assert device.tokens.access_token_expires_at <= device.session.expires_at
    Session.objects.update(expires_at=clock.now() - timedelta(seconds=1))
    assert device.get("/v1/me").json()["code"] == "session_ended"
    settings.CHATBE_ACCESS_LIFETIME = timedelta(seconds=-1)
    assert sign_in(device.user).get("/v1/me").json()["code"] == "invalid_token"


def test_a_token_signed_with_another_key_is_refused(sign_in: Callable[..., Device]) -> None:
    import jwt

    device = sign_in("alice")
    claims = jwt.decode(device.tokens.access_token, options={"verify_signature": False})
    assert claims["sid"] == str(device.session.id)
    forged = jwt.encode(claims, secrets.token_hex(32), algorithm="HS256")
    assert bearer(forged).get("/v1/me").json()["code"] == "invalid_token"


def test_a_signed_token_without_a_session_is_refused(sign_in: Callable[..., Device]) -> None:
    from rest_framework_simplejwt.tokens import AccessToken

    assert bearer(str(AccessToken())).get("/v1/me").json()["code"] == "invalid_token"
    device = sign_in("alice")
    Session.objects.all().delete()
    assert device.get("/v1/me").json()["code"] == "session_ended"


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic eDp5", "bearer \u00e9", "Bearer a b"])
def test_without_a_good_token_it_is_401(stranger: DocumentedClient, header: str) -> None:
    response = stranger.get("/v1/me", HTTP_AUTHORIZATION=header)
    assert response.status_code == 401
    assert response["WWW-Authenticate"] == 'Bearer realm="chatbe"'
    assert response["Content-Type"] == "application/problem+json"


def test_a_suspended_user_is_refused_at_once(
    stranger: DocumentedClient, sign_in: Callable[..., Device], sent: FanOut, committing: Callable[[], Any]
) -> None:
    device = sign_in("alice")
    with committing():
        services.user_suspend(user_id=device.user.id, until=clock.now() + timedelta(hours=1))
    assert (device.get("/v1/me").status_code, device.get("/v1/me").json()["code"]) == (403, "suspended")
    refresh = {"refresh_token": device.tokens.refresh_token}
    assert stranger.post("/v1/auth/token", refresh, format="json").json()["code"] == "suspended"
    assert sent.controls(device.user) == [("suspended", {})]
    services.user_restore(user_id=device.user.id)
    assert device.get("/v1/me").json()["code"] == "session_ended"


def test_authentication_is_one_query(sign_in: Callable[..., Device], django_assert_num_queries: Any) -> None:
    device = sign_in("alice")
    with django_assert_num_queries(1):
        assert device.get("/v1/me").status_code == 200


# --- one-time passwords, logout, devices ----------------------------------------------------------


def test_otps_are_random_short_lived_and_stored_as_digests(sign_in: Callable[..., Device]) -> None:
    device = sign_in("alice")
    first, second = device.post("/v1/auth/otp").json(), device.post("/v1/auth/otp").json()
    assert first["otp"] != second["otp"]
    assert len(first["otp"]) >= 22
    assert "=" not in first["otp"]
    stored = OneTimePassword.objects.filter(session=device.session)
    assert len(stored) == 2
    assert first["otp"].encode() not in {bytes(each.digest) for each in stored}
    left = stored[0].expires_at - clock.now()
    assert timedelta(seconds=50) < left <= timedelta(seconds=60)


def test_logout_ends_this_session_only(
    sign_in: Callable[..., Device], sent: FanOut, committing: Callable[[], Any]
) -> None:
    device = sign_in("alice")
    other = sign_in(device.user)
    with committing():
        assert device.post("/v1/auth/logout").status_code == 204
    assert device.get("/v1/me").json()["code"] == "session_ended"
    assert other.get("/v1/me").status_code == 200
    assert sent.controls(device.user) == [("session_ended", {"session": str(device.session.id)})]


def test_devices_are_listed_latest_first_and_the_current_is_marked(sign_in: Callable[..., Device]) -> None:
    device = sign_in("alice", device="old", address="192.0.2.1", user_agent="tests")
    newer = sign_in(device.user, device="new")
    services.session_end(user_id=device.user.id, session_id=sign_in(device.user).session.id)
    sign_in("bob")
    body = device.get("/v1/auth/sessions").json()
    assert body.keys() == {"results", "next", "previous"}
    assert [(each["id"], each["device"], each["current"]) for each in body["results"]] == [
        (str(newer.session.id), "new", False),
        (str(device.session.id), "old", True),
    ]
    assert body["results"][1]["address"] == "192.0.2.1"
    assert body["results"][1]["user_agent"] == "tests"


def test_a_revoked_device_is_refused_at_once(
    sign_in: Callable[..., Device], sent: FanOut, committing: Callable[[], Any]
) -> None:
    device = sign_in("alice")
    stolen = sign_in(device.user)
    with committing():
        assert device.delete(f"/v1/auth/sessions/{stolen.session.id}").status_code == 204
    assert stolen.get("/v1/me").status_code == 401
    assert sent.controls(device.user) == [("session_ended", {"session": str(stolen.session.id)})]
    assert device.delete(f"/v1/auth/sessions/{stolen.session.id}").status_code == 404


def test_others_devices_cannot_be_revoked(sign_in: Callable[..., Device]) -> None:
    alice, bob = sign_in("alice"), sign_in("bob")
    assert bob.delete(f"/v1/auth/sessions/{alice.session.id}").status_code == 404
    assert bob.delete("/v1/auth/sessions/not-an-id").status_code == 404
    assert alice.get("/v1/me").status_code == 200


def test_pages_of_devices_meet_without_gap_or_overlap(
    sign_in: Callable[..., Device], django_assert_num_queries: Any
) -> None:
    device = sign_in("alice")
    expected = [str(device.session.id)] + [str(sign_in(device.user).session.id) for _ in range(6)]
    seen: list[str] = []
    url = last = "/v1/auth/sessions?limit=3"
    while url:
        with django_assert_num_queries(2):
            page = device.http.get(url).json()
        seen += [each["id"] for each in page["results"]]
        last, url = url, page["next"]
    assert seen == expected[::-1]
    back = device.http.get(last).json()["previous"]
    assert [each["id"] for each in device.http.get(back).json()["results"]] == seen[3:6]


@pytest.mark.parametrize(
    "query",
    [
        "cursor=x",
        "cursor=cD0lMDA=",
        "cursor=cD1hYmM=",
        "cursor=bz0tMQ==",
        "cursor=%00",
        "limit=0",
        "limit=x",
        "limit=-1",
        "limit=",
    ],
)
def test_a_forged_cursor_or_limit_is_invalid(sign_in: Callable[..., Device], query: str) -> None:
    response = sign_in("alice").http.get(f"/v1/auth/sessions?{query}")
    assert response.status_code == 400
    assert response.json()["errors"][0]["field"] == query.partition("=")[0]


@pytest.mark.parametrize("limit", ["1", "200", "100000", "9" * 5000])
def test_a_limit_over_the_most_gives_the_most(sign_in: Callable[..., Device], limit: str) -> None:
    assert sign_in("alice").get("/v1/auth/sessions", limit=limit).status_code == 200


# --- password -------------------------------------------------------------------------------------


def test_changing_the_password_ends_the_other_sessions(
    stranger: DocumentedClient, sign_in: Callable[..., Device], sent: FanOut, committing: Callable[[], Any]
) -> None:
    device = sign_in("alice")
    other = sign_in(device.user)
    with committing():
        response = device.post(
            "/v1/auth/password", current_password=PASSWORD, new_password="another fine phrase"
        )
    assert response.status_code == 204
    assert device.get("/v1/me").status_code == 200
    assert other.get("/v1/me").status_code == 401
    assert sent.controls(device.user) == [("session_ended", {"session": str(other.session.id)})]
    login(stranger, status=401, username="alice", password=PASSWORD)
    login(stranger, username="alice", password="another fine phrase")


@pytest.mark.parametrize(
    ("current", "new", "field", "code"),
    [
        ("wrong", "another fine phrase", "current_password", "wrong"),
        (PASSWORD, "alice", "new_password", "password_too_similar"),
        (PASSWORD, "12345678901", "new_password", "password_entirely_numeric"),
    ],
)
def test_a_refused_change_of_password_changes_nothing(
    sign_in: Callable[..., Device], current: str, new: str, field: str, code: str
) -> None:
    device = sign_in("alice")
    response = device.post("/v1/auth/password", current_password=current, new_password=new)
    assert response.status_code == 400
    assert (field, code) in {(error["field"], error["code"]) for error in response.json()["errors"]}
    device.user.refresh_from_db()
    assert device.user.check_password(PASSWORD)


# --- limits ---------------------------------------------------------------------------------------


def test_failed_logins_are_limited_per_account_known_or_not(
    stranger: DocumentedClient, make_user: Callable[..., User], noon: list[datetime]
) -> None:
    make_user("alice")
    for name in ("alice", "nobody"):
        for attempt in range(10):
            stranger.defaults["REMOTE_ADDR"] = f"192.0.2.{attempt}"
            login(stranger, status=401, username=name, password="wrong")
        response = stranger.post("/v1/auth/login", {"username": name, "password": PASSWORD}, format="json")
        assert response.status_code == 429
        assert response.json()["code"] == "rate_limited"
        assert response["Retry-After"] == "270"
    # That both names are one account's is not told.
    login(stranger, email="alice@example.org", password=PASSWORD)
    noon[0] += timedelta(seconds=270)
    login(stranger, username="alice", password=PASSWORD)


def test_failed_logins_are_limited_per_address(
    stranger: DocumentedClient, make_user: Callable[..., User], noon: list[datetime], settings: Any
) -> None:
    make_user("alice")
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher", *settings.PASSWORD_HASHERS]
    for attempt in range(50):
        login(stranger, status=401, username=f"user{attempt}", password="wrong")
    login(stranger, status=429, username="alice", password=PASSWORD)
    stranger.defaults["REMOTE_ADDR"] = "192.0.2.1"
    login(stranger, username="alice", password=PASSWORD)


def test_good_logins_do_not_count(
    stranger: DocumentedClient, make_user: Callable[..., User], noon: list[datetime]
) -> None:
    make_user("alice")
    for _ in range(12):
        login(stranger, username="alice", password=PASSWORD)


def test_one_time_passwords_are_limited_per_session(
    sign_in: Callable[..., Device], noon: list[datetime]
) -> None:
    device = sign_in("alice")
    for _ in range(30):
        assert device.post("/v1/auth/otp").status_code == 200
    response = device.post("/v1/auth/otp")
    assert response.status_code == 429
    assert int(response["Retry-After"]) == 30
    assert sign_in(device.user).post("/v1/auth/otp").status_code == 200


def test_registrations_are_limited_per_address(
    stranger: DocumentedClient, noon: list[datetime], monkeypatch: pytest.MonkeyPatch
) -> None:
    from accounts import attempts

    monkeypatch.setattr(attempts, "REGISTER_PER_ADDRESS", attempts.Limit("register-address", 1, 3600))
    for name, status in (("alice", 201), ("bobby", 429)):
        fields = {"username": name, "email": f"{name}@example.org", "password": PASSWORD}
        assert stranger.post("/v1/auth/register", fields, format="json").status_code == status


def test_wrong_own_passwords_are_limited(sign_in: Callable[..., Device], noon: list[datetime]) -> None:
    device = sign_in("alice")
    for _ in range(10):
        assert device.delete("/v1/me", password="wrong").status_code == 400
    assert device.delete("/v1/me", password=PASSWORD).status_code == 429


def test_limits_can_be_lifted(
    stranger: DocumentedClient, make_user: Callable[..., User], settings: Any, noon: list[datetime]
) -> None:
    settings.CHATBE_RATE_LIMITS = False
    make_user("alice")
    for _ in range(11):
        login(stranger, status=401, username="alice", password="wrong")


@pytest.mark.parametrize(
    ("trusted", "forwarded", "expected"),
    [
        (0, "203.0.113.9", "127.0.0.1"),
        (1, "203.0.113.9", "203.0.113.9"),
        (1, "6.6.6.6, 203.0.113.9", "203.0.113.9"),
        (2, "6.6.6.6, 203.0.113.9, 10.0.0.1", "203.0.113.9"),
        (2, "203.0.113.9", "203.0.113.9"),
        (1, "not an address", "127.0.0.1"),
        (1, "::ffff:203.0.113.9", "203.0.113.9"),
        (1, "", "127.0.0.1"),
    ],
)
def test_only_our_own_proxies_tell_the_address(
    stranger: DocumentedClient,
    make_user: Callable[..., User],
    settings: Any,
    trusted: int,
    forwarded: str,
    expected: str,
) -> None:
    settings.CHATBE_TRUSTED_PROXIES = trusted
    make_user("alice")
    stranger.defaults["HTTP_X_FORWARDED_FOR"] = forwarded
    login(stranger, username="alice", password=PASSWORD)
    assert Session.objects.get().address == expected


def test_a_password_hashed_by_older_parameters_is_hashed_anew(
    stranger: DocumentedClient, make_user: Callable[..., User]
) -> None:
    from django.contrib.auth.hashers import make_password

    user = make_user("alice")
    User.objects.update(password=make_password(PASSWORD, hasher="pbkdf2_sha256"))
    login(stranger, username="alice", password=PASSWORD)
    user.refresh_from_db()
    assert user.password.startswith("argon2$")


def test_the_tokens_say_nothing_personal(sign_in: Callable[..., Device]) -> None:
    import jwt

    device = sign_in("alice")
    claims = jwt.decode(device.tokens.access_token, options={"verify_signature": False})
    assert claims.keys() == {"token_type", "exp", "iat", "jti", "sub", "sid", "iss"}
    assert tokens.access_claims(device.tokens.access_token).session_id == device.session.id
