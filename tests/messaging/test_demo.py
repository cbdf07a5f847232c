"""What the first run shows."""

from __future__ import annotations

import pytest

from accounts.models import Contact, User
from accounts.services import sign_in
from messaging import selectors
from messaging.demo import seed_demo
from messaging.models import Conversation, Message
from tests.messaging.conftest import consistent

pytestmark = pytest.mark.django_db


def test_three_people_can_sign_in_and_find_each_other() -> None:
    people = seed_demo()
    assert [username for username, _ in people] == ["alice", "bob", "carol"]
    assert Contact.objects.count() == 6
    for username, password in people:
        assert sign_in(identifier=username, password=password).user.username == username


def test_there_is_something_to_look_at() -> None:
    seed_demo()
    for conversation in Conversation.objects.all():
        consistent(conversation.pk)
    pages = {
        user.username: selectors.conversation_page(user=user, limit=10).conversations
        for user in User.objects.all()
    }
    assert [conversation.last_seq for conversation in pages["alice"]] == [4, 15]
    assert [conversation.unread for conversation in pages["alice"]] == [1, 2]
    assert [conversation.unread for conversation in pages["bob"]] == [0]
    assert [conversation.unread for conversation in pages["carol"]] == [0]


def test_a_second_time_nothing_happens() -> None:
    seed_demo()
    assert seed_demo() == []
    assert (User.objects.count(), Message.objects.count()) == (3, 19)


@pytest.mark.cluster
def test_where_others_may_reach_the_database_the_password_is_a_secret() -> None:
    ((_, first), *others) = seed_demo()
    assert all(password == first for _, password in others)
    User.objects.all().delete()
    assert seed_demo()[0][1] != first
