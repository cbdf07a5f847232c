"""Conversations read by rev: for `sync`, for the gaps that the hub finds, and for `changes`.

Two statements are enough: first the head of each conversation, then the rows with
after < rev ≤ head. A message that changes between the two has left that range for a higher rev,
and is read from there in the next round; so a page never shows a change and skips an older one.
"""

from __future__ import annotations

import json
import secrets
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Final
from uuid import UUID

import msgspec
from django.db import connection
from django.db.models import F, Q, QuerySet

from accounts import selectors as accounts
from accounts.models import User
from chatbe.core import clock
from chatbe.core.errors import NotFound
from chatbe.hub.database import Row, Value, put_by_loop
from chatbe.hub.outbox import UNKNOWN
from chatbe.wire import frames
from messaging import selectors
from messaging.models import Conversation, Epoch, Membership

MARKS_BYTES: Final = 128 * 1024


@dataclass(slots=True)
class Stream:
    """One member's view of a conversation: where it stands, and what of it is theirs."""

    user: str
    conversation: str
    direct: bool
    head: int
    state_rev: int
    hidden_to: int
    """Messages up to this seq are not theirs to see."""
    joined_rev: int
    """The rev of their joining; 0 in direct conversations."""
    left_rev: int
    """The rev at which they last left; 0: never."""
    active: bool
    created_at: datetime
    """The conversation's."""
    muted_until: datetime | None

    def resume(self, rev: int) -> Resumption:
        """How the stream goes on for a client of this member that has it up to `rev`; UNKNOWN: that does not have it.

        What a client had of an earlier membership it drops: what of it is theirs to see may be another part now.
        """
        if self.direct:
            return Resumption(max(rev, 0))
        if rev >= self.joined_rev:
            return Resumption(rev)
        ended = 0 <= rev < self.left_rev
        # Rows may come before the group's latest state: then that is told first, in place of the joining.
        late = self.state_rev > self.joined_rev
        if ended or rev < 0 or self.hidden_to:
            return Resumption(self.joined_rev if late else self.joined_rev - 1, ended=ended, opens=late)
        # It asks for what was before the joining too, and may see it. Where it is past its leaving (or the
        # beginning) it has been told the state, and has read on from there.
        return Resumption(rev, opens=late and rev == self.left_rev and rev < self.joined_rev - 1)

    def from_the_beginning(self) -> Resumption:
        """How the stream begins for a client that asks for all that the member may see."""
        if self.direct:
            return Resumption(0)
        return self.resume(UNKNOWN) if self.hidden_to else Resumption(0, opens=self.state_rev > 1)


