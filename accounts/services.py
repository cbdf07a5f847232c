"""What changes accounts: people, sessions, one-time passwords, contacts, blocks. Writes only.

Each change that others see raises `User.control_rev` of those concerned in its transaction,
and is fanned out after its commit.

Lock order: user rows by id, `FOR NO KEY UPDATE`, before anything else, conversations included.
"""

from __future__ import annotations

import hashlib
import logging
import random
import re
import secrets
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.contrib.auth import password_validation
from django.contrib.auth.hashers import check_password, make_password
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction
from django.db.models import F, Q

from accounts import attempts, selectors
from accounts.errors import InvalidCredentials, SessionEnded
from accounts.models import Attempts, Block, Contact, OneTimePassword, RetiredUsername, Session, User
from accounts.tokens import Tokens, refresh_claims, tokens_for
from chatbe.core import addresses, clock
from chatbe.core.errors import Conflict, FieldError, Invalid, NotFound, Suspended
from chatbe.hub import fanout
from chatbe.wire import frames

logger = logging.getLogger("accounts.services")

# --- what other apps take part in -----------------------------------------------------------------

erasure_hooks: list[Callable[[UUID], None]] = []
"""Called with the user's id in the transaction that erases them, before their row is deleted."""

export_hooks: dict[str, Callable[[UUID], Any]] = {}
"""What else is held on a user, by the name it has in their export; values that JSON can say."""

block_hooks: list[Callable[[UUID, UUID], None]] = []
"""Called with (blocker, blocked) in the transaction of a block, so that what it forbids can be locked out."""

unblock_hooks: list[Callable[[UUID, UUID], None]] = []
"""Called with blocker and blocked when a block is taken back, in its transaction."""

receipts_hooks: list[Callable[[UUID], None]] = []
"""Called with the id of a user who has turned read receipts on, after the commit."""

sweep_hooks: list[Callable[[], int]] = []
"""Called by `manage.py sweep`: delete what is left over, and say how much that was."""

UNUSABLE_PASSWORD: Final = "!"  # noqa: S105 - Django's mark of an account without a password
OTP_BYTES: Final = 24
KEPT_AFTER_END: Final = timedelta(days=7)
"""How long ended sessions stay, for support."""
SWEEP_CHANCE: Final = 0.01
"""How often a sign-in also sweeps: the table stays small without anybody running the command."""


@dataclass(frozen=True, slots=True)
class Otp:
    """A fresh one-time password. It is nowhere else: only its digest is stored."""

    value: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class SignedIn:
    """What a sign-in gives."""

    user: User
    tokens: Tokens
    otp: Otp


@dataclass(frozen=True, slots=True)
class ContactAdded:
    """Whom was added, and whether that changed anything."""

    user_id: UUID
    created: bool


# --- registration and profile ---------------------------------------------------------------------


def user_register(
    *, username: str, email: str, password: str, display_name: str = "", address: str | None = None
) -> User:
    """A new account. Raises `Invalid` (weak password), `Conflict` (taken) or `RateLimited` (per address)."""
    name = selectors.username_normalize(username)
    if name is None:
        raise Invalid(errors=(FieldError("username", "invalid", "3 to 32 characters of a-z 0-9 . _ -"),))
    candidate = User(username=name, email=email, display_name=display_name)
    _password_validate(password, user=candidate, field="password")
    attempts.attempts_count([attempts.REGISTER_PER_ADDRESS.of(addresses.block(address))])
    _refuse_taken(username=name, email=email)
    candidate = User(
        username=name, email=email.lower(), display_name=display_name, password=make_password(password)
    )
    try:
        with transaction.atomic():
            candidate.save(force_insert=True)
            # After the insert, which waits for an erasure of this name that is under way.
            if _username_retired(name):
                raise _taken("username")
    except IntegrityError:
        # Registered by another at the same moment.
        _refuse_taken(username=name, email=email)
        raise
    return candidate


