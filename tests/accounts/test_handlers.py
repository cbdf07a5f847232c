"""How sockets sign in."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from accounts import handlers, services
from accounts.models import Attempts, OneTimePassword, Session, User
from chatbe.core import clock
from chatbe.hub import registry
from chatbe.wire.codes import CloseCode
from tests.support.http import Device

pytestmark = pytest.mark.django_db


def otp_of(device: Device) -> str:
    return services.otp_issue(session_id=device.session.id).value


def test_the_hub_knows_how_sockets_sign_in() -> None:
    assert registry.signing_in() == (handlers.authenticate, handlers.admit)


@pytest.mark.parametrize("username", ["alice", "Alice", None])
def test_an_otp_signs_in_once(sign_in: Callable[..., Device], username: str | None) -> None:
    device = sign_in("alice")
    otp = otp_of(device)
    assert handlers.authenticate(otp, username) == registry.Identity(
        user_id=device.user.id,
        username="alice",
        session_id=device.session.id,
        expires_at=device.session.expires_at,
    )
    assert handlers.authenticate(otp, username) is None


def test_the_login_otp_signs_in_too(make_user: Callable[..., User]) -> None:
    from tests.accounts.conftest import PASSWORD

    make_user("alice")
    signed_in = services.sign_in(identifier="alice", password=PASSWORD)
    assert handlers.authenticate(signed_in.otp.value, "alice") is not None


def test_anothers_otp_is_refused_and_used_up(sign_in: Callable[..., Device]) -> None:
    otp = otp_of(sign_in("alice"))
    assert handlers.authenticate(otp, "mallory") is None
    assert handlers.authenticate(otp, "alice") is None


@pytest.mark.parametrize("otp", ["", "x", "é" * 32, "\ud800" * 32, "a\u0000" * 16, "a" * 32, "a" * 10_000])
def test_what_is_no_otp_is_refused(db: None, otp: str) -> None:
    assert handlers.authenticate(otp, "alice") is None


def test_an_expired_otp_is_refused(sign_in: Callable[..., Device]) -> None:
    otp = otp_of(sign_in("alice"))
    OneTimePassword.objects.update(expires_at=clock.now() - timedelta(seconds=1))
    assert handlers.authenticate(otp, "alice") is None


def test_an_otp_of_an_ended_session_is_refused(sign_in: Callable[..., Device]) -> None:
    device = sign_in("alice")
    otp = otp_of(device)
    services.session_end(user_id=device.user.id, session_id=device.session.id)
    assert handlers.authenticate(otp, "alice") is None
    expired = sign_in(device.user)
    otp = otp_of(expired)
    Session.objects.filter(id=expired.session.id).update(expires_at=clock.now() - timedelta(seconds=1))
    assert handlers.authenticate(otp, "alice") is None


def test_a_socket_is_admitted_only_while_its_session_stands(
    sign_in: Callable[..., Device], django_assert_num_queries: Any
) -> None:
    device = sign_in("alice")
    identity = handlers.authenticate(otp_of(device), "alice")
    assert identity is not None
    with django_assert_num_queries(1):
        assert handlers.admit(identity).close_code is None
    services.session_end(user_id=device.user.id, session_id=device.session.id)
    assert handlers.admit(identity).close_code == CloseCode.SESSION_ENDED
    services.user_suspend(user_id=device.user.id)
    assert handlers.admit(identity).close_code == CloseCode.SUSPENDED
    services.user_erase(user_id=device.user.id)
    assert handlers.admit(identity).close_code == CloseCode.SESSION_ENDED


def test_a_goodbye_has_otps_for_live_sessions(
    sign_in: Callable[..., Device], django_assert_num_queries: Any
) -> None:
    alice, bob, ended = sign_in("alice"), sign_in("bob"), sign_in("carol")
    services.session_end(user_id=ended.user.id, session_id=ended.session.id)
    with django_assert_num_queries(2):
        otps = registry.issue_otps([each.session.id for each in (alice, bob, ended)])
    assert otps.keys() == {alice.session.id, bob.session.id}
    identity = handlers.authenticate(otps[alice.session.id], "alice")
    assert identity is not None
    assert identity.session_id == alice.session.id
    assert registry.issue_otps([]) == {}


def test_the_sweep_takes_what_has_expired_and_nothing_else(
    sign_in: Callable[..., Device], capsys: Any
) -> None:
    from django.core.management import call_command

    alive, old, revoked, recent = (sign_in(name) for name in ("alice", "bob", "carol", "dave"))
    long_ago = clock.now() - timedelta(days=8)
    Session.objects.filter(id=old.session.id).update(expires_at=long_ago)
    Session.objects.filter(id=revoked.session.id).update(revoked_at=long_ago)
    Session.objects.filter(id=recent.session.id).update(revoked_at=clock.now())
    good, bad = otp_of(alive), otp_of(recent)
    OneTimePassword.objects.filter(session=recent.session).update(expires_at=long_ago)
    Attempts.objects.create(key=b"k", window=int(long_ago.timestamp()), count=1)
    Attempts.objects.create(key=b"k", window=int(clock.now().timestamp()), count=1)
    call_command("sweep")
    assert set(Session.objects.all()) == {alive.session, recent.session}
    assert [each.session_id for each in OneTimePassword.objects.all()] == [alive.session.id]
    assert Attempts.objects.filter(key=b"k").count() == 1
    assert handlers.authenticate(bad, "dave") is None
    assert handlers.authenticate(good, "alice") is not None


def test_sign_ins_sweep_a_little(make_user: Callable[..., User], monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.accounts.conftest import PASSWORD

    make_user("alice")
    Attempts.objects.create(key=b"k", window=0, count=1)
    monkeypatch.setattr(services, "SWEEP_CHANCE", 1.1)
    services.sign_in(identifier="alice", password=PASSWORD)
    assert not Attempts.objects.filter(window=0).exists()
