"""Every action by every role, in one table: what is allowed, and the code that refuses the rest."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import transaction

from accounts.models import Block, Contact, User
from attachments import selectors as files
from attachments.models import Attachment
from chatbe.core import clock
from chatbe.core.errors import ChatError
from messaging import groups, living, search, selectors, services, stream
from messaging.models import Conversation, Membership, Message
from tests.messaging.conftest import World, consistent

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("fanned_out")]

ROLES = ("owner", "admin", "member", "removed", "blocked", "stranger", "suspended")
"""`blocked` is a member of the group whom everyone else in it has blocked; `removed` and `suspended` were members."""


class Stage:
    """A group with somebody in each role, and direct conversations of the owner with each."""

    def __init__(self, world: World) -> None:
        self.users = {role: world.user(role) for role in (*ROLES, "other", "new", "second")}
        users = self.users
        Contact.objects.bulk_create(
            Contact(owner=one, target=other)
            for one in users.values()
            for other in users.values()
            if one != other
        )
        inside = ("admin", "member", "removed", "blocked", "suspended", "other", "second")
        self.group = groups.group_create(
            owner=users["owner"], title="Group", usernames=[users[name].username for name in inside]
        ).pk
        groups.role_set(actor=users["owner"], conversation=self.group, username="admin", role="admin")
        groups.role_set(actor=users["owner"], conversation=self.group, username="second", role="admin")
        self.seqs = {
            name: services.message_send(
                sender=users[name], conversation=self.group, body=f"by {name}"
            ).message.seq
            for name in ("owner", *inside)
        }
        self.direct = {
            name: UUID(
                services.message_send(sender=user, username="other", body=f"by {name}").message.conversation
            )
            for name, user in users.items()
            if name not in {"other", "new", "second", "stranger"}
        }
        self.files = {
            "other": Attachment.objects.create(
                owner=users["other"], name="a.txt", size=5, stored_at=clock.now(),
                message=Message.objects.get(conversation=self.group, seq=self.seqs["other"]).pk,
            ).pk
        }  # fmt: skip
        groups.member_remove(actor=users["owner"], conversation=self.group, username="removed")
        for name in ("owner", "admin", "member", "other", "new"):
            Block.objects.create(blocker=users[name], blocked=users["blocked"])
        User.objects.filter(username="suspended").update(suspended_until=clock.now() + timedelta(days=1))
        for user in users.values():
            user.refresh_from_db()

    def own(self, role: str) -> int:
        """The seq of the role's own message; a stranger has none, and tries another's."""
        return self.seqs.get(role, self.seqs["other"])


Act = Callable[[Stage, User, str], object]


ACTIONS: dict[str, tuple[Act, dict[str, str]]] = {}


def action(**refused: str) -> Callable[[Act], Act]:
    """Of each role, the code that refuses it; without one it is allowed."""

    def register(act: Act) -> Act:
        ACTIONS[act.__name__] = (
            act,
            {"removed": "not_found", "stranger": "not_found", "suspended": "suspended", **refused},
        )
        return act

    return register


@action()
def send(stage: Stage, user: User, role: str) -> object:
    return services.message_send(sender=user, conversation=stage.group, body="hello")


@action(blocked="blocked", stranger="not_found", removed="", member="", owner="")
def send_directly(stage: Stage, user: User, role: str) -> object:
    conversation = stage.direct.get(role)
    if conversation is None:
        conversation = stage.direct["owner"]
    return services.message_send(sender=user, conversation=conversation, body="hello")


@action()
def reply(stage: Stage, user: User, role: str) -> object:
    return services.message_send(sender=user, conversation=stage.group, body="hello", reply_to=1)


@action()
def edit_own(stage: Stage, user: User, role: str) -> object:
    return living.message_edit(user=user.pk, conversation=stage.group, seq=stage.own(role), body="better")


@action(owner="forbidden", admin="forbidden", member="forbidden", blocked="forbidden")
def edit_anothers(stage: Stage, user: User, role: str) -> object:
    return living.message_edit(user=user.pk, conversation=stage.group, seq=stage.seqs["other"], body="worse")


@action(blocked="blocked", removed="", stranger="not_found")
def edit_directly(stage: Stage, user: User, role: str) -> object:
    conversation = stage.direct.get(role, stage.direct["owner"])
    return living.message_edit(user=user.pk, conversation=conversation, seq=1, body="better")


@action()
def delete_own(stage: Stage, user: User, role: str) -> object:
    return living.message_delete(user=user.pk, conversation=stage.group, seq=stage.own(role))


@action(member="forbidden", blocked="forbidden")
def delete_anothers(stage: Stage, user: User, role: str) -> object:
    return living.message_delete(user=user.pk, conversation=stage.group, seq=stage.seqs["other"])


@action(removed="")
def delete_directly(stage: Stage, user: User, role: str) -> object:
    """What was said can be withdrawn, also from who has blocked its sender."""
    conversation = stage.direct.get(role, stage.direct["owner"])
    return living.message_delete(user=user.pk, conversation=conversation, seq=1)


@action()
def react(stage: Stage, user: User, role: str) -> object:
    return living.message_react(user=user.pk, conversation=stage.group, seq=1, emoji="👍", on=True)


@action(blocked="blocked", removed="")
def react_directly(stage: Stage, user: User, role: str) -> object:
    conversation = stage.direct.get(role, stage.direct["owner"])
    return living.message_react(user=user.pk, conversation=conversation, seq=1, emoji="👍", on=True)


@action(member="forbidden", blocked="forbidden")
def rename(stage: Stage, user: User, role: str) -> None:
    groups.group_update(actor=user, conversation=stage.group, title="Another")


@action(member="forbidden", blocked="forbidden")
def describe(stage: Stage, user: User, role: str) -> None:
    groups.group_update(actor=user, conversation=stage.group, description="What it is about")


@action(member="forbidden", blocked="forbidden")
def set_history(stage: Stage, user: User, role: str) -> None:
    groups.group_update(actor=user, conversation=stage.group, history="all")


@action(member="forbidden", blocked="forbidden")
def add(stage: Stage, user: User, role: str) -> object:
    return groups.members_add(actor=user, conversation=stage.group, usernames=["stranger", "new"])


@action(member="forbidden", blocked="forbidden")
def remove_member(stage: Stage, user: User, role: str) -> None:
    groups.member_remove(actor=user, conversation=stage.group, username="other")


@action(admin="forbidden", member="forbidden", blocked="forbidden")
def remove_admin(stage: Stage, user: User, role: str) -> None:
    groups.member_remove(
        actor=user, conversation=stage.group, username="admin" if role != "admin" else "second"
    )


@action(owner="conflict", admin="forbidden", member="forbidden", blocked="forbidden")
def remove_owner(stage: Stage, user: User, role: str) -> None:
    groups.member_remove(actor=user, conversation=stage.group, username="owner")


@action(owner="conflict")
def leave(stage: Stage, user: User, role: str) -> None:
    groups.member_remove(actor=user, conversation=stage.group, username=user.username)


@action(admin="forbidden", member="forbidden", blocked="forbidden")
def promote(stage: Stage, user: User, role: str) -> object:
    return groups.role_set(actor=user, conversation=stage.group, username="other", role="admin")


@action(owner="conflict", member="forbidden", blocked="forbidden")
def step_down(stage: Stage, user: User, role: str) -> object:
    return groups.role_set(
        actor=user,
        conversation=stage.group,
        username=user.username,
        role="admin" if role in {"member", "blocked"} else "member",
    )


@action(admin="forbidden", member="forbidden", blocked="forbidden")
def hand_over(stage: Stage, user: User, role: str) -> object:
    return groups.role_set(actor=user, conversation=stage.group, username="other", role="owner")


@action(admin="forbidden", member="forbidden", blocked="forbidden")
def dissolve(stage: Stage, user: User, role: str) -> None:
    groups.group_dissolve(actor=user, conversation=stage.group)


@action(suspended="")
def mute(stage: Stage, user: User, role: str) -> None:
    """One's own setting; who is suspended is stopped before it comes so far."""
    groups.conversation_mute(user=user, conversation=stage.group, until=clock.now() + timedelta(hours=1))