def profile_update(
    *,
    user: User,
    display_name: str | None = None,
    email: str | None = None,
    read_receipts: bool | None = None,
) -> User:
    """Change what is not None. Raises `Conflict` when the email is another's."""
    changed = {
        name: value
        for name, value in (
            ("display_name", display_name),
            ("email", email and email.lower()),
            ("read_receipts", read_receipts),
        )
        if value is not None
    }
    if changed:
        try:
            with transaction.atomic():
                users_lock(user.id)
                shown = User.objects.filter(id=user.id).values_list("read_receipts", flat=True).first()
                User.objects.filter(id=user.id).update(**changed)
                if read_receipts is not None and read_receipts != shown:
                    control_revs_raise(user.id)
                    _after_commit(_receipts_changed, user.id, read_receipts=read_receipts)
        except IntegrityError:
            raise _taken("email") from None
        user.refresh_from_db(fields=list(changed))
    return user


def _receipts_changed(user_id: UUID, *, read_receipts: bool) -> None:
    fanout.control(user_id, "settings_changed")
    if read_receipts:
        for hook in receipts_hooks:
            hook(user_id)


def username_taken(*, username: str) -> bool:
    """Whether `username` (in lower case) is or ever was somebody's."""
    return User.objects.filter(username=username).exists() or _username_retired(username)


def _refuse_taken(*, username: str, email: str) -> None:
    fields = []
    if username_taken(username=username):
        fields.append("username")
    if selectors.user_by_identifier(identifier=email) is not None:
        fields.append("email")
    if fields:
        raise _taken(*fields)


def _taken(*fields: str) -> Conflict:
    return Conflict(
        f"The {' and the '.join(fields)} {'is' if len(fields) == 1 else 'are'} taken.",
        errors=tuple(FieldError(field, "taken", f"This {field} is taken.") for field in fields),
    )


def _username_digest(username: str) -> bytes:
    return hashlib.sha256(username.encode()).digest()


def _username_retired(username: str) -> bool:
    return RetiredUsername.objects.filter(digest=_username_digest(username)).exists()


def _password_validate(password: str, *, user: User, field: str) -> None:
    try:
        password_validation.validate_password(password, user)
    except ValidationError as error:
        raise Invalid(
            "This password is too weak.",
            errors=tuple(
                FieldError(field, each.code or "invalid", " ".join(each.messages))
                for each in error.error_list
            ),
        ) from None


# --- signing in -----------------------------------------------------------------------------------


def credentials_check(*, identifier: str, password: str, address: str | None) -> User:
    """The user of a username or email and a password; their account may be suspended.

    Raises `InvalidCredentials`, after the same time whether or not there is such an account, or
    `RateLimited`. Only failures count; a password that was right all along is refused too once
    the limit is reached, so that guesses made at the same moment gain nothing.
    """
    user = selectors.user_by_identifier(identifier=identifier)
    keys = [
        # By the name that was typed: counting a username and an email as one would tell that they are one's.
        attempts.LOGIN_PER_ACCOUNT.of(identifier.lower()),
        attempts.LOGIN_PER_ADDRESS.of(addresses.block(address)),
    ]
    attempts.attempts_check(keys)
    if not check_password(password, UNUSABLE_PASSWORD if user is None else user.password, _rehash(user)):
        attempts.attempts_count(keys)
        raise InvalidCredentials
    attempts.attempts_check(keys)
    if user is None:
        raise InvalidCredentials
    return user


def _rehash(user: User | None) -> Callable[[str], None] | None:
    """Stores the password by today's parameters, when it was hashed by older ones."""
    if user is None:
        return None

    def store(password: str) -> None:
        User.objects.filter(id=user.id, password=user.password).update(password=make_password(password))

    return store


def _own_password_check(*, user: User, password: str, field: str) -> None:
    key = attempts.PASSWORD_PER_USER.of(str(user.id))
    attempts.attempts_check([key])
    if not check_password(password, user.password):
        attempts.attempts_count([key])
        raise Invalid(
            "The password is wrong.", errors=(FieldError(field, "wrong", "The password is wrong."),)
        )
    attempts.attempts_check([key])


