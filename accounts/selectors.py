"""What accounts tells: people, sessions, contacts, blocks. Reads only, each a constant number of queries."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.db.models.functions import Lower

from accounts.models import Block, Contact, Session, User
from chatbe.core import clock
from chatbe.core.errors import NotFound
from chatbe.hub.database import Row, Value, put_by_loop

_USERNAME = re.compile(r"[A-Za-z0-9._-]{3,32}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Status:
    """Whether someone is online, and when they were last."""

    online: bool
    last_seen: datetime | None


class Peer(NamedTuple):
    """A mutual contact. `key` is the id as text, which is how servers name users to each other."""

    key: str
    username: str
    last_seen_at: datetime | None


@dataclass(frozen=True, slots=True)
class SessionState:
    """Whether a session still stands, and whether its user may act."""

    user_id: UUID
    username: str
    alive: bool
    suspended: bool
    expires_at: datetime


def _nobody(_users: Sequence[UUID]) -> Mapping[UUID, Status]:
    return {}


presence_of: Callable[[Sequence[UUID]], Mapping[UUID, Status]] = _nobody
"""Set by the app that knows who is online. Users that it leaves out count as offline, never seen."""


# --- people ---------------------------------------------------------------------------------------


def username_normalize(username: str) -> str | None:
    """The form in which usernames are kept; None for what can be nobody's."""
    return username.lower() if _USERNAME.fullmatch(username) else None


def user_by_username(*, username: str) -> User:
    """The user, named in any case. Raises `NotFound`."""
    name = username_normalize(username)
    user = User.objects.filter(username=name).first() if name is not None else None
    if user is None:
        raise NotFound("There is no user of this name.")
    return user


def users_by_username(*, usernames: Iterable[str]) -> list[User]:
    """Those of these usernames, in any case, that there are. One query."""
    names = [name for name in map(username_normalize, usernames) if name is not None]
    return list(User.objects.filter(username__in=names))


def user_by_identifier(*, identifier: str) -> User | None:
    """The user of a username or an email address, in any case."""
    if "@" in identifier:
        if "\0" in identifier:
            return None
        # Through `Lower`, since that is what the unique index is on.
        return User.objects.alias(address=Lower("email")).filter(address=identifier.lower()).first()
    name = username_normalize(identifier)
    return None if name is None else User.objects.filter(username=name).first()


def users_search(*, viewer: User, prefix: str) -> QuerySet[User]:
    """People whose username starts with `prefix` and who have not blocked `viewer`."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,32}", prefix, re.ASCII):
        return User.objects.none()
    return User.objects.filter(username__startswith=prefix.lower()).exclude(
        Exists(Block.objects.filter(blocker=OuterRef("pk"), blocked=viewer))
    )


def suspended_at(now: datetime) -> Q:
    """For users: those of whom `User.suspended` says so."""
    return Q(is_active=False) | Q(suspended_until__isnull=False, suspended_until__gt=now)


# --- sessions -------------------------------------------------------------------------------------


def session_with_user(*, session_id: UUID) -> Session | None:
    """The session with its user, in one query."""
    return Session.objects.select_related("user").filter(id=session_id).first()


SESSION_STATE: Final = """
    SELECT s.revoked_at IS NULL AND s.expires_at > $2::timestamptz,
           NOT u.is_active OR coalesce(u.suspended_until > $2, false)
      FROM accounts_session s JOIN accounts_user u ON u.id = s.user_id
     WHERE s.id = $1::uuid"""
"""As `session_state`, of a session at a time, on PostgreSQL: whether it is alive, and the user suspended."""


def session_state(*, session_id: UUID) -> SessionState | None:
    """How a session stands now; None when it is gone, and its user perhaps too."""
    session = session_with_user(session_id=session_id)
    if session is None:
        return None
    now = clock.now()
    return SessionState(
        user_id=session.user_id,
        username=session.user.username,
        alive=session.alive(now=now),
        suspended=session.user.suspended(now=now),
        expires_at=session.expires_at,
    )


def sessions_alive(*, user_id: UUID) -> QuerySet[Session]:
    """A user's devices that are signed in now."""
    return Session.objects.filter(user_id=user_id, revoked_at=None, expires_at__gt=clock.now())


