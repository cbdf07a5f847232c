"""Search by FTS5, for the embedded mode: the index walks from the newest match back."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from django.db import connection

from messaging.search.base import (
    CLOSE,
    OPEN,
    Alternative,
    Answer,
    Asked,
    Match,
    Pieces,
    Position,
    Question,
    pieces,
)

# CROSS JOIN fixes the order: from the matches to their messages, never the other way round.
FIND: Final = """
    SELECT f.rowid, k.message, highlight(messaging_search, 1, %s, '')
      FROM messaging_search f
     CROSS JOIN messaging_searchkey k ON k.id = f.rowid
     CROSS JOIN messaging_message m ON m.id = k.message
     CROSS JOIN messaging_membership s
        ON s.conversation_id = m.conversation_id AND s.user_id = %s AND s.active
     CROSS JOIN messaging_conversation c ON c.id = m.conversation_id
     WHERE messaging_search MATCH %s AND f.rowid < %s AND f.rowid >= %s
       AND m.seq > max(s.joined_seq, c.purged_seq) AND m.deleted_at IS NULL AND m.kind = 'text'
       AND (%s IS NULL OR m.sender_id = %s) AND (%s IS NULL OR m.created_at >= %s)
       AND (%s IS NULL OR m.created_at < %s)
     ORDER BY f.rowid DESC LIMIT %s"""

SHOW: Final = """
    SELECT k.message, snippet(messaging_search, 1, %s, %s, '…', 32)
      FROM messaging_searchkey k CROSS JOIN messaging_search f ON f.rowid = k.id
     WHERE messaging_search MATCH %s AND k.message IN (SELECT value FROM json_each(%s))"""

LAST: Final = 2**63 - 1


def find(asked: Asked) -> Answer:
    """The newest matches before the position, none before the floor."""
    expression = _expression(asked.question)
    if asked.conversation is not None:
        expression = f'{{conversation}} : "{asked.conversation.hex}" AND {expression}'
    before = asked.position.number if asked.position is not None else LAST
    floor = asked.floor.number if asked.floor is not None else 0
    sender = asked.sender.hex if asked.sender is not None else None
    after, until = _time(asked.after), _time(asked.before)
    with connection.cursor() as cursor:
        cursor.execute(
            FIND,
            [
                OPEN, asked.user.hex, expression, before, floor, sender, sender, after, after, until, until,
                asked.limit + 1,
            ],
        )  # fmt: skip
        rows = cursor.fetchall()
    goes_on = len(rows) > asked.limit
    del rows[asked.limit :]
    matches = [Match(UUID(message), Position(key), _rank(marked)) for key, message, marked in rows]
    return Answer(matches, matches[-1].at if goes_on else None)


def snippets(question: Question, ids: Sequence[UUID]) -> dict[UUID, Pieces]:
    """The parts of messages that match, of those that are there and match still."""
    if not ids:
        return {}
    keys = json.dumps([key.hex for key in ids])
    with connection.cursor() as cursor:
        cursor.execute(SHOW, [OPEN, CLOSE, _expression(question), keys])
        return {UUID(message): pieces(_unmarked(snippet)) for message, snippet in cursor.fetchall()}


def _rank(marked: str) -> float:
    """How much of a text is what was searched for. Not FTS5's `bm25`, which changes with every message that is
    sent, so that pages would not fit together."""
    hits = marked.count(OPEN)
    return hits / (hits + 1) / (1 + math.log(1 + len(marked.split())))


def _expression(question: Question) -> str:
    return f"{{body}} : ({matching(question.alternatives)})"


def matching(alternatives: Sequence[Alternative]) -> str:
    """The query in FTS5's syntax; every term is quoted, so none can be taken for an operator."""
    return " OR ".join(
        f"(({' AND '.join(map(_quoted, each.wanted))})"
        + (f" NOT ({' OR '.join(map(_quoted, each.unwanted))})" if each.unwanted else "")
        + ")"
        for each in alternatives
    )


def _quoted(term: str) -> str:
    return '"' + term.replace('"', '""') + '"'


def _unmarked(snippet: str) -> str:
    """A body may have the marks' characters of its own: then the snippet is shown without any marks."""
    depth = 0
    for character in snippet:
        if character in {OPEN, CLOSE}:
            depth += 1 if character == OPEN else -1
            if depth not in {0, 1}:
                return snippet.replace(OPEN, "").replace(CLOSE, "")
    return snippet if depth == 0 else snippet.replace(OPEN, "").replace(CLOSE, "")


def _time(moment: datetime | None) -> str | None:
    """As SQLite keeps it."""
    return None if moment is None else connection.ops.adapt_datetimefield_value(moment)
