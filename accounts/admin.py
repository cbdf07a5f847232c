"""Accounts in the admin. What services promise goes through them; the rest is read-only. No secret is shown."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import AdminPasswordChangeForm, AdminUserCreationForm
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from accounts import selectors, services
from accounts.models import Block, Contact, Session, User, username_validator
from chatbe.core import clock

if TYPE_CHECKING:
    # Generic in their stubs, not at run time.
    _CreationForm = AdminUserCreationForm[User]
    _PasswordForm = AdminPasswordChangeForm[User]
    _UserAdmin = DjangoUserAdmin[User]
    _ModelAdmin = admin.ModelAdmin[Any]
else:
    _CreationForm = AdminUserCreationForm
    _PasswordForm = AdminPasswordChangeForm
    _UserAdmin = DjangoUserAdmin
    _ModelAdmin = admin.ModelAdmin


class UserCreationForm(_CreationForm):
    """A new account, by the rules of registration."""

    class Meta:
        model = User
        fields = ("username", "email", "display_name")

    def clean_username(self) -> str:
        """In lower case, and nobody's before."""
        username: str = self.cleaned_data["username"].lower()
        username_validator(username)
        if services.username_taken(username=username):
            raise forms.ValidationError("This username is taken.", code="taken")
        return username

    def clean_email(self) -> str | None:
        """In lower case; none is NULL."""
        email: str | None = self.cleaned_data["email"]
        return email.lower() if email else None


class UserPasswordForm(_PasswordForm):
    """Sets a password, and ends the sessions that were opened by the old one."""

    def save(self, commit: bool = True) -> User:
        """Through the service; `commit` is always meant."""
        del commit
        user = self.user
        if not isinstance(user, User):
            raise TypeError("the form is for accounts")
        services.password_replace(user=user, password=self.cleaned_data["password1"])
        return user


class SuspendedFilter(admin.SimpleListFilter):
    """Suspended now, or not."""

    title = "suspension"
    parameter_name = "suspended"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:  # noqa: ARG002 - the framework's signature
        """The choices."""
        return [("yes", "Suspended"), ("no", "Not suspended")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[User]) -> QuerySet[User]:  # noqa: ARG002 - the framework's signature
        """Those who match."""
        match self.value():
            case "yes":
                return queryset.filter(selectors.suspended_at(clock.now()))
            case "no":
                return queryset.exclude(selectors.suspended_at(clock.now()))
            case _:
                return queryset


