"""Groups: made, renamed, joined, left, handed over, dissolved. Writes only, told after their commit.

| | owner | admin | member |
| --- | --- | --- | --- |
| rename, describe, set the history, add | yes | yes | no |
| remove | everyone | members | no |
| change roles, hand over, dissolve | yes | no | no |
| leave | after handing over, or alone | yes | yes |

A group has one owner. Messages are `living`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Final
from uuid import UUID

from django.conf import settings
from django.db import transaction

from accounts import selectors as accounts
from accounts import services as account_services
from accounts.models import Block, User
from chatbe.core import clock
from chatbe.core.errors import Blocked, Conflict, FieldError, Forbidden, Invalid, NotFound, Suspended
from chatbe.hub import fanout
from chatbe.wire import frames
from messaging import changing, selectors, services, stream
from messaging.changing import Held
from messaging.models import Conversation, Membership, Message

Role = Membership.Role

NAMES_SAID: Final = 10
"""So many names a system message has."""
AT_ONCE: Final = 500


# --- making ----------------------------------------------------------------------------------------


def group_create(
    *, owner: User, title: str, description: str = "", history: str = "joined", usernames: Iterable[str] = ()
) -> Conversation:
    """A group with its first members. Raises `NotFound`, `Blocked`, `Invalid` (too many), and then makes nothing."""
    members = _people(name for name in usernames if name.lower() != owner.username)
    _limit(1 + len(members), field="members")
    if owner.suspended(now=clock.now()):
        raise Suspended
    with transaction.atomic():
        everyone = [owner, *members]
        _lock(everyone)
        _refuse_blocked(owner, members)
        made = Conversation.objects.create(
            kind=Conversation.Kind.GROUP,
            title=title,
            description=description,
            history=history,
            head_rev=1,
            state_rev=1,
            member_count=len(everyone),
        )
        Membership.objects.bulk_create(
            [
                Membership(
                    conversation=made,
                    user=user,
                    role=Role.OWNER if user == owner else Role.MEMBER,
                    joined_rev=1,
                )
                for user in everyone
            ],
            batch_size=AT_ONCE,
        )
        _memberships_changed(made.pk, [user.pk for user in everyone])
    return made


def _people(usernames: Iterable[str]) -> list[User]:
    """The users of these names, each once. Raises `NotFound`."""
    names = list(dict.fromkeys(name.lower() for name in usernames))
    found = {user.username: user for user in accounts.users_by_username(usernames=names)}
    for name in names:
        if name not in found:
            raise NotFound(f"There is no user of the name {name}.")
    return [found[name] for name in names]


def _limit(count: int, *, field: str) -> None:
    most = settings.CHATBE_GROUP_MEMBERS
    if count > most:
        raise Invalid(errors=(FieldError(field, "too_many", f"A group has at most {most} members."),))


def _lock(users: Sequence[User]) -> None:
    """Lock the rows of those whose memberships change. Raises `NotFound` if one has gone."""
    if len(account_services.users_lock(*(user.pk for user in users))) != len(users):
        raise NotFound("There is no user of this name.")


def _refuse_blocked(actor: User, users: Sequence[User]) -> None:
    blockers = Block.objects.filter(blocker__in=users, blocked=actor).values_list(
        "blocker__username", flat=True
    )
    for name in blockers[:1]:
        raise Blocked(f"You cannot add {name}.")


def _memberships_changed(conversation: UUID, users: Sequence[UUID]) -> None:
    """Those whose memberships have changed are locked: their servers are told, and find it if the news is lost."""
    account_services.control_revs_raise(*users)
    transaction.on_commit(partial(_tell_users, conversation, users), robust=True)


def _tell_users(conversation: UUID, users: Sequence[UUID]) -> None:
    for user in users:
        fanout.control(user, "memberships_changed", conversation=str(conversation))


# --- rights ----------------------------------------------------------------------------------------


def _actor(held: Held, user: User) -> Membership:
    """The acting member of a group. Raises `NotFound`, `Suspended`, `Forbidden` in a direct conversation."""
    member = changing.acting_member(held, user.pk)
    if held.row.kind != Conversation.Kind.GROUP:
        raise Forbidden("A direct conversation has no title, and two members for ever.")
    return member


def _refuse_member(member: Membership) -> None:
    if member.role == Role.MEMBER:
        raise Forbidden("Only the owner and the admins of a group may do this.")


def _member(held: Held, user: User) -> Membership:
    """Another's membership. Raises `NotFound`."""
    found = Membership.objects.filter(conversation=held.row, user=user, active=True).first()
    if found is None:
        raise NotFound("This user is not a member.")
    return found


