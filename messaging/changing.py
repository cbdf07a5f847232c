"""The one place, but for the writer's batch, where a conversation is locked and its revs are taken.

Every change of a conversation is made within `hold`: under its row lock it takes the next rev, and what
changed is told after the commit. Each thing changes at one rev: a message at its row's `rev`, the
conversation itself (title, members, roles, what is purged) at its `state_rev`. A change that changes nothing
takes none.

Lock order: user rows by id (`accounts.services.users_lock`) before a conversation is held, never after.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Final
from uuid import UUID

from django.db import transaction

from accounts.models import User
from chatbe.core import clock, ids
from chatbe.core.errors import NotFound, Suspended
from chatbe.hub import fanout
from chatbe.wire import codec, frames
from messaging import selectors, stream
from messaging.models import Conversation, Membership, Message

_COUNTERS: Final = ("head_rev", "last_seq", "state_rev", "active_at")
_STATE: Final = ("title", "description", "history", "member_count", "purged_seq")


@dataclass(slots=True)
class Told:
    """One change as it is fanned out: its event and its place in the stream."""

    rev: int
    seq: int
    event: frames.Event
    ended: fanout.Ended | None = None


@dataclass(slots=True)
class Held:
    """A conversation whose row is locked until the transaction ends."""

    row: Conversation
    now: datetime
    told: list[Told] = field(default_factory=list)
    """What is to be told, in rising rev; complete once `hold` has ended."""
    _state: Told | None = None
    _messages: list[Message] = field(default_factory=list)

    @property
    def conversation(self) -> str:
        """Its id."""
        return str(self.row.pk)

    @property
    def users(self) -> tuple[str, ...] | None:
        """The two users of a direct conversation, None for a group."""
        return tuple(str(UUID(user)) for user in self.row.pair.split(":")) if self.row.pair else None

    def take_rev(self) -> int:
        """The next rev, for a change that is made with it."""
        self.row.head_rev += 1
        return self.row.head_rev

    def change_state(self) -> int:
        """Take a rev for a change of the conversation itself; once per holding."""
        rev = self.row.state_rev = self.take_rev()
        self._state = Told(rev, 0, frames.Event())
        return rev

    def end_memberships(self, users: Sequence[UUID] | None) -> None:
        """The change of state ends the memberships of these users, or (None) of all."""
        assert self._state is not None  # noqa: S101 - the callers have changed it
        last = stream.ended(self.conversation, rev=self._state.rev, created_at=self.row.created_at)
        self._state.ended = fanout.Ended(
            None if users is None else [str(user) for user in users], codec.encode(last)
        )

    def say(self, actor: User, body: str) -> None:
        """Add a system message about the change that `actor` has just made.

        Its `client_id` is random: one that could be foreseen could be taken before, by any message of the actor's.
        """
        self.row.last_seq += 1
        self.row.active_at = self.now
        self._messages.append(
            Message(
                id=ids.uuid7(),
                conversation=self.row,
                seq=self.row.last_seq,
                rev=self.take_rev(),
                sender=actor,
                client_id=uuid.uuid4(),
                kind=Message.Kind.SYSTEM,
                body=body,
                created_at=self.now,
            )
        )

    def tell_message(self, message: frames.MessageObject) -> None:
        """A message has changed at its `rev`."""
        self.told.append(Told(message.rev, message.seq, frames.Message(message)))

    def finish(self) -> None:
        """Store the counters and what was said; build what is told, as it is at this rev."""
        if self.row.head_rev == self._head:
            return
        self.row.save(update_fields=[*_COUNTERS, *_STATE])
        if self._state is not None:
            (state,) = selectors.conversation_objects([self.row.pk]).values()
            # As it was at this rev: what is said about the change comes after it.
            state.rev = self._state.rev
            state.last_seq -= len(self._messages)
            self._state.event = frames.Conversation(state)
            self.told.append(self._state)
        for message in Message.objects.bulk_create(self._messages):
            self.tell_message(selectors.message_object(message=message.pk))
        self.told.sort(key=lambda each: each.rev)

    _head: int = 0

    def __post_init__(self) -> None:
        self._head = self.row.head_rev


@contextmanager
def hold(conversation: UUID) -> Iterator[Held]:
    """Lock a conversation for a change, in a transaction; raises `NotFound`. What came of it is for `tell`."""
    with transaction.atomic():
        row = Conversation.objects.select_for_update(no_key=True).filter(pk=conversation).first()
        if row is None:
            raise NotFound
        held = Held(row, clock.now())
        yield held
        held.finish()


def acting_member(held: Held, user: UUID) -> Membership:
    """The membership of whoever changes a held conversation, with its user.

    Raises `NotFound` for who is not a member, `Suspended` for who may not act.
    """
    found = (
        Membership.objects.select_related("user")
        .filter(conversation=held.row, user=user, active=True)
        .first()
    )
    if found is None:
        raise NotFound
    if found.user.suspended(now=held.now):
        raise Suspended
    return found


def tell(held: Held) -> None:
    """Fan out what has changed, after the commit."""
    if held.told:
        transaction.on_commit(partial(_publish, held), robust=True)


def _publish(held: Held) -> None:
    for each in held.told:
        fanout.change(
            held.conversation,
            rev=each.rev,
            seq=each.seq,
            event=codec.encode(each.event),
            users=held.users,
            ended=each.ended,
        )