# --- contacts and blocks --------------------------------------------------------------------------


def blocked_either_way(*, one: UUID, other: UUID) -> bool:
    """Whether either of the two has blocked the other."""
    return Block.objects.filter(Q(blocker=one, blocked=other) | Q(blocker=other, blocked=one)).exists()


def blocks_around(*, users: Collection[UUID]) -> set[tuple[UUID, UUID]]:
    """Of each user: those whom they have blocked, and those who have blocked them. One query."""
    rows = Block.objects.filter(Q(blocker__in=users) | Q(blocked__in=users)).values_list("blocker", "blocked")
    asked = set(users)
    return {pair for one, other in rows for pair in ((one, other), (other, one)) if pair[0] in asked}


def blockers_of(*, user: UUID) -> QuerySet[User]:
    """Those who have blocked a user."""
    return User.objects.filter(blocks__blocked=user)


def contact_exists(*, owner: UUID, target: UUID) -> bool:
    """Whether `owner` has added `target`."""
    return Contact.objects.filter(owner=owner, target=target).exists()


def _mutual_with(viewer: UUID) -> Q:
    """For users that `viewer` has added: whether they have added `viewer`, and neither blocks the other."""
    return (
        Q(Exists(Contact.objects.filter(owner=OuterRef("pk"), target=viewer)))
        & ~Q(Exists(Block.objects.filter(blocker=OuterRef("pk"), blocked=viewer)))
        & ~Q(Exists(Block.objects.filter(blocker=viewer, blocked=OuterRef("pk"))))
    )


MUTUAL_CONTACTS: Final = """
    SELECT c.target_id,
           (SELECT concat_ws(' ', u.username, (extract(epoch FROM u.last_seen_at) * 1000000)::bigint)
              FROM accounts_user u WHERE u.id = c.target_id)
      FROM accounts_contact c
     WHERE c.owner_id = $1::uuid
       AND (SELECT true FROM accounts_contact b WHERE b.owner_id = c.target_id AND b.target_id = $1)
       AND (SELECT true FROM accounts_block x WHERE x.blocker_id = c.target_id AND x.blocked_id = $1) IS NULL
       AND (SELECT true FROM accounts_block x WHERE x.blocker_id = $1 AND x.blocked_id = c.target_id) IS NULL
     ORDER BY c.target_id"""
"""As `mutual_contacts`, on PostgreSQL: the user; their username, and when they were last seen, if ever.

Look-ups by unique keys in place of joins, so that it costs what the user's own contacts cost: a join was
planned as a walk through all users while the statistics called them few.
"""


def _user_value(*, user_id: UUID) -> list[Value]:
    return [str(user_id).encode()]


def _peers(rows: list[Row], *, user_id: UUID) -> list[Peer]:  # noqa: ARG001 - who asked
    peers = []
    for user, rest in rows:
        if user is not None and rest is not None:
            username, _, seen = rest.decode().partition(" ")
            peers.append(Peer(user.decode(), username, clock.moment(int(seen)) if seen else None))
    return peers


@put_by_loop(MUTUAL_CONTACTS, values=_user_value, answer=_peers)
def mutual_contacts(*, user_id: UUID) -> list[Peer]:
    """Those who have added `user_id` and were added by them, and neither blocks the other. One query."""
    rows = (
        User.objects.filter(contact_of__owner=user_id)
        .filter(_mutual_with(user_id))
        .order_by("id")
        .values_list("id", "username", "last_seen_at")
    )
    return [Peer(str(user), username, seen) for user, username, seen in rows]