def sign_in(
    *,
    identifier: str,
    password: str,
    device: str = "",
    user_agent: str = "",
    address: str | None = None,
) -> SignedIn:
    """Open a session by password. Raises `InvalidCredentials`, `RateLimited`; `Suspended` to its owner."""
    user = credentials_check(identifier=identifier, password=password, address=address)
    if user.suspended(now=clock.now()):
        raise Suspended
    with transaction.atomic():
        session, tokens = session_open(user=user, device=device, user_agent=user_agent, address=address)
        otp = _otp_store(session_id=session.id)
    if random.random() < SWEEP_CHANCE:  # noqa: S311 - decides nothing but when to tidy up
        sweep(limit=1000)
    return SignedIn(user, tokens, otp)


# --- sessions -------------------------------------------------------------------------------------


def session_open(
    *, user: User, device: str = "", user_agent: str = "", address: str | None = None
) -> tuple[Session, Tokens]:
    """A new session and its first tokens. Who calls this has made sure of the user."""
    now = clock.now()
    session = Session.objects.create(
        user=user,
        refresh_jti=uuid.uuid4(),
        device=device[:100],
        user_agent=user_agent[:300],
        address=address,
        created_at=now,
        last_used_at=now,
        expires_at=now + settings.CHATBE_SESSION_LIFETIME,
    )
    return session, tokens_for(session=session, refresh_jti=session.refresh_jti, now=now)


def session_refresh(*, refresh_token: str) -> Tokens:
    """Rotate: new tokens for the session's only good refresh token.

    A token that was used before, or is used twice at the same moment, ends its session.
    Raises `InvalidToken`, `SessionEnded` or `Suspended`.
    """
    claims = refresh_claims(refresh_token)
    now = clock.now()
    session = selectors.session_with_user(session_id=claims.session_id)
    if session is None:
        raise SessionEnded
    if session.user.suspended(now=now):
        raise Suspended
    if not session.alive(now=now):
        raise SessionEnded
    refresh_jti = uuid.uuid4()
    # The compare-and-set: of two who hold the same token, one finds it spent.
    rotated = Session.objects.filter(
        id=session.id, refresh_jti=claims.jti, revoked_at=None, expires_at__gt=now
    ).update(refresh_jti=refresh_jti, last_used_at=now)
    if not rotated:
        if sessions_end(user_id=session.user_id, session_ids=[session.id]):
            logger.warning("refresh token used again: session ended", extra={"session": session.id})
        raise SessionEnded
    return tokens_for(session=session, refresh_jti=refresh_jti, now=now)


def session_end(*, user_id: UUID, session_id: UUID) -> None:
    """End one session of a user and close its sockets. Raises `NotFound` if it is not there to end."""
    if not sessions_end(user_id=user_id, session_ids=[session_id]):
        raise NotFound("There is no such session.")


def sessions_end(
    *, user_id: UUID, session_ids: Collection[UUID] | None = None, keep: UUID | None = None
) -> list[UUID]:
    """End a user's sessions: those named, or all but `keep`. Closes their sockets. Returns what was ended."""
    with transaction.atomic():
        if not users_lock(user_id):
            return []
        alive = selectors.sessions_alive(user_id=user_id)
        if session_ids is not None:
            alive = alive.filter(id__in=session_ids)
        if keep is not None:
            alive = alive.exclude(id=keep)
        ended = list(alive.values_list("id", flat=True))
        if ended:
            Session.objects.filter(id__in=ended).update(revoked_at=clock.now())
            control_revs_raise(user_id)
            for session_id in ended:
                _after_commit(fanout.control, user_id, "session_ended", session=str(session_id))
    return ended


# --- one-time passwords ---------------------------------------------------------------------------


def otp_issue(*, session_id: UUID) -> Otp:
    """A one-time password for another socket of a live session. Raises `RateLimited`."""
    attempts.attempts_count([attempts.OTP_PER_SESSION.of(str(session_id))])
    return _otp_store(session_id=session_id)


def otps_issue(*, session_ids: Sequence[UUID]) -> dict[UUID, str]:
    """One for each of the sessions that is alive, uncounted: for the server's own `bye`."""
    now = clock.now()
    alive = list(
        Session.objects.filter(id__in=set(session_ids), revoked_at=None, expires_at__gt=now).values_list(
            "id", flat=True
        )
    )
    values = {session_id: secrets.token_urlsafe(OTP_BYTES) for session_id in alive}
    OneTimePassword.objects.bulk_create(
        OneTimePassword(
            digest=_otp_digest(value), session_id=session_id, expires_at=now + settings.CHATBE_OTP_LIFETIME
        )
        for session_id, value in values.items()
    )
    return values


