"""`/v1/users`, `/v1/contacts`, `/v1/blocks`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from accounts import selectors, services
from accounts.models import Block, Contact, User
from chatbe.core import clock
from tests.accounts.conftest import FanOut
from tests.support.http import Device

pytestmark = pytest.mark.django_db

SEEN = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def everyone_online(monkeypatch: pytest.MonkeyPatch) -> list[list[UUID]]:
    """Everybody is online; records who was asked about."""
    asked: list[list[UUID]] = []

    def presence(users: Sequence[UUID]) -> Mapping[UUID, selectors.Status]:
        asked.append(list(users))
        return {user: selectors.Status(online=True, last_seen=SEEN) for user in users}

    monkeypatch.setattr(selectors, "presence_of", presence)
    return asked


def names(response: Any) -> list[str]:
    assert response.status_code == 200, response.content
    return [each["username"] for each in response.json()["results"]]


# --- users ----------------------------------------------------------------------------------------


def test_people_are_found_by_the_beginning_of_their_username(
    sign_in: Callable[..., Device], make_user: Callable[..., User]
) -> None:
    device = sign_in("alice")
    for name in ("bob", "bobby", "bo_b", "boxb", "rob"):
        make_user(name)
    assert names(device.get("/v1/users", search="BOB")) == ["bob", "bobby"]
    assert names(device.get("/v1/users", search="bo_")) == ["bo_b"]
    assert names(device.get("/v1/users", search="%")) == []
    assert names(device.get("/v1/users", search="nobody")) == []
    first = device.get("/v1/users", search="bob").json()["results"][0]
    assert first.keys() == {"id", "username", "display_name", "created_at"}


def test_who_blocked_me_is_not_found(sign_in: Callable[..., Device], make_user: Callable[..., User]) -> None:
    device = sign_in("alice")
    bob, bobby = make_user("bob"), make_user("bobby")
    Block.objects.create(blocker=bob, blocked=device.user)
    Block.objects.create(blocker=device.user, blocked=bobby)
    assert names(device.get("/v1/users", search="bob")) == ["bobby"]


@pytest.mark.parametrize("query", [{}, {"search": ""}, {"search": "a\u0000"}, {"search": "a" * 65}])
def test_a_search_wants_a_beginning(sign_in: Callable[..., Device], query: dict[str, str]) -> None:
    response = sign_in("alice").get("/v1/users", **query)
    assert response.status_code == 400
    assert response.json()["errors"][0]["field"] == "search"


def test_a_search_is_paged_by_username(
    sign_in: Callable[..., Device], make_user: Callable[..., User], django_assert_num_queries: Any
) -> None:
    device = sign_in("alice")
    expected = [make_user(f"user{number}").username for number in range(5)]
    found: list[str] = []
    url = "/v1/users?search=user&limit=2"
    while url:
        with django_assert_num_queries(2):
            response = device.http.get(url)
        found += names(response)
        url = response.json()["next"]
    assert found == expected


def test_searches_are_limited(sign_in: Callable[..., Device], settings: Any) -> None:
    settings.CHATBE_RATE_LIMITS = True
    device = sign_in("alice")
    statuses = {device.get("/v1/users", search="a").status_code for _ in range(40)}
    assert statuses == {200, 429}


# --- contacts -------------------------------------------------------------------------------------


def test_a_contact_becomes_mutual_when_added_back(
    sign_in: Callable[..., Device], sent: FanOut, committing: Callable[[], Any], everyone_online: list[Any]
) -> None:
    alice, bob = sign_in("alice"), sign_in("bob", device="b")
    with committing():
        response = alice.post("/v1/contacts", username="BOB")
    assert response.status_code == 201
    assert response.json() == {
        "username": "bob", "display_name": "", "mutual": False, "online": None, "last_seen": None,
    }  # fmt: skip
    assert sent.events(bob.user) == [b'{"type":"contact","username":"alice","added":true,"mutual":false}']
    assert sent.events(alice.user) == []
    assert sent.controls(bob.user) == [("contacts_changed", {"peer": str(alice.user.id)})]
    assert sent.controls(alice.user) == [("contacts_changed", {"peer": str(bob.user.id)})]

    with committing():
        response = bob.post("/v1/contacts", username="alice")
    assert response.status_code == 201
    assert response.json() == {
        "username": "alice", "display_name": "", "mutual": True,
        "online": True, "last_seen": clock.timestamp(SEEN),
    }  # fmt: skip
    assert sent.events(alice.user) == [b'{"type":"contact","username":"bob","added":true,"mutual":true}']
    alice.user.refresh_from_db()
    bob.user.refresh_from_db()
    assert (alice.user.control_rev, bob.user.control_rev) == (2, 2)


def test_adding_again_is_200_and_tells_nobody(
    sign_in: Callable[..., Device],
    make_user: Callable[..., User],
    sent: FanOut,
    committing: Callable[[], Any],
) -> None:
    make_user("bob")
    alice = sign_in("alice")
    alice.post("/v1/contacts", username="bob")
    with committing():
        assert alice.post("/v1/contacts", username="bob").status_code == 200
    assert sent.envelopes == []
    alice.user.refresh_from_db()
    assert alice.user.control_rev == 1


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"username": "alice"}, 400, "self"),
        ({"username": "Nobody"}, 404, None),
        ({"username": "no such name!"}, 400, "invalid"),
        ({"username": "bo\u0000b"}, 400, None),
        ({}, 400, "required"),
    ],
)
def test_whom_one_cannot_add(
    sign_in: Callable[..., Device], body: dict[str, Any], status: int, code: str | None
) -> None:
    response = sign_in("alice").post("/v1/contacts", **body)
    assert response.status_code == status
    if code is not None:
        assert response.json()["errors"][0]["code"] == code


def test_who_blocked_me_is_added_as_if_nothing_were_and_is_not_told(
    sign_in: Callable[..., Device],
    make_user: Callable[..., User],
    sent: FanOut,
    committing: Callable[[], Any],
    everyone_online: list[Any],
) -> None:
    alice, bob = sign_in("alice"), make_user("bob")
    Contact.objects.create(owner=bob, target=alice.user)
    Block.objects.create(blocker=bob, blocked=alice.user)
    with committing():
        response = alice.post("/v1/contacts", username="bob")
    assert response.status_code == 201
    assert (response.json()["mutual"], response.json()["online"]) == (False, None)
    assert sent.events(bob) == []
    with committing():
        alice.delete("/v1/contacts/bob")
    assert sent.events(bob) == []


def test_removing_a_contact_tells_them(
    sign_in: Callable[..., Device],
    make_user: Callable[..., User],
    sent: FanOut,
    committing: Callable[[], Any],
) -> None:
    alice, bob = sign_in("alice"), make_user("bob")
    services.contact_add(owner=alice.user, username="bob")
    with committing():
        assert alice.delete("/v1/contacts/BOB").status_code == 204
    assert sent.events(bob) == [b'{"type":"contact","username":"alice","added":false,"mutual":false}']
    assert sent.controls(bob) == [("contacts_changed", {"peer": str(alice.user.id)})]
    assert names(alice.get("/v1/contacts")) == []
    assert alice.delete("/v1/contacts/bob").status_code == 404


def test_those_who_added_me_are_listed_until_i_add_or_block_them(sign_in: Callable[..., Device]) -> None:
    alice = sign_in("alice")
    bob, carol, dave = (sign_in(name) for name in ("bob", "carol", "dave"))
    for one in (bob, carol, dave):
        assert one.post("/v1/contacts", username="alice").status_code == 201
    assert names(alice.get("/v1/contact-requests")) == ["bob", "carol", "dave"]
    alice.post("/v1/contacts", username="bob")
    alice.put("/v1/blocks/carol")
    assert names(alice.get("/v1/contact-requests")) == ["dave"]
    dave.put("/v1/blocks/alice")
    assert names(alice.get("/v1/contact-requests")) == []


@pytest.mark.parametrize("name", ["nobody", "%00", "a%0Ab", "%ED%A0%80", "..", "é"])
def test_no_such_contact_is_404(sign_in: Callable[..., Device], name: str) -> None:
    alice = sign_in("alice")
    assert alice.delete(f"/v1/contacts/{name}").status_code == 404
    assert alice.put(f"/v1/blocks/{name}").status_code == 404
    assert alice.delete(f"/v1/blocks/{name}").status_code == 404


def test_the_list_asks_presence_once_and_only_about_mutual_contacts(
    sign_in: Callable[..., Device],
    make_user: Callable[..., User],
    everyone_online: list[list[UUID]],
    django_assert_num_queries: Any,
) -> None:
    alice = sign_in("alice")
    mutual = []
    for number in range(12):
        user = make_user(f"user{number:02}", display_name=f"User {number}")
        Contact.objects.create(owner=alice.user, target=user)
        if number % 3 == 0:
            Contact.objects.create(owner=user, target=alice.user)
            mutual.append(user.id)
        if number == 3:
            Block.objects.create(blocker=user, blocked=alice.user)
        if number == 6:
            Block.objects.create(blocker=alice.user, blocked=user)
    with django_assert_num_queries(2):
        response = alice.get("/v1/contacts")
    assert names(response) == [f"user{number:02}" for number in range(12)]
    assert everyone_online == [[mutual[0], mutual[3]]]
    results = response.json()["results"]
    assert [each["username"] for each in results if each["mutual"]] == ["user00", "user09"]
    assert all((each["online"] is True) == each["mutual"] for each in results)


def test_contacts_are_offline_where_nobody_knows_better(
    sign_in: Callable[..., Device], make_user: Callable[..., User], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selectors, "presence_of", selectors._nobody)
    alice, bob = sign_in("alice"), make_user("bob")
    for owner, target in ((alice.user, bob), (bob, alice.user)):
        Contact.objects.create(owner=owner, target=target)
    contact = alice.get("/v1/contacts").json()["results"][0]
    assert (contact["mutual"], contact["online"], contact["last_seen"]) == (True, False, None)


def test_contacts_are_paged(sign_in: Callable[..., Device], make_user: Callable[..., User]) -> None:
    alice = sign_in("alice")
    for number in range(5):
        Contact.objects.create(owner=alice.user, target=make_user(f"user{number}"))
    page = alice.get("/v1/contacts", limit=3)
    assert names(page) == ["user0", "user1", "user2"]
    assert names(alice.http.get(page.json()["next"])) == ["user3", "user4"]


# --- blocks ---------------------------------------------------------------------------------------


def test_blocks_are_repeatable_and_listed(
    sign_in: Callable[..., Device],
    make_user: Callable[..., User],
    sent: FanOut,
    committing: Callable[[], Any],
) -> None:
    alice, bob = sign_in("alice"), make_user("bob")
    for _ in range(2):
        with committing():
            assert alice.put("/v1/blocks/Bob").status_code == 204
    assert names(alice.get("/v1/blocks")) == ["bob"]
    assert sent.events(bob) == []
    assert sent.controls(bob) == [("contacts_changed", {"peer": str(alice.user.id)})]
    bob.refresh_from_db()
    assert bob.control_rev == 1
    for _ in range(2):
        assert alice.delete("/v1/blocks/bob").status_code == 204
    assert names(alice.get("/v1/blocks")) == []
    bob.refresh_from_db()
    assert bob.control_rev == 2


def test_one_cannot_block_oneself(sign_in: Callable[..., Device]) -> None:
    response = sign_in("alice").put("/v1/blocks/alice")
    assert (response.status_code, response.json()["errors"][0]["code"]) == (400, "self")


def test_other_apps_take_part_in_a_block_once(
    sign_in: Callable[..., Device], make_user: Callable[..., User], monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = sign_in("alice"), make_user("bob")
    calls: list[Any] = []
    monkeypatch.setattr(services, "block_hooks", [lambda *pair: calls.append(pair)])
    alice.put("/v1/blocks/bob")
    alice.put("/v1/blocks/bob")
    assert calls == [(alice.user.id, bob.id)]


def test_the_list_of_blocks_is_a_constant_number_of_queries(
    sign_in: Callable[..., Device], make_user: Callable[..., User], django_assert_num_queries: Any
) -> None:
    alice = sign_in("alice")
    others = [make_user(f"user{number}") for number in range(4)]
    Block.objects.bulk_create(Block(blocker=alice.user, blocked=other) for other in others)
    Block.objects.bulk_create(Block(blocker=others[0], blocked=other) for other in others[1:])
    with django_assert_num_queries(2):
        assert names(alice.get("/v1/blocks")) == ["user0", "user1", "user2", "user3"]


# --- selectors ------------------------------------------------------------------------------------


def test_mutual_contacts_are_both_ways_and_unblocked(
    make_user: Callable[..., User], django_assert_num_queries: Any
) -> None:
    alice, bob, carol, dave, eve = (make_user(name) for name in ("alice", "bob", "carol", "dave", "eve"))
    for other in (bob, dave, eve):
        Contact.objects.create(owner=alice, target=other)
        Contact.objects.create(owner=other, target=alice)
    Contact.objects.create(owner=alice, target=carol)
    Block.objects.create(blocker=dave, blocked=alice)
    Block.objects.create(blocker=alice, blocked=eve)
    with django_assert_num_queries(1):
        peers = selectors.mutual_contacts(user_id=alice.id)
    assert [(peer.key, peer.username) for peer in peers] == [(str(bob.id), "bob")]
    assert selectors.are_mutual(one=alice.id, other=bob.id)
    assert not selectors.are_mutual(one=alice.id, other=dave.id)
    assert not selectors.are_mutual(one=carol.id, other=alice.id)
    assert selectors.blocked_either_way(one=alice.id, other=dave.id)
    assert selectors.blocked_either_way(one=dave.id, other=alice.id)
    assert not selectors.blocked_either_way(one=alice.id, other=bob.id)
