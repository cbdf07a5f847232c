"""`/v1/conversations/{id}/messages/{seq}`: edit, delete, react. The same as the socket's frames."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.api.views import current_user, valid
from chatbe.api import EmptySerializer, problem_responses
from chatbe.structs import struct_response
from chatbe.wire import frames
from messaging import changing, living
from messaging.api import serializers
from messaging.api.views import ID, MESSAGE_EXAMPLE, SendThrottle

_SEQ: Final = OpenApiParameter(
    "seq", {"type": "integer", "minimum": 1, "maximum": 9_999_999_999_999_999}, OpenApiParameter.PATH
)
_EMOJI: Final = OpenApiParameter(
    "emoji", OpenApiTypes.STR, OpenApiParameter.PATH, description="One emoji, percent-encoded."
)
_DONE: Final = OpenApiResponse(description="Done; no body.")
_CONFLICT: Final = "The message was deleted."


class MessageView(APIView):
    """One message."""

    throttle_classes = (SendThrottle,)

    @extend_schema(
        summary="Edit a message",
        tags=["messages"],
        operation_id="messages_edit",
        request=serializers.EditSerializer,
        parameters=[ID, _SEQ],
        responses={
            200: frames.MessageObject,
            **problem_responses(
                s403="Not my message, or `expired`: its time has passed, or `blocked`.", s409=_CONFLICT
            ),
        },
        examples=[
            OpenApiExample("another hour", {"body": "Shall we meet at one?"}, request_only=True),
            OpenApiExample("edited", MESSAGE_EXAMPLE, response_only=True),
        ],
    )
    def patch(self, request: Request, conversation: UUID, seq: int) -> Response:
        """Its sender may, for some time. The same body again changes nothing."""
        fields = valid(serializers.EditSerializer(data=request.data))
        outcome = living.message_edit(
            user=current_user(request).pk, conversation=conversation, seq=seq, body=fields["body"]
        )
        changing.tell(outcome.held)
        return struct_response(outcome.message)

    @extend_schema(
        summary="Delete a message",
        tags=["messages"],
        operation_id="messages_delete",
        parameters=[ID, _SEQ],
        responses={204: _DONE, **problem_responses(s403="Its sender may, and a group's owner and admins.")},
    )
    def delete(self, request: Request, conversation: UUID, seq: int) -> Response:
        """For everyone: a tombstone without a body stays. Repeatable."""
        outcome = living.message_delete(user=current_user(request).pk, conversation=conversation, seq=seq)
        changing.tell(outcome.held)
        return Response(status=status.HTTP_204_NO_CONTENT)


class ReactionView(APIView):
    """My reaction with one emoji."""

    throttle_classes = (SendThrottle,)
    serializer_class = EmptySerializer

    @extend_schema(
        summary="React to a message",
        tags=["messages"],
        operation_id="reactions_add",
        parameters=[ID, _SEQ, _EMOJI],
        request=None,
        responses={
            204: _DONE,
            **problem_responses(
                s403="`blocked`.", s409=f"{_CONFLICT[:-1]}, or has too many different reactions."
            ),
        },
    )
    def put(self, request: Request, conversation: UUID, seq: int, emoji: str) -> Response:
        """All members are told. Repeatable."""
        return self._react(request, conversation, seq, emoji, on=True)

    @extend_schema(
        summary="Take a reaction back",
        tags=["messages"],
        operation_id="reactions_remove",
        parameters=[ID, _SEQ, _EMOJI],
        responses={204: _DONE},
    )
    def delete(self, request: Request, conversation: UUID, seq: int, emoji: str) -> Response:
        """All members are told. Repeatable, also when the message was deleted meanwhile."""
        return self._react(request, conversation, seq, emoji, on=False)

    @staticmethod
    def _react(request: Request, conversation: UUID, seq: int, emoji: str, *, on: bool) -> Response:
        outcome = living.message_react(
            user=current_user(request).pk, conversation=conversation, seq=seq, emoji=emoji, on=on
        )
        changing.tell(outcome.held)
        return Response(status=status.HTTP_204_NO_CONTENT)
