"""Paths below `/v1/`."""

from uuid import UUID

from django.urls import path, register_converter

from messaging.api import living, members, search, views


class IdConverter:
    """A UUID in either case (RFC 9562, section 4); what is none is no path."""

    regex = "[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"

    def to_python(self, value: str, /) -> UUID:
        """The id."""
        return UUID(value)

    def to_url(self, value: UUID | str, /) -> str:
        """Its canonical form."""
        return str(value)


class SeqConverter:
    """A message's place: a whole number from 1, in its one form, that every database can hold."""

    regex = "[1-9][0-9]{0,15}"

    def to_python(self, value: str, /) -> int:
        """The number."""
        return int(value)

    def to_url(self, value: int | str, /) -> str:
        """Its digits."""
        return str(value)


register_converter(IdConverter, "id")
register_converter(SeqConverter, "seq")

urlpatterns = [
    path("conversations", views.ConversationsView.as_view(), name="conversations"),
    path("conversations/<id:conversation>", views.ConversationView.as_view(), name="conversation"),
    path("conversations/<id:conversation>/messages", views.MessagesView.as_view(), name="messages"),
    path("conversations/<id:conversation>/changes", views.ChangesView.as_view(), name="changes"),
    path("conversations/<id:conversation>/read", views.ReadView.as_view(), name="read"),
    path("conversations/<id:conversation>/mute", views.MuteView.as_view(), name="mute"),
    path("conversations/<id:conversation>/members", members.MembersView.as_view(), name="members"),
    path(
        "conversations/<id:conversation>/members/<str:username>", members.MemberView.as_view(), name="member"
    ),
    path("conversations/<id:conversation>/messages/<seq:seq>", living.MessageView.as_view(), name="message"),
    path(
        "conversations/<id:conversation>/messages/<seq:seq>/readers",
        members.ReadersView.as_view(),
        name="readers",
    ),
    path(
        "conversations/<id:conversation>/messages/<seq:seq>/reactions/<str:emoji>",
        living.ReactionView.as_view(),
        name="reaction",
    ),
    path("search", search.SearchView.as_view(), name="search"),
]
