"""What the loop asks PostgreSQL itself has the answers of the functions that it stands for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from accounts import handlers, selectors, services
from accounts.models import Block, Contact, OneTimePassword, Session, User
from chatbe.core import clock, ids
from chatbe.hub import database
from chatbe.hub.registry import Identity
from chatbe.wire.codes import CloseCode
from tests.support.http import Device

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.cluster]


def by_loop(function: Callable[..., Any], *calls: tuple[Any, ...], **arguments: Any) -> list[Any]:
    """The answers to calls that are made at once, as a node on PostgreSQL gets them."""
    question = database.direct(function)
    assert question is not None

    async def ask() -> list[Any]:
        asked = database.Database()
        try:
            return await asyncio.gather(*(asked.ask(question, *call, **arguments) for call in calls))
        finally:
            asked.close()

    return asyncio.run(ask())


def otp_of(device: Device) -> str:
    return services.otp_issue(session_id=device.session.id).value


def identity_of(device: Device) -> Identity:
    return Identity(device.user.id, device.user.username, device.session.id, device.session.expires_at)


def test_an_otp_signs_in_once(sign_in: Callable[..., Device]) -> None:
    device = sign_in("alice")
    otp = otp_of(device)
    assert by_loop(handlers.authenticate, *[(otp, "Alice")] * 5) == [identity_of(device), *[None] * 4]
    assert handlers.authenticate(otp, "alice") is None
    assert OneTimePassword.objects.exclude(used_at=None).count() == 1
    other = otp_of(device)
    assert handlers.authenticate(other, None) == identity_of(device)
    assert by_loop(handlers.authenticate, (other, None)) == [None]


def test_a_crowd_signs_in_each_as_themselves(sign_in: Callable[..., Device]) -> None:
    devices = [sign_in(f"user{number}") for number in range(30)]
    calls = [(otp_of(device), device.user.username) for device in devices]
    assert by_loop(handlers.authenticate, *calls) == [identity_of(device) for device in devices]


def test_what_signs_nobody_in(sign_in: Callable[..., Device]) -> None:
    alice = sign_in("alice")
    stolen, expired, of_ended, of_expired = (
        otp_of(device) for device in (alice, alice, sign_in("bob"), sign_in("eve"))
    )
    OneTimePassword.objects.filter(digest=services.otp_digest(expired)).update(
        expires_at=clock.now() - timedelta(seconds=1)
    )
    Session.objects.filter(user__username="bob").update(revoked_at=clock.now())
    Session.objects.filter(user__username="eve").update(expires_at=clock.now())
    calls = [
        (stolen, "mallory"), (expired, "alice"), (of_ended, "bob"), (of_expired, "eve"), ("a" * 32, "alice"),
        ("", "alice"), ("é" * 32, "alice"), ("a\0" * 16, "alice"), ("\ud800" * 32, "alice"),
    ]  # fmt: skip
    assert by_loop(handlers.authenticate, *calls) == [None] * len(calls)
    # Used up by the wrong name.
    assert by_loop(handlers.authenticate, (stolen, "alice")) == [None]


@pytest.mark.parametrize(
    ("session", "user", "code"),
    [
        ({}, {}, None),
        ({}, {"suspended_until": clock.now() - timedelta(days=1)}, None),
        ({"revoked_at": clock.now()}, {}, CloseCode.SESSION_ENDED),
        ({"expires_at": clock.now()}, {}, CloseCode.SESSION_ENDED),
        ({}, {"suspended_until": clock.now() + timedelta(days=1)}, CloseCode.SUSPENDED),
        ({"revoked_at": clock.now()}, {"is_active": False}, CloseCode.SUSPENDED),
    ],
)
def test_a_session_is_judged(
    sign_in: Callable[..., Device], session: dict[str, Any], user: dict[str, Any], code: int | None
) -> None:
    device = sign_in("alice")
    Session.objects.filter(id=device.session.id).update(**session)
    User.objects.filter(id=device.user.id).update(**user)
    identity = identity_of(device)
    nobody = replace(identity, session_id=ids.uuid7())
    found = by_loop(handlers.admit, (identity,), (nobody,))
    assert found == [handlers.admit(identity), handlers.admit(nobody)]
    assert [admission.close_code for admission in found] == [code, CloseCode.SESSION_ENDED]


def test_mutual_contacts_are_both_ways_and_unblocked(make_user: Callable[..., User]) -> None:
    alice, bob, carol, dave, eve = (make_user(name) for name in ("alice", "bob", "carol", "dave", "eve"))
    mallory = make_user("mallory", last_seen_at=clock.now())
    for other in (bob, dave, eve, mallory):
        Contact.objects.create(owner=alice, target=other)
        Contact.objects.create(owner=other, target=alice)
    Contact.objects.create(owner=alice, target=carol)
    Block.objects.create(blocker=dave, blocked=alice)
    Block.objects.create(blocker=alice, blocked=eve)
    for user in (alice, bob, carol, dave, eve, mallory):
        assert by_loop(selectors.mutual_contacts, (), user_id=user.id) == [
            selectors.mutual_contacts(user_id=user.id)
        ]
    assert [peer.username for peer in selectors.mutual_contacts(user_id=alice.id)] == ["bob", "mallory"]