OTP_TAKE: Final = """
    UPDATE accounts_onetimepassword o SET used_at = $2::timestamptz
     WHERE o.digest = $1::bytea AND o.used_at IS NULL AND o.expires_at > $2
       AND (SELECT s.revoked_at IS NULL AND s.expires_at > $2 FROM accounts_session s WHERE s.id = o.session_id)
 RETURNING o.session_id,
           (SELECT concat_ws(' ', u.id, u.username, (extract(epoch FROM s.expires_at) * 1000000)::bigint)
              FROM accounts_session s JOIN accounts_user u ON u.id = s.user_id WHERE s.id = o.session_id)"""
"""As `otp_take`, of a digest, on PostgreSQL: the session; its user, their username, and when it expires.

The session is judged in the select list, or the planner might look for it by the index on its expiry,
which finds all that are alive.
"""


def otp_take(*, otp: str) -> Session | None:
    """Use up a one-time password: its live session with its user, or None. One of many takers succeeds."""
    digest = otp_digest(otp)
    if digest is None:
        return None
    now = clock.now()
    adapted = connection.ops.adapt_datetimefield_value(now)
    with connection.cursor() as cursor:
        # One statement decides: of simultaneous takers the later ones find it used.
        cursor.execute(
            "UPDATE accounts_onetimepassword SET used_at = %s"
            " WHERE digest = %s AND used_at IS NULL AND expires_at > %s AND session_id IN"
            " (SELECT id FROM accounts_session WHERE revoked_at IS NULL AND expires_at > %s)"
            " RETURNING session_id",
            [adapted, digest, adapted, adapted],
        )
        taken = cursor.fetchone()
    if taken is None:
        return None
    return selectors.session_with_user(session_id=UUID(str(taken[0])))


def _otp_store(*, session_id: UUID) -> Otp:
    value = secrets.token_urlsafe(OTP_BYTES)
    expires_at = clock.now() + settings.CHATBE_OTP_LIFETIME
    OneTimePassword.objects.create(digest=_otp_digest(value), session_id=session_id, expires_at=expires_at)
    return Otp(value, expires_at)


def otp_digest(otp: str) -> bytes | None:
    """Under what a one-time password is kept; None for what can be none."""
    return _otp_digest(otp) if re.fullmatch(r"[A-Za-z0-9_-]{22,86}", otp, re.ASCII) else None


def _otp_digest(otp: str) -> bytes:
    return hashlib.sha256(otp.encode()).digest()


# --- passwords, suspension, erasure ---------------------------------------------------------------


def password_change(
    *, user: User, current_password: str, new_password: str, keep: UUID | None = None
) -> None:
    """Replace the password and end the other sessions (all but `keep`).

    Raises `Invalid` for a wrong current or a weak new password, `RateLimited`, and `Conflict` when
    the password was changed elsewhere meanwhile.
    """
    _own_password_check(user=user, password=current_password, field="current_password")
    _password_validate(new_password, user=user, field="new_password")
    hashed = make_password(new_password)
    with transaction.atomic():
        users_lock(user.id)
        if not User.objects.filter(id=user.id, password=user.password).update(password=hashed):
            raise Conflict("The password was changed elsewhere at the same moment.")
        sessions_end(user_id=user.id, keep=keep)
    user.password = hashed


def password_replace(*, user: User, password: str) -> None:
    """An administrator's change: set the password and end all sessions."""
    hashed = make_password(password)
    with transaction.atomic():
        users_lock(user.id)
        User.objects.filter(id=user.id).update(password=hashed)
        sessions_end(user_id=user.id)
    user.password = hashed


def user_suspend(*, user_id: UUID, until: datetime | None = None) -> None:
    """Let a user do nothing until a time, or until `user_restore`; ends sessions and closes sockets."""
    with transaction.atomic():
        if not users_lock(user_id):
            raise NotFound("There is no such user.")
        User.objects.filter(id=user_id).update(is_active=until is not None, suspended_until=until)
        Session.objects.filter(user_id=user_id, revoked_at=None).update(revoked_at=clock.now())
        control_revs_raise(user_id)
        _after_commit(fanout.control, user_id, "suspended")


