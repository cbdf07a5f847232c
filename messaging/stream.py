"""Conversations read by rev: for `sync`, for the gaps that the hub finds, and for `changes`.

Two statements are enough: first the head of each conversation, then the rows with
after < rev ≤ head. A message that changes between the two has left that range for a higher rev,
and is read from there in the next round; so a page never shows a change and skips an older one.
"""

from __future__ import annotations

import json
import secrets
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any
from uuid import UUID

import msgspec
from django.db import connection

from accounts import selectors as accounts
from chatbe.core.errors import NotFound
from chatbe.hub.database import Row, Value, put_by_loop
from chatbe.wire import frames
from messaging import selectors
from messaging.models import Conversation, Epoch, Membership


@dataclass(slots=True)
class Stream:
    """One member's view of a conversation: where it stands, and what of it is theirs."""

    conversation: str
    direct: bool
    head: int
    state_rev: int
    hidden_to: int
    begins: int
    """The rev before the first that the member may see."""
    active: bool


@dataclass(slots=True)
class Wanted:
    """A part of a conversation to read: the revs after `after` up to `head`, messages after `hidden_to`."""

    conversation: str
    after: int
    head: int
    state_rev: int
    hidden_to: int
    direct: bool = False
    """A direct conversation that is read from its beginning begins with its `conversation` event, of rev 0."""


@dataclass(slots=True)
class Piece:
    """One event of a conversation, in rising rev."""

    conversation: str
    rev: int
    seq: int
    event: frames.Event


# A look-up in place of a join, which the planner may turn into a walk through all conversations.
STREAMS_OF = """
    SELECT m.conversation_id,
           (SELECT concat_ws(' ', c.kind, c.head_rev, c.state_rev)
              FROM messaging_conversation c WHERE c.id = m.conversation_id),
           m.joined_seq, m.joined_rev, m.active
      FROM messaging_membership m
     WHERE m.user_id = $1::uuid
     ORDER BY m.conversation_id"""


def _user_value(user: UUID) -> list[Value]:
    return [str(user).encode()]


def _streams(rows: list[Row], _user: UUID) -> list[Stream]:
    streams = []
    for conversation, stands, hidden, joined, active in rows:
        if conversation is not None and stands is not None:
            kind, head, state = stands.decode().split(" ")
            streams.append(
                Stream(
                    conversation.decode(),
                    kind == Conversation.Kind.DIRECT,
                    int(head),
                    int(state),
                    int(hidden or 0),
                    max(int(joined or 0) - 1, 0),
                    active == b"t",
                )
            )
    return streams


@put_by_loop(STREAMS_OF, values=_user_value, answer=_streams)
def streams_of(user: UUID) -> list[Stream]:
    """Every conversation that the user is or was a member of, with its head; one statement."""
    rows = (
        Membership.objects.filter(user=user)
        .order_by("conversation_id")
        .values_list(
            "conversation_id",
            "conversation__kind",
            "conversation__head_rev",
            "conversation__state_rev",
            "joined_seq",
            "joined_rev",
            "active",
        )
    )
    return [
        Stream(
            str(conversation),
            kind == Conversation.Kind.DIRECT,
            head,
            state,
            hidden,
            max(joined - 1, 0),
            active,
        )
        for conversation, kind, head, state, hidden, joined, active in rows
    ]


def heads(conversations: Sequence[str]) -> dict[str, tuple[int, int, bool]]:
    """Head rev and state rev of each conversation that exists, and whether it is direct."""
    rows = Conversation.objects.filter(id__in=conversations).values_list(
        "id", "head_rev", "state_rev", "kind"
    )
    return {
        str(conversation): (head, state, kind == Conversation.Kind.DIRECT)
        for conversation, head, state, kind in rows
    }


def read(wanted: Sequence[Wanted], *, limit: int) -> tuple[list[Piece], dict[str, int]]:
    """The events of several conversations, at most about `limit` from each, and where each reading ended.

    Pieces of one conversation come together and in rising rev. A cursor that is below the wanted
    head says that there is more. What sockets get is read by `messaging.parts`, at a fraction of the cost.
    """
    pieces: list[Piece] = []
    cursors = {want.conversation: want.head for want in wanted}
    rows_of: dict[str, list[frames.MessageObject]] = {}
    for message in _messages(wanted, limit):
        rows_of.setdefault(message.conversation, []).append(message)
    states = states_of(wanted)
    for want in wanted:
        rows = rows_of.get(want.conversation, [])
        if len(rows) >= limit:
            cursors[want.conversation] = rows[-1].rev
        found = [
            Piece(want.conversation, message.rev, message.seq, frames.Message(message))
            for message in rows
            if message.seq > want.hidden_to
        ]
        state = state_within(want, states, cursors[want.conversation])
        if state is not None:
            place = bisect_right(found, state.rev, key=attrgetter("rev"))
            found.insert(place, Piece(want.conversation, state.rev, 0, frames.Conversation(state)))
        pieces += found
    return pieces, cursors


def _opens(want: Wanted) -> bool:
    return want.direct and want.after == 0


def states_of(wanted: Sequence[Wanted]) -> dict[UUID, frames.ConversationObject]:
    """The objects of those conversations whose state is, or may be, among what is wanted."""
    changed = [want for want in wanted if want.after < want.state_rev <= want.head or _opens(want)]
    return selectors.conversation_objects([UUID(want.conversation) for want in changed]) if changed else {}


