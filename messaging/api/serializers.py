"""The shapes of messaging's requests. Answers are Structs of `chatbe.wire.frames` and `messaging.selectors`.

The fields take what JSON calls a string or a number, and nothing that could be read as one.
"""

from __future__ import annotations

import re
from typing import Any, Final

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from chatbe.api import UsernameField
from chatbe.wire import frames
from messaging.api.paging import GREATEST
from messaging.models import Conversation

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


class BodyField(serializers.CharField):
    """A message's text, as it is: nothing is trimmed."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(trim_whitespace=False, max_length=frames.MAX_BODY_CHARACTERS, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        """The text; the base class would also take numbers."""
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


@extend_schema_field({"type": "integer", "minimum": 1, "maximum": GREATEST})
class SeqField(serializers.IntegerField):
    """A message's place in its conversation."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(min_value=1, max_value=GREATEST, **kwargs)

    def to_internal_value(self, data: Any) -> int:
        """The number, 7.0 included; the base class would also take text and booleans."""
        if isinstance(data, float) and data.is_integer():
            return int(data)
        if type(data) is not int:
            self.fail("invalid")
        return super().to_internal_value(data)


class ClientIdField(serializers.UUIDField):
    """A UUID in its canonical form, in either case."""

    def to_internal_value(self, data: Any) -> Any:
        """The UUID; the base class would also take numbers, braces and URNs."""
        if not isinstance(data, str) or not _UUID.fullmatch(data):
            self.fail("invalid", value=data)
        return super().to_internal_value(data)


class ConversationSerializer(serializers.Serializer[Any]):
    """A direct conversation, with one other person."""

    kind = serializers.ChoiceField([Conversation.Kind.DIRECT])
    username = UsernameField(help_text="The other person.")


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
