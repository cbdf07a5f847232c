"""Full text over the messages that somebody may read, the newest first.

The same question on both databases (docs/search.md): websearch syntax, filters, keyset cursors. A
page is bounded in work, not only in length: where much must be looked through for little, it may
hold less than was asked for, or nothing, and still lead on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from django.db import connection

from accounts.models import User
from chatbe.core.errors import FieldError, Invalid, NotFound
from chatbe.wire import frames
from messaging import selectors
from messaging.models import Membership
from messaging.search import postgres, sqlite
from messaging.search.base import Asked, Found, Position, Question, Scope, parse

__all__ = ["Fragment", "Page", "Position", "Result", "search"]

MAX_QUERY_CHARACTERS: Final = 200


class Fragment(msgspec.Struct):
    """A piece of a message's text; `match` when it is what was searched for. Plain text, not HTML."""

    text: str
    match: bool


class Result(msgspec.Struct):
    """A message that matches, and the part of its text where it does, in pieces to be shown one after another."""

    message: frames.MessageObject
    snippet: list[Fragment]


@dataclass(frozen=True, slots=True)
class Page:
    """Results, the newest first. `older` leads on from them; None at the end."""

    results: list[Result]
    older: Position | None


def search(
    *,
    user: User,
    query: str,
    conversation: UUID | None = None,
    sender: str | None = None,
    after: datetime | None = None,
    before: datetime | None = None,
    position: Position | None = None,
    limit: int,
) -> Page:
    """Search what `user` may read: in conversations that they are in, from their joining on, nothing deleted.

    `after` ≤ sent < `before`. Raises `Invalid` for a query that looks for nothing, `NotFound` for a
    conversation that the user is not in. A constant number of queries.
    """
    question = Question(parse(query), query)
    if not question.alternatives:
        raise Invalid(
            "There is nothing to search for.",
            errors=(FieldError("q", "invalid", "Each alternative needs a word to look for."),),
        )
    scopes = _scopes(user, conversation)
    sender_id = None
    if sender is not None:
        sender_id = User.objects.filter(username=sender.lower()).values_list("pk", flat=True).first()
        if sender_id is None:
            return Page([], None)
    if not scopes:
        return Page([], None)
    asked = Asked(question, user.pk, conversation, scopes, sender_id, after, before, position, limit)
    found = postgres.find(asked) if connection.vendor == "postgresql" else sqlite.find(asked)
    return Page(_results(found.matches), found.older)


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


def _results(matches: Sequence[Found]) -> list[Result]:
    messages = selectors.messages_by_id([match.id for match in matches])
    # One that was deleted a moment ago has nothing to show.
    return [
        Result(messages[match.id], [Fragment(text, hit) for text, hit in match.pieces])
        for match in matches
        if match.id in messages and messages[match.id].body is not None
    ]
