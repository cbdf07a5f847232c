"""Full text over the messages that somebody may read, the best matches first, or the newest.

The same question on both databases (docs/search.md): websearch syntax, filters, keyset cursors. A
page is bounded in work, not only in length: where much must be looked through for little, it may
hold less than was asked for, or nothing, and still lead on. For the same reason matches are ranked
within windows: the newest `RANKED` of them among each other, then those before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from types import ModuleType
from typing import Final
from uuid import UUID

import msgspec
from django.db import connection

from accounts.models import User
from chatbe.core.errors import NotFound
from chatbe.wire import frames
from messaging import selectors
from messaging.models import Membership
from messaging.search import postgres, sqlite
from messaging.search.base import Asked, Match, Position, Question, Scope, parse

__all__ = ["Cursor", "Fragment", "Order", "Page", "Position", "Result", "search"]

MAX_QUERY_CHARACTERS: Final = 200
RANKED: Final = 500
"""So many matches are ranked among each other."""


class Order(Enum):
    """Which results come first."""

    RELEVANCE = "relevance"
    NEWEST = "newest"


class Fragment(msgspec.Struct):
    """A piece of a message's text; `match` when it is what was searched for. Plain text, not HTML."""

    text: str
    match: bool


class Result(msgspec.Struct):
    """A message that matches, and the part of its text where it does, in pieces to be shown one after another."""

    message: frames.MessageObject
    snippet: list[Fragment]


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page ended. By age: results go on before `top`.

    By relevance too, where `last` is None; else within the window of the matches before `top` from
    `bottom` on (None: all that are older), after the one of this `rank` at `last`.
    """

    top: Position
    bottom: Position | None = None
    last: Position | None = None
    rank: float = 0.0


@dataclass(frozen=True, slots=True)
class Page:
    """Results in the order that was asked for. `following` leads on from them; None at the end."""

    results: list[Result]
    following: Cursor | None


def search(
    *,
    user: User,
    query: str,
    conversation: UUID | None = None,
    sender: str | None = None,
    after: datetime | None = None,
    before: datetime | None = None,
    order: Order = Order.RELEVANCE,
    cursor: Cursor | None = None,
    limit: int,
) -> Page:
    """Search what `user` may read: in conversations that they are in, from their joining on, nothing deleted.

    `after` ≤ sent < `before`. A query without a word (blanks, emoji) finds nothing. Raises `Invalid` for one
    that says only what is not wanted, `NotFound` for a conversation that the user is not in. A bounded
    number of queries.
    """
    question = Question(parse(query))
    scopes = _scopes(user, conversation)
    sender_id = None
    if sender is not None:
        sender_id = User.objects.filter(username=sender.lower()).values_list("pk", flat=True).first()
        if sender_id is None:
            return Page([], None)
    if not (scopes and question.alternatives):
        return Page([], None)
    asked = Asked(
        question, user.pk, conversation, scopes, sender_id, after, before,
        position=None if cursor is None else cursor.top, floor=None, limit=limit,
    )  # fmt: skip
    if order is Order.RELEVANCE:
        matches, following = _ranked(asked, cursor)
    else:
        answer = _backend().find(asked)
        matches, following = answer.matches, None if answer.older is None else Cursor(answer.older)
    return Page(_results(asked, matches), following)


def _backend() -> ModuleType:
    return postgres if connection.vendor == "postgresql" else sqlite


def _ranked(asked: Asked, cursor: Cursor | None) -> tuple[list[Match], Cursor | None]:
    """The next matches of a window by their rank, the newer first where it is equal.

    The window is fixed by the first page, and a rank by the message: so pages hold each match once,
    whatever is sent meanwhile.
    """
    within = cursor if cursor is not None and cursor.last is not None else None
    if within is None:
        answer = _backend().find(replace(asked, limit=RANKED))
    else:
        # Edits may have added some.
        answer = _backend().find(replace(asked, floor=within.bottom, limit=2 * RANKED))
    bottom = answer.older or (within.bottom if within is not None else None)
    matches = sorted(answer.matches, key=lambda match: (match.rank, match.at.place), reverse=True)
    if within is not None and within.last is not None:
        reached = (within.rank, within.last.place)
        matches = [match for match in matches if (match.rank, match.at.place) < reached]
    page = matches[: asked.limit]
    if len(matches) > asked.limit:
        top = asked.position or max((match.at for match in matches), key=lambda at: at.place).after()
        return page, Cursor(top, bottom, page[-1].at, page[-1].rank)
    return page, None if bottom is None else Cursor(bottom)


def _scopes(user: User, conversation: UUID | None) -> list[Scope]:
    """The conversations to look into, and from where on. Raises `NotFound`."""
    mine = Membership.objects.filter(user=user, active=True)
    if conversation is not None:
        mine = mine.filter(conversation=conversation)
    rows = mine.values_list(
        "conversation_id", "joined_seq", "conversation__purged_seq", "conversation__last_seq"
    )
    scopes = [Scope(key, max(joined, purged), last) for key, joined, purged, last in rows]
    if conversation is not None and not scopes:
        raise NotFound
    return [scope for scope in scopes if scope.last_seq > scope.hidden_to]


def _results(asked: Asked, matches: Sequence[Match]) -> list[Result]:
    ids = [match.id for match in matches]
    messages = selectors.messages_by_id(ids)
    snippets = _backend().snippets(asked.question, ids)
    # One that was deleted a moment ago has nothing to show.
    return [
        Result(messages[key], [Fragment(text, hit) for text, hit in snippets[key]])
        for key in ids
        if key in messages and key in snippets and messages[key].body is not None
    ]
