"""Fills a database: `python -m benchmarks.population chatbe|tutorial`, a JSON request on stdin, the answer on stdout.

Runs in a process of its own, so that the load's stays small. Everything goes through the models,
so that it holds whatever columns they gain; only mass is written by SQL.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

import django

Answer = dict[str, Any]

CHUNK = 5000
LATER = timedelta(days=30)


# --- chatbe ------------------------------------------------------------------------------------------


def chatbe_people(*, friendships: Sequence[tuple[str, str]], others: Sequence[str] = ()) -> Answer:
    """Users, and mutual contacts between the two of each friendship. Those that are there already stay."""
    from accounts.models import Contact, Session, User
    from chatbe.core import clock, ids

    names = {name for friendship in friendships for name in friendship} | set(others)
    names -= set(User.objects.filter(username__in=names).values_list("username", flat=True))
    users = [User(username=name, password="!") for name in sorted(names)]
    User.objects.bulk_create(users, CHUNK)
    Session.objects.bulk_create(
        (Session(user=user, refresh_jti=ids.uuid7(), expires_at=clock.now() + LATER) for user in users), CHUNK
    )
    keys = dict(User.objects.values_list("username", "id"))
    Contact.objects.bulk_create(
        (
            Contact(owner_id=keys[owner], target_id=keys[target])
            for one, other in friendships
            for owner, target in ((one, other), (other, one))
        ),
        CHUNK,
        ignore_conflicts=True,
    )
    return {"made": len(users)}


def chatbe_tickets(*, users: Sequence[str]) -> Answer:
    """A one-time password for one socket of each named user, in order; a name may come several times."""
    from accounts.models import OneTimePassword, Session
    from chatbe.core import clock

    sessions = dict(Session.objects.filter(user__username__in=set(users)).values_list("user__username", "id"))
    tickets = [secrets.token_urlsafe(24) for _ in users]
    OneTimePassword.objects.bulk_create(
        (
            OneTimePassword(
                digest=hashlib.sha256(ticket.encode()).digest(),
                session_id=sessions[user],
                expires_at=clock.now() + LATER,
            )
            for user, ticket in zip(users, tickets, strict=True)
        ),
        CHUNK,
    )
    return {"tickets": tickets}


def chatbe_conversations(*, pairs: Sequence[tuple[str, str]]) -> Answer:
    """The direct conversation of each pair, made if need be: their ids, in order."""
    from accounts.models import User
    from messaging.models import Conversation, Membership, pair_key

    keys = dict(User.objects.values_list("username", "id"))
    wanted = [(keys[one], keys[other]) for one, other in pairs]
    names = [pair_key(one, other) for one, other in wanted]
    there = dict(Conversation.objects.filter(pair__in=names).values_list("pair", "id"))
    made = [
        (Conversation(kind=Conversation.Kind.DIRECT, pair=name), pair)
        for name, pair in zip(names, wanted, strict=True)
        if name not in there
    ]
    Conversation.objects.bulk_create((conversation for conversation, _ in made), CHUNK)
    Membership.objects.bulk_create(
        (Membership(conversation=conversation, user_id=user) for conversation, pair in made for user in pair),
        CHUNK,
    )
    there.update({conversation.pair: conversation.id for conversation, _ in made})
    return {"conversations": [str(there[name]) for name in names]}


def chatbe_group(*, owner: str, members: Sequence[str]) -> Answer:
    """A group of users who are there already: its id."""
    from accounts.models import User
    from messaging import groups

    made = groups.group_create(
        owner=User.objects.get(username=owner), title="Group", history="joined", usernames=members
    )
    return {"conversation": str(made.pk)}


def chatbe_messages(*, conversations: Sequence[str], each: int) -> Answer:
    """`each` further messages in every one of these direct conversations, from both sides in turn."""
    from django.db import connection, transaction

    from messaging.models import Message

    given = {
        "id": "uuidv7()",
        "conversation_id": "c.id",
        "seq": "c.last_seq + n",
        "rev": "c.head_rev + n",
        "sender_id": "m.users[1 + mod(n, 2)]",
        "client_id": "gen_random_uuid()",
        "kind": "'text'",
        "body": "repeat(md5(c.id::text || n), 3) || ' ' || n",
        "created_at": "now()",
    }
    # Columns that are not named here get what the model would give them.
    rest = {
        field.column: field.get_db_prep_save(field.get_default(), connection)
        for field in Message._meta.concrete_fields
        if field.column and field.column not in given and not field.null and not field.generated
    }
    insert = f"""
        INSERT INTO messaging_message ({", ".join([*given, *rest])})
        SELECT {", ".join([*given.values(), *["%s"] * len(rest)])}
          FROM messaging_conversation c
          JOIN LATERAL (SELECT array_agg(user_id ORDER BY user_id) AS users
                          FROM messaging_membership WHERE conversation_id = c.id) m ON true
         CROSS JOIN generate_series(1, %s) n
         WHERE c.id = ANY (%s::uuid[])"""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = 0")
        cursor.execute("SET LOCAL synchronous_commit = off")
        cursor.execute(insert, [*rest.values(), each, list(conversations)])
        cursor.execute(
            "UPDATE messaging_conversation SET head_rev = head_rev + %s, last_seq = last_seq + %s, active_at = now()"
            " WHERE id = ANY (%s::uuid[])",
            [each, each, list(conversations)],
        )
        cursor.execute(
            "UPDATE messaging_membership SET wrote = true WHERE conversation_id = ANY (%s::uuid[])",
            [list(conversations)],
        )
    return {"stored": each * len(conversations)}


def chatbe_mass(*, start: int, stop: int, each: int) -> Answer:
    """The pairs `ga<n>`, `gb<n>` with `start` ≤ n < `stop`, each with a conversation of `each` messages."""
    pairs = [(f"ga{number}", f"gb{number}") for number in range(start, stop)]
    chatbe_people(friendships=pairs)
    conversations = chatbe_conversations(pairs=pairs)["conversations"]
    at_once = max(200_000 // each, 1)
    for first in range(0, len(conversations), at_once):
        chatbe_messages(conversations=conversations[first : first + at_once], each=each)
    return {"stored": len(conversations) * each}


def chatbe_spoken(*, users: int, conversations: int, messages: int) -> Answer:
    """New users with direct conversations of words, as `manage.py seed` makes them: a conversation and one in it."""
    from accounts.models import Session
    from chatbe.core import clock, ids
    from messaging import seeding
    from messaging.models import Membership

    persons = seeding.people(count=users, password_hash="!", progress=lambda _: None)
    todo = seeding.talks(persons=persons, conversations=conversations, messages=messages)
    seeding.converse(todo=todo, progress=lambda _: None)
    Session.objects.create(user_id=persons[0].id, refresh_jti=ids.uuid7(), expires_at=clock.now() + LATER)
    membership = Membership.objects.filter(user=persons[0].id).order_by("pk")[0]
    return {"conversation": str(membership.conversation_id), "user": persons[0].username}


def chatbe_search_index() -> Answer:
    """Bring the search index up to date."""
    from messaging.search import indexing

    return {"indexed": indexing.index_all()}


def chatbe_access_token(*, user: str) -> Answer:
    """An access token of a user's session."""
    from accounts import tokens
    from accounts.models import Session
    from chatbe.core import clock

    session = Session.objects.filter(user__username=user)[0]
    issued = tokens.tokens_for(session=session, refresh_jti=session.refresh_jti, now=clock.now())
    return {"token": issued.access_token}


