"""Messages that live: edits, deletions, reactions, mentions, receipts, mutes, typing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import quote
from uuid import UUID

import emoji as emoji_library
import msgspec
import pytest
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts import services as accounts
from accounts.models import User
from chatbe.core import clock
from chatbe.core.errors import ChatError
from chatbe.hub import fanout
from messaging import groups, living, mentions, selectors, services, stream
from messaging.models import Conversation, Mention, Message, MessageVersion
from tests.messaging.conftest import World, consistent
from tests.support.http import Device

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("fanned_out")]


class Talk:
    """A group of alice (its owner), bob and carol; the first message is bob's."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.alice, self.bob, self.carol = world.friends("alice", "bob", "carol")
        self.key = groups.group_create(owner=self.alice.user, title="Group", usernames=["bob", "carol"]).pk
        world.say(self.bob, self.key, "hello")

    @property
    def head(self) -> int:
        return Conversation.objects.get(pk=self.key).head_rev

    def edit(self, device: Device, seq: int, body: str) -> living.Outcome:
        return living.message_edit(user=device.user.pk, conversation=self.key, seq=seq, body=body)

    def delete(self, device: Device, seq: int) -> living.Outcome:
        return living.message_delete(user=device.user.pk, conversation=self.key, seq=seq)

    def react(self, device: Device, seq: int, emoji: str, *, on: bool = True) -> living.Outcome:
        return living.message_react(user=device.user.pk, conversation=self.key, seq=seq, emoji=emoji, on=on)

    def mine(self, device: Device) -> dict[str, Any]:
        found: dict[str, Any] = device.get(f"/v1/conversations/{self.key}").json()
        return found


@pytest.fixture
def talk(world: World) -> Talk:
    return Talk(world)


def refused(act: Callable[[], object], code: str) -> None:
    with pytest.raises(ChatError) as caught:
        act()
    assert caught.value.code == code


# --- edits and deletions ---------------------------------------------------------------------------


def test_an_edit_moves_the_message_to_the_next_rev(talk: Talk) -> None:
    outcome = talk.edit(talk.bob, 1, "hello all")
    assert (outcome.changed, outcome.message.rev, outcome.message.seq) == (True, 3, 1)
    assert (outcome.message.body, outcome.message.edited_at is not None) == ("hello all", True)
    again = talk.edit(talk.bob, 1, "hello all")
    assert (again.changed, again.message) == (False, outcome.message)
    assert talk.head == 3
    consistent(talk.key)


def test_a_message_is_edited_in_its_time_only(talk: Talk, settings: Any) -> None:
    Message.objects.update(created_at=clock.now() - timedelta(seconds=settings.CHATBE_EDIT_SECONDS + 1))
    refused(lambda: talk.edit(talk.bob, 1, "too late"), "expired")
    answer = talk.bob.http.patch(
        f"/v1/conversations/{talk.key}/messages/1", {"body": "too late"}, format="json"
    )
    assert (answer.status_code, answer.json()["code"]) == (403, "expired")
    assert (talk.head, MessageVersion.objects.count()) == (2, 0)
    settings.CHATBE_EDIT_SECONDS = 0
    assert talk.edit(talk.bob, 1, "never too late").changed


def test_earlier_versions_are_for_moderators_and_go_with_the_body(talk: Talk, client: Client) -> None:
    for body in ("second", "third"):
        talk.edit(talk.bob, 1, body)
    assert list(MessageVersion.objects.order_by("replaced_at").values_list("body", flat=True)) == [
        "hello", "second",
    ]  # fmt: skip
    assert b"second" not in talk.alice.get(f"/v1/conversations/{talk.key}/messages").content
    moderator = User.objects.create(username="moderator", is_staff=True)
    moderator.user_permissions.set(
        Permission.objects.filter(codename__in=["view_message", "view_messageversion"])
    )
    client.force_login(moderator)
    page = client.get(reverse("admin:messaging_message_change", args=[Message.objects.get().pk]))
    assert b"second" in page.content
    exported = accounts.account_export(user=talk.bob.user)["messaging"]
    assert [version["body"] for version in exported["earlier_versions"]] == ["hello", "second"]
    talk.delete(talk.bob, 1)
    assert not MessageVersion.objects.exists()