@dataclass(frozen=True, slots=True)
class Resumption:
    """Where a client's stream of a conversation goes on, and what it is told first."""

    start: int
    """The rev after which it reads."""
    ended: bool = False
    """That the membership which it knew has ended."""
    opens: bool = False
    """The conversation's latest state, which stands at `start`."""


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
            (SELECT concat_ws(' ', c.kind, c.head_rev, c.state_rev, extract(epoch FROM c.created_at))
               FROM messaging_conversation c WHERE c.id = m.conversation_id),
            m.joined_seq, m.joined_rev, m.left_rev, m.active, extract(epoch FROM m.muted_until)
       FROM messaging_membership m
      WHERE m.user_id = $1::uuid
      ORDER BY m.conversation_id"""


def _user_value(user: UUID) -> list[Value]:
    return [str(user).encode()]


def _moment(seconds: str) -> datetime:
    """The time of an `extract(epoch FROM …)`, which has six decimals."""
    whole, _, micros = seconds.partition(".")
    return datetime.fromtimestamp(int(whole), UTC).replace(microsecond=int(micros or 0))


def _streams_from_text(rows: list[Row], user: UUID) -> list[Stream]:
    key, streams = str(user), []
    for conversation, stands, hidden, joined, left, active, muted in rows:
        if conversation is not None and stands is not None:
            kind, head, state, created = stands.decode().split(" ")
            streams.append(
                Stream(
                    key,
                    conversation.decode(),
                    kind == Conversation.Kind.DIRECT,
                    int(head),
                    int(state),
                    int(hidden or 0),
                    int(joined or 0),
                    int(left or 0),
                    active == b"t",
                    _moment(created),
                    None if muted is None else _moment(muted.decode()),
                )
            )
    return streams


@put_by_loop(STREAMS_OF, values=_user_value, answer=_streams_from_text)
def streams_of(user: UUID) -> list[Stream]:
    """Every conversation that the user is or was a member of, with its head; one statement."""
    return _streams(Membership.objects.filter(user=user))


def reserved_among(users: Collection[str]) -> set[str]:
    """Those of the users who have turned read receipts off."""
    rows = User.objects.filter(id__in=users, read_receipts=False).values_list("id", flat=True)
    return {str(user) for user in rows}


def group_streams(users: Collection[str], conversations: Collection[str] | None) -> list[Stream]:
    """As `streams_of`, of several users, in these groups (None: in all of theirs)."""
    rows = Membership.objects.filter(user__in=map(UUID, users), conversation__kind=Conversation.Kind.GROUP)
    return _streams(rows if conversations is None else rows.filter(conversation__in=map(UUID, conversations)))


def _streams(memberships: QuerySet[Membership]) -> list[Stream]:
    rows = memberships.order_by("conversation_id").values_list(
        "user_id",
        "conversation_id",
        "conversation__kind",
        "conversation__head_rev",
        "conversation__state_rev",
        "joined_seq",
        "joined_rev",
        "left_rev",
        "active",
        "conversation__created_at",
        "muted_until",
    )
    return [
        Stream(
            str(user),
            str(conversation),
            kind == Conversation.Kind.DIRECT,
            head,
            state,
            hidden,
            joined,
            left,
            active,
            created,
            muted,
        )
        for user, conversation, kind, head, state, hidden, joined, left, active, created, muted in rows
    ]


def ended(conversation: str, *, rev: int, created_at: datetime) -> frames.Conversation:
    """What a former member gets at the rev of their leaving. It tells nothing of the group, so that it is the
    same whenever it is read."""
    return frames.Conversation(
        frames.ConversationObject(
            id=conversation,
            kind=Conversation.Kind.GROUP.value,
            title=None,
            rev=rev,
            last_seq=0,
            member_count=0,
            members=[],
            created_at=clock.timestamp(created_at),
            description="",
            history=None,
            purged_seq=0,
        ),
        member=False,
    )


def opened(at: Mapping[str, int]) -> list[frames.Conversation]:
    """The state of conversations before any row is read, each at the rev that its stream begins with."""
    objects = selectors.conversation_objects([UUID(conversation) for conversation in at])
    events: list[frames.Conversation] = []
    for conversation, rev in at.items():
        state = objects.get(UUID(conversation))
        if state is not None:
            state.rev = rev
            events.append(frames.Conversation(state))
    return events


def no_longer_members(conversation: str, followers: dict[str, int]) -> set[str]:
    """Those of a group's followers, given with the rev of their joining, who are not the same members any more."""
    rows = Membership.objects.filter(
        conversation=UUID(conversation), user__in=map(UUID, followers), active=True
    )
    joined = {str(user): rev for user, rev in rows.values_list("user_id", "joined_rev")}
    return {user for user, since in followers.items() if joined.get(user) != since}


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
    m.created_at, m.edited_at, m.deleted_at, m.mentions, m.attachments, m.reacted"""

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


def _messages(wanted: Sequence[Wanted], limit: int) -> list[frames.MessageObject]:
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
            rows = cursor.fetchall()
        else:
            parts = json.dumps([[UUID(w.conversation).hex, w.after, w.head] for w in wanted])
            cursor.execute(SQLITE, [parts, limit])
            rows = [_from_sqlite(row) for row in cursor.fetchall()]
    return selectors.messages_from_rows(rows)


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


@dataclass(slots=True)
class Own:
    """What a user is told of their conversations beside the stream."""

    marks: dict[str, selectors.Marks] = field(default_factory=dict)
    """What they may know of the (read, delivered) of active members, in conversations that have begun. In large
    groups, one's own only. In a direct conversation of whose two one has blocked the other, nothing of theirs."""
    muted: list[frames.Muted] = field(default_factory=list)
    """What they have muted, and what they once had: devices that were away learn of both."""


