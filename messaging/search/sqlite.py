"""Search by FTS5, for the embedded mode: the index walks from the newest match back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from django.db import connection

from messaging.search.base import CLOSE, OPEN, Alternative, Answer, Asked, Found, Position, pieces

# CROSS JOIN fixes the order: from the matches to their messages, never the other way round.
FIND: Final = """
    SELECT f.rowid, k.message, snippet(messaging_search, 1, %s, %s, '…', 32)
      FROM messaging_search f
     CROSS JOIN messaging_searchkey k ON k.id = f.rowid
     CROSS JOIN messaging_message m ON m.id = k.message
     CROSS JOIN messaging_membership s
        ON s.conversation_id = m.conversation_id AND s.user_id = %s AND s.active
     CROSS JOIN messaging_conversation c ON c.id = m.conversation_id
     WHERE messaging_search MATCH %s AND f.rowid < %s
       AND m.seq > max(s.joined_seq, c.purged_seq) AND m.deleted_at IS NULL AND m.kind = 'text'
       AND (%s IS NULL OR m.sender_id = %s) AND (%s IS NULL OR m.created_at >= %s)
       AND (%s IS NULL OR m.created_at < %s)
     ORDER BY f.rowid DESC LIMIT %s"""

LAST: Final = 2**63 - 1


def find(asked: Asked) -> Answer:
    """The newest matches before the position."""
    expression = f"{{body}} : ({matching(asked.question.alternatives)})"
    if asked.conversation is not None:
        expression = f'{{conversation}} : "{asked.conversation.hex}" AND {expression}'
    before = asked.position.number if asked.position is not None else LAST
    sender = asked.sender.hex if asked.sender is not None else None
    after, until = _time(asked.after), _time(asked.before)
    with connection.cursor() as cursor:
        cursor.execute(
            FIND,
            [
                OPEN, CLOSE, asked.user.hex, expression, before, sender, sender, after, after, until, until,
                asked.limit + 1,
            ],
        )  # fmt: skip
        rows = cursor.fetchall()
    goes_on = len(rows) > asked.limit
    del rows[asked.limit :]
    matches = [Found(UUID(message), pieces(_unmarked(snippet))) for _, message, snippet in rows]
    return Answer(matches, Position(rows[-1][0]) if goes_on else None)


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