@admin.register(User)
class UserAdmin(_UserAdmin):
    """People. Deleting erases as `DELETE /v1/me` does; suspending and restoring are actions."""

    add_form = UserCreationForm
    change_password_form = UserPasswordForm
    list_display = (
        "username",
        "email",
        "display_name",
        "is_staff",
        "is_bot",
        "suspended",
        "last_seen_at",
        "created_at",
    )
    list_filter = (SuspendedFilter, "is_staff", "is_superuser", "is_bot", "created_at")
    search_fields = ("username__startswith", "email__istartswith", "display_name__istartswith")
    ordering = ("-id",)
    show_full_result_count = False
    date_hierarchy = None
    filter_horizontal = ("groups", "user_permissions")
    fieldsets = (
        (None, {"fields": ("username", "email", "display_name", "is_bot")}),
        ("State", {"fields": ("is_active", "suspended_until", "last_seen_at", "last_login", "created_at")}),
        ("Rights", {"fields": ("is_staff", "is_superuser", "groups", "user_permissions")}),
    )
    add_fieldsets = (
        (
            None,
            {
                "classes": ("wide",),
                "fields": ("username", "email", "display_name", "usable_password", "password1", "password2"),
            },
        ),
    )  # fmt: skip
    actions = ("suspend_for_a_day", "suspend", "restore", "sign_out")

    @admin.display(boolean=True, description="suspended")
    def suspended(self, user: User) -> bool:
        """Whether they may do nothing now."""
        return user.suspended(now=clock.now())

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> list[str]:
        """Names never change, and only superusers give rights."""
        fixed = ["is_active", "suspended_until", "last_seen_at", "last_login", "created_at"]
        if obj is not None:
            fixed.append("username")
        if not request.user.is_superuser:
            fixed += ["is_staff", "is_superuser", "groups", "user_permissions"]
        return fixed

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        """Only superusers change superusers, their passwords included."""
        allowed: bool = super().has_change_permission(request, obj)
        return allowed and _may_touch(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        """Only superusers erase superusers."""
        allowed: bool = super().has_delete_permission(request, obj)
        return allowed and _may_touch(request, obj)

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        """Emails are kept in lower case; none is NULL."""
        obj.email = obj.email.lower() if obj.email else None
        super().save_model(request, obj, form, change)

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        """Whom, not all that hangs on them: that may be a million rows, and messages stay."""
        users = list(objs)
        protected = [str(user) for user in users if not self.has_delete_permission(request, user)]
        return [str(user) for user in users], {"users": len(users)}, set(), protected

    def delete_model(self, request: HttpRequest, obj: User) -> None:  # noqa: ARG002 - the framework's signature
        """Erase."""
        services.user_erase(user_id=obj.id)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[User]) -> None:  # noqa: ARG002 - the framework's signature
        """Erase each."""
        for user_id in list(queryset.values_list("id", flat=True)):
            services.user_erase(user_id=user_id)

    @admin.action(description="Suspend for a day", permissions=["change"])
    def suspend_for_a_day(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        """Ends their sessions, and none can be opened for a day."""
        users = self._touchable(request, queryset)
        for user in users:
            services.user_suspend(user_id=user.id, until=clock.now() + timedelta(days=1))
        self.message_user(request, f"{len(users)} suspended for a day.", messages.SUCCESS)

    @admin.action(description="Suspend until restored", permissions=["change"])
    def suspend(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        """Ends their sessions, and none can be opened."""
        users = self._touchable(request, queryset)
        for user in users:
            services.user_suspend(user_id=user.id)
        self.message_user(request, f"{len(users)} suspended.", messages.SUCCESS)

    @admin.action(description="Restore (end the suspension)", permissions=["change"])
    def restore(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        """They may sign in again."""
        users = self._touchable(request, queryset)
        for user in users:
            services.user_restore(user_id=user.id)
        self.message_user(request, f"{len(users)} restored.", messages.SUCCESS)

    @admin.action(description="Sign out everywhere", permissions=["change"])
    def sign_out(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        """Ends their sessions and closes their sockets."""
        ended = sum(
            len(services.sessions_end(user_id=user.id)) for user in self._touchable(request, queryset)
        )
        self.message_user(request, f"{ended} sessions ended.", messages.SUCCESS)

    def _touchable(self, request: HttpRequest, queryset: QuerySet[User]) -> list[User]:
        """Of those selected, whom this administrator may change; never themselves."""
        users = [user for user in queryset if _may_touch(request, user) and user != request.user]
        if len(users) < queryset.count():
            self.message_user(request, "Yourself and superusers were left out.", messages.WARNING)
        return users


def _may_touch(request: HttpRequest, obj: User | None) -> bool:
    return bool(request.user.is_superuser) or obj is None or not obj.is_superuser


class ReadOnlyAdmin(_ModelAdmin):
    """Seen, not edited: a change here would be told to nobody."""

    show_full_result_count = False
    list_per_page = 50

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:  # noqa: ARG002 - the framework's signature
        """Never."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:  # noqa: ARG002 - the framework's signature
        """Never."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:  # noqa: ARG002 - the framework's signature
        """Never."""
        return False


class AliveFilter(admin.SimpleListFilter):
    """Signed in now, or over."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:  # noqa: ARG002 - the framework's signature
        """The choices."""
        return [("alive", "Alive"), ("revoked", "Revoked"), ("expired", "Expired")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Session]) -> QuerySet[Session]:  # noqa: ARG002 - the framework's signature
        """Those that match."""
        match self.value():
            case "alive":
                return queryset.filter(revoked_at=None, expires_at__gt=clock.now())
            case "revoked":
                return queryset.exclude(revoked_at=None)
            case "expired":
                return queryset.filter(revoked_at=None, expires_at__lte=clock.now())
            case _:
                return queryset


@admin.register(Session)
class SessionAdmin(ReadOnlyAdmin):
    """Devices that are or were signed in."""

    list_display = ("id", "user", "device", "address", "alive", "created_at", "last_used_at", "expires_at")
    list_filter = (AliveFilter, "created_at")
    list_select_related = ("user",)
    search_fields = ("user__username__startswith", "device__istartswith", "address__startswith")
    ordering = ("-id",)
    fields = (
        "id",
        "user",
        "device",
        "user_agent",
        "address",
        "created_at",
        "last_used_at",
        "expires_at",
        "revoked_at",
    )
    actions = ("revoke",)

    @admin.display(boolean=True)
    def alive(self, session: Session) -> bool:
        """Neither revoked nor expired."""
        return session.alive(now=clock.now())

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        """Who may change sessions may end them."""
        return request.user.has_perm("accounts.change_session")

    @admin.action(description="Revoke", permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[Session]) -> None:
        """Refuses their tokens at once and closes their sockets."""
        by_user: dict[Any, list[Any]] = {}
        for user_id, session_id in queryset.values_list("user_id", "id"):
            by_user.setdefault(user_id, []).append(session_id)
        ended = sum(
            len(services.sessions_end(user_id=user_id, session_ids=session_ids))
            for user_id, session_ids in by_user.items()
        )
        self.message_user(request, f"{ended} sessions ended.", messages.SUCCESS)


@admin.register(Contact)
class ContactAdmin(ReadOnlyAdmin):
    """Who added whom."""

    list_display = ("owner", "target", "created_at")
    list_filter = ("created_at",)
    list_select_related = ("owner", "target")
    search_fields = ("owner__username__startswith", "target__username__startswith")
    ordering = ("-id",)


@admin.register(Block)
class BlockAdmin(ReadOnlyAdmin):
    """Who blocked whom."""

    list_display = ("blocker", "blocked", "created_at")
    list_filter = ("created_at",)
    list_select_related = ("blocker", "blocked")
    search_fields = ("blocker__username__startswith", "blocked__username__startswith")
    ordering = ("-id",)


admin.site.site_header = admin.site.site_title = "chatbe"
