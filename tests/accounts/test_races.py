"""What must hold when two do it at the same moment, on real threads and connections."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import Any

import pytest
from django.contrib.auth import hashers
from django.db import connection

from accounts import attempts, services
from accounts.errors import SessionEnded
from accounts.models import Attempts, Block, Contact, RetiredUsername, Session, User
from chatbe.core.errors import ChatError, Conflict, NotFound, RateLimited
from tests.accounts.conftest import PASSWORD, FanOut
from tests.support.http import Device

pytestmark = pytest.mark.django_db(transaction=True)


def at_once(*actions: Callable[[], Any]) -> list[Any]:
    """Run the actions on a thread each, started together; what each returned or raised."""
    barrier = threading.Barrier(len(actions), timeout=30)

    def run(action: Callable[[], Any]) -> Any:
        try:
            connection.ensure_connection()
            barrier.wait()
            return action()
        except ChatError as error:
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(len(actions)) as pool:
        return [future.result() for future in [pool.submit(run, action) for action in actions]]


def test_of_two_who_use_a_refresh_token_at_once_one_wins_and_the_session_ends(
    sign_in: Callable[..., Device], sent: FanOut
) -> None:
    for round_number in range(5):
        device = sign_in(f"alice{round_number}")
        refresh = device.tokens.refresh_token
        results = at_once(*[partial(services.session_refresh, refresh_token=refresh)] * 4)
        assert sum(not isinstance(result, ChatError) for result in results) == 1
        assert all(isinstance(result, SessionEnded) for result in results if isinstance(result, ChatError))
        assert Session.objects.get(id=device.session.id).revoked_at is not None
        assert sent.controls(device.user) == [("session_ended", {"session": str(device.session.id)})]
        device.user.refresh_from_db()
        assert device.user.control_rev == 1


def test_an_otp_is_taken_once(sign_in: Callable[..., Device]) -> None:
    device = sign_in("alice")
    for _ in range(5):
        otp = services.otp_issue(session_id=device.session.id).value
        taken = at_once(*[partial(services.otp_take, otp=otp)] * 4)
        assert sum(session is not None for session in taken) == 1


def test_a_contact_added_twice_at_once_is_added_once(make_user: Callable[..., User], sent: FanOut) -> None:
    for round_number in range(5):
        alice, bob = make_user(f"alice{round_number}"), make_user(f"bob{round_number}")
        added = at_once(*[partial(services.contact_add, owner=alice, username=bob.username)] * 3)
        assert sorted(each.created for each in added if not isinstance(each, ChatError)) == [
            False,
            False,
            True,
        ]
        assert Contact.objects.filter(owner=alice).count() == 1
        assert len(sent.events(bob)) == 1
        bob.refresh_from_db()
        assert bob.control_rev == 1


def test_two_who_add_and_block_each_other_at_once_never_wait_for_each_other_for_ever(
    make_user: Callable[..., User], sent: FanOut
) -> None:
    alice, bob = make_user("alice"), make_user("bob")
    for _ in range(5):
        at_once(
            lambda: services.contact_add(owner=alice, username="bob"),
            lambda: services.contact_add(owner=bob, username="alice"),
            lambda: services.block_add(blocker=alice, username="bob"),
            lambda: services.block_add(blocker=bob, username="alice"),
        )
        assert (Contact.objects.count(), Block.objects.count()) == (2, 2)
        at_once(
            lambda: services.contact_remove(owner=alice, username="bob"),
            lambda: services.contact_remove(owner=bob, username="alice"),
            lambda: services.block_remove(blocker=alice, username="bob"),
            lambda: services.block_remove(blocker=bob, username="alice"),
        )
        assert (Contact.objects.count(), Block.objects.count()) == (0, 0)
    alice.refresh_from_db()
    assert alice.control_rev == 5 * 8


def test_mutual_contacts_are_told_so_by_whoever_came_second(
    make_user: Callable[..., User], sent: FanOut
) -> None:
    alice, bob = make_user("alice"), make_user("bob")
    at_once(
        lambda: services.contact_add(owner=alice, username="bob"),
        lambda: services.contact_add(owner=bob, username="alice"),
    )
    events = [*sent.events(alice), *sent.events(bob)]
    assert sorted(b'"mutual":true' in event for event in events) == [False, True]


def test_one_name_is_registered_once(db: Any, sent: FanOut) -> None:
    def register(number: int) -> User:
        return services.user_register(username="alice", email=f"a{number}@example.org", password=PASSWORD)

    results = at_once(*[partial(register, number) for number in range(3)])
    assert sum(isinstance(result, User) for result in results) == 1
    assert all(
        isinstance(result, Conflict) and result.errors[0].field == "username"
        for result in results
        if not isinstance(result, User)
    )


def test_one_email_is_registered_once(db: Any, sent: FanOut) -> None:
    def register(number: int) -> User:
        return services.user_register(username=f"alice{number}", email="a@example.org", password=PASSWORD)

    results = at_once(*[partial(register, number) for number in range(3)])
    assert sum(isinstance(result, User) for result in results) == 1
    assert all(
        isinstance(result, Conflict) and result.errors[0].field == "email"
        for result in results
        if not isinstance(result, User)
    )


def test_a_name_is_not_given_away_while_its_owner_is_being_erased(
    make_user: Callable[..., User], sent: FanOut
) -> None:
    for round_number in range(5):
        user = make_user(f"alice{round_number}")
        name = user.username
        _, registered = at_once(
            partial(services.user_erase, user_id=user.id),
            partial(services.user_register, username=name, email=f"{name}@other.org", password=PASSWORD),
        )
        assert isinstance(registered, Conflict)
        assert not User.objects.filter(username=name).exists()
    assert RetiredUsername.objects.count() == 5


def test_an_account_is_erased_once(make_user: Callable[..., User], sent: FanOut) -> None:
    user = make_user("alice")
    results = at_once(*[lambda: services.user_erase(user_id=user.id)] * 3)
    assert sorted(isinstance(result, NotFound) for result in results) == [False, True, True]


def test_someone_who_is_being_erased_is_added_or_not_found(
    make_user: Callable[..., User], sent: FanOut
) -> None:
    bob = make_user("bob")
    for round_number in range(5):
        alice = make_user(f"alice{round_number}")
        _, added = at_once(
            partial(services.user_erase, user_id=alice.id),
            partial(services.contact_add, owner=bob, username=alice.username),
        )
        assert isinstance(added, NotFound | services.ContactAdded)
        assert not Contact.objects.exists()


def test_every_attempt_counts(db: Any, noon: list[datetime]) -> None:
    keys = [attempts.Limit("one", 5, 3600).of("x"), attempts.Limit("two", 100, 3600).of("x")]
    results = at_once(
        *[lambda: attempts.attempts_count(keys)] * 4, *[lambda: attempts.attempts_count(keys[::-1])] * 4
    )
    assert sum(isinstance(result, RateLimited) for result in results) == 3
    assert sorted(Attempts.objects.values_list("count", flat=True)) == [8, 8]


def test_guesses_at_the_same_moment_gain_nothing_once_the_limit_is_reached(
    make_user: Callable[..., User], noon: list[datetime], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_user("alice")
    limit = attempts.LOGIN_PER_ACCOUNT
    reached = threading.Event()
    compare = hashers.check_password

    def compare_late(password: str, *rest: Any) -> bool:
        # The right guess was let in before the limit was reached, and is compared after.
        if password == PASSWORD:
            assert reached.wait(30)
        return compare(password, *rest)

    monkeypatch.setattr(services, "check_password", compare_late)

    def guess_wrongly() -> None:
        for _ in range(limit.count):
            with pytest.raises(ChatError):
                services.credentials_check(identifier="alice", password="wrong", address="192.0.2.2")
        reached.set()

    _, right = at_once(
        guess_wrongly,
        lambda: services.credentials_check(identifier="alice", password=PASSWORD, address="192.0.2.1"),
    )
    assert isinstance(right, RateLimited)


def test_a_password_is_changed_once(sign_in: Callable[..., Device], sent: FanOut) -> None:
    device = sign_in("alice")

    def change(number: int) -> None:
        user = User.objects.get(id=device.user.id)
        services.password_change(
            user=user, current_password=PASSWORD, new_password=f"a new phrase, no. {number}"
        )

    results = at_once(*[partial(change, number) for number in range(3)])
    assert sum(result is None for result in results) == 1
    assert not User.objects.get(id=device.user.id).check_password(PASSWORD)
