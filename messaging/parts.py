"""Parts of conversations as sockets get them: JSON events in rising rev, made by the database.

The same as `messaging.stream.read`, without an object per message: a socket that comes back may
have missed thousands. Readers that ask at about the same time are answered together.
"""

from __future__ import annotations

import weakref
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import psycopg
from django.db import connection
from psycopg import errors, pq

from chatbe.wire import codec, frames
from chatbe.wire.websocket import encode_text_frame
from messaging import selectors, stream
from messaging.models import Message
from messaging.stream import Piece, Wanted


@dataclass(slots=True)
class Part:
    """What was read of one wanted part. Not changed once it was given, so that several may have it."""

    conversation: str
    end: int
    """The rev at which the reading ended; below the wanted head there is more."""
    revs: list[int]
    payloads: list[bytes]
    """Each event's JSON; its rev has the same place in `revs`."""
    _frames: bytes | None = field(default=None, init=False)

    def frames(self) -> bytes:
        """All its events as WebSocket frames; made once for all who have it."""
        if self._frames is None:
            self._frames = b"".join(map(encode_text_frame, self.payloads))
        return self._frames


def read(requests: list[tuple[list[Wanted], int]]) -> list[list[Part]]:
    """What each of several readers wants, with how many messages at most; blocking, a few statements for all.

    A reader's parts are filled in their order: the last ones may stay empty. What several want in the
    same words is read once.
    """
    places: dict[tuple[str, int, int, int, int], int] = {}
    wanted: list[Wanted] = []
    limits: list[int] = []
    answers: list[list[int]] = []
    for parts, rows in requests:
        answer = []
        for want in parts:
            # No rev has two messages, so no more of them can be there.
            limit = min(want.head - want.after, rows)
            rows -= limit  # noqa: PLW2901 - what is left for the reader's next part
            place = places.setdefault(
                (want.conversation, want.after, want.head, want.hidden_to, limit), len(wanted)
            )
            if place == len(wanted):
                wanted.append(want)
                limits.append(limit)
            answer.append(place)
        answers.append(answer)
    found = (_from_postgres if connection.vendor == "postgresql" else _from_objects)(wanted, limits)
    return [[found[place] for place in answer] for answer in answers]


def _from_objects(wanted: Sequence[Wanted], limits: Sequence[int]) -> list[Part]:
    """By way of `stream.read`: for databases that do not make the JSON."""
    found: dict[int, Part] = {}
    rounds: list[dict[str, int]] = []
    for place, (want, limit) in enumerate(zip(wanted, limits, strict=True)):
        if limit == want.head - want.after:
            # What is wanted to its end goes together, each conversation once.
            turn = next((turn for turn in rounds if want.conversation not in turn), None)
            if turn is None:
                rounds.append(turn := {})
            turn[want.conversation] = place
        elif limit:
            found[place] = _part_of(want, *stream.read([want], limit=limit))
        else:
            found[place] = Part(want.conversation, want.after, [], [])
    for turn in rounds:
        pieces, ends = stream.read([wanted[place] for place in turn.values()], limit=max(limits) + 1)
        for conversation, place in turn.items():
            own = [piece for piece in pieces if piece.conversation == conversation]
            found[place] = _part_of(wanted[place], own, ends)
    return [found[place] for place in range(len(wanted))]


def _part_of(want: Wanted, pieces: Sequence[Piece], ends: Mapping[str, int]) -> Part:
    revs = [piece.rev for piece in pieces]
    return Part(
        want.conversation, ends[want.conversation], revs, [codec.encode(piece.event) for piece in pieces]
    )


# --- PostgreSQL --------------------------------------------------------------------------------------------

PLAIN: Final = (
    "m.edited_at IS NULL AND m.deleted_at IS NULL AND m.body IS NOT NULL"
    " AND m.attachments IS NULL AND m.mentions IS NULL AND NOT m.reacted"
)
"""Messages of which PostgreSQL makes the JSON. Of others it gives the id after `NAMED`, and they become
objects first: whatever they have that plain ones have not is put into the object in one place."""
NAMED: Final = b"!"

PLAIN_JSON: Final[Mapping[str, tuple[str, ...]]] = {
    "id": ("'\"'", "m.id", "'\"'"),
    "conversation": ("'\"'", "m.conversation_id", "'\"'"),
    "seq": ("m.seq",),
    "rev": ("m.rev",),
    "kind": ("'\"'", "m.kind", "'\"'"),
    "sender": ("coalesce(to_json(u.username)::text, 'null')",),
    "body": ("to_json(m.body)",),
    "client_id": ("'\"'", "m.client_id", "'\"'"),
    "reply_to": ("coalesce(m.reply_to::text, 'null')",),
    "reactions": ("'{}'",),
    "created_at": (
        "'\"'",
        "to_char(m.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
        "'\"'",
    ),
    "edited_at": ("'null'",),
    "deleted_at": ("'null'",),
    "attachments": ("'[]'",),
}
"""The fields of a plain message's object, each as arguments of `concat` that give its JSON."""
UNSET_WHEN_PLAIN: Final = frozenset({"mentions"})
"""Fields that the object of a plain message has not."""