# --- the group itself ------------------------------------------------------------------------------


def group_update(
    *,
    actor: User,
    conversation: UUID,
    title: str | None = None,
    description: str | None = None,
    history: str | None = None,
) -> None:
    """Rename, describe, or say what who joins from now on may read; None leaves as it is."""
    with changing.hold(conversation) as held:
        _refuse_member(_actor(held, actor))
        row = held.row
        renamed = title is not None and title != row.title
        before = (row.title, row.description, row.history)
        row.title = row.title if title is None else title
        row.description = row.description if description is None else description
        row.history = row.history if history is None else history
        if (row.title, row.description, row.history) != before:
            held.change_state()
            if renamed:
                held.say(actor, f"{actor.username} renamed the group to “{title}”")
    changing.tell(held)


def group_dissolve(*, actor: User, conversation: UUID) -> None:
    """End everybody's membership; the owner may. What was written stays, out of everyone's reach;
    its attachments go.

    No `control_rev` is raised: servers that miss the news find it by the conversation's own head.
    """
    with changing.hold(conversation) as held:
        if _actor(held, actor).role != Role.OWNER:
            raise Forbidden("Only its owner may dissolve a group.")
        rev = held.change_state()
        held.end_memberships(None)
        Membership.objects.filter(conversation=held.row, active=True).update(active=False, left_rev=rev)
        held.row.member_count = 0
        _remove_attachments(held.row)
    changing.tell(held)


def _remove_attachments(group: Conversation) -> None:
    """Files that nobody can fetch any more are not kept, and count against nobody's quota."""
    attached = Message.objects.filter(conversation=group, attachments__isnull=False)
    services.messages_removed(list(attached.values_list("pk", flat=True)))
    attached.update(attachments=None)


# --- members ---------------------------------------------------------------------------------------


def members_add(*, actor: User, conversation: UUID, usernames: Iterable[str]) -> list[str]:
    """Add people; those who are members already stay as they are. Returns who was added.

    Raises `NotFound`, `Blocked`, `Invalid` (too many), and then adds nobody.
    """
    people = _people(usernames)
    with transaction.atomic():
        _lock(people)
        with changing.hold(conversation) as held:
            _refuse_member(_actor(held, actor))
            known = {
                row.user_id: row
                for row in Membership.objects.select_for_update(no_key=True)
                .filter(conversation=held.row, user__in=people)
                .order_by("user_id")
            }
            added = [user for user in people if user.pk not in known or not known[user.pk].active]
            if not added:
                return []
            _refuse_blocked(actor, added)
            _limit(held.row.member_count + len(added), field="usernames")
            _join(held, added, known)
            held.say(actor, f"{actor.username} added {_names(added)}")
            _memberships_changed(held.row.pk, [user.pk for user in added])
        changing.tell(held)
        _tell_marks(held, [user.username for user in added])
    return [user.username for user in added]


def _join(held: Held, users: Sequence[User], known: dict[UUID, Membership]) -> None:
    """Make users members from now on; `known` has the memberships of those who were before."""
    rev, last_seq = held.change_state(), held.row.last_seq
    fields = {
        "role": Role.MEMBER,
        "active": True,
        "joined_rev": rev,
        "joined_seq": 0 if held.row.history == Conversation.History.ALL else last_seq,
        # Nothing that was written before is unread.
        "read_seq": last_seq,
        "delivered_seq": last_seq,
        "created_at": held.now,
    }
    returning = [known[user.pk] for user in users if user.pk in known]
    for row in returning:
        for name, value in fields.items():
            setattr(row, name, value)
    Membership.objects.bulk_update(returning, list(fields), batch_size=AT_ONCE)
    Membership.objects.bulk_create(
        [Membership(conversation=held.row, user=user, **fields) for user in users if user.pk not in known],
        batch_size=AT_ONCE,
    )
    held.row.member_count += len(users)


