"""`/v1/conversations/{id}/members`: who is in a group, and with which role."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from django.db.models import QuerySet
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import generics, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from accounts.api.views import current_user, valid
from chatbe.api import Pagination, problem_responses
from chatbe.structs import struct_response
from messaging import groups, selectors
from messaging.api import serializers
from messaging.api.views import ID, GroupThrottle
from messaging.models import Membership

_USERNAME: Final = OpenApiParameter(
    "username", OpenApiTypes.STR, OpenApiParameter.PATH, description="In any case."
)


class MembershipPagination(Pagination):
    """Who joined first comes first."""

    ordering = "id"


class MembersView(generics.GenericAPIView[Membership]):
    """The members of a conversation."""

    serializer_class = serializers.GroupMemberSerializer
    pagination_class = MembershipPagination

    def get_queryset(self) -> QuerySet[Membership]:
        """Those of the conversation in the path. Raises `NotFound`."""
        membership = selectors.membership(
            user=current_user(self.request), conversation=self.kwargs["conversation"]
        )
        return selectors.members_of(membership=membership)

    def get_throttles(self) -> list[BaseThrottle]:
        """Only adding is limited."""
        return [GroupThrottle()] if self.request.method == "POST" else []

    @extend_schema(
        summary="List the members",
        tags=["groups"],
        operation_id="members_list",
        parameters=[ID],
        responses=serializers.GroupMemberSerializer(many=True),
    )
    def get(self, request: Request, conversation: UUID) -> Response:  # noqa: ARG002 - the framework has them
        """Who joined first comes first."""
        page = self.paginate_queryset(self.get_queryset()) or []
        return self.get_paginated_response(self.get_serializer(page, many=True).data)

    @extend_schema(
        summary="Add members",
        tags=["groups"],
        operation_id="members_add",
        request=serializers.MembersSerializer,
        parameters=[ID],
        responses={
            200: OpenApiResponse(selectors.MyConversation, description="They were members already."),
            201: OpenApiResponse(selectors.MyConversation, description="Added."),
            **problem_responses(
                s403="Its owner and admins may; `blocked`: somebody does not let me add them.",
                s404="There is no such conversation, or no such user.",
            ),
        },
        examples=[OpenApiExample("two", {"usernames": ["bob", "carol"]}, request_only=True)],
    )
    def post(self, request: Request, conversation: UUID) -> Response:
        """All of them or nobody. They see messages from now on, or all, as the group's `history` says."""
        user = current_user(request)
        fields = valid(serializers.MembersSerializer(data=request.data))
        added = groups.members_add(actor=user, conversation=conversation, usernames=fields["usernames"])
        return struct_response(
            selectors.my_conversation(user=user, conversation=conversation),
            status.HTTP_201_CREATED if added else status.HTTP_200_OK,
        )


class MemberView(APIView):
    """One member of a group."""

    throttle_classes = (GroupThrottle,)

    @extend_schema(
        summary="Change a role",
        tags=["groups"],
        operation_id="members_update",
        request=serializers.RoleSerializer,
        parameters=[ID, _USERNAME],
        responses={
            200: serializers.GroupMemberSerializer,
            **problem_responses(
                s403="Its owner may; an admin may step down.",
                s409="The owner's own role is changed by handing the group over.",
            ),
        },
        examples=[OpenApiExample("an admin", {"role": "admin"}, request_only=True)],
    )
    def patch(self, request: Request, conversation: UUID, username: str) -> Response:
        """`owner` hands the group over: I am an admin then."""
        fields = valid(serializers.RoleSerializer(data=request.data))
        member = groups.role_set(
            actor=current_user(request), conversation=conversation, username=username, role=fields["role"]
        )
        return Response(serializers.GroupMemberSerializer(member).data)

    @extend_schema(
        summary="Remove a member, or leave",
        tags=["groups"],
        operation_id="members_remove",
        parameters=[ID, _USERNAME],
        responses={
            204: OpenApiResponse(description="Done; no body."),
            **problem_responses(
                s403="The owner removes everyone, an admin members.",
                s409="The owner hands the group over before leaving it.",
            ),
        },
    )
    def delete(self, request: Request, conversation: UUID, username: str) -> Response:
        """They get no further event, and 404 from then on."""
        groups.member_remove(actor=current_user(request), conversation=conversation, username=username)
        return Response(status=status.HTTP_204_NO_CONTENT)


class ReadersView(generics.GenericAPIView[Membership]):
    """Who has read a message."""

    serializer_class = serializers.ReaderSerializer
    pagination_class = MembershipPagination

    def get_queryset(self) -> QuerySet[Membership]:
        """Those of the message in the path; the browsable API asks for them too. Raises `NotFound`."""
        membership = selectors.membership(
            user=current_user(self.request), conversation=self.kwargs["conversation"]
        )
        return selectors.readers_of(membership=membership, seq=self.kwargs["seq"])

    @extend_schema(
        summary="Who has read a message",
        tags=["messages"],
        operation_id="readers_list",
        parameters=[ID, OpenApiParameter("seq", OpenApiTypes.INT64, OpenApiParameter.PATH)],
        responses=serializers.ReaderSerializer(many=True),
    )
    def get(self, request: Request, conversation: UUID, seq: int) -> Response:  # noqa: ARG002 - the framework has them
        """But its sender, who joined later, and who does not let it be seen. Nobody for those who do not themselves."""
        page = self.paginate_queryset(self.get_queryset()) or []
        return self.get_paginated_response(self.get_serializer(page, many=True).data)