def test_of_a_deleted_message_a_tombstone_stays(talk: Talk) -> None:
    talk.world.say(talk.alice, talk.key, "hi @bob", "and more")
    talk.react(talk.carol, 2, "👍")
    outcome = talk.delete(talk.alice, 2)
    message = outcome.message
    assert (message.body, message.reactions, message.rev, message.seq) == (None, {}, 6, 2)
    assert message.mentions is msgspec.UNSET
    assert message.deleted_at is not None
    assert not talk.delete(talk.alice, 2).changed
    assert not Mention.objects.exists()
    # Nobody has it unread any more, and an answer can still quote its place.
    assert (talk.mine(talk.bob)["unread"], talk.mine(talk.bob)["unread_mentions"]) == (1, 0)
    services.message_send(sender=talk.bob.user, conversation=talk.key, body="what was it?", reply_to=2)
    refused(lambda: talk.edit(talk.alice, 2, "again"), "conflict")
    refused(lambda: talk.react(talk.alice, 2, "👍"), "conflict")
    consistent(talk.key)


def test_taking_a_reaction_back_from_what_was_deleted_is_repeatable(talk: Talk) -> None:
    talk.react(talk.alice, 1, "👍")
    talk.delete(talk.bob, 1)
    head = talk.head
    path = f"/v1/conversations/{talk.key}/messages/1/reactions/👍"
    assert talk.alice.delete(path).status_code == 204
    assert talk.alice.put(path).status_code == 409
    assert talk.head == head


def test_only_a_message_with_attachments_is_edited_to_nothing(talk: Talk) -> None:
    path = f"/v1/conversations/{talk.key}/messages/1"
    answer = talk.bob.patch(path, body="")
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "body")
    Message.objects.filter(conversation=talk.key).update(attachments="[]")
    refused(lambda: talk.edit(talk.alice, 1, ""), "forbidden")
    answer = talk.bob.patch(path, body="")
    assert (answer.status_code, answer.json()["body"]) == (200, "")


def test_what_the_server_said_stays(talk: Talk) -> None:
    groups.group_update(actor=talk.alice.user, conversation=talk.key, title="Another")
    refused(lambda: talk.edit(talk.alice, 2, "mine"), "forbidden")
    refused(lambda: talk.delete(talk.alice, 2), "forbidden")


@pytest.mark.parametrize("seq", [0, 2, 2**40])
def test_there_is_no_such_message(talk: Talk, seq: int) -> None:
    for act in (
        lambda: talk.edit(talk.bob, seq, "x"),
        lambda: talk.delete(talk.bob, seq),
        lambda: talk.react(talk.bob, seq, "👍"),
        lambda: services.message_send(sender=talk.bob.user, conversation=talk.key, body="x", reply_to=seq),
    ):
        refused(act, "not_found")
    assert talk.head == 2


def test_a_reply_to_another_conversations_seq_is_refused(talk: Talk) -> None:
    other = UUID(talk.world.say(talk.bob, "alice", "one", "two", "three")[0].conversation)
    refused(
        lambda: services.message_send(sender=talk.bob.user, conversation=talk.key, body="x", reply_to=3),
        "not_found",
    )
    assert Message.objects.filter(conversation=other).count() == 3


# --- reactions -------------------------------------------------------------------------------------


