"""Fills a database for trials: people, contacts, conversations, messages, as if they had talked for a month.

Rows go in by COPY on PostgreSQL and by bulk inserts on SQLite, a transaction per few ten thousand
messages; after each of them everything that the services promise holds.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final
from uuid import UUID

import uuid_utils
from django.db import connection, models, transaction
from django.db.models.functions import Length

from accounts.models import Contact, RetiredUsername, User
from chatbe.core import clock
from messaging.models import Conversation, Membership, Message, pair_key

MESSAGES_AT_ONCE: Final = 20_000
"""A transaction has about so many messages, or one conversation."""
ROWS_AT_ONCE: Final = 2_000
SPAN: Final = timedelta(days=30)
RUN: Final = 3
"""So many messages of one person follow each other."""

_WORDS: Final = """
    the a we you they it today tomorrow later soon lunch train meeting garden river coffee book music
    rain sun window report table kitchen bicycle ticket photo letter market answer question idea plan
    weekend morning evening call send bring read write see think know hope wait find meet walk cook fix
    blue green quiet early late new old good great small long and but so because when where maybe really
    always never yes no thanks please
"""

Progress = Callable[[int], object]
"""Told how many more are done."""


@dataclass(frozen=True, slots=True)
class Person:
    """A seeded user."""

    id: UUID
    username: str


@dataclass(frozen=True, slots=True)
class Talk:
    """A direct conversation of `count` messages that is to be stored."""

    number: int
    one: Person
    other: Person
    count: int


# --- rows ---------------------------------------------------------------------------------------------------


def store(model: type[models.Model], rows: Iterable[tuple[Any, ...]], names: Sequence[str]) -> None:
    """Insert rows, whose values are in the order of the columns `names`; within the caller's transaction."""
    table = connection.ops.quote_name(model._meta.db_table)  # noqa: SLF001 - its documented interface
    columns = ", ".join(connection.ops.quote_name(name) for name in names)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            with cursor.copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
            return
        places = ", ".join(["%s"] * len(names))
        adapted: Iterator[tuple[Any, ...]] = (tuple(map(_adapted, row)) for row in rows)
        while batch := list(islice(adapted, ROWS_AT_ONCE)):
            cursor.executemany(f"INSERT INTO {table} ({columns}) VALUES ({places})", batch)  # noqa: S608 - names of columns


def _adapted(value: object) -> object:
    """As SQLite keeps it: UUIDs as hex digits, times as text."""
    if isinstance(value, UUID):
        return value.hex
    if isinstance(value, datetime):
        return connection.ops.adapt_datetimefield_value(value)
    return value


def _id_at(moment: datetime) -> UUID:
    """A UUID version 7 of that time."""
    return UUID(int=uuid_utils.uuid7(nanoseconds=int(moment.timestamp() * 1_000_000) * 1000).int)


# --- people -------------------------------------------------------------------------------------------------


def people(*, count: int, password_hash: str, progress: Progress) -> list[Person]:
    """Store `count` users `user000001`, `user000002`, … from the first number that was never used."""
    made: list[Person] = []
    created_at = clock.now() - SPAN - timedelta(days=1)
    names = _names()
    while len(made) < count:
        batch = list(islice(names, min(ROWS_AT_ONCE, count - len(made))))
        rows = [Person(_id_at(created_at), username) for username in batch]
        with transaction.atomic():
            store(
                User,
                (
                    (person.id, person.username, password_hash, "", False, False, True, False, 0, created_at)
                    for person in rows
                ),
                (
                    "id", "username", "password", "display_name", "is_superuser", "is_staff", "is_active",
                    "is_bot", "control_rev", "created_at",
                ),
            )  # fmt: skip
        made += rows
        progress(len(rows))
    return made


def _names() -> Iterator[str]:
    """Free names after the highest that is in use."""
    highest = (
        User.objects.filter(username__regex=r"^user[0-9]{6,9}$")
        .order_by(Length("username").desc(), "-username")
        .values_list("username", flat=True)
        .first()
    )
    number = int(highest.removeprefix("user")) if highest else 0
    while True:
        names = [f"user{each:06d}" for each in range(number + 1, number + ROWS_AT_ONCE + 1)]
        digests = {hashlib.sha256(name.encode()).digest(): name for name in names}
        retired = {
            digests[bytes(digest)]
            for digest in RetiredUsername.objects.filter(digest__in=list(digests)).values_list(
                "digest", flat=True
            )
        }
        yield from (name for name in names if name not in retired)
        number += ROWS_AT_ONCE


# --- conversations ------------------------------------------------------------------------------------------


def pairs(count: int) -> Iterator[tuple[int, int]]:
    """Every two of `count` people, once: neighbours first, so that few conversations have many people."""
    for first in (0, 1):
        yield from ((one, one + 1) for one in range(first, count - 1, 2))
    for distance in range(2, count):
        yield from ((one, one + distance) for one in range(count - distance))