@action(suspended="")
def mark_read(stage: Stage, user: User, role: str) -> None:
    services.mark_read(user=user, conversation=stage.group, seq=1)


@action(suspended="")
def read(stage: Stage, user: User, role: str) -> object:
    selectors.my_conversation(user=user, conversation=stage.group)
    membership = selectors.membership(user=user, conversation=stage.group)
    selectors.readers_of(membership=membership, seq=1)
    return stream.changes(user_id=user.pk, conversation=stage.group, since=0, limit=10)


@action(suspended="")
def search_in(stage: Stage, user: User, role: str) -> object:
    found = search.search(user=user, query="by", conversation=stage.group, limit=50)
    assert len(found.results) == len(stage.seqs)
    return found


@action(owner="", admin="", member="", removed="", stranger="", suspended="")
def search_everywhere(stage: Stage, user: User, role: str) -> None:
    """Nothing refuses it, and nothing is found that is not theirs to see."""
    found = {
        UUID(result.message.conversation) for result in search.search(user=user, query="by", limit=50).results
    }
    assert found == ({stage.group} if role not in {"removed", "stranger"} else set()) | (
        {stage.direct[role]} if role in stage.direct else set()
    )


@action(suspended="not_found")
def fetch_file(stage: Stage, user: User, role: str) -> object:
    """By an address that was made before its user lost the right."""
    ticket = files.Ticket(stage.files["other"], "content", user.pk)
    return files.attachment_of_ticket(ticket=ticket)