def test_reactions_are_counted_and_named(talk: Talk) -> None:
    for device in (talk.alice, talk.bob, talk.carol):
        talk.react(device, 1, "👍")
    talk.react(talk.alice, 1, "🎉")
    outcome = talk.react(talk.bob, 1, "👍", on=False)
    assert msgspec.to_builtins(outcome.message.reactions) == {
        "👍": {"count": 2, "usernames": ["alice", "carol"]},
        "🎉": {"count": 1, "usernames": ["alice"]},
    }
    assert (outcome.message.rev, talk.head) == (7, 7)
    for again in (talk.react(talk.alice, 1, "🎉"), talk.react(talk.bob, 1, "👍", on=False)):
        assert not again.changed
    assert talk.head == 7
    consistent(talk.key)
    for name in ("alice", "carol"):
        talk.react(getattr(talk, name), 1, "👍", on=False)
    talk.react(talk.alice, 1, "🎉", on=False)
    assert not Message.objects.get(seq=1).reacted


def test_spellings_of_one_emoji_are_one(talk: Talk) -> None:
    talk.react(talk.alice, 1, "❤")
    assert not talk.react(talk.alice, 1, "❤️").changed
    assert list(talk.react(talk.bob, 1, "❤️").message.reactions) == ["❤️"]


@pytest.mark.parametrize(
    "text", ["a", "ok", "1", "#", "👍👍", "👍 ", " ", "\u200d", "🇩", ":thumbsup:", "é", "<b>"]
)
def test_what_is_no_emoji_is_invalid(talk: Talk, text: str) -> None:
    refused(lambda: talk.react(talk.alice, 1, text), "invalid")
    path = f"/v1/conversations/{talk.key}/messages/1/reactions/{quote(text, safe='')}"
    answer = talk.alice.http.put(path)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid")
    assert (talk.head, Message.objects.get().reacted) == (2, False)


@pytest.mark.parametrize("text", ["👍", "👍🏽", "👨‍👩‍👧", "🇩🇪", "1️⃣", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "🫠"])
def test_every_emoji_is_one(talk: Talk, text: str) -> None:
    path = f"/v1/conversations/{talk.key}/messages/1/reactions/{quote(text, safe='')}"
    for _ in range(2):
        assert talk.alice.http.put(path).status_code == 204
    assert list(talk.mine(talk.bob)["last_message"]["reactions"]) == [text]
    for _ in range(2):
        assert talk.alice.http.delete(path).status_code == 204
    assert talk.head == 4


def test_a_message_has_twenty_kinds_at_most(talk: Talk) -> None:
    kinds = [
        each for each in emoji_library.EMOJI_DATA if len(each) == 1 and living.emoji_normalize(each) == each
    ]
    for each in kinds[: living.KINDS_MOST]:
        talk.react(talk.alice, 1, each)
    refused(lambda: talk.react(talk.bob, 1, kinds[living.KINDS_MOST]), "conflict")
    # More of the same kind are welcome.
    assert talk.react(talk.bob, 1, kinds[0]).changed
    consistent(talk.key)


def test_fifty_are_named_and_pages_cost_one_query_more(talk: Talk) -> None:
    users = User.objects.bulk_create(User(username=f"m{number:03}", password="!") for number in range(60))
    groups.members_add(
        actor=talk.alice.user, conversation=talk.key, usernames=[user.username for user in users]
    )
    seq = talk.world.say(talk.alice, talk.key, "react!")[0].seq
    membership = selectors.membership(user=talk.alice.user, conversation=talk.key)

    def page() -> list[Any]:
        return selectors.message_page(membership=membership, before=None, after=None, limit=50).messages

    with CaptureQueriesContext(connection) as plain:
        page()
    for user in users:
        living.message_react(user=user.pk, conversation=talk.key, seq=seq, emoji="👍", on=True)
    talk.react(talk.carol, 1, "🎉")
    with CaptureQueriesContext(connection) as reacted:
        messages = page()
    assert len(reacted) == len(plain) + 1
    reaction = messages[-1].reactions["👍"]
    assert (reaction.count, reaction.usernames) == (60, [user.username for user in users[:50]])
    events, _, _ = stream.changes(user_id=talk.alice.user.pk, conversation=talk.key, since=0, limit=200)
    told = {event.message.seq: event.message for event in events if hasattr(event, "message")}
    assert told[seq] == messages[-1]
    assert told[1].reactions.keys() == {"🎉"}


