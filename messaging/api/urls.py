"""Paths below `/v1/`."""

from uuid import UUID

from django.urls import path, register_converter

from messaging.api import search, views


class IdConverter:
    """A UUID in either case (RFC 9562, section 4); what is none is no path."""

    regex = "[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"

    def to_python(self, value: str, /) -> UUID:
        """The id."""
        return UUID(value)

    def to_url(self, value: UUID | str, /) -> str:
        """Its canonical form."""
        return str(value)


register_converter(IdConverter, "id")

urlpatterns = [
    path("conversations", views.ConversationsView.as_view(), name="conversations"),
    path("conversations/<id:conversation>", views.ConversationView.as_view(), name="conversation"),
    path("conversations/<id:conversation>/messages", views.MessagesView.as_view(), name="messages"),
    path("conversations/<id:conversation>/changes", views.ChangesView.as_view(), name="changes"),
    path("conversations/<id:conversation>/read", views.ReadView.as_view(), name="read"),
    path("search", search.SearchView.as_view(), name="search"),
]