def talks(*, persons: Sequence[Person], conversations: int, messages: int) -> Iterator[Talk]:
    """Spread messages evenly over conversations between the first pairs."""
    each, more = divmod(messages, conversations) if conversations else (0, 0)
    for number, (one, other) in enumerate(islice(pairs(len(persons)), conversations)):
        yield Talk(number, persons[one], persons[other], each + (number < more))


def converse(*, todo: Iterator[Talk], progress: Progress) -> None:
    """Store conversations with their members, contacts and messages."""
    bodies = _bodies()
    until = clock.now()
    began = until - SPAN
    while batch := [(_id_at(began), talk) for talk in _batch(todo)]:
        with transaction.atomic():
            store(
                Contact,
                (
                    (_id_at(began), owner.id, target.id, began)
                    for _, talk in batch
                    for owner, target in ((talk.one, talk.other), (talk.other, talk.one))
                ),
                ("id", "owner_id", "target_id", "created_at"),
            )
            store(
                Conversation,
                (
                    (
                        key, Conversation.Kind.DIRECT.value, pair_key(talk.one.id, talk.other.id),
                        Conversation.History.JOINED.value, talk.count, talk.count, 0,
                        _said_at(talk, talk.count, until), began,
                    )
                    for key, talk in batch
                ),
                (
                    "id", "kind", "pair", "history", "head_rev", "last_seq", "state_rev", "active_at",
                    "created_at",
                ),
            )  # fmt: skip
            store(
                Membership,
                (row for key, talk in batch for row in _members(key, talk, began)),
                (
                    "id", "conversation_id", "user_id", "role", "active", "joined_seq", "joined_rev", "wrote",
                    "delivered_seq", "read_seq", "created_at",
                ),
            )  # fmt: skip
            store(
                Message,
                (row for key, talk in batch for row in _messages(key, talk, until, bodies, progress)),
                (
                    "id",
                    "conversation_id",
                    "seq",
                    "rev",
                    "sender_id",
                    "client_id",
                    "kind",
                    "body",
                    "created_at",
                ),
            )


def _batch(todo: Iterator[Talk]) -> Iterator[Talk]:
    """The next conversations, together about as many messages as a transaction takes."""
    size = 0
    for talk in todo:
        yield talk
        size += max(talk.count, 10)
        if size >= MESSAGES_AT_ONCE:
            return


def _said_at(talk: Talk, seq: int, until: datetime) -> datetime:
    """When the message was sent: evenly over the month, each conversation at other moments."""
    share = seq / (talk.count + 1)
    return until - SPAN * (1 - share) - timedelta(microseconds=talk.number % 1_000_000)


def _members(
    key: UUID, talk: Talk, created_at: datetime
) -> Iterator[tuple[UUID, UUID, UUID, str, bool, int, int, bool, int, int, datetime]]:
    """Both members: who spoke last has read all, the other all or up to their own last message."""
    runs = -(-talk.count // RUN)
    for turn, person in enumerate((talk.one, talk.other)):
        spoke_last = runs > 0 and (runs - 1) % 2 == turn
        own_last = talk.count if spoke_last else (runs - 1) * RUN if runs > 1 else 0
        read = talk.count if talk.number % 2 == 0 else own_last
        yield (
            _id_at(created_at), key, person.id, Membership.Role.MEMBER.value, True, 0, 0, own_last > 0,
            talk.count if talk.number % 3 else read, read, created_at,
        )  # fmt: skip


def _messages(
    key: UUID, talk: Talk, until: datetime, bodies: Sequence[str], progress: Progress
) -> Iterator[tuple[UUID, UUID, int, int, UUID, UUID, str, str, datetime]]:
    senders = (talk.one.id, talk.other.id)
    kind = Message.Kind.TEXT.value
    for seq in range(1, talk.count + 1):
        created_at = _said_at(talk, seq, until)
        body = bodies[(talk.number * 31 + seq * 7) % len(bodies)]
        sender = senders[(seq - 1) // RUN % 2]
        client_id = UUID(int=uuid_utils.uuid4().int)
        yield (_id_at(created_at), key, seq, seq, sender, client_id, kind, body, created_at)
        if seq % 1000 == 0:
            progress(1000)
    progress(talk.count % 1000)


def _bodies() -> list[str]:
    """A few thousand texts, most of them short, the same every time."""
    chance = random.Random(0)  # noqa: S311 - texts, not secrets
    words = _WORDS.split()
    return [
        " ".join(chance.choices(words, k=min(60, 3 + int(chance.expovariate(1 / 9))))).capitalize() + "."
        for _ in range(4096)
    ]