# --- mentions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ("hello", ()),
        ("@bob", ("bob",)),
        ("(@Bob, @CAROL!)", ("bob", "carol")),
        ("hi @bob.", ("bob.", "bob")),
        ("hi @b-o_b.x-", ("b-o_b.x-", "b-o_b.x")),
        ("mail me at bob@example.org", ()),
        ("@@bob", ()),
        ("@bo", ()),
        ("@all of you", ("all",)),
        ("@" + "x" * 40, ()),
    ],
)
def test_names_in_a_body(body: str, names: tuple[str, ...]) -> None:
    assert mentions.names_in(body) == names


def test_members_are_mentioned_and_counted(talk: Talk) -> None:
    bodies = ["@bob look", "@bob. and @carol, @nobody and @alice", "mail alice@bob.example", "nothing"]
    sent = talk.world.say(talk.alice, talk.key, *bodies)
    found = [message.mentions if message.mentions is not msgspec.UNSET else [] for message in sent]
    assert found == [["bob"], ["bob", "carol"], [], []]
    counts = {name: talk.mine(getattr(talk, name))["unread_mentions"] for name in ("alice", "bob", "carol")}
    assert counts == {"alice": 0, "bob": 2, "carol": 1}
    services.mark_read(user=talk.bob.user, conversation=talk.key, seq=sent[0].seq)
    assert (talk.mine(talk.bob)["unread_mentions"], talk.mine(talk.bob)["unread"]) == (1, 3)


def test_everyone_is_mentioned_by_those_who_may(talk: Talk) -> None:
    (by_owner,) = talk.world.say(talk.alice, talk.key, "@all and @bob")
    (by_member,) = talk.world.say(talk.bob, talk.key, "@all")
    assert (by_owner.mentions, by_member.mentions) == (["all", "bob"], msgspec.UNSET)
    # Once, though mentioned twice.
    assert [talk.mine(device)["unread_mentions"] for device in (talk.bob, talk.carol)] == [0, 1]
    direct = talk.world.say(talk.alice, "bob", "@all @bob")[0]
    assert direct.mentions == ["bob"]


def test_an_edit_mentions_anew(talk: Talk) -> None:
    talk.world.say(talk.alice, talk.key, "@bob")
    assert talk.edit(talk.alice, 2, "@carol, I mean").message.mentions == ["carol"]
    assert [talk.mine(device)["unread_mentions"] for device in (talk.bob, talk.carol)] == [0, 1]
    assert talk.edit(talk.alice, 2, "nobody").message.mentions is msgspec.UNSET
    assert not Mention.objects.exists()


def test_the_same_message_twice_mentions_once(talk: Talk) -> None:
    client_id = UUID(int=7)
    for _ in range(2):
        sent = services.message_send(
            sender=talk.alice.user, conversation=talk.key, client_id=client_id, body="@bob"
        )
        assert sent.message.mentions == ["bob"]
    assert Mention.objects.count() == 1


# --- receipts --------------------------------------------------------------------------------------


def readers(device: Device, talk: Talk, seq: int) -> list[str]:
    answer = device.get(f"/v1/conversations/{talk.key}/messages/{seq}/readers")
    assert answer.status_code == 200
    return [reader["username"] for reader in answer.json()["results"]]


def test_who_has_read_is_told_on_request(talk: Talk) -> None:
    assert readers(talk.alice, talk, 1) == []
    services.mark_read(user=talk.alice.user, conversation=talk.key, seq=1)
    assert readers(talk.carol, talk, 1) == ["alice"]
    dave = talk.world.friends("dave")[0]
    groups.members_add(actor=talk.alice.user, conversation=talk.key, usernames=["dave"])
    # Who came later has not read it, wherever their mark begins.
    assert readers(talk.alice, talk, 1) == ["alice"]
    assert dave.get(f"/v1/conversations/{talk.key}/messages/1/readers").status_code == 404


