"""Messaging in the admin: to look at, and to look things up, in tables of many millions of rows.

Nothing is edited here: a change that does not take its rev under the conversation's lock would never
reach those who have the old state.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.text import Truncator

from accounts.models import User
from messaging.models import UNCOUNTED, Conversation, Membership, Message, MessageVersion

if TYPE_CHECKING:
    # Generic in their stubs, not at run time.
    _ModelAdmin = admin.ModelAdmin[Any]
    _Paginator = Paginator[Any]
    _TabularInline = admin.TabularInline[Any, Any]
else:
    _ModelAdmin = admin.ModelAdmin
    _Paginator = Paginator
    _TabularInline = admin.TabularInline

COUNTED: Final = 10_000
_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
SEARCH_HELP: Final = (
    "An id, a conversation's id, an exact username, or the beginning of one with a * after it."
)


class BoundedPaginator(_Paginator):
    """Counts no further than `COUNTED`: what lies beyond is found by searching, not by paging."""

    @cached_property
    def count(self) -> int:
        """At most `COUNTED`."""
        rows: QuerySet[Any] = self.object_list  # type: ignore[assignment]  # the admin gives nothing else
        return rows.order_by()[:COUNTED].count()


def users_named(term: str) -> QuerySet[User]:
    """The user of this name, or those whose names begin with what is before a `*`."""
    name = term.lower()
    if name.endswith("*"):
        return User.objects.filter(username__startswith=name[:-1])
    return User.objects.filter(username=name)


def _as_id(term: str) -> UUID | None:
    # Without its hyphens it could be somebody's name.
    return UUID(term) if _ID.fullmatch(term) else None


class LookAtAdmin(_ModelAdmin):
    """Lists by time, newest first, without counting the table; looks up by index only."""

    paginator = BoundedPaginator
    show_full_result_count = False
    list_per_page = 50
    list_max_show_all = 0
    ordering = ("-id",)
    # By another column the whole table would be sorted.
    sortable_by = ()
    # The fields are named by `get_search_results`; this shows the search box.
    search_fields = ("id",)
    search_help_text = SEARCH_HELP

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:  # noqa: ARG002 - the framework's signature
        """Nobody."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:  # noqa: ARG002 - the framework's signature
        """Nobody."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:  # noqa: ARG002 - the framework's signature
        """Nobody."""
        return False

    def found(self, term: str) -> Q:
        """What a search term means."""
        raise NotImplementedError

    def get_search_results(
        self,
        request: HttpRequest,  # noqa: ARG002 - the framework's signature
        queryset: QuerySet[Any],
        search_term: str,
    ) -> tuple[QuerySet[Any], bool]:
        """The rows that every word of the search finds."""
        for term in search_term.split():
            queryset = queryset.filter(self.found(term))
        return queryset, False


def _listed(model: type[Model], label: str, **filters: object) -> str:
    """A link to another list, narrowed."""
    options = model._meta  # noqa: SLF001 - its documented interface
    url = reverse(f"admin:{options.app_label}_{options.model_name}_changelist")
    return format_html('<a href="{}?{}">{}</a>', url, urlencode(filters), label)


@admin.register(Conversation)
class ConversationAdmin(LookAtAdmin):
    """Conversations."""

    list_display = ("id", "kind", "title", "last_seq", "head_rev", "active_at", "created_at")
    list_filter = ("kind", "history")
    fields = (
        "id", "kind", "title", "description", "history", "member_count", "last_seq", "head_rev", "state_rev",
        "active_at", "created_at",
        "members", "messages",
    )  # fmt: skip
    readonly_fields = fields
    search_help_text = (
        "A conversation's id, a member's exact username, or the beginning of one with a * after it."
    )

    def found(self, term: str) -> Q:
        """By id, or by member."""
        key = _as_id(term)
        if key is not None:
            return Q(pk=key)
        return Q(pk__in=Membership.objects.filter(user__in=users_named(term)).values("conversation"))

    @admin.display(description="members")
    def members(self, conversation: Conversation) -> str:
        """Where they are listed; a group may have thousands."""
        return _listed(Membership, "All members", q=conversation.pk)

    @admin.display(description="messages")
    def messages(self, conversation: Conversation) -> str:
        """Where they are listed."""
        return _listed(Message, "All messages", q=conversation.pk)


@admin.register(Membership)
class MembershipAdmin(LookAtAdmin):
    """Who is in which conversation, and their marks."""

    list_display = (
        "user", "conversation_id", "role", "active", "read_seq", "delivered_seq", "muted_until", "created_at",
    )  # fmt: skip
    list_filter = ("role", "active")
    list_select_related = ("user",)
    fields = (
        "id", "user", "conversation", "role", "active", "joined_seq", "joined_rev", "left_rev", "wrote",
        "delivered_seq",
        "read_seq", "muted_until", "created_at",
    )  # fmt: skip
    readonly_fields = fields

    def found(self, term: str) -> Q:
        """By id, conversation or user."""
        key = _as_id(term)
        return Q(pk=key) | Q(conversation=key) if key is not None else Q(user__in=users_named(term))


class KindFilter(admin.SimpleListFilter):
    """What is not an ordinary message; each choice by the index that has only such."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:  # noqa: ARG002 - the framework's signature
        """The choices."""
        return [("deleted", "Deleted"), ("system", "System")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Message]) -> QuerySet[Message]:  # noqa: ARG002 - the framework's signature
        """Those of the choice."""
        match self.value():
            case "deleted":
                return queryset.filter(UNCOUNTED, deleted_at__isnull=False)
            case "system":
                return queryset.filter(UNCOUNTED, kind=Message.Kind.SYSTEM)
            case _:
                return queryset


class VersionInline(_TabularInline):
    """What a message said before its edits; whoever may see messages here moderates."""

    model = MessageVersion
    fields = readonly_fields = ("replaced_at", "body")
    ordering = ("replaced_at",)
    extra = 0
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:  # noqa: ARG002 - the framework's signature
        """Nobody."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:  # noqa: ARG002 - the framework's signature
        """Nobody."""
        return False


@admin.register(Message)
class MessageAdmin(LookAtAdmin):
    """Messages."""

    inlines = (VersionInline,)
    list_display = ("id", "conversation_id", "seq", "sender", "excerpt", "created_at", "edited", "deleted")
    list_filter = (KindFilter,)
    list_select_related = ("sender",)
    fields = (
        "id", "conversation", "seq", "rev", "kind", "sender", "body", "client_id", "reply_to", "mentions",
        "created_at", "edited_at", "deleted_at",
    )  # fmt: skip
    readonly_fields = fields

    def found(self, term: str) -> Q:
        """By id, conversation or sender."""
        key = _as_id(term)
        return Q(pk=key) | Q(conversation=key) if key is not None else Q(sender__in=users_named(term))

    @admin.display(description="body")
    def excerpt(self, message: Message) -> str:
        """The beginning of the text."""
        return Truncator(message.body or "").chars(60)

    @admin.display(boolean=True)
    def edited(self, message: Message) -> bool:
        """Whether its sender has changed it."""
        return message.edited_at is not None

    @admin.display(boolean=True)
    def deleted(self, message: Message) -> bool:
        """Whether it was deleted for everyone."""
        return message.deleted_at is not None