def _names(users: Sequence[User]) -> str:
    """The names of some, for a sentence."""
    names = [user.username for user in users[:NAMES_SAID]]
    more = len(users) - len(names)
    if more:
        return f"{', '.join(names)} and {more} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def member_remove(*, actor: User, conversation: UUID, username: str) -> None:
    """Remove a member, or leave. Raises `Conflict` for an owner who leaves others behind."""
    target = accounts.user_by_username(username=username)
    with transaction.atomic():
        _lock([target])
        with changing.hold(conversation) as held:
            me = _actor(held, actor)
            leaving = target.pk == actor.pk
            member = me if leaving else _member(held, target)
            if leaving:
                if me.role == Role.OWNER and held.row.member_count > 1:
                    raise Conflict("Hand the group over, or dissolve it, before you leave.")
            elif me.role == Role.MEMBER or (me.role == Role.ADMIN and member.role != Role.MEMBER):
                raise Forbidden("You may not remove this member.")
            rev = held.change_state()
            held.end_memberships([target.pk])
            member.active, member.left_rev, member.role = False, rev, Role.MEMBER
            member.save(update_fields=["active", "left_rev", "role"])
            held.row.member_count -= 1
            if held.row.member_count:
                held.say(
                    actor,
                    f"{actor.username} left" if leaving else f"{actor.username} removed {target.username}",
                )
            _memberships_changed(held.row.pk, [target.pk])
        changing.tell(held)
        if held.row.member_count == selectors.RECEIPTS_TOLD:
            _tell_marks(held, None)


def role_set(*, actor: User, conversation: UUID, username: str, role: str) -> Membership:
    """Make a member an admin, or a member again; `owner` hands the group over, and the actor is an admin then.

    The owner may; an admin may step down. Raises `Forbidden`, and `Conflict` for an owner's own role.
    """
    target = accounts.user_by_username(username=username)
    with changing.hold(conversation) as held:
        me = _actor(held, actor)
        member = me if target.pk == actor.pk else _member(held, target)
        if me.role != Role.OWNER and not (member == me and me.role == Role.ADMIN and role != Role.OWNER):
            raise Forbidden("Only its owner may change the roles of a group.")
        if member.role != role:
            if member.role == Role.OWNER:
                raise Conflict("Hand the group over by making another its owner.")
            held.change_state()
            if role == Role.OWNER:
                me.role = Role.ADMIN
                me.save(update_fields=["role"])
            member.role = role
            member.save(update_fields=["role"])
    changing.tell(held)
    member.user = target
    return member


def _tell_marks(held: Held, usernames: Sequence[str] | None) -> None:
    """The marks of some members (None: of all), which the others have not been told yet, unless the group is large;
    in the transaction that makes them members."""
    if held.row.member_count <= selectors.RECEIPTS_TOLD:
        identities = services.marks_log(conversation=held.row.pk, usernames=usernames)
        transaction.on_commit(partial(_publish_marks, held.row.pk, usernames, identities), robust=True)


def _publish_marks(conversation: UUID, usernames: Sequence[str] | None, identities: Sequence[str]) -> None:
    told, reserved = stream.marks_told(conversation=conversation, usernames=usernames)
    key = str(conversation)
    fanout.to_members(
        key, frames.Marks({key: told}), identity=" ".join(identities), reserved=frames.Marks({key: reserved})
    )


# --- one's own -------------------------------------------------------------------------------------


def conversation_mute(*, user: User, conversation: UUID, until: datetime | None) -> None:
    """Mute a conversation until a time, or (None) no longer; tells one's own devices. Raises `NotFound`."""
    now = clock.now()
    # A time that has passed stays, so that every device that comes back is told.
    rows = Membership.objects.filter(conversation=conversation, user=user, active=True)
    with transaction.atomic():
        if not rows.update(muted_until=now if until is None else until):
            raise NotFound
        event = frames.Muted(str(conversation), clock.optional_timestamp(selectors.muted_until(until)))
        transaction.on_commit(partial(fanout.to_users, [user.pk], event, in_stream=True), robust=True)