def user_restore(*, user_id: UUID) -> None:
    """Take back a suspension. They sign in again."""
    with transaction.atomic():
        if not users_lock(user_id):
            raise NotFound("There is no such user.")
        User.objects.filter(id=user_id).update(is_active=True, suspended_until=None)
        control_revs_raise(user_id)


def account_erase(*, user: User, password: str) -> None:
    """Erase one's own account. Raises `Invalid` for a wrong password, `RateLimited`."""
    _own_password_check(user=user, password=password, field="password")
    try:
        user_erase(user_id=user.id)
    except NotFound:
        # Erased by another request at the same moment, and this one's session with it.
        raise SessionEnded from None


def user_erase(*, user_id: UUID) -> None:
    """Delete an account and all that is held on it; its name is retired. Raises `NotFound`.

    What others hold of it (messages) is up to `erasure_hooks`.
    """
    for _ in range(2):
        # Something that refers to the user may be stored while their row is being deleted.
        with suppress(IntegrityError):
            _user_erase(user_id)
            return
    _user_erase(user_id)


def _user_erase(user_id: UUID) -> None:
    with transaction.atomic():
        added = Contact.objects.filter(owner=user_id)
        added_by = Contact.objects.filter(target=user_id)
        concerned = User.objects.filter(
            Q(id=user_id) | Q(id__in=added.values("target")) | Q(id__in=added_by.values("owner"))
        )
        locked = list(concerned.select_for_update(no_key=True).order_by("id").values_list("id", "username"))
        usernames = dict(locked)
        username = usernames.pop(user_id, None)
        if username is None:
            raise NotFound("There is no such user.")
        session_ids = list(selectors.sessions_alive(user_id=user_id).values_list("id", flat=True))
        told = list(
            added.exclude(target__in=Block.objects.filter(blocked=user_id).values("blocker")).values_list(
                "target", flat=True
            )
        )
        for hook in erasure_hooks:
            hook(user_id)
        RetiredUsername.objects.bulk_create(
            [RetiredUsername(digest=_username_digest(username))], ignore_conflicts=True
        )
        concerned.update(control_rev=F("control_rev") + 1)
        User.objects.get(id=user_id).delete()
        for session_id in session_ids:
            _after_commit(fanout.control, user_id, "session_ended", session=str(session_id))
        event = frames.Contact(username=username, added=False, mutual=False)
        _after_commit(fanout.to_users, told, event)
        for peer in usernames:
            _after_commit(fanout.control, peer, "contacts_changed", peer=str(user_id))


def account_export(*, user: User) -> dict[str, Any]:
    """Everything held on `user`, by all apps."""
    exported = {"exported_at": clock.now(), **selectors.account_data(user=user)}
    return exported | {name: export(user.id) for name, export in export_hooks.items()}


# --- contacts and blocks --------------------------------------------------------------------------


def contact_add(*, owner: User, username: str) -> ContactAdded:
    """Add someone to `owner`'s contacts. Someone who blocks `owner` is added as well, and not told.

    Raises `NotFound`, or `Invalid` for oneself.
    """
    target = selectors.user_by_username(username=username)
    if target.id == owner.id:
        raise Invalid(errors=(FieldError("username", "self", "You cannot add yourself."),))
    with transaction.atomic():
        # The lock also makes the two questions below stay true until the commit.
        if target.id not in users_lock(owner.id, target.id):
            raise NotFound("There is no user of this name.")
        contact, created = Contact.objects.get_or_create(owner=owner, target=target)
        if created:
            _contact_changed(owner=owner, target_id=target.id, added=True, identity=str(contact.id))
    return ContactAdded(target.id, created)


def contact_remove(*, owner: User, username: str) -> None:
    """Take someone off `owner`'s contacts. Raises `NotFound` if they are not on them."""
    target = selectors.user_by_username(username=username)
    with transaction.atomic():
        users_lock(owner.id, target.id)
        deleted, _ = Contact.objects.filter(owner=owner, target=target).delete()
        if not deleted:
            raise NotFound("This user is not one of your contacts.")
        _contact_changed(owner=owner, target_id=target.id, added=False)


