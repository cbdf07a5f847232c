"""Search by segments (see postgres.sql): find those that may have a match, then read their messages.

What is too new to have a segment is read directly. Reading a message costs little until it has the
words: they are looked for in its text first, and only what has them is taken apart.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db import connection
from django.db.backends.utils import CursorWrapper

from messaging.search.base import CLOSE, OPEN, Answer, Asked, Match, Pieces, Position, Question, Scope, pieces

SCAN: Final = 30_000
"""So many messages one page reads, about; then it ends where it is."""
FIRST_RANGES: Final = 4
RANGES: Final = 128
"""So many segments are taken at once: few at first, since a common word needs no more."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FAR: Final = datetime(9000, 1, 1, tzinfo=UTC)
_LAST_ID: Final = UUID(int=2**128 - 1)
_TOKEN: Final = re.compile(r"'((?:[^']|'')*)'|<(?:-|\d+)>|[&|()]")
# Their small letter depends on what is around them or on the locale.
_UNSTEADY: Final = re.compile("[\u0130\u0131\u03a3\u03c2\u03c3\u0307]")
_HEADLINE: Final = (
    f'StartSel="{OPEN}", StopSel="{CLOSE}", MaxWords=32, MinWords=16, ShortWord=0, MaxFragments=0'
)


@dataclass(frozen=True, slots=True)
class Terms:
    """A query for the database: exactly, what a segment must have, and what a text must contain."""

    exact: str
    segment: str
    contained: str
    """SQL, in terms of `m.body`, with a parameter for each of `words`."""
    words: list[str]


@dataclass(frozen=True, slots=True)
class Range:
    """Messages of a conversation, both ends included; none of them is newer than `newest`."""

    conversation: UUID
    first: int
    last: int
    newest: datetime


def find(asked: Asked) -> Answer:
    """The newest matches before the position, none before the floor."""
    with connection.cursor() as cursor:
        terms = _terms(cursor, asked.question)
        if terms is None:
            return Answer([], None)
        look = _Look(cursor, asked, terms)
        return look.in_conversation() if asked.conversation is not None else look.everywhere()


def snippets(question: Question, ids: Sequence[UUID]) -> dict[UUID, Pieces]:
    """The parts of messages that match, of those that are there and match still."""
    if not ids:
        return {}
    with connection.cursor() as cursor:
        query, values = _tsquery(question)
        cursor.execute(
            "SELECT m.id, t.text, messaging_text(t.text), ts_headline('simple', messaging_text(t.text), q, %s)"  # noqa: S608 - constants of this module
            f" FROM messaging_message m CROSS JOIN (SELECT {query} AS q OFFSET 0) x"
            " CROSS JOIN LATERAL (SELECT translate(m.body, %s, '') AS text OFFSET 0) t"
            " WHERE m.id = ANY (%s) AND m.body IS NOT NULL",
            [_HEADLINE, *values, f"{OPEN}{CLOSE}", list(ids)],
        )
        return {
            key: _as_written(text, apart, pieces(headline))
            for key, text, apart, headline in cursor.fetchall()
        }


def _as_written(text: str, apart: str, found: Pieces) -> Pieces:
    """A headline of a text that was taken `apart`, with what is written there."""
    at = apart.find("".join(piece for piece, _ in found))
    written: Pieces = []
    for piece, hit in found:
        written.append((text[at : at + len(piece)], hit))
        at += len(piece)
    return written


def _tsquery(question: Question) -> tuple[str, list[str]]:
    """SQL for the query, and its parameters: terms of several words are phrases."""
    term = "phraseto_tsquery('simple', messaging_text(%s))"
    parts, values = [], []
    for each in question.alternatives:
        parts.append(" && ".join([*[term] * len(each.wanted), *[f"!! {term}"] * len(each.unwanted)]))
        values += [*each.wanted, *each.unwanted]
    return " || ".join(f"({part})" for part in parts), values


def _terms(cursor: CursorWrapper, question: Question) -> Terms | None:
    """The query as PostgreSQL reads it; None when it finds no word in it to look for."""
    query, values = _tsquery(question)
    cursor.execute(
        f"SELECT q::text, querytree(q) FROM (SELECT {query} AS q OFFSET 0) x",  # noqa: S608 - constants of this module
        values,
    )
    exact, tree = cursor.fetchone()
    # `querytree` leaves out what is not wanted; T stands for a query that could match anything.
    if not tree or tree == "T":
        return None
    contained, words = [], []
    for match in _TOKEN.finditer(tree):
        piece = match[0]
        if match[1] is None:
            contained.append({"&": "AND", "|": "OR"}.get(piece, piece if piece in "()" else "AND"))
            continue
        word = match[1].replace("''", "'").replace("\\\\", "\\")
        if _UNSTEADY.search(word):
            contained.append("true")
        else:
            contained.append("strpos(lower(m.body), %s) > 0")
            words.append(word)
    # In a segment the order of words is not known.
    segment = _TOKEN.sub(lambda match: "&" if match[0].startswith("<") else match[0], tree)
    return Terms(exact, segment, f"({' '.join(contained)})", words)