def are_mutual(*, one: UUID, other: UUID) -> bool:
    """Whether both have added each other and neither blocks the other. One query."""
    return User.objects.filter(id=other, contact_of__owner=one).filter(_mutual_with(one)).exists()


@dataclass(frozen=True, slots=True)
class Added:
    """Somebody was added: `target`, by the user of this name. `identity` tells this from another time."""

    identity: str
    target: UUID
    username: str
    mutual: bool


def contacts_added(*, targets: Collection[UUID], since: datetime) -> list[Added]:
    """Who has added one of `targets` since a moment, unless blocked by them. One query."""
    rows = (
        Contact.objects.filter(target__in=targets, created_at__gte=since)
        .exclude(Exists(Block.objects.filter(blocker=OuterRef("target"), blocked=OuterRef("owner"))))
        .annotate(
            mutual=Exists(Contact.objects.filter(owner=OuterRef("target"), target=OuterRef("owner")))
            & ~Exists(Block.objects.filter(blocker=OuterRef("owner"), blocked=OuterRef("target")))
        )
        .order_by("id")
        .values_list("id", "target_id", "owner__username", "mutual")
    )
    return [Added(str(key), target, username, mutual) for key, target, username, mutual in rows]


def contacts_of(*, user_id: UUID) -> QuerySet[User]:
    """Those whom `user_id` has added, each with `mutual`."""
    return User.objects.filter(contact_of__owner=user_id).annotate(mutual=_mutual_with(user_id))


def contact_requests_of(*, user_id: UUID) -> QuerySet[User]:
    """Those who have added `user_id`, whom they have not added in return, where neither blocks the other."""
    return (
        User.objects.filter(contacts__target=user_id)
        .exclude(contact_of__owner=user_id)
        .exclude(blocks__blocked=user_id)
        .exclude(blocked_by__blocker=user_id)
    )


def contact_objects(*, contacts: Sequence[Any]) -> list[dict[str, Any]]:
    """The contract's contact objects of users from `contacts_of`; one question to presence for all."""
    statuses = presence_of([contact.id for contact in contacts if contact.mutual])
    unseen = Status(online=False, last_seen=None)
    unknown = {"online": None, "last_seen": None}
    objects = []
    for contact in contacts:
        status = statuses.get(contact.id, unseen)
        objects.append({
            "username": contact.username,
            "display_name": contact.display_name,
            "mutual": contact.mutual,
            **({"online": status.online, "last_seen": status.last_seen} if contact.mutual else unknown),
        })  # fmt: skip
    return objects


def blocks_of(*, user_id: UUID) -> QuerySet[User]:
    """Those whom `user_id` has blocked, each with `blocked_at`."""
    return User.objects.filter(blocked_by__blocker=user_id).annotate(blocked_at=F("blocked_by__created_at"))


# --- everything on one user -----------------------------------------------------------------------


def account_data(*, user: User) -> dict[str, Any]:
    """What accounts holds on `user`, for them to take away; no secrets."""
    return {
        "profile": {
            "id": user.id,
            "username": user.username,
            "email": user.email,
            "display_name": user.display_name,
            "created_at": user.created_at,
            "last_seen_at": user.last_seen_at,
            "last_login_at": user.last_login,
            "suspended_until": user.suspended_until,
            "is_bot": user.is_bot,
            "read_receipts": user.read_receipts,
        },
        "sessions": list(
            user.sessions.order_by("id").values(
                "id",
                "device",
                "user_agent",
                "address",
                "created_at",
                "last_used_at",
                "expires_at",
                "revoked_at",
            )
        ),
        "contacts": list(
            user.contacts.order_by("id")
            .annotate(username=F("target__username"))
            .values("username", "created_at")
        ),
        "contact_of": list(
            user.contact_of.order_by("id")
            .annotate(username=F("owner__username"))
            .values("username", "created_at")
        ),
        "blocks": list(
            user.blocks.order_by("id")
            .annotate(username=F("blocked__username"))
            .values("username", "created_at")
        ),
    }