def test_who_shows_nothing_sees_nothing(
    talk: Talk, fanned_out: list[fanout.Envelope], django_capture_on_commit_callbacks: Any
) -> None:
    direct = UUID(talk.world.say(talk.alice, "bob", "hello")[0].conversation)
    changed = talk.bob.http.patch("/v1/me", {"read_receipts": False}, format="json")
    assert changed.json()["read_receipts"] is False
    talk.bob.user.refresh_from_db()
    fanned_out.clear()
    for key in (talk.key, direct):
        with django_capture_on_commit_callbacks(execute=True):
            services.mark_read(user=talk.bob.user, conversation=key, seq=1)
            services.mark_read(user=talk.alice.user, conversation=key, seq=1)
    assert readers(talk.carol, talk, 1) == ["alice"]
    assert readers(talk.bob, talk, 1) == []
    marks = {
        name: stream.marks_of([getattr(talk, name).user.pk])[0][str(talk.key)] for name in ("alice", "bob")
    }
    assert marks == {
        "alice": {"alice": (1, 1), "bob": (0, 1), "carol": (0, 0)},
        "bob": {"alice": (0, 1), "bob": (1, 1), "carol": (0, 0)},
    }
    for device in (talk.alice, talk.bob):
        mine = device.get(f"/v1/conversations/{direct}").json()
        assert (mine["peer_read_seq"], mine["peer_delivered_seq"]) == (0, 1)
    told = [
        (msgspec.json.decode(envelope["d"]), msgspec.json.decode(envelope.get("w") or b"null"), envelope)
        for envelope in fanned_out
    ]
    for event, reserved, envelope in told:
        own = envelope["k"] == "e" and envelope["u"] == str(User.objects.get(username=event["username"]).pk)
        if event["username"] == "bob" and not own:
            assert event["read"] == 0
        elif event["username"] == "alice" and not own:
            assert (event["read"], (reserved or event)["read"] if "w" in envelope else 0) == (1, 0)


def test_turning_receipts_on_again_tells_what_was_hidden(
    talk: Talk, fanned_out: list[fanout.Envelope], django_capture_on_commit_callbacks: Any
) -> None:
    accounts.profile_update(user=talk.carol.user, read_receipts=False)
    services.mark_read(user=talk.carol.user, conversation=talk.key, seq=1)
    before = User.objects.get(pk=talk.carol.user.pk).control_rev
    fanned_out.clear()
    with django_capture_on_commit_callbacks(execute=True):
        accounts.profile_update(user=talk.carol.user, read_receipts=True)
        accounts.profile_update(user=talk.carol.user, read_receipts=True)
    assert User.objects.get(pk=talk.carol.user.pk).control_rev == before + 1
    assert [envelope.get("a") for envelope in fanned_out] == ["settings_changed", None]
    assert msgspec.json.decode(fanned_out[1]["d"])["read"] == 1
    assert readers(talk.alice, talk, 1) == ["carol"]


