"""Groups: what their changes leave behind and what is told of them. Who may do what is in test_rights.py."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid5

import msgspec
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts import services as accounts
from accounts.models import Block, User
from chatbe.core.errors import Blocked, Conflict, Invalid, NotFound
from chatbe.hub import fanout
from messaging import groups, selectors, services, stream
from messaging.models import Conversation, Membership, Message
from tests.messaging.conftest import World, consistent
from tests.support.http import Device

pytestmark = pytest.mark.django_db


def told(envelopes: list[fanout.Envelope]) -> list[tuple[int, str]]:
    """The changes that were fanned out: rev, and what."""
    changes = []
    for envelope in envelopes:
        if envelope["k"] == "c":
            event = msgspec.json.decode(envelope["d"])
            what = event["message"]["body"] if event["type"] == "message" else event["conversation"]["title"]
            changes.append((envelope["r"], what))
    return changes


def notices(envelopes: list[fanout.Envelope]) -> set[str]:
    """Whose memberships were said to have changed."""
    return {envelope["u"] for envelope in envelopes if envelope.get("a") == "memberships_changed"}


def revs(user: User) -> int:
    return User.objects.values_list("control_rev", flat=True).get(pk=user.pk)


def test_a_group_is_made_with_its_members(
    world: World, fanned_out: list[fanout.Envelope], django_capture_on_commit_callbacks: Any
) -> None:
    alice, bob, carol = world.friends("alice", "bob", "carol")
    with django_capture_on_commit_callbacks(execute=True):
        answer = alice.post(
            "/v1/conversations", kind="group", title=" Lunch ", members=["Bob", "carol", "bob", "alice"]
        )
    assert answer.status_code == 201
    made = answer.json()
    assert (made["kind"], made["title"], made["role"], made["rev"], made["last_seq"], made["history"]) == (
        "group", "Lunch", "owner", 1, 0, "joined",
    )  # fmt: skip
    roles = {member["username"]: member["role"] for member in made["members"]}
    assert roles == {"alice": "owner", "bob": "member", "carol": "member"}
    assert made["member_count"] == 3
    key = UUID(made["id"])
    consistent(key)
    assert notices(fanned_out) == {str(device.user.pk) for device in (alice, bob, carol)}
    assert all(revs(device.user) == 1 for device in (alice, bob, carol))
    for device in (bob, carol):
        (listed,) = device.get("/v1/conversations").json()["results"]
        assert (listed["id"], listed["unread"], listed["role"]) == (made["id"], 0, "member")


@pytest.mark.parametrize(
    ("members", "error"),
    [(["bob", "nobody"], NotFound), (["bob", "carol"], Blocked), (["bob", "dave"], Invalid)],
)
def test_a_group_is_made_with_all_of_them_or_not_at_all(
    world: World, fanned_out: list[fanout.Envelope], settings: Any, members: list[str], error: type[Exception]
) -> None:
    alice, _, carol, _ = world.friends("alice", "bob", "carol", "dave")
    accounts.block_add(blocker=carol.user, username="alice")
    if error is Invalid:
        settings.CHATBE_GROUP_MEMBERS = 2
    with pytest.raises(error):
        groups.group_create(owner=alice.user, title="Group", usernames=members)
    assert not Conversation.objects.exists()


def test_each_change_takes_one_rev_and_is_told_in_order(
    world: World, fanned_out: list[fanout.Envelope], django_capture_on_commit_callbacks: Any
) -> None:
    alice, bob, carol = world.friends("alice", "bob", "carol")
    with django_capture_on_commit_callbacks(execute=True):
        key = groups.group_create(owner=alice.user, title="One", usernames=["bob"]).pk
        groups.group_update(actor=alice.user, conversation=key, title="Two")
        groups.group_update(actor=alice.user, conversation=key, description="About two")
        assert groups.members_add(actor=alice.user, conversation=key, usernames=["CAROL", "bob"]) == ["carol"]
        groups.role_set(actor=alice.user, conversation=key, username="carol", role="admin")
        groups.member_remove(actor=carol.user, conversation=key, username="bob")
        groups.member_remove(actor=carol.user, conversation=key, username="carol")
        groups.member_remove(actor=alice.user, conversation=key, username="alice")
    consistent(key)
    assert told(fanned_out) == [
        (2, "Two"), (3, "alice renamed the group to “Two”"), (4, "Two"), (5, "Two"), (6, "alice added carol"),
        (7, "Two"), (8, "Two"), (9, "carol removed bob"), (10, "Two"), (11, "carol left"), (12, "Two"),
    ]  # fmt: skip
    ended = [(envelope["r"], envelope["g"]) for envelope in fanned_out if "g" in envelope]
    assert ended == [
        (8, [str(bob.user.pk)]), (10, [str(carol.user.pk)]), (12, [str(alice.user.pk)]),
    ]  # fmt: skip
    assert [revs(device.user) for device in (alice, bob, carol)] == [2, 2, 2]
    said = Message.objects.filter(conversation=key).order_by("seq")
    assert [message.kind for message in said] == ["system"] * 4
    assert len({message.client_id for message in said}) == 4


def test_what_changes_nothing_takes_no_rev(
    world: World, fanned_out: list[fanout.Envelope], django_capture_on_commit_callbacks: Any
) -> None:
    alice, bob = world.friends("alice", "bob")
    key = groups.group_create(owner=alice.user, title="One", usernames=["bob"]).pk
    before = revs(bob.user)
    with django_capture_on_commit_callbacks(execute=True):
        groups.group_update(actor=alice.user, conversation=key, title="One", history="joined")
        assert groups.members_add(actor=alice.user, conversation=key, usernames=["bob"]) == []
        groups.role_set(actor=alice.user, conversation=key, username="bob", role="member")
        groups.role_set(actor=alice.user, conversation=key, username="alice", role="owner")
    assert Conversation.objects.get().head_rev == 1
    assert (told(fanned_out), notices(fanned_out), revs(bob.user)) == ([], set(), before)
    assert alice.post(f"/v1/conversations/{key}/members", usernames=["bob"]).status_code == 200


def test_a_blocker_is_not_added_and_then_nobody_is(world: World, fanned_out: list[fanout.Envelope]) -> None:
    alice, bob, _ = world.friends("alice", "bob", "carol")
    key = groups.group_create(owner=alice.user, title="One", usernames=[]).pk
    Block.objects.create(blocker=bob.user, blocked=alice.user)
    with pytest.raises(Blocked):
        groups.members_add(actor=alice.user, conversation=key, usernames=["carol", "bob"])
    with pytest.raises(NotFound):
        groups.members_add(actor=alice.user, conversation=key, usernames=["carol", "nobody"])
    assert Conversation.objects.get().head_rev == 1
    answer = alice.post(f"/v1/conversations/{key}/members", usernames=["bob"])
    assert (answer.status_code, answer.json()["code"]) == (403, "blocked")
    consistent(key)


def test_the_last_owner_stays_unless_alone(world: World, fanned_out: list[fanout.Envelope]) -> None:
    alice, bob = world.friends("alice", "bob")
    key = groups.group_create(owner=alice.user, title="One", usernames=["bob"]).pk
    for act in (
        lambda: groups.member_remove(actor=alice.user, conversation=key, username="alice"),
        lambda: groups.role_set(actor=alice.user, conversation=key, username="alice", role="member"),
    ):
        with pytest.raises(Conflict):
            act()
    answer = alice.http.patch(f"/v1/conversations/{key}/members/bob", {"role": "owner"}, format="json")
    assert (answer.status_code, answer.json()["role"]) == (200, "owner")
    consistent(key)
    assert alice.http.delete(f"/v1/conversations/{key}/members/alice").status_code == 204
    assert bob.http.delete(f"/v1/conversations/{key}/members/bob").status_code == 204
    assert Conversation.objects.get().member_count == 0


def test_who_joins_sees_what_the_group_says(world: World, fanned_out: list[fanout.Envelope]) -> None:
    alice, bob, carol = world.friends("alice", "bob", "carol")
    key = groups.group_create(owner=alice.user, title="One", usernames=[]).pk
    world.say(alice, key, "before")
    groups.members_add(actor=alice.user, conversation=key, usernames=["bob"])
    groups.group_update(actor=alice.user, conversation=key, history="all")
    groups.members_add(actor=alice.user, conversation=key, usernames=["carol"])
    world.say(alice, key, "after")

    def history(device: Device) -> list[str]:
        return [
            message["body"] for message in device.get(f"/v1/conversations/{key}/messages").json()["results"]
        ]

    everything = ["before", "alice added bob", "alice added carol", "after"]
    assert (history(bob), history(carol)) == (everything[1:], everything)
    # Only what was said since is unread; what the server says never is.
    for device in (bob, carol):
        assert device.get(f"/v1/conversations/{key}").json()["unread"] == 1
    groups.member_remove(actor=alice.user, conversation=key, username="carol")
    world.say(alice, key, "while away")
    groups.group_update(actor=alice.user, conversation=key, history="joined")
    groups.members_add(actor=alice.user, conversation=key, usernames=["carol"])
    assert history(carol) == ["alice added carol"]
    consistent(key)


def test_who_is_no_longer_a_member_gets_404(world: World, fanned_out: list[fanout.Envelope]) -> None:
    alice, bob = world.friends("alice", "bob")
    key = groups.group_create(owner=alice.user, title="One", usernames=["bob"]).pk
    seq = world.say(alice, key, "hello")[0].seq
    groups.member_remove(actor=alice.user, conversation=key, username="bob")
    base = f"/v1/conversations/{key}"
    for path in ("", "/messages", "/members", "/changes", f"/messages/{seq}/readers"):
        assert bob.get(f"{base}{path}").status_code == 404
    for method, path, body in (
        ("post", "/messages", {"body": "x"}),
        ("post", "/members", {"usernames": ["alice"]}),
        ("put", "/read", {"seq": 1}),
        ("put", "/mute", {"until": None}),
        ("put", f"/messages/{seq}/reactions/👍", {}),
        ("patch", "", {"title": "x"}),
        ("patch", f"/messages/{seq}", {"body": "x"}),
        ("patch", "/members/alice", {"role": "member"}),
        ("delete", "", {}),
        ("delete", f"/messages/{seq}", {}),
        ("delete", "/members/bob", {}),
    ):
        answer = getattr(bob.http, method)(f"{base}{path}", body, format="json")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
    assert bob.get("/v1/conversations").json()["results"] == []


def test_members_are_paged(world: World, fanned_out: list[fanout.Envelope]) -> None:
    alice = world.friends("alice")[0]
    users = User.objects.bulk_create(User(username=f"m{number:03}", password="!") for number in range(120))
    key = groups.group_create(owner=alice.user, title="Many", usernames=[user.username for user in users]).pk
    conversation = alice.get(f"/v1/conversations/{key}").json()
    assert (conversation["member_count"], len(conversation["members"])) == (121, 100)
    names, url = [], f"/v1/conversations/{key}/members?limit=50"
    while url:
        page = alice.get(url).json()
        names += [member["username"] for member in page["results"]]
        url = page["next"]
    assert names == ["alice", *(user.username for user in users)]
    assert groups._names(users) == ", ".join(user.username for user in users[:10]) + " and 110 more"


def test_queries_do_not_grow_with_members(world: World, fanned_out: list[fanout.Envelope]) -> None:
    alice = world.friends("alice")[0]
    users = User.objects.bulk_create(User(username=f"m{number:03}", password="!") for number in range(200))
    names = [user.username for user in users]
    counts = []
    for size in (5, 60, 150):
        key = groups.group_create(owner=alice.user, title="Some", usernames=names[:size]).pk
        extra = names[150 : 152 if size == 5 else 180]
        fanned_out.clear()
        with CaptureQueriesContext(connection) as sending:
            services.message_send(sender=alice.user, conversation=key, body="hello @m001 and @all")
        with CaptureQueriesContext(connection) as reading:
            selectors.my_conversation(user=alice.user, conversation=key)
            stream.changes(user_id=alice.user.pk, conversation=key, since=0, limit=50)
        with CaptureQueriesContext(connection) as adding:
            groups.members_add(actor=alice.user, conversation=key, usernames=extra)
        counts.append((len(sending), len(reading), len(adding)))
    assert counts[0] == counts[1]
    # In large groups nobody is told the marks of those who join.
    assert all(large <= small for large, small in zip(counts[2], counts[0], strict=True))


def test_one_publish_per_change_whatever_the_size(
    world: World, fanned_out: list[fanout.Envelope], django_capture_on_commit_callbacks: Any
) -> None:
    alice = world.friends("alice")[0]
    users = User.objects.bulk_create(User(username=f"m{number:03}", password="!") for number in range(150))
    key = groups.group_create(owner=alice.user, title="Many", usernames=[user.username for user in users]).pk
    fanned_out.clear()
    with django_capture_on_commit_callbacks(execute=True):
        sent = services.message_send(sender=alice.user, conversation=key, body="hello")
        groups.group_update(actor=alice.user, conversation=key, description="x")
        services.mark_read(user=users[0], conversation=key, seq=sent.message.seq)
    # In a large group, receipts are for one's own devices; who has read is told on request.
    assert [(envelope["k"], envelope.get("u")) for envelope in fanned_out] == [
        ("c", None), ("c", None), ("e", str(users[0].pk)),
    ]  # fmt: skip
    assert stream.marks_of([users[0].pk])[0] == {str(key): {"m000": (1, 1)}}
    readers = alice.get(f"/v1/conversations/{key}/messages/1/readers").json()["results"]
    assert readers == [{"username": "m000"}]


def test_an_owner_who_is_erased_has_an_heir(
    world: World, fanned_out: list[fanout.Envelope], django_capture_on_commit_callbacks: Any
) -> None:
    alice, bob, carol, dave = world.friends("alice", "bob", "carol", "dave")
    keys = [
        groups.group_create(owner=alice.user, title=f"{number}", usernames=["bob", "carol"]).pk
        for number in range(2)
    ]
    groups.role_set(actor=alice.user, conversation=keys[0], username="carol", role="admin")
    groups.members_add(actor=alice.user, conversation=keys[0], usernames=["dave"])
    alone = groups.group_create(owner=alice.user, title="Alone", usernames=[]).pk
    world.say(bob, keys[0], "hello")
    services_react(carol, keys[0], 2)
    services_react(alice, keys[0], 2)
    fanned_out.clear()
    with django_capture_on_commit_callbacks(execute=True):
        accounts.user_erase(user_id=alice.user.pk)
    owners = {
        key: list(
            Membership.objects.filter(conversation=key, active=True, role="owner").values_list(
                "user__username", flat=True
            )
        )
        for key in (*keys, alone)
    }
    assert owners == {keys[0]: ["carol"], keys[1]: ["bob"], alone: []}
    for key in keys:
        consistent(key)
    page = dave.get(f"/v1/conversations/{keys[0]}/messages").json()["results"]
    assert [(message["sender"], message["body"]) for message in page] == [
        (None, "Someone added dave"), ("bob", "hello"),
    ]  # fmt: skip
    assert page[1]["reactions"] == {"👍": {"count": 1, "usernames": ["carol"]}}
    fanned_out.clear()
    with django_capture_on_commit_callbacks(execute=True):
        accounts.user_erase(user_id=dave.user.pk)
    consistent(keys[0])
    page = bob.get(f"/v1/conversations/{keys[0]}/messages").json()["results"]
    assert page[0]["body"] == "Someone added someone"


def services_react(device: Device, key: UUID, seq: int) -> None:
    answer = device.http.put(f"/v1/conversations/{key}/messages/{seq}/reactions/👍")
    assert answer.status_code == 204


def test_no_message_can_take_the_client_id_of_what_the_server_will_say(
    world: World, fanned_out: list[fanout.Envelope]
) -> None:
    alice, *_ = world.friends("alice", "bob", "carol")
    key = groups.group_create(owner=alice.user, title="One", usernames=["bob"]).pk

    def guess() -> None:
        head = Conversation.objects.get(pk=key).head_rev
        answer = alice.post(
            f"/v1/conversations/{key}/messages", body="x", client_id=str(uuid5(key, str(head + 2)))
        )
        assert answer.status_code == 201

    guess()
    assert alice.patch(f"/v1/conversations/{key}", title="Two").status_code == 200
    guess()
    assert alice.post(f"/v1/conversations/{key}/members", usernames=["carol"]).status_code == 201
    guess()
    assert alice.delete(f"/v1/conversations/{key}/members/carol").status_code == 204
    said = Message.objects.filter(conversation=key, kind="system")
    assert {message.client_id.version for message in said} == {4}
    consistent(key)


def test_what_the_server_said_is_nobodys_message(world: World, fanned_out: list[fanout.Envelope]) -> None:
    alice, _ = world.friends("alice", "bob")
    key = groups.group_create(owner=alice.user, title="One", usernames=["bob"]).pk
    groups.group_update(actor=alice.user, conversation=key, title="Two")
    said = Message.objects.get(conversation=key)
    answer = alice.post(f"/v1/conversations/{key}/messages", body="mine", client_id=str(said.client_id))
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    with pytest.raises(Conflict):
        services.message_send(sender=alice.user, username="bobby", client_id=said.client_id, body="mine")
    assert Message.objects.count() == 1
    consistent(key)


def test_a_limit_names_the_field_that_broke_it(world: World, settings: Any) -> None:
    settings.CHATBE_GROUP_MEMBERS = 2
    alice, *_ = world.friends("alice", "bob", "carol")
    made = alice.post("/v1/conversations", kind="group", title="One", members=["bob", "carol"])
    assert [error["field"] for error in made.json()["errors"]] == ["members"]
    key = alice.post("/v1/conversations", kind="group", title="One", members=["bob"]).json()["id"]
    added = alice.post(f"/v1/conversations/{key}/members", usernames=["carol"])
    assert [error["field"] for error in added.json()["errors"]] == ["usernames"]