# --- tutorial ----------------------------------------------------------------------------------------


def tutorial_people(*, friendships: Sequence[tuple[str, str]], others: Sequence[str] = ()) -> Answer:
    """The same for the tutorial server."""
    from django.contrib.auth.models import User

    from benchmarks.baseline.tutorial.chat.models import Contact, Profile

    names = {name for friendship in friendships for name in friendship} | set(others)
    names -= set(User.objects.filter(username__in=names).values_list("username", flat=True))
    users = User.objects.bulk_create([User(username=name, password="!") for name in sorted(names)], CHUNK)
    Profile.objects.bulk_create((Profile(user=user) for user in users), CHUNK)
    keys = dict(User.objects.values_list("username", "id"))
    Contact.objects.bulk_create(
        (
            Contact(owner_id=keys[owner], target_id=keys[target])
            for one, other in friendships
            for owner, target in ((one, other), (other, one))
        ),
        CHUNK,
        ignore_conflicts=True,
    )
    return {"made": len(users)}


def tutorial_tickets(*, users: Sequence[str]) -> Answer:
    """A ticket for one socket of each named user, in order."""
    from benchmarks.baseline.tutorial.chat.models import Profile, Ticket

    profiles = dict(Profile.objects.filter(user__username__in=set(users)).values_list("user__username", "id"))
    tickets = [secrets.token_urlsafe(24) for _ in users]
    Ticket.objects.bulk_create(
        (
            Ticket(profile_id=profiles[user], value=ticket)
            for user, ticket in zip(users, tickets, strict=True)
        ),
        CHUNK,
    )
    return {"tickets": tickets}


def main(arguments: Iterable[str]) -> None:
    """Answer one request."""
    (family,) = arguments
    django.setup()
    request = json.load(sys.stdin)
    act: Callable[..., Answer] = globals()[f"{family}_{request.pop('do')}"]
    json.dump(act(**request), sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
