"""What is asked of the two databases and what they answer; the syntax of queries, once for both.

The syntax is that of web search engines: words are all wanted, "quoted words" in that order, `or` between
alternatives, a minus before what is not wanted. What is written without blanks (`example.com/path`) is as if quoted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from chatbe.core.errors import FieldError, Invalid

OPEN: Final = "\x02"
CLOSE: Final = "\x03"
"""Around a match within a snippet, on its way from the database; taken out of bodies before."""

_TERM: Final = re.compile(r'(-?)"([^"]*)"?|(-?)([^\s"]+)')


@dataclass(slots=True)
class Alternative:
    """What a message must and must not have; each a word or a phrase."""

    wanted: list[str] = field(default_factory=list)
    unwanted: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Question:
    """A query; without alternatives it looks for nothing."""

    alternatives: Sequence[Alternative]


@dataclass(frozen=True, slots=True)
class Scope:
    """A conversation to look into: the messages after `hidden_to`, up to `last_seq`."""

    conversation: UUID
    hidden_to: int
    last_seq: int


_FIRST_ID: Final = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Position:
    """A place among the messages by age: what is before it is older. Each kind of search has its own."""

    number: int
    """A seq, microseconds since 1970, or a key of SQLite's index."""
    id: UUID | None = None
    """With a time: the message."""

    @property
    def place(self) -> tuple[int, UUID]:
        """For comparing positions of one kind."""
        return self.number, self.id or _FIRST_ID

    def after(self) -> Position:
        """A position that has this one before it, and nothing between them that is there now."""
        return Position(self.number + 1, None if self.id is None else _FIRST_ID)


@dataclass(frozen=True, slots=True)
class Asked:
    """One search, the newest first: the matches before `position`, from `floor` on."""

    question: Question
    user: UUID
    conversation: UUID | None
    scopes: Sequence[Scope]
    sender: UUID | None
    after: datetime | None
    before: datetime | None
    position: Position | None
    floor: Position | None
    limit: int


@dataclass(frozen=True, slots=True)
class Match:
    """A message that matches. `rank` depends on it and on the query alone; more is better."""

    id: UUID
    at: Position
    rank: float


@dataclass(frozen=True, slots=True)
class Answer:
    """Matches, the newest first, and where to go on."""

    matches: list[Match]
    older: Position | None


Pieces = list[tuple[str, bool]]
"""A snippet: texts to be shown one after another, and whether each is a match."""


def parse(text: str) -> list[Alternative]:
    """The alternatives of a query; none when it has no word. Raises `Invalid` when one has only what is not wanted."""
    alternatives = [Alternative()]
    for match in _TERM.finditer(text):
        minus = match[1] or match[3]
        phrase, word = match[2], match[4]
        term = phrase if word is None else word
        if word is not None and not minus and word.lower() == "or":
            if alternatives[-1].wanted or alternatives[-1].unwanted:
                alternatives.append(Alternative())
            continue
        # What has no letter or digit is no word: PostgreSQL leaves it out, and so does FTS5.
        if any(character.isalnum() for character in term):
            last = alternatives[-1]
            (last.unwanted if minus else last.wanted).append(term)
    if len(alternatives) > 1 and not (alternatives[-1].wanted or alternatives[-1].unwanted):
        # A word `or` at the end joins nothing.
        alternatives.pop()
    if any(alternative.unwanted and not alternative.wanted for alternative in alternatives):
        raise Invalid(
            "There is nothing to search for.",
            errors=(FieldError("q", "invalid", "Each alternative needs a word to look for."),),
        )
    return [alternative for alternative in alternatives if alternative.wanted]


def pieces(marked: str) -> Pieces:
    """A snippet with OPEN and CLOSE around its matches, in pieces."""
    found: Pieces = []
    for index, part in enumerate(re.split(f"{OPEN}|{CLOSE}", marked)):
        if part:
            found.append((part, index % 2 == 1))
    return found