# By look-ups, as above; of a large group no other member is read.
OWN_OF = f"""
     SELECT r.conversation_id, c.begun, m.user_id = r.user_id,
            (SELECT concat(u.read_receipts::int, u.username) FROM accounts_user u WHERE u.id = m.user_id),
            m.read_seq, m.delivered_seq, extract(epoch FROM m.muted_until),
            c.direct AND m.user_id <> r.user_id AND (
                EXISTS (SELECT FROM accounts_block b WHERE b.blocker_id = r.user_id AND b.blocked_id = m.user_id)
                OR EXISTS (SELECT FROM accounts_block b WHERE b.blocker_id = m.user_id AND b.blocked_id = r.user_id))
       FROM messaging_membership r
      CROSS JOIN LATERAL (
            SELECT v.kind = 'direct' AS direct, v.head_rev > 0 AS begun, v.member_count
              FROM messaging_conversation v WHERE v.id = r.conversation_id OFFSET 0) c
      CROSS JOIN LATERAL (
            SELECT r.user_id, r.read_seq, r.delivered_seq, r.muted_until WHERE c.begun OR r.muted_until IS NOT NULL
             UNION ALL
            SELECT x.user_id, x.read_seq, x.delivered_seq, NULL
              FROM messaging_membership x
             WHERE c.begun AND c.member_count <= {selectors.RECEIPTS_TOLD}
               AND x.conversation_id = r.conversation_id AND x.user_id <> r.user_id AND x.active OFFSET 0) m
      WHERE r.user_id = $1::uuid AND r.active"""  # noqa: S608 - a constant


def _own_from_text(rows: list[Row], user: UUID) -> Own:  # noqa: ARG001 - answers have the question's arguments
    members = []
    for conversation, begun, mine, member, read_seq, delivered_seq, muted, blocked in rows:
        if conversation is not None and member is not None:
            members.append((
                conversation.decode(), begun == b"t", mine == b"t", member[1:].decode(), int(read_seq or 0),
                int(delivered_seq or 0), None if muted is None else _moment(muted.decode()), member[:1] == b"1",
                blocked == b"t",
            ))  # fmt: skip
    return _own(members)


_OwnRow = tuple[str, bool, bool, str, int, int, datetime | None, bool, bool]
"""Conversation, begun, whether the member is the reader, name, read, delivered, muted until, whether their
receipts are shown, whether one has blocked the other of a direct conversation."""


def _own(members: Sequence[_OwnRow]) -> Own:
    """What one reader is told, from the members of their conversations."""
    own = Own()
    marks, muted = own.marks, own.muted
    reserved = any(mine and not shown for _, _, mine, *_, shown, _ in members)
    for conversation, begun, mine, username, read_seq, delivered_seq, until, shown, blocked in members:
        if begun:
            if blocked:
                told = (0, 0)
            elif mine or (shown and not reserved):
                told = (read_seq, delivered_seq)
            else:
                told = (0, delivered_seq)
            if conversation in marks:
                marks[conversation][username] = told
            else:
                marks[conversation] = {username: told}
        if mine and until is not None:
            muted.append(frames.Muted(conversation, clock.optional_timestamp(selectors.muted_until(until))))
    muted.sort(key=attrgetter("conversation"))
    return own


@put_by_loop(OWN_OF, values=_user_value, answer=_own_from_text)
def own_of(user: UUID) -> Own:
    """What a user is told of their conversations; two statements."""
    return _own_of([user], None)[0]


def _own_of(users: Sequence[UUID], conversations: Collection[str] | None) -> list[Own]:
    rows = Membership.objects.filter(
        Q(conversation__member_count__lte=selectors.RECEIPTS_TOLD)
        | Q(user=F("conversation__memberships__user")),
        Q(conversation__head_rev__gt=0)
        | Q(user=F("conversation__memberships__user"), muted_until__isnull=False),
        active=True,
        conversation__memberships__user__in=users,
        conversation__memberships__active=True,
    )
    if conversations is not None:
        rows = rows.filter(conversation__in=map(UUID, conversations))
    members = rows.values_list(
        "conversation__memberships__user_id", "conversation_id", "conversation__kind", "conversation__head_rev",
        "user_id", "user__username", "read_seq", "delivered_seq", "muted_until", "user__read_receipts",
    )  # fmt: skip
    blocked = accounts.blocks_around(users=users)
    found: dict[UUID, list[_OwnRow]] = {user: [] for user in users}
    for reader, conversation, kind, head, member, username, read_seq, delivered_seq, muted, shown in members:
        apart = kind == Conversation.Kind.DIRECT and (reader, member) in blocked
        found[reader].append((
            str(conversation), head > 0, member == reader, username, read_seq, delivered_seq, muted, shown, apart,
        ))  # fmt: skip
    return [_own(found[user]) for user in users]


