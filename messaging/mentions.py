"""Who a message mentions: `@username`, and `@all` by a group's owner and admins.

Only bodies with an `@` cost anything. Names are resolved among the conversation's members when the
message is stored; the message keeps the names, and a row each counts for those who have not read it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from messaging.models import Conversation, Membership, Mention, Message

ALL: Final = "all"
"""After an @, by those who may: everyone. It never means a person."""
MOST: Final = 50
"""So many names of one message are looked at."""

# Not within a word, so that no email address mentions anybody.
_MENTION: Final = re.compile(r"(?<![\w@.-])@([A-Za-z0-9._-]{3,})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Resolved:
    """Whom a body mentions: their names, and their ids; with `everyone` there are no ids."""

    names: tuple[str, ...]
    users: tuple[UUID, ...]
    everyone: bool


NOBODY: Final = Resolved((), (), everyone=False)


def names_in(body: str) -> tuple[str, ...]:
    """The names after an @, in lower case, each once; a name may end with a sentence's punctuation, so both
    readings are given."""
    if "@" not in body:
        return ()
    names: dict[str, None] = {}
    for found in _MENTION.findall(body):
        name = found.lower()
        for reading in (name, name.rstrip("._-")):
            if 3 <= len(reading) <= 32:
                names[reading] = None
        if len(names) >= MOST:
            break
    return tuple(names)[:MOST]


def may_mention_all(conversation: Conversation, role: str) -> bool:
    """Whether a member of this role may mention everyone."""
    return conversation.kind == Conversation.Kind.GROUP and role != Membership.Role.MEMBER


def resolve(conversation: Conversation, sender: Membership, names: Collection[str]) -> Resolved:
    """Whom of the members these names mean; nobody mentions themselves. At most one query."""
    if not names:
        return NOBODY
    everyone = ALL in names and may_mention_all(conversation, sender.role)
    members = (
        Membership.objects.filter(
            conversation=conversation, active=True, user__username__in=[name for name in names if name != ALL]
        )
        .exclude(user=sender.user_id)
        .order_by("user__username")
        .values_list("user_id", "user__username")
    )
    found = list(members)
    told = ([ALL] if everyone else []) + [username for _, username in found]
    return Resolved(tuple(told), () if everyone else tuple(user for user, _ in found), everyone)


def rows(message: Message, resolved: Resolved) -> Sequence[Mention]:
    """The rows that count them, unsaved."""
    users: tuple[UUID | None, ...] = (None,) if resolved.everyone else resolved.users
    return [
        Mention(message=message, conversation_id=message.conversation_id, seq=message.seq, user_id=user)
        for user in users
    ]


def column(resolved: Resolved) -> str | None:
    """The value of the message's `mentions`."""
    return " ".join(resolved.names) or None