def _contact_changed(*, owner: User, target_id: UUID, added: bool, identity: str = "") -> None:
    control_revs_raise(owner.id, target_id)
    blocks = set(
        Block.objects.filter(
            Q(blocker=target_id, blocked=owner.id) | Q(blocker=owner.id, blocked=target_id)
        ).values_list("blocker", flat=True)
    )
    if target_id not in blocks:
        mutual = added and not blocks and selectors.contact_exists(owner=target_id, target=owner.id)
        event = frames.Contact(username=owner.username, added=added, mutual=mutual)
        _after_commit(fanout.to_users, [target_id], event, identity=identity)
    _relation_changed(owner.id, target_id)


def block_add(*, blocker: User, username: str) -> None:
    """Block someone; again is the same. Raises `NotFound`, or `Invalid` for oneself."""
    blocked = selectors.user_by_username(username=username)
    if blocked.id == blocker.id:
        raise Invalid(errors=(FieldError("username", "self", "You cannot block yourself."),))
    with transaction.atomic():
        if blocked.id not in users_lock(blocker.id, blocked.id):
            raise NotFound("There is no user of this name.")
        _, created = Block.objects.get_or_create(blocker=blocker, blocked=blocked)
        if created:
            control_revs_raise(blocker.id, blocked.id)
            for hook in block_hooks:
                hook(blocker.id, blocked.id)
            _relation_changed(blocker.id, blocked.id)


def block_remove(*, blocker: User, username: str) -> None:
    """Take back a block; again is the same. Raises `NotFound` when there is no such user."""
    blocked = selectors.user_by_username(username=username)
    with transaction.atomic():
        users_lock(blocker.id, blocked.id)
        deleted, _ = Block.objects.filter(blocker=blocker, blocked=blocked).delete()
        if deleted:
            control_revs_raise(blocker.id, blocked.id)
            for hook in unblock_hooks:
                hook(blocker.id, blocked.id)
            _relation_changed(blocker.id, blocked.id)


def _relation_changed(one: UUID, other: UUID) -> None:
    """Both sides' servers look again at whether the two see each other."""
    _after_commit(fanout.control, one, "contacts_changed", peer=str(other))
    _after_commit(fanout.control, other, "contacts_changed", peer=str(one))


# --- tidying up -----------------------------------------------------------------------------------


def sweep(*, limit: int = 10_000) -> int:
    """Delete what has expired, at most `limit` rows of each kind. Returns how many rows went."""
    now = clock.now()
    oldest_window = int(now.timestamp()) - 2 * attempts.LONGEST_WINDOW
    ended = now - KEPT_AFTER_END
    expired: Iterable[Any] = (
        OneTimePassword.objects.filter(expires_at__lt=now),
        Session.objects.filter(Q(expires_at__lt=ended) | Q(revoked_at__lt=ended)),
        Attempts.objects.filter(window__lt=oldest_window),
    )
    gone = 0
    for rows in expired:
        deleted, _ = rows.model.objects.filter(
            pk__in=list(rows.values_list("pk", flat=True)[:limit])
        ).delete()
        gone += deleted
    return gone


# --- shared steps ---------------------------------------------------------------------------------


def users_lock(*user_ids: UUID) -> set[UUID]:
    """Lock these users' rows, in the order of their ids, until the commit. Returns those that exist."""
    rows = User.objects.select_for_update(no_key=True).filter(id__in=user_ids).order_by("id")
    return set(rows.values_list("id", flat=True))


def control_revs_raise(*user_ids: UUID) -> None:
    """Something about these users has changed, in this transaction; their rows are locked by it."""
    User.objects.filter(id__in=user_ids).update(control_rev=F("control_rev") + 1)


def _after_commit(action: Callable[..., None], *args: Any, **fields: Any) -> None:
    """Robust: the change stands even if telling it fails, and the servers then find it in the database."""
    transaction.on_commit(partial(action, *args, **fields), robust=True)