def _plain_message() -> str:
    """The `message` event of a plain message, in SQL; the object's fields and their order are those of its Struct."""
    arguments = ["""'{"type":"message","message":{'"""]
    for number, name in enumerate(
        name for name in frames.MessageObject.__struct_fields__ if name not in UNSET_WHEN_PLAIN
    ):
        for argument in (f"""'{"," if number else ""}"{name}":'""", *PLAIN_JSON[name]):
            if argument.startswith("'") and arguments[-1].startswith("'"):
                # `concat` takes its time for each argument: constants that are neighbours are one.
                arguments[-1] = arguments[-1][:-1] + argument[1:]
            else:
                arguments.append(argument)
    return f"concat({', '.join(arguments)}, '}}}}')"


# A row per part, so that little is sent and taken in. Everything goes by an index: the part's rows by
# (conversation, rev), the senders by their key.
STATEMENT: Final = f"""
    SELECT p.*, w.place
      FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
           WITH ORDINALITY AS w(id, after, head, hidden_to, rows, place)
     CROSS JOIN LATERAL (
           SELECT string_agg(CASE WHEN {PLAIN} THEN {_plain_message()} ELSE concat('{NAMED.decode()}', m.id) END,
                             E'\\n' ORDER BY m.rev) FILTER (WHERE m.seq > w.hidden_to),
                  string_agg(m.rev::text, ',' ORDER BY m.rev) FILTER (WHERE m.seq > w.hidden_to),
                  count(*), max(m.rev)
             FROM (SELECT * FROM messaging_message x
                    WHERE x.conversation_id = w.id AND x.rev > w.after AND x.rev <= w.head
                    ORDER BY x.rev LIMIT w.rows) m
             LEFT JOIN accounts_user u ON u.id = m.sender_id) p"""  # noqa: S608 - constants of this module
PREPARED: Final = b"chatbe_parts"

_prepared: weakref.WeakSet[psycopg.Connection[Any]] = weakref.WeakSet()
"""Connections that know the statement: planning it takes as long as running it."""


def _from_postgres(wanted: Sequence[Wanted], limits: Sequence[int]) -> list[Part]:
    result = _execute([
        _array(want.conversation for want in wanted),
        _array(want.after for want in wanted),
        _array(want.head for want in wanted),
        _array(want.hidden_to for want in wanted),
        _array(limits),
    ])  # fmt: skip
    value = result.get_value
    # A JSON text has no line feed of its own.
    parts = []
    named = []
    rows = {int(value(row, 4) or 0): row for row in range(result.ntuples)}
    for place, (want, limit) in enumerate(zip(wanted, limits, strict=True), 1):
        row = rows[place]
        text, revs = value(row, 0), value(row, 1)
        full = int(value(row, 2) or 0) == limit < want.head - want.after
        part = Part(want.conversation, int(value(row, 3) or want.after) if full else want.head, [], [])
        if text and revs:
            part.payloads = text.split(b"\n")
            part.revs = list(map(int, revs.split(b",")))
            if text.startswith(NAMED) or b"\n" + NAMED in text:
                named.append(part)
        parts.append(part)
    if named:
        _put_named(named)
    states = stream.states_of(wanted)
    if states:
        for part, want, limit in zip(parts, wanted, limits, strict=True):
            state = stream.state_within(want, states, part.end) if limit else None
            if state is not None:
                place = bisect_right(part.revs, state.rev)
                part.revs.insert(place, state.rev)
                part.payloads.insert(place, codec.encode(frames.Conversation(state)))
    return parts


def _put_named(parts: Sequence[Part]) -> None:
    """Put in the messages that were only named; one statement."""
    names = [payload for part in parts for payload in part.payloads if payload.startswith(NAMED)]
    rows = Message.objects.filter(id__in=[UUID(name[len(NAMED) :].decode()) for name in names])
    messages = {
        NAMED + message.id.encode(): message
        for message in selectors.messages_from_rows(rows.values_list(*selectors.MESSAGE_FIELDS))
    }
    for part in parts:
        revs, payloads = [], []
        for rev, payload in zip(part.revs, part.payloads, strict=True):
            if not payload.startswith(NAMED):
                revs.append(rev)
                payloads.append(payload)
            # One that has changed since has left this part for a later one.
            elif (message := messages.get(payload)) is not None and message.rev == rev:
                revs.append(rev)
                payloads.append(codec.encode(frames.Message(message)))
        part.revs, part.payloads = revs, payloads


def _array(values: Iterable[object]) -> bytes:
    """An array as PostgreSQL reads it, of values that need no quoting."""
    return f"{{{','.join(map(str, values))}}}".encode()


def _execute(parameters: list[bytes]) -> pq.abc.PGresult:
    """Run the statement on Django's connection of this thread, within its transaction if there is one."""
    connection.ensure_connection()
    raw: psycopg.Connection[Any] = connection.connection
    if raw not in _prepared:
        _check(raw, raw.pgconn.prepare(PREPARED, STATEMENT.encode()), pq.ExecStatus.COMMAND_OK)
        _prepared.add(raw)
    result = raw.pgconn.exec_prepared(PREPARED, parameters)
    _check(raw, result, pq.ExecStatus.TUPLES_OK)
    return result


def _check(raw: psycopg.Connection[Any], result: pq.abc.PGresult, expected: pq.ExecStatus) -> None:
    if result.status == expected:
        return
    if raw.pgconn.status == pq.ConnStatus.BAD:
        raise psycopg.OperationalError(result.error_message.decode(errors="replace"))
    raise errors.error_from_result(result)
