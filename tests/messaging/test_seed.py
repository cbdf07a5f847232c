"""`manage.py seed`."""

from __future__ import annotations

import io
import re
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from accounts.models import Contact, RetiredUsername, User
from accounts.services import sign_in, user_erase
from messaging import seeding, selectors
from messaging.models import Conversation, Membership, Message
from tests.messaging.conftest import consistent

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("fanned_out")]


def seed(**options: object) -> str:
    output = io.StringIO()
    call_command("seed", stdout=output, **options)
    return output.getvalue()


def usernames() -> list[str]:
    return list(User.objects.order_by("username").values_list("username", flat=True))


@pytest.mark.parametrize("messages", [0, 1, 2, 3, 4, 7, 100])
def test_what_is_seeded_is_consistent(messages: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeding, "MESSAGES_AT_ONCE", 20)
    monkeypatch.setattr(seeding, "ROWS_AT_ONCE", 3)
    seed(users=5, messages=messages, conversations=7)
    assert (User.objects.count(), Conversation.objects.count()) == (5, 7)
    assert Message.objects.count() == messages
    assert (Membership.objects.count(), Contact.objects.count()) == (14, 14)
    for conversation in Conversation.objects.all():
        consistent(conversation.pk)
        one, other = conversation.memberships.all()
        assert Contact.objects.filter(owner=one.user, target=other.user).exists()
        assert Contact.objects.filter(owner=other.user, target=one.user).exists()
        times = list(conversation.messages.order_by("seq").values_list("created_at", flat=True))
        assert times == sorted(times)
        assert not times or conversation.active_at == times[-1]
    ids = list(Message.objects.order_by("created_at").values_list("pk", "created_at"))
    assert all(key.int >> 80 == int(created.timestamp() * 1000) for key, created in ids)


def test_what_is_seeded_can_be_used() -> None:
    seed(users=4, messages=40, password="a password for trials")
    user = sign_in(identifier="user000001", password="a password for trials").user
    (conversation,) = selectors.conversation_page(user=user, limit=10).conversations
    assert conversation.last_seq == 20
    assert {member.username for member in conversation.members} == {"user000001", "user000002"}
    unread = Message.objects.filter(
        conversation=UUID(conversation.id), seq__gt=conversation.read_seq, sender__username="user000002"
    )
    assert conversation.unread == unread.count()


def test_it_adds_on_top() -> None:
    assert "user000001 to user000003" in seed(users=3, messages=5)
    output = seed(users=2, messages=5)
    assert usernames() == [f"user00000{number}" for number in range(1, 6)]
    assert Message.objects.count() == 10
    found = re.search(r"user000004 to user000005, password: (\S+)", output)
    assert found is not None
    assert sign_in(identifier="user000005", password=found[1]).user.username == "user000005"


def test_the_names_of_erased_accounts_are_not_given_again() -> None:
    seed(users=2)
    user_erase(user_id=User.objects.get(username="user000002").pk)
    assert RetiredUsername.objects.exists()
    seed(users=2)
    assert usernames() == ["user000001", "user000003", "user000004"]


def test_names_go_on_after_the_millionth() -> None:
    User.objects.create(username="user999999", password="!")
    seed(users=2)
    assert usernames() == ["user1000000", "user1000001", "user999999"]


@pytest.mark.parametrize(
    "options", [{"users": 1, "messages": 1}, {"users": 0, "messages": 1}, {"users": 3, "conversations": 4}]
)
def test_what_cannot_be_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(CommandError):
        seed(**options)
    assert not User.objects.exists()


@pytest.mark.parametrize("count", ["-1", "x", "1.5"])
def test_a_count_is_a_whole_number(count: str) -> None:
    with pytest.raises(CommandError, match="whole number"):
        call_command("seed", f"--users={count}")


def test_statements_do_not_grow_with_the_rows() -> None:
    from django.test.utils import CaptureQueriesContext

    counts = []
    for messages in (10, 1000):
        with CaptureQueriesContext(connection) as captured:
            seed(users=2, messages=messages)
        counts.append(len(captured))
    assert counts[0] == counts[1]
