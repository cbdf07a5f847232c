"""`/v1/conversations` and what is below. Views parse, call and answer; no rules here."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

import msgspec
from django.conf import settings
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import (
    OpenApiExample,
    OpenApiParameter,
    OpenApiResponse,
    extend_schema,
)
from rest_framework import generics, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from accounts.api.views import current_user, valid
from chatbe.api import BucketThrottle, problem_responses
from chatbe.core.errors import FieldError, Invalid
from chatbe.structs import struct_response
from chatbe.wire import frames
from messaging import groups, selectors, services, stream
from messaging.api import paging, serializers
from messaging.api.paging import Direction
from messaging.models import Conversation
from messaging.selectors import Position

# --- answers ------------------------------------------------------------------------------------------------


class Conversations(msgspec.Struct):
    """A page of my conversations, the latest activity first."""

    results: list[selectors.MyConversation]
    next: str | None
    previous: str | None


class Messages(msgspec.Struct):
    """A page of a history, in ascending seq. `next` leads to newer messages, `previous` to older ones."""

    results: list[frames.MessageObject]
    next: str | None
    previous: str | None


class Changes(msgspec.Struct):
    """What changed after a rev, as events in rev order. Go on from `rev` while there is `more`."""

    results: list[frames.Message | frames.Conversation]
    rev: frames.Rev
    more: bool


# --- for OpenAPI --------------------------------------------------------------------------------------------

ID: Final = OpenApiParameter("conversation", OpenApiTypes.UUID, OpenApiParameter.PATH)
_NUMBER: Final = {"type": "integer", "minimum": 0, "maximum": paging.GREATEST}
LIMIT: Final = OpenApiParameter(
    "limit",
    {"type": "integer", "minimum": 1, "maximum": paging.GREATEST, "default": paging.PAGE},
    description=f"Results per page; more than {paging.MOST} gives that many.",
)
MESSAGE_EXAMPLE: Final = {
    "id": "0198c0de-0000-7000-8000-000000000020",
    "conversation": "0198c0de-0000-7000-8000-000000000010",
    "seq": 7,
    "rev": 9,
    "kind": "text",
    "sender": "alice",
    "body": "Shall we meet at noon?",
    "client_id": "5c2f1f0e-6f0a-4c52-9a44-6c2a2f4e9d11",
    "reply_to": None,
    "reactions": {},
    "created_at": "2026-01-31T12:00:00.000000Z",
    "edited_at": None,
    "deleted_at": None,
    "attachments": [],
}
_CONVERSATION_EXAMPLE: Final = {
    "id": "0198c0de-0000-7000-8000-000000000010",
    "kind": "direct",
    "title": None,
    "rev": 9,
    "last_seq": 7,
    "member_count": 2,
    "members": [{"username": "alice", "role": "member"}, {"username": "bob", "role": "member"}],
    "created_at": "2026-01-30T08:00:00.000000Z",
    "description": "",
    "history": None,
    "purged_seq": 0,
    "role": "member",
    "unread": 1,
    "unread_mentions": 0,
    "read_seq": 6,
    "delivered_seq": 7,
    "muted_until": None,
    "last_message": MESSAGE_EXAMPLE,
    "peer_read_seq": 7,
    "peer_delivered_seq": 7,
}


class SendThrottle(BucketThrottle):
    """As many messages as a socket may send."""

    capacity = settings.CHATBE_FRAME_BURST
    rate = settings.CHATBE_FRAME_RATE


class OpenThrottle(BucketThrottle):
    """Each new conversation is a row for ever."""

    capacity = 100
    rate = 1.0


class GroupThrottle(BucketThrottle):
    """Each change of a group is told to all its members."""

    capacity = 60
    rate = 1.0


def _link(request: Request, direction: Direction, position: Position | None) -> str | None:
    """The list's address from a position on; None at the list's end."""
    if position is None:
        return None
    return paging.link(request, cursor=paging.cursor_encode(direction, position))


# --- views --------------------------------------------------------------------------------------------------


class ConversationsView(generics.GenericAPIView[Any]):
    """My conversations."""

    serializer_class = serializers.ConversationSerializer
    pagination_class = None

    def get_throttles(self) -> list[BaseThrottle]:
        """Only making them is limited."""
        return [OpenThrottle()] if self.request.method == "POST" else []

    @extend_schema(
        summary="List my conversations",
        tags=["conversations"],
        operation_id="conversations_list",
        parameters=[
            LIMIT,
            OpenApiParameter("cursor", OpenApiTypes.STR, description="From `next` or `previous`."),
        ],
        responses={200: Conversations},
        examples=[
            OpenApiExample(
                "one",
                {"results": [_CONVERSATION_EXAMPLE], "next": None, "previous": None},
                response_only=True,
            )
        ],
    )
    def get(self, request: Request) -> Response:
        """Latest activity first; direct ones once something was said. `next` leads to earlier activity."""
        user, limit, cursor = current_user(request), paging.page_size(request), paging.cursor_decode(request)
        position = cursor[1] if cursor is not None else None
        if cursor is not None and cursor[0] is Direction.LATER:
            page = selectors.conversation_page(user=user, later_than=position, limit=limit)
        else:
            page = selectors.conversation_page(user=user, earlier_than=position, limit=limit)
        answer = Conversations(
            page.conversations,
            next=_link(request, Direction.EARLIER, page.earlier),
            previous=_link(request, Direction.LATER, page.later),
        )
        return struct_response(answer)

    @extend_schema(
        summary="Get or make a conversation",
        tags=["conversations"],
        responses={
            200: OpenApiResponse(selectors.MyConversation, description="It was there already."),
            201: OpenApiResponse(selectors.MyConversation, description="Made."),
            **problem_responses(
                s403="`blocked`: somebody does not let me add them.", s404="There is no such user."
            ),
        },
        examples=[
            OpenApiExample("with bob", {"kind": "direct", "username": "bob"}, request_only=True),
            OpenApiExample(
                "a group", {"kind": "group", "title": "Lunch", "members": ["bob", "carol"]}, request_only=True
            ),
            OpenApiExample("direct", _CONVERSATION_EXAMPLE, response_only=True, status_codes=["200", "201"]),
        ],
    )
    def post(self, request: Request) -> Response:
        """The direct conversation with someone, one per pair for ever (empty, it is in nobody's list); or a new group,
        whose owner I am."""
        user = current_user(request)
        fields = valid(serializers.ConversationSerializer(data=request.data))
        if fields["kind"] == Conversation.Kind.DIRECT:
            conversation, created = services.conversation_direct(user=user, username=fields["username"])
        else:
            conversation, created = (
                groups.group_create(
                    owner=user,
                    title=fields["title"],
                    description=fields["description"],
                    history=fields["history"],
                    usernames=fields["members"],
                ),
                True,
            )
        return struct_response(
            selectors.my_conversation(user=user, conversation=conversation.pk),
            status.HTTP_201_CREATED if created else status.HTTP_200_OK,
        )


class ConversationView(APIView):
    """One of my conversations."""

    def get_throttles(self) -> list[BaseThrottle]:
        """Only changes are limited: all members are told of them."""
        return [] if self.request.method == "GET" else [GroupThrottle()]

    @extend_schema(
        summary="Read a conversation",
        tags=["conversations"],
        operation_id="conversations_retrieve",
        parameters=[ID],
        responses={200: selectors.MyConversation},
        examples=[OpenApiExample("direct", _CONVERSATION_EXAMPLE, response_only=True)],
    )
    def get(self, request: Request, conversation: UUID) -> Response:
        """As in the list, with what is mine in it."""
        return struct_response(
            selectors.my_conversation(user=current_user(request), conversation=conversation)
        )

    @extend_schema(
        summary="Rename or describe a group",
        tags=["groups"],
        operation_id="conversations_update",
        request=serializers.GroupSerializer,
        parameters=[ID],
        responses={
            200: selectors.MyConversation,
            **problem_responses(s403="Its owner and admins may."),
        },
        examples=[OpenApiExample("another title", {"title": "Lunch on Friday"}, request_only=True)],
    )
    def patch(self, request: Request, conversation: UUID) -> Response:
        """What is left out stays. All members are told, and of a new title by a system message too."""
        user = current_user(request)
        fields = valid(serializers.GroupSerializer(data=request.data))
        groups.group_update(actor=user, conversation=conversation, **fields)
        return struct_response(selectors.my_conversation(user=user, conversation=conversation))

    @extend_schema(
        summary="Dissolve a group",
        tags=["groups"],
        operation_id="conversations_dissolve",
        parameters=[ID],
        responses={
            204: OpenApiResponse(description="Done; no body."),
            **problem_responses(s403="Its owner may."),
        },
    )
    def delete(self, request: Request, conversation: UUID) -> Response:
        """Nobody is a member any more, and nobody reads it again."""
        groups.group_dissolve(actor=current_user(request), conversation=conversation)
        return Response(status=status.HTTP_204_NO_CONTENT)


class MessagesView(generics.GenericAPIView[Any]):
    """The messages of a conversation."""

    serializer_class = serializers.SendSerializer
    pagination_class = None

    def get_throttles(self) -> list[BaseThrottle]:
        """Only sending is limited."""
        return [SendThrottle()] if self.request.method == "POST" else []

    @extend_schema(
        summary="Read the history",
        tags=["messages"],
        operation_id="messages_list",
        parameters=[
            ID,
            OpenApiParameter("before", _NUMBER, description="Messages with a lower seq than this."),
            OpenApiParameter("after", _NUMBER, description="Messages with a higher seq than this."),
            LIMIT,
        ],
        responses={200: Messages},
        examples=[
            OpenApiExample(
                "one", {"results": [MESSAGE_EXAMPLE], "next": None, "previous": None}, response_only=True
            )
        ],
    )
    def get(self, request: Request, conversation: UUID) -> Response:
        """By seq: after `after`, before `before`, or the newest. `next` leads to newer ones."""
        before, after = paging.whole_number(request, "before"), paging.whole_number(request, "after")
        limit = paging.page_size(request)
        if before is not None and after is not None:
            raise Invalid(errors=(FieldError("before", "invalid", "Give `before` or `after`, not both."),))
        membership = selectors.membership(user=current_user(request), conversation=conversation)
        page = selectors.message_page(membership=membership, before=before, after=after, limit=limit)
        answer = Messages(
            page.messages,
            next=None if page.newer is None else paging.link(request, after=page.newer, before=None),
            previous=None if page.older is None else paging.link(request, before=page.older, after=None),
        )
        return struct_response(answer)

    @extend_schema(
        summary="Send a message",
        tags=["messages"],
        parameters=[ID],
        responses={
            200: OpenApiResponse(frames.MessageObject, description="Stored before, by the same `client_id`."),
            201: OpenApiResponse(frames.MessageObject, description="Stored."),
            **problem_responses(
                s403="`blocked`, `not_contact` or `suspended`.",
                s404="There is no such conversation, no message to reply to, or no such attachment.",
                s409="An attachment is another message's already, or the `client_id` is of a message by the server.",
                s503="Perhaps stored, perhaps not: send again with the same `client_id`.",
            ),
        },
        examples=[
            OpenApiExample(
                "a question",
                {"client_id": MESSAGE_EXAMPLE["client_id"], "body": MESSAGE_EXAMPLE["body"]},
                request_only=True,
            ),
            OpenApiExample("stored", MESSAGE_EXAMPLE, response_only=True, status_codes=["200", "201"]),
        ],
    )
    def post(self, request: Request, conversation: UUID) -> Response:
        """The same path as the socket's `send` frame, for senders without a socket."""
        fields = valid(serializers.SendSerializer(data=request.data))
        sent = services.message_send(
            sender=current_user(request),
            conversation=conversation,
            client_id=fields["client_id"],
            body=fields["body"],
            reply_to=fields["reply_to"],
            attachments=fields["attachments"],
        )
        return struct_response(
            sent.message, status.HTTP_200_OK if sent.duplicate else status.HTTP_201_CREATED
        )


class ChangesView(APIView):
    """What changed in a conversation."""

    @extend_schema(
        summary="Read what changed after a rev",
        tags=["messages"],
        operation_id="changes_list",
        parameters=[
            ID,
            OpenApiParameter(
                "since", {**_NUMBER, "default": 0}, description="The rev that is known; 0: nothing is."
            ),
            LIMIT,
        ],
        responses={200: Changes},
        examples=[
            OpenApiExample(
                "one",
                {"results": [{"type": "message", "message": MESSAGE_EXAMPLE}], "rev": 9, "more": False},
                response_only=True,
            )
        ],
    )
    def get(self, request: Request, conversation: UUID) -> Response:
        """What a socket's `sync` gives, in rev order; each changed thing once, in its latest state.

        A `since` that is ahead of the database (it was restored from an older state) is answered with one
        `conversation` event with `reset: true`: drop what you hold, page the history, go on from `rev`.
        """
        events, rev, more = stream.changes(
            user_id=current_user(request).pk,
            conversation=conversation,
            since=paging.whole_number(request, "since") or 0,
            limit=paging.page_size(request),
        )
        return Response({"results": msgspec.to_builtins(events), "rev": rev, "more": more})


class MuteView(APIView):
    """Whether I have muted a conversation."""

    @extend_schema(
        summary="Mute a conversation",
        tags=["conversations"],
        request=serializers.MuteSerializer,
        parameters=[ID],
        responses={204: OpenApiResponse(description="Done; no body.")},
        examples=[OpenApiExample("for a while", {"until": "2036-01-31T12:00:00.000000Z"}, request_only=True)],
    )
    def put(self, request: Request, conversation: UUID) -> Response:
        """Until a time, or (null) no longer. It goes on as before; my devices are told and keep quiet. Repeatable."""
        fields = valid(serializers.MuteSerializer(data=request.data))
        groups.conversation_mute(user=current_user(request), conversation=conversation, until=fields["until"])
        return Response(status=status.HTTP_204_NO_CONTENT)


class ReadView(APIView):
    """My read mark."""

    @extend_schema(
        summary="Move my read mark",
        tags=["messages"],
        request=serializers.ReadSerializer,
        parameters=[ID],
        responses={204: OpenApiResponse(description="Done; no body.")},
        examples=[OpenApiExample("up to the seventh", {"seq": 7}, request_only=True)],
    )
    def put(self, request: Request, conversation: UUID) -> Response:
        """Never back, at most to the last seq. The others and my other devices are told. Repeatable."""
        fields = valid(serializers.ReadSerializer(data=request.data))
        services.mark_read(user=current_user(request), conversation=conversation, seq=fields["seq"])
        return Response(status=status.HTTP_204_NO_CONTENT)