def state_within(
    want: Wanted, states: Mapping[UUID, frames.ConversationObject], end: int
) -> frames.ConversationObject | None:
    """The conversation's latest state, with its own place in the stream as its rev, if that is not after `end`."""
    state = states.get(UUID(want.conversation)) if states else None
    if state is None:
        return None
    if _opens(want):
        rev = 0
    elif want.after < want.state_rev <= end:
        rev = want.state_rev
    else:
        return None
    # A copy: the conversation may be wanted from several places.
    return msgspec.structs.replace(state, rev=rev)


# `selectors.MESSAGE_FIELDS`, ids as text where the database can say so: cheaper than making UUIDs of them.
COLUMNS = """
    m.{id}, m.{conversation}, m.seq, m.rev, m.kind, u.username, m.body, m.{client_id}, m.reply_to,
    m.created_at, m.edited_at, m.deleted_at"""

POSTGRES = f"""
    SELECT {COLUMNS.format(id="id::text", conversation="conversation_id::text", client_id="client_id::text")}
      FROM unnest(%s::uuid[], %s::bigint[], %s::bigint[]) WITH ORDINALITY AS w(id, after, head, place)
     CROSS JOIN LATERAL (
           SELECT * FROM messaging_message x
            WHERE x.conversation_id = w.id AND x.rev > w.after AND x.rev <= w.head ORDER BY x.rev LIMIT %s) m
      LEFT JOIN accounts_user u ON u.id = m.sender_id
     ORDER BY w.place, m.rev"""  # noqa: S608 - constants of this module

SQLITE = f"""
    SELECT {COLUMNS.format(id="id", conversation="conversation_id", client_id="client_id")}
      FROM json_each(%s) w
      JOIN messaging_message m ON m.id IN (
           SELECT x.id FROM messaging_message x
            WHERE x.conversation_id = json_extract(w.value, '$[0]') AND x.rev > json_extract(w.value, '$[1]')
              AND x.rev <= json_extract(w.value, '$[2]') ORDER BY x.rev LIMIT %s)
      LEFT JOIN accounts_user u ON u.id = m.sender_id
     ORDER BY w.key, m.rev"""  # noqa: S608 - constants of this module


def _messages(wanted: Sequence[Wanted], limit: int) -> Iterable[frames.MessageObject]:
    """The message rows of every wanted part, part by part, in rising rev; one statement."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                POSTGRES,
                [
                    [w.conversation for w in wanted],
                    [w.after for w in wanted],
                    [w.head for w in wanted],
                    limit,
                ],
            )
            return [selectors.message_from_row(row) for row in cursor.fetchall()]
        parts = json.dumps([[UUID(w.conversation).hex, w.after, w.head] for w in wanted])
        cursor.execute(SQLITE, [parts, limit])
        return [selectors.message_from_row(_from_sqlite(row)) for row in cursor.fetchall()]


def _time_from_sqlite(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)


def _from_sqlite(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """SQLite keeps UUIDs as 32 hex digits and times without their zone, which is UTC."""
    values = list(row)
    for index in (0, 1, 7):
        values[index] = str(UUID(values[index]))
    for index in (9, 10, 11):
        values[index] = _time_from_sqlite(values[index])
    return tuple(values)


Marks = dict[str, dict[str, tuple[int, int]]]
"""Conversation → username → (read, delivered)."""


def marks_of(users: Sequence[UUID]) -> list[Marks]:
    """Of each user: every active member's marks in their conversations that have begun; one statement for all."""
    rows = (
        Membership.objects.filter(
            active=True,
            conversation__head_rev__gt=0,
            conversation__memberships__user__in=users,
            conversation__memberships__active=True,
        )
        .order_by("conversation_id", "user_id")
        .values_list(
            "conversation__memberships__user_id",
            "conversation_id",
            "user__username",
            "read_seq",
            "delivered_seq",
        )
    )
    found: dict[UUID, Marks] = {user: {} for user in users}
    for user, conversation, username, read_seq, delivered_seq in rows:
        found[user].setdefault(str(conversation), {})[username] = (read_seq, delivered_seq)
    return [found[user] for user in users]


def typing_audience(*, user: UUID, conversation: UUID) -> list[UUID] | None:
    """Who is told that `user` types: the other of a direct conversation, nobody after a block, or None: the
    members of a group. Raises `NotFound` for those who are not members."""
    members = list(
        Membership.objects.filter(conversation=conversation, active=True, conversation__kind=Conversation.Kind.DIRECT)
        .values_list("user_id", flat=True)
    )  # fmt: skip
    if user in members:
        others = [member for member in members if member != user]
        return [other for other in others if not accounts.blocked_either_way(one=user, other=other)]
    if not members and Membership.objects.filter(conversation=conversation, user=user, active=True).exists():
        return None
    raise NotFound


def changes(
    *, user_id: UUID, conversation: UUID, since: int, limit: int
) -> tuple[list[frames.Event], int, bool]:
    """What changed in a conversation after `since`: events in rev order, the rev to go on from, and whether
    there is more. Raises `NotFound` for those who are not members."""
    row = (
        Membership.objects.filter(user=user_id, conversation=conversation, active=True)
        .values_list("conversation__head_rev", "conversation__state_rev", "joined_seq", "joined_rev")
        .first()
    )
    if row is None:
        raise NotFound
    head, state_rev, hidden_to, joined_rev = row
    since = max(since, joined_rev - 1, 0)
    if since >= head:
        return [], max(head, since), False
    want = Wanted(str(conversation), since, head, state_rev, hidden_to)
    pieces, cursors = read([want], limit=limit)
    rev = cursors[str(conversation)]
    return [piece.event for piece in pieces], rev, rev < head


def epoch() -> str:
    """The name of this database's history; a database that has none yet gets one."""
    row, _ = Epoch.objects.get_or_create(pk=1, defaults={"value": secrets.token_hex(8)})
    return row.value
