"""Tables of accounts: users, sessions, one-time passwords, contacts, blocks."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.core.validators import RegexValidator
from django.db import models
from django.db.models.functions import Lower

from chatbe.core import clock, ids

USERNAME_PATTERN = r"^[a-z0-9._-]{3,32}\Z"
username_validator = RegexValidator(USERNAME_PATTERN, "3 to 32 characters of a-z 0-9 . _ -", code="username")


class UserManager(BaseUserManager["User"]):
    """Makes users; passwords are hashed, usernames and emails kept in lower case."""

    def create_user(
        self, username: str, email: str | None = None, password: str | None = None, **fields: object
    ) -> User:
        """Store a user; without `password` nobody can sign in as them."""
        user = self.model(username=username.lower(), email=email.lower() if email else None, **fields)
        user.set_password(password)
        user.full_clean(exclude=["password"])
        user.save(using=self._db)
        return user

    def create_superuser(
        self, username: str, email: str | None = None, password: str | None = None, **fields: object
    ) -> User:
        """Store a user who may do everything in the admin."""
        return self.create_user(username, email, password, is_staff=True, is_superuser=True, **fields)

    def get_by_natural_key(self, username: str | None) -> User:
        """Usernames are matched in any case."""
        return self.get(username=(username or "").lower())


class User(AbstractBaseUser, PermissionsMixin):
    """An account. The username is unchangeable and never given to another (see `RetiredUsername`)."""

    id = models.UUIDField(primary_key=True, default=ids.uuid7, editable=False)
    username = models.CharField(
        max_length=32,
        unique=True,
        validators=[username_validator],
    )
    email = models.EmailField(max_length=254, null=True, blank=True)  # noqa: DJ001 - unique, so none is NULL
    display_name = models.CharField(max_length=64, blank=True)
    is_active = models.BooleanField(default=True)
    is_staff = models.BooleanField(default=False)
    is_bot = models.BooleanField(default=False)
    read_receipts = models.BooleanField(
        default=True,
        db_default=True,
        help_text="Whether others see what they have read; if not, they see nobody's either.",
    )
    suspended_until = models.DateTimeField(null=True, blank=True)
    last_seen_at = models.DateTimeField(null=True, blank=True, editable=False)
    control_rev = models.BigIntegerField(
        default=0,
        editable=False,
        help_text="Raised in the transaction of every change to this user's memberships, contacts, blocks, "
        "sessions or suspension.",
    )
    created_at = models.DateTimeField(default=clock.now, editable=False)

    objects: ClassVar[UserManager] = UserManager()

    USERNAME_FIELD = "username"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = ["email"]

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(Lower("email"), name="user_email_unique", violation_error_code="unique"),
        ]

    def __str__(self) -> str:
        return self.username

    def suspended(self, *, now: datetime) -> bool:
        """Whether the account may not act at `now`."""
        return not self.is_active or (self.suspended_until is not None and self.suspended_until > now)


class RetiredUsername(models.Model):
    """The SHA-256 of an erased account's username, so that it is never given to another."""

    digest = models.BinaryField(max_length=32, primary_key=True)
    retired_at = models.DateTimeField(default=clock.now)

    def __str__(self) -> str:
        return bytes(self.digest).hex()


class Session(models.Model):
    """One sign-in on one device: the owner of a refresh-token family.

    `refresh_jti` names the only refresh token that is good now; rotating is a
    compare-and-set on it, so that a spent token is noticed and ends the session.
    """

    id = models.UUIDField(primary_key=True, default=ids.uuid7, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="sessions")
    refresh_jti = models.UUIDField(editable=False)
    device = models.CharField(max_length=100, blank=True)
    user_agent = models.CharField(max_length=300, blank=True)
    address = models.GenericIPAddressField(null=True, blank=True)
    created_at = models.DateTimeField(default=clock.now)
    last_used_at = models.DateTimeField(default=clock.now)
    expires_at = models.DateTimeField(db_index=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.device or 'device'} of {self.user_id}"

    def alive(self, *, now: datetime) -> bool:
        """Neither revoked nor expired."""
        return self.revoked_at is None and self.expires_at > now


class OneTimePassword(models.Model):
    """A ticket that opens one WebSocket. Only the SHA-256 of it is kept."""

    digest = models.BinaryField(max_length=32, primary_key=True)
    session = models.ForeignKey(Session, on_delete=models.CASCADE, related_name="otps")
    expires_at = models.DateTimeField(db_index=True)
    used_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"otp of session {self.session_id}"


class Contact(models.Model):
    """`owner` has added `target`. Directed; two who added each other are mutual contacts."""

    id = models.UUIDField(primary_key=True, default=ids.uuid7, editable=False)
    owner = models.ForeignKey(User, on_delete=models.CASCADE, related_name="contacts", db_index=False)
    target = models.ForeignKey(User, on_delete=models.CASCADE, related_name="contact_of")
    created_at = models.DateTimeField(default=clock.now)

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["owner", "target"], name="contact_unique"),
            models.CheckConstraint(condition=~models.Q(owner=models.F("target")), name="contact_not_self"),
        ]

    def __str__(self) -> str:
        return f"{self.owner_id} added {self.target_id}"


class Block(models.Model):
    """`blocker` wants no direct messages and no group invitations from `blocked`, nor to be seen by them."""

    id = models.UUIDField(primary_key=True, default=ids.uuid7, editable=False)
    blocker = models.ForeignKey(User, on_delete=models.CASCADE, related_name="blocks", db_index=False)
    blocked = models.ForeignKey(User, on_delete=models.CASCADE, related_name="blocked_by")
    created_at = models.DateTimeField(default=clock.now)

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["blocker", "blocked"], name="block_unique"),
            models.CheckConstraint(condition=~models.Q(blocker=models.F("blocked")), name="block_not_self"),
        ]

    def __str__(self) -> str:
        return f"{self.blocker_id} blocked {self.blocked_id}"


class Attempts(models.Model):
    """Failed or limited attempts under one key within one window; kept in the database, so that limits
    hold across processes and restarts and do not depend on Redis."""

    key = models.BinaryField(max_length=32, help_text="SHA-256 of what is limited")
    window = models.BigIntegerField(db_index=True, help_text="the window's start, Unix seconds")
    count = models.IntegerField(default=0)

    class Meta:
        verbose_name_plural = "attempts"
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["key", "window"], name="attempts_unique"),
        ]

    def __str__(self) -> str:
        return f"{self.count} since {self.window}"


UserId = uuid.UUID
SessionId = uuid.UUID