class _Look:
    """One search under way."""

    def __init__(self, cursor: CursorWrapper, asked: Asked, terms: Terms) -> None:
        self.cursor = cursor
        self.asked = asked
        self.terms = terms
        self.wanted = asked.limit + 1

    # --- one conversation: by seq --------------------------------------------------------------------

    def in_conversation(self) -> Answer:
        """By seq, from the last one back."""
        (scope,) = self.asked.scopes
        floor = self.asked.floor
        if floor is not None:
            scope = Scope(scope.conversation, max(scope.hidden_to, floor.number - 1), scope.last_seq)
        at = scope.last_seq + 1
        if self.asked.position is not None:
            at = min(at, self.asked.position.number)
        indexed = max(self._indexed([scope.conversation]).get(scope.conversation, 0), scope.hidden_to)
        matches: list[Match] = []
        read = 0
        if at > indexed + 1:
            first = max(indexed, at - 1 - SCAN) + 1
            matches = self._read([Range(scope.conversation, first, at - 1, _FAR)])
            at = first
            read = SCAN if first > indexed + 1 else 0
        size = FIRST_RANGES
        while len(matches) < self.wanted and at > scope.hidden_to + 1:
            if read >= SCAN and floor is None:
                return Answer(matches, Position(at))
            ranges = self._segments(
                "conversation_id = %s AND first_seq < %s AND last_seq > %s",
                [scope.conversation, at, scope.hidden_to],
                "first_seq DESC",
                size,
            )
            matches += self._read([
                Range(each.conversation, max(each.first, scope.hidden_to + 1), min(each.last, at - 1), _FAR)
                for each in ranges
            ])  # fmt: skip
            if len(ranges) < size:
                break
            read += sum(each.last - each.first + 1 for each in ranges)
            at, size = ranges[-1].first, min(2 * size, RANGES)
        return self._page(matches)

    # --- all conversations: by time ------------------------------------------------------------------

    def everywhere(self) -> Answer:
        """By time, over all conversations.

        A match may be told once no range that is not read yet can have a newer one.
        """
        hidden = {scope.conversation: scope.hidden_to for scope in self.asked.scopes}
        indexed = self._indexed(list(hidden))
        matches = self._read([
            Range(scope.conversation, floor + 1, scope.last_seq, _FAR)
            for scope in self.asked.scopes
            if (floor := max(indexed.get(scope.conversation, 0), scope.hidden_to)) < scope.last_seq
        ])  # fmt: skip
        start, _ = self._before()
        reached: tuple[Any, ...] = (_FAR, _LAST_ID, 0)
        size, read = FIRST_RANGES, 0
        while True:
            ranges = self._segments(
                "conversation_id = ANY (%s) AND oldest_at <= %s"
                " AND (newest_at, conversation_id, first_seq) < (%s, %s, %s)",
                [list(hidden), start, *reached],
                "newest_at DESC, conversation_id DESC, first_seq DESC",
                size,
            )
            matches += self._read([
                Range(each.conversation, max(each.first, hidden[each.conversation] + 1), each.last, each.newest)
                for each in ranges
            ])  # fmt: skip
            matches.sort(key=lambda match: match.at.place, reverse=True)
            if len(ranges) < size:
                break
            last = ranges[-1]
            reached = (last.newest, last.conversation, last.first)
            newest = _microseconds(last.newest)
            told = sum(match.at.number > newest for match in matches)
            if told >= self.wanted:
                break
            read += sum(each.last - each.first + 1 for each in ranges)
            if read >= SCAN and last.newest < start and self.asked.floor is None:
                return Answer(matches[:told], Position(newest, _LAST_ID))
            size = min(2 * size, RANGES)
        return self._page(matches)

    def _page(self, matches: list[Match]) -> Answer:
        """As many as were asked for, and where to go on if there are more."""
        if len(matches) < self.wanted:
            return Answer(matches, None)
        del matches[self.asked.limit :]
        return Answer(matches, matches[-1].at)

    # --- statements ----------------------------------------------------------------------------------

    def _indexed(self, conversations: list[UUID]) -> dict[UUID, int]:
        """Up to which seq each conversation has segments."""
        self.cursor.execute(
            "SELECT c.id, s.last_seq FROM unnest(%s::uuid[]) c(id) CROSS JOIN LATERAL ("
            "SELECT last_seq FROM messaging_segment WHERE conversation_id = c.id"
            " ORDER BY first_seq DESC LIMIT 1) s",
            [conversations],
        )
        return dict(self.cursor.fetchall())

    def _segments(self, where: str, values: list[Any], order: str, size: int) -> list[Range]:
        """The next segments that have the words."""
        if self.asked.after is not None:
            where, values = f"{where} AND newest_at >= %s", [*values, self.asked.after]
        if self.asked.conversation is None and self.asked.floor is not None:
            where, values = f"{where} AND newest_at >= %s", [*values, _moment(self.asked.floor)]
        if self.asked.before is not None:
            where, values = f"{where} AND oldest_at < %s", [*values, self.asked.before]
        self.cursor.execute(
            "SELECT conversation_id, first_seq, last_seq, newest_at FROM messaging_segment"  # noqa: S608 - constants of this module
            f" WHERE {where} AND words @@ %s::tsquery ORDER BY {order} LIMIT %s",
            [*values, self.terms.segment, size],
        )
        return [Range(*row) for row in self.cursor.fetchall()]

    def _read(self, ranges: Sequence[Range]) -> list[Match]:
        """The newest matches in each range, in the order of the ranges, each by falling seq."""
        if not ranges:
            return []
        filters, values = self._filters()
        # OFFSET 0: a text is taken apart once, for matching and for the rank.
        self.cursor.execute(
            "SELECT m.id, m.seq, m.created_at, m.rank"  # noqa: S608 - constants of this module
            " FROM unnest(%s::uuid[], %s::bigint[], %s::bigint[])"
            " WITH ORDINALITY AS r(conversation, first, last, place) CROSS JOIN LATERAL ("
            " SELECT m.id, m.seq, m.created_at, ts_rank(w.words, %s::tsquery, 1)::float8 AS rank"
            " FROM messaging_message m CROSS JOIN LATERAL (SELECT messaging_words(m.body) AS words OFFSET 0) w"
            " WHERE m.conversation_id = r.conversation AND m.seq BETWEEN r.first AND r.last"
            f" AND m.kind = 'text' AND m.deleted_at IS NULL AND {self.terms.contained}{filters}"
            " AND w.words @@ %s::tsquery ORDER BY m.seq DESC LIMIT %s) m"
            f" ORDER BY {'r.place, m.seq DESC' if self.asked.conversation else 'm.created_at DESC, m.id DESC'}"
            " LIMIT %s",
            [
                [each.conversation for each in ranges], [each.first for each in ranges],
                [each.last for each in ranges], self.terms.exact, *self.terms.words, *values, self.terms.exact,
                self.wanted, self.wanted,
            ],
        )  # fmt: skip
        inside = self.asked.conversation is not None
        return [
            Match(key, Position(seq) if inside else Position(_microseconds(created), key), rank)
            for key, seq, created, rank in self.cursor.fetchall()
        ]

    def _filters(self) -> tuple[str, list[Any]]:
        """SQL for what else is asked of a message."""
        asked = self.asked
        filters = ""
        values: list[Any] = []
        if asked.sender is not None:
            filters, values = f"{filters} AND m.sender_id = %s", [*values, asked.sender]
        if asked.after is not None:
            filters, values = f"{filters} AND m.created_at >= %s", [*values, asked.after]
        if asked.before is not None:
            filters, values = f"{filters} AND m.created_at < %s", [*values, asked.before]
        if asked.conversation is None and asked.position is not None:
            filters, values = f"{filters} AND (m.created_at, m.id) < (%s, %s)", [*values, *self._before()]
        if asked.conversation is None and asked.floor is not None:
            filters = f"{filters} AND (m.created_at, m.id) >= (%s, %s)"
            values = [*values, _moment(asked.floor), asked.floor.place[1]]
        return filters, values

    def _before(self) -> tuple[datetime, UUID]:
        """Where a search over all conversations begins."""
        position = self.asked.position
        if position is None:
            return _FAR, _LAST_ID
        return _moment(position), position.id or _LAST_ID


def _moment(position: Position) -> datetime:
    return _EPOCH + timedelta(microseconds=position.number)


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)
