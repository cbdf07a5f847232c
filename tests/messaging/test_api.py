"""`/v1/conversations` and what is below."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from accounts.models import Block, Contact
from chatbe.hub import fanout
from messaging import groups
from messaging.api.views import OpenThrottle, SendThrottle
from messaging.models import Conversation, Membership, Message
from tests.messaging.conftest import World, consistent
from tests.support.http import Device, DocumentedClient

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("fanned_out")]

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
EVERY_PATH = ("", "/messages", "/changes")


@pytest.fixture(autouse=True)
def _fresh_limits() -> None:
    SendThrottle._buckets.clear()
    OpenThrottle._buckets.clear()


def path(conversation: UUID | str, below: str = "") -> str:
    return f"/v1/conversations/{conversation}{below}"


def seqs(response: Any) -> list[int]:
    assert response.status_code == 200, response.content
    return [message["seq"] for message in response.json()["results"]]


def listed(response: Any) -> list[str]:
    assert response.status_code == 200, response.content
    return [conversation["id"] for conversation in response.json()["results"]]


def refused(response: Any, status: int, code: str, field: str | None = None) -> None:
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert (problem["status"], problem["code"]) == (status, code)
    if field is not None:
        assert [error["field"] for error in problem["errors"]] == [field]


def walk(device: Device, url: str, link: str) -> Iterator[Any]:
    """The pages from `url` on."""
    following: str | None = url
    while following is not None:
        response = device.http.get(following)
        assert response.status_code == 200, response.content
        yield response
        following = response.json()[link]


# --- conversations ------------------------------------------------------------------------------------------


def test_a_direct_conversation_is_made_once_per_pair(world: World) -> None:
    alice, bob = world.friends("alice", "bob")
    made = alice.post("/v1/conversations", kind="direct", username="Bob")
    assert made.status_code == 201
    body = made.json()
    assert TIME.fullmatch(body.pop("created_at"))
    assert sorted(member["username"] for member in body.pop("members")) == ["alice", "bob"]
    assert body == {
        "id": str(Conversation.objects.get().pk), "kind": "direct", "title": None, "rev": 0, "last_seq": 0,
        "member_count": 2, "purged_seq": 0, "role": "member", "unread": 0, "read_seq": 0, "delivered_seq": 0,
        "muted_until": None, "last_message": None, "peer_read_seq": 0, "peer_delivered_seq": 0,
        "description": "", "history": None, "unread_mentions": 0,
    }  # fmt: skip
    for device, name in ((alice, "bob"), (bob, "alice")):
        again = device.post("/v1/conversations", kind="direct", username=name)
        assert (again.status_code, again.json()["id"]) == (200, body["id"])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "kind"),
        ({"kind": "direct"}, "username"),
        ({"kind": "direct", "username": "b"}, "username"),
        ({"kind": "direct", "username": 7}, "username"),
        ({"kind": "direct", "username": None}, "username"),
        ({"kind": "group", "members": ["bob"]}, "title"),
        ({"kind": "group", "title": " ", "members": ["bob"]}, "title"),
        ({"kind": "group", "title": 5, "members": ["bob"]}, "title"),
        ({"kind": "group", "title": "Us", "description": 5, "members": ["bob"]}, "description"),
        ({"kind": "direct", "username": 12345}, "username"),
        ({"kind": "direct", "username": "alice"}, "username"),
        ({"kind": "group", "title": "Us", "members": "bob"}, "members"),
        ({"kind": "group", "title": "Us", "members": [], "history": "none"}, "history"),
        ({"kind": "crowd", "title": "Us"}, "kind"),
        ({"kind": ["direct"], "username": "bob"}, "kind"),
    ],
)
def test_a_malformed_conversation_is_not_made(world: World, body: dict[str, Any], field: str) -> None:
    alice, _ = world.friends("alice", "bob")
    response = alice.post("/v1/conversations", **body)
    assert response.status_code == 400
    assert field in [error["field"] for error in response.json()["errors"]]
    assert not Conversation.objects.exists()


def test_no_conversation_with_nobody_or_oneself(world: World) -> None:
    (alice,) = world.friends("alice")
    refused(alice.post("/v1/conversations", kind="direct", username="nobody"), 404, "not_found")
    refused(alice.post("/v1/conversations", kind="direct", username="alice"), 400, "invalid")
    assert not Conversation.objects.exists()


def test_an_empty_direct_conversation_is_in_nobodys_list(world: World) -> None:
    alice, bob = world.friends("alice", "bob")
    key = alice.post("/v1/conversations", kind="direct", username="bob").json()["id"]
    assert listed(alice.get("/v1/conversations")) == listed(bob.get("/v1/conversations")) == []
    assert bob.get(path(key)).status_code == 200
    world.say(alice, UUID(key), "hello")
    assert listed(alice.get("/v1/conversations")) == listed(bob.get("/v1/conversations")) == [key]


def test_a_conversation_has_what_is_mine(world: World) -> None:
    alice, bob = world.friends("alice", "bob")
    key = UUID(world.say(alice, "bob", "one", "two", "three")[0].conversation)
    bob.put(path(key, "/read"), seq=2)
    mine, theirs = (device.get(path(key)).json() for device in (alice, bob))
    shared = ("id", "kind", "title", "rev", "last_seq", "member_count", "members", "created_at")
    assert {name: mine[name] for name in shared} == {name: theirs[name] for name in shared}
    assert (mine["rev"], mine["last_seq"]) == (3, 3)
    assert (mine["unread"], mine["read_seq"], mine["peer_read_seq"], mine["peer_delivered_seq"]) == (
        0,
        3,
        2,
        2,
    )
    assert (theirs["unread"], theirs["read_seq"], theirs["peer_read_seq"]) == (1, 2, 3)
    assert theirs["last_message"]["body"] == "three"
    assert alice.get("/v1/conversations").json()["results"] == [mine]
    assert alice.get(path(str(key).upper())).json() == mine


def test_unread_counts_others_undeleted_text_after_my_mark(world: World) -> None:
    alice, bob, carol = world.friends("alice", "bob", "carol")
    group = world.group(alice, bob, carol)
    world.say(alice, group.pk, "1", "2")
    world.say(carol, group.pk, "3", "4", "5", "6")
    Message.objects.filter(conversation=group, seq=4).update(deleted_at=group.created_at, body=None)
    Message.objects.filter(conversation=group, seq=5).update(kind="system", sender=None)
    # An erased account's message is somebody else's text all the same.
    Message.objects.filter(conversation=group, seq=6).update(sender=None)
    unread = {name: device.get(path(group.pk)).json()["unread"] for name, device in
              (("alice", alice), ("bob", bob), ("carol", carol))}  # fmt: skip
    assert unread == {"alice": 2, "bob": 4, "carol": 0}
    for device in (alice, bob, carol):
        mark = Membership.objects.get(conversation=group, user=device.user).read_seq
        counted = Message.objects.filter(conversation=group, seq__gt=mark, kind="text", deleted_at=None)
        assert device.get(path(group.pk)).json()["unread"] == counted.exclude(sender=device.user).count()


def test_what_was_said_before_joining_is_neither_seen_nor_counted(world: World) -> None:
    alice, bob = world.friends("alice", "bob")
    group = world.group(alice)
    world.say(alice, group.pk, "one", "two")
    Membership.objects.create(conversation=group, user=bob.user, joined_seq=2, joined_rev=3)
    body = bob.get(path(group.pk)).json()
    assert (body["unread"], body["last_message"]) == (0, None)
    assert "peer_read_seq" not in body
    page = bob.get(path(group.pk, "/messages")).json()
    assert page == {"results": [], "next": None, "previous": None}
    world.say(alice, group.pk, "three")
    assert bob.get(path(group.pk)).json()["unread"] == 1
    assert seqs(bob.get(path(group.pk, "/messages"))) == [3]
    assert seqs(bob.get(path(group.pk, "/messages"), before=3)) == []
    assert seqs(bob.get(path(group.pk, "/messages"), after=0)) == [3]
    assert bob.get(path(group.pk, "/messages"), before=3).json()["previous"] is None


def test_a_conversation_names_a_hundred_members_and_counts_them_all(world: World) -> None:
    devices = world.friends("alice")
    users = [world.user(f"member{number:03d}") for number in range(120)]
    group = world.group(devices[0], *users)
    body = devices[0].get(path(group.pk)).json()
    assert body["member_count"] == 121
    assert [member["username"] for member in body["members"]] == [
        "alice",
        *(user.username for user in users[:99]),
    ]
    assert body["members"][0]["role"] == body["role"] == "owner"


def test_the_list_is_by_latest_activity_and_pages_both_ways(world: World) -> None:
    alice, *others = world.friends("alice", *(f"friend{number}" for number in range(7)))
    keys = [world.say(alice, other.user.username, "hello")[0].conversation for other in others]
    newest_first = keys[::-1]
    # A batch of messages stored in one transaction has one time: the id then decides.
    same = Conversation.objects.get(pk=keys[3]).active_at
    Conversation.objects.filter(pk__in=keys[2:5]).update(active_at=same)
    newest_first[2:5] = sorted(keys[2:5], reverse=True)
    pages = list(walk(alice, "/v1/conversations?limit=3", "next"))
    assert [listed(page) for page in pages] == [newest_first[:3], newest_first[3:6], newest_first[6:]]
    assert pages[0].json()["previous"] is None
    back = list(walk(alice, pages[-1].json()["previous"], "previous"))
    assert [listed(page) for page in back] == [newest_first[3:6], newest_first[:3]]
    assert listed(alice.http.get(back[-1].json()["next"])) == newest_first[3:6]


def test_paging_the_list_misses_and_repeats_nothing_while_it_changes(world: World) -> None:
    alice, *others = world.friends("alice", *(f"friend{number}" for number in range(6)))
    keys = [world.say(alice, other.user.username, "hello")[0].conversation for other in others]
    first = alice.get("/v1/conversations", limit=2)
    assert listed(first) == [keys[5], keys[4]]
    # One from the page that was read and one from further on become active.
    world.say(others[5], UUID(keys[5]), "again")
    world.say(others[0], UUID(keys[0]), "again")
    second = alice.http.get(first.json()["next"])
    assert listed(second) == [keys[3], keys[2]]
    third = alice.http.get(second.json()["next"])
    assert (listed(third), third.json()["next"]) == ([keys[1]], None)
    before = alice.http.get(second.json()["previous"])
    assert listed(before) == [keys[5], keys[4]]


def test_queries_are_constant(world: World) -> None:
    alice, *others = world.friends("alice", *(f"friend{number}" for number in range(12)))
    counts: dict[str, list[int]] = {}
    for number, other in enumerate(others):
        key = UUID(world.say(alice, other.user.username, "one", "two")[0].conversation)
        world.say(other, key, "three")
        if number in {0, 11}:
            for url in ("/v1/conversations", *(path(key, below) for below in EVERY_PATH)):
                with CaptureQueriesContext(connection) as captured:
                    assert alice.get(url).status_code == 200
                counts.setdefault(url.replace(str(key), "id"), []).append(len(captured))
    # The first of each is the session's.
    assert counts == {
        "/v1/conversations": [5, 5],
        "/v1/conversations/id": [5, 5],
        "/v1/conversations/id/messages": [3, 3],
        "/v1/conversations/id/changes": [3, 3],
    }


# --- history ------------------------------------------------------------------------------------------------


def test_history_pages_both_ways_to_its_ends(world: World) -> None:
    alice, bob = world.friends("alice", "bob")
    key = UUID(world.say(alice, "bob", *(f"message {number}" for number in range(1, 8)))[0].conversation)
    newest = bob.get(path(key, "/messages"), limit=3)
    assert (seqs(newest), newest.json()["next"]) == ([5, 6, 7], None)
    older = list(walk(bob, newest.json()["previous"], "previous"))
    assert [seqs(page) for page in older] == [[2, 3, 4], [1]]
    newer = list(walk(bob, older[-1].json()["next"], "next"))
    assert [seqs(page) for page in newer] == [[2, 3, 4], [5, 6, 7]]
    from_the_start = list(walk(bob, path(key, "/messages?after=0&limit=3"), "next"))
    assert [seqs(page) for page in from_the_start] == [[1, 2, 3], [4, 5, 6], [7]]
    assert from_the_start[0].json()["previous"] is None
    assert seqs(bob.http.get(from_the_start[-1].json()["previous"])) == [4, 5, 6]


def test_history_pages_hold_what_was_asked_for(world: World) -> None:
    alice, bob = world.friends("alice", "bob")
    key = UUID(world.say(alice, "bob", "one", "two", "three")[0].conversation)
    url = path(key, "/messages")
    assert seqs(bob.get(url)) == [1, 2, 3]
    assert seqs(bob.get(url, limit=1)) == [3]
    assert seqs(bob.get(url, limit=9999)) == [1, 2, 3]
    assert seqs(bob.get(url, before=3, limit=1)) == [2]
    assert seqs(bob.get(url, after=1, limit=1)) == [2]
    beyond = bob.get(url, after=2**53 - 1)
    assert (seqs(beyond), beyond.json()["next"]) == ([], None)
    assert seqs(bob.http.get(beyond.json()["previous"])) == [1, 2, 3]
    nothing = bob.get(url, before=0)
    assert (seqs(nothing), nothing.json()["previous"]) == ([], None)
    assert seqs(bob.http.get(nothing.json()["next"])) == [1, 2, 3]
    message = bob.get(url, limit=1).json()["results"][0]
    assert TIME.fullmatch(message.pop("created_at"))
    stored = Message.objects.get(seq=3)
    assert message == {
        "id": str(stored.pk), "conversation": str(key), "seq": 3, "rev": 3, "kind": "text", "sender": "alice",
        "body": "three", "client_id": str(stored.client_id), "reply_to": None, "reactions": {},
        "edited_at": None, "deleted_at": None, "attachments": [],
    }  # fmt: skip


@pytest.mark.parametrize("below", ["", "/messages", "/changes"])
@pytest.mark.parametrize("value", ["0", "-1", "x", "", "1.0", "1_0", " 1", "٣", str(2**53), "9" * 5000])
def test_a_limit_is_a_whole_number_from_one(world: World, below: str, value: str) -> None:
    alice, _ = world.friends("alice", "bob")
    key = world.say(alice, "bob", "one")[0].conversation
    url = path(key, below) if below else "/v1/conversations"
    refused(alice.get(url, limit=value), 400, "invalid", "limit")


@pytest.mark.parametrize("name", ["before", "after", "since"])
@pytest.mark.parametrize("value", ["-1", "x", "", "1.0", "+1", "1 ", "²", str(2**53), "\x00"])
def test_a_place_is_a_whole_number(world: World, name: str, value: str) -> None:
    alice, _ = world.friends("alice", "bob")
    key = world.say(alice, "bob", "one")[0].conversation
    below = "/changes" if name == "since" else "/messages"
    refused(alice.get(path(key, below), **{name: value}), 400, "invalid", name)


def test_history_is_read_in_one_direction(world: World) -> None:
    alice, _ = world.friends("alice", "bob")
    key = world.say(alice, "bob", "one")[0].conversation
    refused(alice.get(path(key, "/messages"), before=1, after=1), 400, "invalid", "before")


@pytest.mark.parametrize("cursor", ["", "x", "é", "AAAA", "A" * 34, "_" * 34, "%00", "=" * 34])
def test_a_foreign_cursor_is_refused(world: World, cursor: str) -> None:
    (alice,) = world.friends("alice")
    response = alice.get("/v1/conversations", cursor=cursor)
    # Some happen to be well-formed: they lead to some place in the list, and harm nobody.
    if response.status_code != 200:
        refused(response, 400, "invalid", "cursor")


# --- sending ------------------------------------------------------------------------------------------------


def test_a_message_is_stored_and_answered(world: World, fanned_out: list[fanout.Envelope]) -> None:
    alice, bob = world.friends("alice", "bob")
    key = alice.post("/v1/conversations", kind="direct", username="bob").json()["id"]
    sent = alice.post(path(key, "/messages"), client_id=str(uuid4()), body="  hello\n")
    assert sent.status_code == 201
    assert sent.json()["body"] == "  hello\n"
    assert bob.get(path(key, "/messages")).json()["results"] == [sent.json()]
    reply = bob.post(path(key, "/messages"), body="x" * 4000, reply_to=1)
    assert (reply.status_code, reply.json()["reply_to"], reply.json()["seq"]) == (201, 1, 2)
    consistent(UUID(key))


def test_a_repeat_is_answered_with_the_first(world: World) -> None:
    alice, _ = world.friends("alice", "bob")
    key = alice.post("/v1/conversations", kind="direct", username="bob").json()["id"]
    client_id = str(uuid4())
    first = alice.post(path(key, "/messages"), client_id=client_id, body="hello")
    second = alice.post(path(key, "/messages"), client_id=client_id.upper(), body="hello again")
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    plain = alice.post(path(key, "/messages"), client_id=client_id.replace("-", ""), body="hello")
    assert (plain.status_code, plain.json()) == (200, first.json())
    without = [alice.post(path(key, "/messages"), body="hello").status_code for _ in range(2)]
    assert without == [201, 201]
    assert Message.objects.count() == 3
    consistent(UUID(key))


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body"),
        ({"body": ""}, "body"),
        ({"body": "x" * 4001}, "body"),
        ({"body": "a\x00b"}, "body"),
        ({"body": 7}, "body"),
        ({"body": True}, "body"),
        ({"body": None}, "body"),
        ({"body": ["x"]}, "body"),
        ({"body": "x", "client_id": "x"}, "client_id"),
        ({"body": "x", "client_id": 7}, "client_id"),
        ({"body": "x", "client_id": "urn:uuid:" + str(uuid4())}, "client_id"),
        ({"body": "x", "reply_to": 0}, "reply_to"),
        ({"body": "x", "reply_to": -1}, "reply_to"),
        ({"body": "x", "reply_to": "1"}, "reply_to"),
        ({"body": "x", "reply_to": 1.0}, "reply_to"),
        ({"body": "x", "reply_to": 1.5}, "reply_to"),
        ({"body": "x", "reply_to": 1e300}, "reply_to"),
        ({"body": "x", "reply_to": True}, "reply_to"),
        ({"body": "x", "reply_to": 2**64}, "reply_to"),
    ],
)
def test_a_malformed_message_is_not_stored(world: World, body: dict[str, Any], field: str) -> None:
    alice, _ = world.friends("alice", "bob")
    key = alice.post("/v1/conversations", kind="direct", username="bob").json()["id"]
    refused(alice.post(path(key, "/messages"), **body), 400, "invalid", field)
    assert not Message.objects.exists()


def test_a_reply_is_to_something(world: World) -> None:
    alice, _ = world.friends("alice", "bob")
    key = alice.post("/v1/conversations", kind="direct", username="bob").json()["id"]
    refused(alice.post(path(key, "/messages"), body="x", reply_to=1), 404, "not_found")
    assert not Message.objects.exists()


def test_who_may_write(world: World) -> None:
    alice, bob = Device(world.user("alice")), Device(world.user("bob"))
    key = alice.post("/v1/conversations", kind="direct", username="bob").json()["id"]
    refused(alice.post(path(key, "/messages"), body="x"), 403, "not_contact")
    Contact.objects.create(owner=alice.user, target=bob.user)
    assert alice.post(path(key, "/messages"), body="x").status_code == 201
    assert bob.post(path(key, "/messages"), body="an answer needs no contact").status_code == 201
    Block.objects.create(blocker=bob.user, blocked=alice.user)
    refused(alice.post(path(key, "/messages"), body="x"), 403, "blocked")
    consistent(UUID(key))


def test_sending_is_limited(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SendThrottle, "capacity", 2)
    monkeypatch.setattr(SendThrottle, "rate", 0.001)
    alice, bob = world.friends("alice", "bob")
    key = alice.post("/v1/conversations", kind="direct", username="bob").json()["id"]
    answers = [alice.post(path(key, "/messages"), body="x") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 429]
    assert int(answers[2]["Retry-After"]) >= 1
    assert bob.post(path(key, "/messages"), body="x").status_code == 201
    assert alice.get(path(key, "/messages")).status_code == 200


def test_a_body_that_is_not_json_is_refused(world: World) -> None:
    alice, _ = world.friends("alice", "bob")
    key = alice.post("/v1/conversations", kind="direct", username="bob").json()["id"]
    for url in (path(key, "/messages"), "/v1/conversations"):
        refused(alice.http.post(url, "{", content_type="application/json"), 400, "invalid")
        refused(alice.http.post(url, "[]", content_type="application/json"), 400, "invalid")
        refused(alice.http.post(url, "body=x", content_type="text/plain"), 415, "unsupported_media_type")
        large = b'{"body":"' + b"x" * 300_000 + b'"}'
        refused(alice.http.post(url, large, content_type="application/json"), 413, "too_large")


# --- changes and marks --------------------------------------------------------------------------------------


def test_changes_come_as_events_in_rev_order(world: World) -> None:
    alice, bob = world.friends("alice", "bob")
    key = UUID(world.say(alice, "bob", "one", "two", "three", "four", "five")[0].conversation)
    url = path(key, "/changes")
    revs, since, pages = [], 0, 0
    while True:
        page = bob.get(url, since=since, limit=2).json()
        assert all(event["type"] == "message" for event in page["results"])
        revs += [event["message"]["rev"] for event in page["results"]]
        since, pages = page["rev"], pages + 1
        if not page["more"]:
            break
    assert (revs, since, pages) == ([1, 2, 3, 4, 5], 5, 3)
    assert bob.get(url, since=5).json() == {"results": [], "rev": 5, "more": False}
    assert (
        bob.get(url).json()["results"][0]["message"] == bob.get(path(key, "/messages")).json()["results"][0]
    )


def event_revs(page: dict[str, Any]) -> list[int]:
    return [event.get("message", event.get("conversation"))["rev"] for event in page["results"]]


@pytest.mark.parametrize("group", [False, True])
def test_a_rev_ahead_of_the_database_is_answered_with_a_reset(world: World, group: bool) -> None:
    alice, bob = world.friends("alice", "bob")
    key = world.group(alice, bob).pk if group else UUID(world.say(alice, "bob", "one")[0].conversation)
    head = Conversation.objects.get(pk=key).head_rev
    page = bob.get(path(key, "/changes"), since=head + 1).json()
    (event,) = page["results"]
    assert (event["type"], event["reset"], event["conversation"]["rev"]) == ("conversation", True, head)
    assert (page["rev"], page["more"]) == (head, False)
    assert bob.get(path(key, "/changes"), since=head).json() == {"results": [], "rev": head, "more": False}


@pytest.mark.parametrize("history", ["joined", "all"])
@pytest.mark.parametrize("limit", [1, 2, 50])
def test_changes_rise_for_who_was_away_for_a_membership(
    world: World, fanned_out: list[fanout.Envelope], history: str, limit: int
) -> None:
    alice, bob, _ = world.friends("alice", "bob", "carol")
    key = groups.group_create(owner=alice.user, title="One", usernames=["bob"], history=history).pk
    world.say(alice, key, "one", "two", "three")
    groups.member_remove(actor=alice.user, conversation=key, username="bob")
    world.say(alice, key, "four", "five", "six")
    groups.members_add(actor=alice.user, conversation=key, usernames=["bob"])
    groups.group_update(actor=alice.user, conversation=key, title="Two")
    world.say(alice, key, "seven")
    head = Conversation.objects.get(pk=key).head_rev
    for start in range(head + 1):
        revs, since, more = [start], start, True
        while more:
            page = bob.get(path(key, "/changes"), since=since, limit=limit).json()
            assert page["rev"] >= since
            revs += event_revs(page)
            since, more = page["rev"], page["more"]
        assert revs == sorted(set(revs)), (start, revs)
        assert since == head


def test_a_read_mark_moves_forward_only_and_not_beyond_the_end(
    world: World, fanned_out: list[fanout.Envelope], django_capture_on_commit_callbacks: Any
) -> None:
    alice, bob = world.friends("alice", "bob")
    key = UUID(world.say(alice, "bob", "one", "two", "three")[0].conversation)
    marks = []
    for seq in (2, 1, 2**53 - 1):
        with django_capture_on_commit_callbacks(execute=True):
            assert bob.put(path(key, "/read"), seq=seq).status_code == 204
        marks.append(bob.get(path(key)).json()["read_seq"])
    assert marks == [2, 2, 3]
    receipts = [envelope for envelope in fanned_out if b'"receipt"' in envelope.get("d", b"")]
    assert {envelope["u"] for envelope in receipts} == {str(alice.user.pk), str(bob.user.pk)}
    assert alice.get(path(key)).json()["peer_read_seq"] == 3


@pytest.mark.parametrize(
    "body",
    [{}, {"seq": 0}, {"seq": -1}, {"seq": "1"}, {"seq": None}, {"seq": 2**53}, {"seq": 1.5}, {"seq": 1.0}],
)
def test_a_malformed_mark_is_refused(world: World, body: dict[str, Any]) -> None:
    alice, _ = world.friends("alice", "bob")
    key = world.say(alice, "bob", "one")[0].conversation
    refused(alice.put(path(key, "/read"), **body), 400, "invalid", "seq")


# --- who may ask --------------------------------------------------------------------------------------------


def every_call(device: Device, key: UUID | str) -> list[Any]:
    return [
        *(device.get(path(key, below)) for below in EVERY_PATH),
        device.post(path(key, "/messages"), body="x"),
        device.put(path(key, "/read"), seq=1),
    ]


def test_a_foreign_conversation_is_not_found(world: World) -> None:
    alice, _, mallory = world.friends("alice", "bob", "mallory")
    key = world.say(alice, "bob", "one")[0].conversation
    unknown = every_call(mallory, uuid4())
    for foreign, missing in zip(every_call(mallory, key), unknown, strict=True):
        refused(foreign, 404, "not_found")
        # What exists and what does not are told apart by nothing.
        assert foreign.json() == missing.json()
    assert listed(mallory.get("/v1/conversations")) == []
    assert Message.objects.count() == 1


def test_who_left_gets_not_found(world: World) -> None:
    alice, bob = world.friends("alice", "bob")
    group = world.group(alice, bob)
    world.say(alice, group.pk, "one")
    Membership.objects.filter(user=bob.user).update(active=False)
    for response in every_call(bob, group.pk):
        refused(response, 404, "not_found")
    assert listed(bob.get("/v1/conversations")) == []
    assert alice.get(path(group.pk)).json()["member_count"] == 1


@pytest.mark.parametrize(
    "key", ["x", "1", "%00", "{0198c0de-0000-7000-8000-000000000001}", "0198c0de00007000"]
)
def test_a_malformed_id_is_not_found(world: World, key: str) -> None:
    (alice,) = world.friends("alice")
    for response in every_call(alice, key):
        refused(response, 404, "not_found")


def test_strangers_are_asked_to_sign_in(db: None) -> None:
    stranger = DocumentedClient()
    for url in ("/v1/conversations", *(path(uuid4(), below) for below in EVERY_PATH)):
        response = stranger.get(url)
        refused(response, 401, "not_authenticated")
        assert response["WWW-Authenticate"].startswith("Bearer")


def test_methods_that_a_path_does_not_take_are_refused(world: World) -> None:
    alice, _ = world.friends("alice", "bob")
    key = world.say(alice, "bob", "one")[0].conversation
    for call in (alice.http.put("/v1/conversations"), alice.http.post(path(key, "/changes"))):
        refused(call, 405, "method_not_allowed")


def test_each_path_tells_its_options(world: World) -> None:
    alice, _ = world.friends("alice", "bob")
    key = world.say(alice, "bob", "one")[0].conversation
    for url in (
        "/v1/conversations",
        *(path(key, below) for below in (*EVERY_PATH, "/messages/1/readers", "/read")),
    ):
        assert alice.http.options(url).status_code == 200


def test_the_browsable_api_shows_each_path(world: World) -> None:
    alice, _ = world.friends("alice", "bob")
    browser = APIClient()
    browser.force_login(alice.user)
    key = world.say(alice, "bob", "one")[0].conversation
    lists = ("/members", "/messages/1/readers")
    for url in ("/v1/conversations", *(path(key, below) for below in (*EVERY_PATH, *lists))):
        page = browser.get(url, headers={"accept": "text/html"})
        assert (page.status_code, page["Content-Type"]) == (200, "text/html; charset=utf-8")
    for below in ("/messages/1", "/messages/1/reactions/👍", "/members/bob", "/mute", "/read"):
        page = browser.get(path(key, below), headers={"accept": "text/html"})
        assert (page.status_code, page["Content-Type"]) == (405, "text/html; charset=utf-8")