def marks_of(
    users: Sequence[UUID], conversations: Collection[str] | None = None
) -> list[dict[str, selectors.Marks]]:
    """The marks alone of `own_of`, of several users, or of some of their conversations; two statements for all."""
    return [own.marks for own in _own_of(users, conversations)]


def marks_chunks(marks: Mapping[str, selectors.Marks]) -> Iterator[dict[str, selectors.Marks]]:
    """The marks in parts that fit into a frame each; at least one."""
    chunk: dict[str, selectors.Marks] = {}
    size = 0
    for conversation, members in marks.items():
        chunk[conversation] = members
        size += 50 + 60 * len(members)
        if size > MARKS_BYTES:
            yield chunk
            chunk, size = {}, 0
    if chunk or not marks:
        yield chunk


def marks_told(
    *, conversation: UUID, usernames: Collection[str] | None
) -> tuple[selectors.Marks, selectors.Marks]:
    """The marks of some active members (None: of all) as the others see them, and in their reserved form."""
    rows = Membership.objects.filter(conversation=conversation, active=True)
    if usernames is not None:
        rows = rows.filter(user__username__in=usernames)
    members = list(
        rows.order_by("user_id").values_list(
            "user__username", "read_seq", "delivered_seq", "user__read_receipts"
        )
    )
    told = {username: (read if shown else 0, delivered) for username, read, delivered, shown in members}
    return told, {username: (0, delivered) for username, _, delivered, _ in members}


def typing_audience(*, user: UUID, conversation: UUID) -> tuple[list[UUID], bool]:
    """Who is told that `user` types: the other of a direct conversation, nobody after a block, and False.

    Of a group: those who are not told, since they have blocked `user`, and True. Raises `NotFound`
    for those who are not members.
    """
    kind = (
        Membership.objects.filter(user=user, conversation=conversation, active=True)
        .values_list("conversation__kind", flat=True)
        .first()
    )
    if kind is None:
        raise NotFound("There is no such conversation, or none that you may see.")
    others = Membership.objects.filter(conversation=conversation, active=True).exclude(user=user)
    if kind == Conversation.Kind.GROUP:
        blockers = accounts.blockers_of(user=user)
        return list(blockers.filter(memberships__in=others).values_list("id", flat=True)), True
    direct = others.values_list("user_id", flat=True)
    return [other for other in direct if not accounts.blocked_either_way(one=user, other=other)], False


def changes(
    *, user_id: UUID, conversation: UUID, since: int, limit: int
) -> tuple[list[frames.Event], int, bool]:
    """What changed in a conversation after `since`: events in rev order, the rev to go on from, and whether
    there is more; of a `since` that is ahead of the database, that it was reset. Raises `NotFound` for those who are
    not members."""
    found = _streams(Membership.objects.filter(user=user_id, conversation=conversation, active=True))
    if not found:
        raise NotFound
    (item,) = found
    if since > item.head:
        (event,) = opened({item.conversation: item.head})
        event.reset = True
        return [event], item.head, False
    events: list[frames.Event] = []
    resumption = item.resume(since)
    if resumption.ended:
        events.append(ended(item.conversation, rev=item.left_rev, created_at=item.created_at))
    if resumption.opens and resumption.start > since:
        # Else nothing of theirs is skipped, and the state comes at its own rev.
        events += opened({item.conversation: resumption.start})
    since = resumption.start
    if since >= item.head:
        return events, max(item.head, since), False
    want = Wanted(item.conversation, since, item.head, item.state_rev, item.hidden_to)
    pieces, cursors = read([want], limit=limit)
    rev = cursors[item.conversation]
    return events + [piece.event for piece in pieces], rev, rev < item.head


def epoch() -> str:
    """The name of this database's history; a database that has none yet gets one."""
    row, _ = Epoch.objects.get_or_create(pk=1, defaults={"value": secrets.token_hex(8)})
    return row.value