def test_marks_do_not_cross_a_block(
    talk: Talk, fanned_out: list[fanout.Envelope], django_capture_on_commit_callbacks: Any
) -> None:
    alice, bob = talk.alice, talk.bob
    direct = UUID(talk.world.say(alice, "bob", "one", "two")[0].conversation)
    talk.world.say(bob, direct, "three")
    accounts.block_add(blocker=bob.user, username="alice")
    fanned_out.clear()
    for key in (direct, talk.key):
        with django_capture_on_commit_callbacks(execute=True):
            services.mark_read(user=alice.user, conversation=key, seq=3)
            services.mark_read(user=bob.user, conversation=key, seq=3)
    told = {
        (envelope["u"], msgspec.json.decode(envelope["d"])["username"])
        for envelope in fanned_out
        if envelope["k"] == "e"
    }
    assert told == {(str(alice.user.pk), "alice")}
    # In a group nothing is hidden.
    assert [msgspec.json.decode(each["d"])["username"] for each in fanned_out if each["k"] == "t"] == [
        "alice"
    ]
    for device, name, other in ((alice, "alice", "bob"), (bob, "bob", "alice")):
        mine = device.get(f"/v1/conversations/{direct}").json()
        assert (mine["peer_read_seq"], mine["peer_delivered_seq"], mine["read_seq"]) == (0, 0, 3)
        (marks,) = stream.marks_of([device.user.pk])
        assert marks[str(direct)] == {name: (3, 3), other: (0, 0)}
        assert marks[str(talk.key)][other] != (0, 0)
        path = f"/v1/conversations/{direct}/messages/1/readers"
        assert other not in [reader["username"] for reader in device.get(path).json()["results"]]
    fanned_out.clear()
    with django_capture_on_commit_callbacks(execute=True):
        accounts.block_remove(blocker=bob.user, username="alice")
    told = {
        (envelope["u"], msgspec.json.decode(envelope["d"])["username"])
        for envelope in fanned_out
        if envelope["k"] == "e"
    }
    names = {str(alice.user.pk): "alice", str(bob.user.pk): "bob"}
    assert told == {(user, name) for user in names for name in names.values()}
    assert alice.get(f"/v1/conversations/{direct}").json()["peer_read_seq"] == 3


# --- mute and typing -------------------------------------------------------------------------------


def test_a_conversation_is_muted_until_a_time(
    talk: Talk, fanned_out: list[fanout.Envelope], django_capture_on_commit_callbacks: Any
) -> None:
    path = f"/v1/conversations/{talk.key}/mute"
    fanned_out.clear()
    with django_capture_on_commit_callbacks(execute=True):
        assert talk.bob.put(path, until="2036-01-31T12:00:00Z").status_code == 204
    assert talk.mine(talk.bob)["muted_until"] == "2036-01-31T12:00:00.000000Z"
    assert talk.mine(talk.alice)["muted_until"] is None
    assert [(envelope["u"], msgspec.json.decode(envelope["d"])) for envelope in fanned_out] == [
        (
            str(talk.bob.user.pk),
            {"type": "muted", "conversation": str(talk.key), "until": "2036-01-31T12:00:00.000000Z"},
        )
    ]
    assert talk.bob.put(path, until=None).status_code == 204
    assert talk.mine(talk.bob)["muted_until"] is None
    # A device that was away is told that it is no longer so.
    assert [event.until for event in stream.own_of(talk.bob.user.pk).muted] == [None]
    for until in ("2001-01-31T12:00:00Z", "soon", 7, "9999-12-31T23:59:59Z"):
        assert talk.bob.put(path, until=until).status_code == 400
    assert talk.bob.put(path).status_code == 400


def test_typing_never_reaches_who_has_blocked_the_typist(talk: Talk) -> None:
    accounts.block_add(blocker=talk.carol.user, username="bob")
    assert stream.typing_audience(user=talk.bob.user.pk, conversation=talk.key) == (
        [talk.carol.user.pk],
        True,
    )
    assert stream.typing_audience(user=talk.carol.user.pk, conversation=talk.key) == ([], True)
    direct = UUID(talk.world.say(talk.bob, "alice", "hello")[0].conversation)
    assert stream.typing_audience(user=talk.bob.user.pk, conversation=direct) == ([talk.alice.user.pk], False)
    accounts.block_add(blocker=talk.alice.user, username="bob")
    assert stream.typing_audience(user=talk.bob.user.pk, conversation=direct) == ([], False)
    with CaptureQueriesContext(connection) as captured:
        stream.typing_audience(user=talk.bob.user.pk, conversation=talk.key)
    assert len(captured) == 2