@action()
def send_file(stage: Stage, user: User, role: str) -> object:
    unsent = Attachment.objects.create(owner=user, name="b.txt", size=5, stored_at=clock.now()).pk
    try:
        return services.message_send(sender=user, conversation=stage.group, body="", attachments=[unsent])
    except ChatError:
        assert Attachment.objects.filter(pk=unsent, message=None).delete()[0] == 1
        raise


@action(suspended="")
def type_(stage: Stage, user: User, role: str) -> object:
    return stream.typing_audience(user=user.pk, conversation=stage.group)


@action(owner="", admin="", member="", removed="", stranger="", blocked="blocked")
def create_with(stage: Stage, user: User, role: str) -> object:
    return groups.group_create(owner=user, title="Mine", usernames=["other"])


@pytest.mark.parametrize("name", ACTIONS)
def test_who_may_do_what(world: World, name: str) -> None:
    act, refused = ACTIONS[name]
    stage = Stage(world)
    for role in ROLES:
        # Taken back after each, so that all find the same.
        with transaction.atomic():
            before = _everything()
            code = ""
            try:
                act(stage, stage.users[role], role)
            except ChatError as error:
                code = error.code
            assert (role, code) == (role, refused.get(role, ""))
            if code:
                assert _everything() == before, role
            for conversation in Conversation.objects.all():
                consistent(conversation.pk)
            transaction.set_rollback(True)


@pytest.mark.parametrize("what", ["rename", "add", "remove", "promote", "dissolve"])
def test_a_direct_conversation_stays_what_it_is(world: World, what: str) -> None:
    alice, _, _ = world.friends("alice", "bob", "carol")
    key = UUID(world.say(alice, "bob", "hello")[0].conversation)
    acts: dict[str, Callable[[], object]] = {
        "rename": lambda: groups.group_update(actor=alice.user, conversation=key, title="x"),
        "add": lambda: groups.members_add(actor=alice.user, conversation=key, usernames=["carol"]),
        "remove": lambda: groups.member_remove(actor=alice.user, conversation=key, username="alice"),
        "promote": lambda: groups.role_set(actor=alice.user, conversation=key, username="bob", role="owner"),
        "dissolve": lambda: groups.group_dissolve(actor=alice.user, conversation=key),
    }
    before = _everything()
    with pytest.raises(ChatError) as caught:
        acts[what]()
    assert caught.value.code == "forbidden"
    assert _everything() == before


def test_who_is_suspended_is_refused_over_http(world: World) -> None:
    alice, bob = world.friends("alice", "bob")
    key = world.group(alice, bob).pk
    User.objects.filter(pk=bob.user.pk).update(suspended_until=clock.now() + timedelta(days=1))
    for answer in (
        bob.put(f"/v1/conversations/{key}/mute", until=None),
        bob.put(f"/v1/conversations/{key}/read", seq=1),
        bob.get(f"/v1/conversations/{key}"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "suspended")


def _everything() -> list[Any]:
    """All that a refusal must not change."""
    return [
        list(Conversation.objects.order_by("pk").values()),
        list(Membership.objects.order_by("pk").values()),
        list(Message.objects.order_by("pk").values()),
        list(User.objects.order_by("pk").values_list("pk", "control_rev")),
        list(Attachment.objects.order_by("pk").values()),
    ]
