"""The shapes of messaging's requests. Answers are Structs of `chatbe.wire.frames` and `messaging.selectors`.

The fields take what JSON calls a string or a number, and nothing that could be read as one.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from chatbe.api import LineField, TextField, UsernameField
from chatbe.core import clock
from chatbe.wire import frames
from messaging.api.paging import GREATEST
from messaging.models import Conversation, Membership

TITLE_MAX: Final = 100
DESCRIPTION_MAX: Final = 500
MEMBERS_AT_ONCE: Final = 5000
"""So many people one request may name."""
_ZONE: Final = re.compile(r"(?:Z|[+-][0-9]{2}:[0-9]{2})\Z", re.IGNORECASE | re.ASCII)
_END_OF_TIME: Final = datetime(9000, 1, 1, tzinfo=UTC)

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}", re.IGNORECASE | re.ASCII)


class BodyField(TextField):
    """A message's text, as it is: nothing is trimmed."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(trim_whitespace=False, max_length=frames.MAX_BODY_CHARACTERS, **kwargs)


@extend_schema_field({"type": "integer", "minimum": 1, "maximum": GREATEST})
class SeqField(serializers.IntegerField):
    """A message's place in its conversation."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(min_value=1, max_value=GREATEST, **kwargs)

    def to_internal_value(self, data: Any) -> int:
        """The number; the base class would also take text, booleans and 7.0."""
        if type(data) is not int:
            self.fail("invalid")
        return super().to_internal_value(data)


class ClientIdField(serializers.UUIDField):
    """A UUID, its digits in either case, with its hyphens or without, as in the socket's frames."""

    def to_internal_value(self, data: Any) -> Any:
        """The UUID; the base class would also take numbers, braces and URNs."""
        if not isinstance(data, str) or not _UUID.fullmatch(data):
            self.fail("invalid", value=data)
        return super().to_internal_value(data)


class TimeField(serializers.DateTimeField):
    """A moment (RFC 3339): a date and a time of day with their zone."""

    def to_internal_value(self, value: Any) -> datetime:
        """The moment; the base class would also take it without a zone."""
        if not isinstance(value, str) or not _ZONE.search(value):
            self.fail("invalid", format="RFC 3339, with its zone")
        return super().to_internal_value(value)


class ConversationSerializer(serializers.Serializer[Any]):
    """A direct conversation with one other person, or a group."""

    kind = serializers.ChoiceField(Conversation.Kind.choices)
    username = UsernameField(required=False, help_text="The other person; for `direct`.")
    title = LineField(required=False, max_length=TITLE_MAX, help_text="For `group`.")
    description = LineField(required=False, max_length=DESCRIPTION_MAX, allow_blank=True, default="")
    history = serializers.ChoiceField(
        Conversation.History.choices,
        default=Conversation.History.JOINED,
        help_text="What who is added later may read: from joining on, or all.",
    )
    members = serializers.ListField(
        child=UsernameField(),
        default=list,
        max_length=MEMBERS_AT_ONCE,
        help_text="For `group`: the others; I am its owner.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Each kind has a field that it cannot do without."""
        needed = "username" if attrs["kind"] == Conversation.Kind.DIRECT else "title"
        if needed not in attrs:
            raise serializers.ValidationError({needed: ["This field is required."]}, code="required")
        return attrs


class GroupSerializer(serializers.Serializer[Any]):
    """What may be changed about a group; what is left out stays."""

    title = LineField(required=False, max_length=TITLE_MAX)
    description = LineField(required=False, max_length=DESCRIPTION_MAX, allow_blank=True)
    history = serializers.ChoiceField(Conversation.History.choices, required=False)


class MembersSerializer(serializers.Serializer[Any]):
    """Whom to add."""

    usernames = serializers.ListField(child=UsernameField(), min_length=1, max_length=MEMBERS_AT_ONCE)


class RoleSerializer(serializers.Serializer[Any]):
    """A member's role."""

    role = serializers.ChoiceField(Membership.Role.choices, help_text="`owner` hands the group over.")


class GroupMemberSerializer(serializers.Serializer[Any]):
    """A member of a conversation."""

    username = serializers.CharField(source="user.username")
    role = serializers.ChoiceField(Membership.Role.choices)
    joined_at = serializers.DateTimeField(source="created_at")


class ReaderSerializer(serializers.Serializer[Any]):
    """Someone who has read a message."""

    username = serializers.CharField(source="user.username")


class MuteSerializer(serializers.Serializer[Any]):
    """Until when a conversation is muted."""

    until = TimeField(allow_null=True, help_text="A time to come; null: no longer muted.")

    def validate_until(self, value: datetime | None) -> datetime | None:
        """A time that has passed mutes nothing; one that no database can hold is none."""
        if value is not None and not clock.now() < value < _END_OF_TIME:
            raise serializers.ValidationError("A time to come.", code="invalid")
        return value


class EditSerializer(serializers.Serializer[Any]):
    """A new body."""

    body = BodyField(allow_blank=True, help_text="Empty only with attachments.")


class SendSerializer(serializers.Serializer[Any]):
    """A message to send."""

    client_id = ClientIdField(
        required=False,
        allow_null=True,
        default=None,
        help_text="Chosen by the sender: a second send with it stores nothing. "
        "Without it, a retry is a new message.",
    )
    body = BodyField(allow_blank=True, help_text="Empty only with attachments.")
    reply_to = SeqField(required=False, allow_null=True, default=None, help_text="The seq that this answers.")
    attachments = serializers.ListField(
        child=ClientIdField(),
        required=False,
        default=list,
        max_length=frames.MAX_ATTACHMENTS,
        help_text="Ids from `POST /v1/attachments`.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """A message without attachments has a text."""
        if not (attrs["body"] or attrs["attachments"]):
            raise serializers.ValidationError({"body": "This field may not be blank."}, code="blank")
        return attrs


class ReadSerializer(serializers.Serializer[Any]):
    """A read mark."""

    seq = SeqField()
