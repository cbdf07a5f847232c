"""Parts of conversations whose JSON the database makes: the same bytes as live events, whatever is in a message."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection

from chatbe.core import ids
from chatbe.wire import codec, frames
from chatbe.wire.websocket import encode_text_frame
from messaging import parts, selectors, stream
from messaging.models import Conversation, Membership, Message
from messaging.stream import Wanted
from tests.messaging.conftest import World

pytestmark = pytest.mark.django_db

BODIES = (
    "plain",
    "\"quoted\" \\ back / slash 'single'",
    "line\nfeed\r\n\ttab",
    "!00000000-0000-7000-8000-000000000000",
    "\u2028 \u2029 \ufeff \u200d \ud7ff \ue000 \uffff \x7f \x80 \xa0",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0010ffff",
    "\x01" * 4000,
    "\U0001f600" * 4000,
    '"' * 4000,
    '{"type":"message","message":{}}',
)


class Room:
    """A conversation whose rows are written as they are."""

    def __init__(self, world: World) -> None:
        self.alice, self.bob = world.user("alice"), world.user("bob-the.builder_2")
        self.row = Conversation.objects.create(kind="group", title="Group")
        for user in (self.alice, self.bob):
            Membership.objects.create(conversation=self.row, user=user)
        self.id = str(self.row.pk)
        self.head = 0

    def put(self, body: str | None = "hello", **fields: Any) -> Message:
        """The next row, not yet stored."""
        self.head += 1
        return Message(
            **{
                "conversation": self.row,
                "seq": self.head,
                "rev": self.head,
                "sender": self.alice,
                "client_id": uuid.uuid4(),
                "body": body,
                **fields,
            }
        )

    def fill(self, count: int) -> None:
        """So many plain messages."""
        Message.objects.bulk_create([self.put(str(number)) for number in range(count)])

    def wanted(self, after: int = 0, head: int = 0, **fields: Any) -> Wanted:
        """What there is after a rev."""
        return Wanted(
            self.id,
            after,
            head or self.head,
            fields.get("state_rev", 0),
            fields.get("hidden_to", 0),
            fields.get("direct", False),
        )


@pytest.fixture
def room(world: World) -> Room:
    return Room(world)


def one(wanted: Wanted, rows: int = 10_000) -> parts.Part:
    ((part,),) = parts.read([([wanted], rows)])
    return part


def same(wanted: Wanted) -> None:
    """The part has the events that `stream.read` makes of objects, byte by byte."""
    pieces, ends = stream.read([wanted], limit=10_000)
    part = one(wanted)
    assert part.end == ends[wanted.conversation]
    assert part.revs == [piece.rev for piece in pieces]
    assert part.payloads == [codec.encode(piece.event) for piece in pieces]
    assert part.frames() == b"".join(encode_text_frame(codec.encode(piece.event)) for piece in pieces)


def test_every_kind_of_message_is_the_same_as_its_object(room: Room) -> None:
    moment = datetime(2026, 1, 31, 12, 0, 0, 0, UTC)
    rows = [
        *(room.put(body) for body in BODIES),
        *(room.put(body, sender=room.bob, reply_to=3) for body in BODIES),
        *(room.put(body, edited_at=moment) for body in BODIES),
        room.put(None, deleted_at=moment),
        room.put(None, sender=None, deleted_at=moment, edited_at=moment, reply_to=1),
        room.put("of an erased account", sender=None),
        room.put("group was renamed", kind="system", sender=None),
        *(
            room.put("time", created_at=moment.replace(microsecond=micros), edited_at=edited)
            for micros in (0, 1, 10, 100_000, 120_000, 999_999)
            for edited in (None, moment.replace(microsecond=micros))
        ),
        room.put("long ago", created_at=datetime(1999, 12, 31, 23, 59, 59, 999_999, UTC)),
        room.put("far ahead", seq=2**53 - 1, rev=2**53 - 1),
    ]
    Message.objects.bulk_create(rows)
    same(room.wanted(head=2**53 - 1))


def test_every_character_is_written_as_in_its_object(room: Room) -> None:
    characters = [chr(code) for code in range(1, 0x110000) if not 0xD800 <= code <= 0xDFFF]
    bodies = ["".join(characters[first : first + 4000]) for first in range(0, len(characters), 4000)]
    Message.objects.bulk_create([room.put(body) for body in bodies])
    same(room.wanted())


def test_the_event_is_the_one_that_was_sent_live(world: World) -> None:
    alice, _ = world.friends("alice", "bob")
    (message,) = world.say(alice, "bob", 'it\'s "me"\n\u2028')
    part = one(Wanted(message.conversation, 0, 1, 0, 0))
    assert part.payloads == [codec.encode(frames.Message(message))]


@pytest.mark.parametrize("rows", [1, 3, 10, 11])
def test_a_reader_gets_so_many_messages_at_most(room: Room, world: World, rows: int) -> None:
    room.fill(4)
    other = Room.__new__(Room)
    other.alice, other.head = room.alice, 0
    other.row = Conversation.objects.create(kind="group", title="Other")
    other.id = str(other.row.pk)
    other.fill(6)
    read: list[tuple[str, int]] = []
    wanted = [room.wanted(), other.wanted()]
    while wanted:
        (found,) = parts.read([(wanted, rows)])
        assert sum(len(part.payloads) for part in found) <= rows
        read += [(part.conversation, rev) for part in found for rev in part.revs]
        for want, part in zip(wanted, found, strict=True):
            want.after = part.end
        wanted = [want for want in wanted if want.after < want.head]
    assert read == [*((room.id, rev) for rev in range(1, 5)), *((other.id, rev) for rev in range(1, 7))]


def test_revs_that_were_superseded_are_no_reason_to_ask_again(room: Room) -> None:
    room.fill(2)
    Message.objects.filter(rev=2).update(rev=100)
    assert one(room.wanted(head=50), rows=10).end == 50
    part = one(room.wanted(head=100), rows=2)
    assert (part.revs, part.end) == ([1, 100], 100)


def test_what_a_member_may_not_see_is_left_out_and_passed(room: Room) -> None:
    room.fill(5)
    part = one(room.wanted(hidden_to=3))
    assert (part.revs, part.end) == ([4, 5], 5)
    part = one(room.wanted(hidden_to=3), rows=2)
    assert (part.revs, part.payloads, part.end, part.frames()) == ([], [], 2, b"")


@pytest.mark.parametrize("state_rev", [1, 3, 6])
def test_a_changed_state_has_its_place(room: Room, state_rev: int) -> None:
    rows = [room.put(str(number)) for number in range(5)]
    for row in rows:
        row.rev += row.rev >= state_rev
    Message.objects.bulk_create(rows)
    same(room.wanted(head=6, state_rev=state_rev))
    assert one(room.wanted(head=6, state_rev=state_rev)).revs == [1, 2, 3, 4, 5, 6]
    assert one(room.wanted(after=3, head=6, state_rev=state_rev)).revs == [4, 5, 6]


def test_a_direct_conversation_opens_once(world: World) -> None:
    alice, _ = world.friends("alice", "bob")
    conversation = world.say(alice, "bob", "1", "2")[0].conversation
    wanted = Wanted(conversation, 0, 2, 0, 0, direct=True)
    same(wanted)
    part = one(wanted, rows=1)
    assert (part.revs, part.end) == ([0, 1], 1)
    wanted.after = 1
    assert one(wanted, rows=1).revs == [2]


def test_several_who_want_the_same_share_it(room: Room) -> None:
    room.fill(3)
    first, second, third = parts.read(
        [([room.wanted()], 10), ([room.wanted(after=1)], 10), ([room.wanted()], 10)]
    )
    assert first[0] is third[0]
    assert first[0].frames() is third[0].frames()
    assert second[0].revs == [2, 3]


def test_several_get_the_state_of_one_conversation_each_at_its_place(room: Room) -> None:
    room.fill(3)
    wanted = [room.wanted(head=4, state_rev=4), room.wanted(after=2, head=4, state_rev=4)]
    before, after = (found[0] for found in parts.read([([want], 10) for want in wanted]))
    assert (before.revs, after.revs) == ([1, 2, 3, 4], [3, 4])


@pytest.mark.cluster
def test_a_message_that_changes_again_while_it_is_read_is_left_to_a_later_part(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    room.fill(3)
    Message.objects.filter(rev__in=(1, 2)).update(edited_at=datetime.now(UTC))
    execute = parts._execute

    def meanwhile(parameters: list[bytes]) -> Any:
        result = execute(parameters)
        Message.objects.filter(rev=2).update(rev=4, body="again")
        return result

    monkeypatch.setattr(parts, "_execute", meanwhile)
    assert one(room.wanted()).revs == [1, 3]
    monkeypatch.undo()
    part = one(room.wanted(after=3, head=4))
    assert b'"body":"again"' in part.payloads[0]


@pytest.mark.cluster
def test_plain_messages_become_no_objects(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    room.fill(3)
    monkeypatch.setattr(selectors, "message_from_row", None)
    assert len(one(room.wanted()).payloads) == 3


@pytest.mark.cluster
def test_the_statement_goes_by_indexes_in_a_large_table(room: Room) -> None:
    """However many rows and users there are: no table is read whole."""
    room.fill(10)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO messaging_message (id, conversation_id, seq, rev, client_id, kind, body, created_at)"
            " SELECT gen_random_uuid(), (md5((n / 100)::text))::uuid, n % 100, n % 100, gen_random_uuid(),"
            " 'text', 'x', now() FROM generate_series(1, 20000) n"
        )
        cursor.execute(
            "INSERT INTO accounts_user SELECT (jsonb_populate_record(u, jsonb_build_object('id', gen_random_uuid(),"
            " 'username', 'many' || n, 'email', NULL))).* FROM accounts_user u, generate_series(1, 3000) n"
            " WHERE u.id = %s",
            [room.alice.pk],
        )
        cursor.execute("ANALYZE messaging_message, accounts_user")
        statement = parts.STATEMENT
        for number, value in enumerate((f"{{{room.id}}}", "{0}", "{10}", "{0}", "{10}"), 1):
            statement = statement.replace(f"${number}", f"'{value}'")
        cursor.execute("EXPLAIN " + statement.replace("%", "%%"))
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert "Seq Scan" not in plan, plan


def test_ids_are_not_below_the_floor_of_their_moment() -> None:
    before = datetime.now(UTC)
    assert ids.uuid7_floor(before) <= ids.uuid7()
    assert ids.uuid7() < ids.uuid7_floor(before.replace(year=before.year + 1))
