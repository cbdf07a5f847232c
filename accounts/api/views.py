"""`/v1/auth`, `/v1/me`, `/v1/users`, `/v1/contacts`, `/v1/blocks`. Views parse, call and answer; no rules."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib.auth import logout, update_session_auth_hash
from django.db.models import QuerySet
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import generics, status
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import Serializer
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from accounts import selectors, services
from accounts.api import serializers
from accounts.models import Session, User
from accounts.tokens import Tokens
from chatbe.api import (
    BucketThrottle,
    EmptySerializer,
    Pagination,
    UsernamePagination,
    client_address,
    problem_responses,
)
from chatbe.core.errors import Forbidden

NO_CONTENT = OpenApiResponse(description="Done; no body.")
_USERNAME = OpenApiParameter("username", OpenApiTypes.STR, OpenApiParameter.PATH, description="In any case.")
_USER_EXAMPLE = {
    "id": "0198c0de-0000-7000-8000-000000000001",
    "username": "alice",
    "display_name": "Alice",
    "created_at": "2026-01-31T12:00:00.000000Z",
}
_TOKENS_EXAMPLE = {
    "session_id": "0198c0de-0000-7000-8000-000000000002",
    "access_token": "eyJhbGciOi…",
    "access_token_expires_at": "2026-01-31T12:15:00.000000Z",
    "refresh_token": "eyJhbGciOi…",
    "refresh_token_expires_at": "2026-03-02T12:00:00.000000Z",
}
_OTP_EXAMPLE = {"otp": "8Jr2xg7Q0mYw3vS1t5uVbn4K6zLh9cPd", "otp_expires_at": "2026-01-31T12:01:00.000000Z"}


class SearchThrottle(BucketThrottle):
    """People are searched by typing, not by enumeration."""

    capacity = 30
    rate = 1.0


class RelationThrottle(BucketThrottle):
    """Each change of contacts or blocks may tell somebody."""

    capacity = 200
    rate = 2.0


class ExportThrottle(BucketThrottle):
    """An export reads everything."""

    capacity = 3
    rate = 1 / 60


def valid(serializer: Serializer[Any]) -> dict[str, Any]:
    """The checked values. Raises the framework's `ValidationError`."""
    serializer.is_valid(raise_exception=True)
    data: dict[str, Any] = serializer.validated_data
    return data


def current_user(request: Request) -> User:
    """Who asks; the view requires that somebody does."""
    user = request.user
    if not isinstance(user, User):
        raise TypeError("the view lets strangers in")
    return user


def current_session(request: Request) -> Session | None:
    """The session of the request's token; None for a browser that is signed in by cookie."""
    return request.auth if isinstance(request.auth, Session) else None


def private(data: Any, **kwargs: Any) -> Response:
    """An answer with secrets in it, which no cache may keep (RFC 6749, section 5.1)."""
    return Response(data, headers={"Cache-Control": "no-store"}, **kwargs)


def _tokens(tokens: Tokens) -> dict[str, Any]:
    return dict(serializers.TokensSerializer(tokens).data)


def _otp(otp: services.Otp) -> dict[str, Any]:
    return dict(serializers.OtpSerializer({"otp": otp.value, "otp_expires_at": otp.expires_at}).data)


class StrangerView(APIView):
    """A view for those who are not signed in. A stale token in the header does no harm."""

    authentication_classes = ()
    permission_classes = (AllowAny,)


# --- /v1/auth -------------------------------------------------------------------------------------


class RegisterView(StrangerView):
    """Make an account."""

    @extend_schema(
        summary="Register",
        tags=["auth"],
        request=serializers.RegisterSerializer,
        responses={
            201: serializers.MeSerializer,
            **problem_responses(s409="The username or the email is taken; `errors` says which."),
        },
        examples=[
            OpenApiExample(
                "alice",
                {"username": "alice", "email": "alice@example.org", "password": "a long one, please"},
                request_only=True,
            ),
            OpenApiExample(
                "made",
                {**_USER_EXAMPLE, "email": "alice@example.org"},
                response_only=True,
                status_codes=["201"],
            ),
        ],
    )
    def post(self, request: Request) -> Response:
        """Usernames are kept in lower case, never change, and are never given to another."""
        fields = valid(serializers.RegisterSerializer(data=request.data))
        user = services.user_register(**fields, address=client_address(request))
        return Response(serializers.MeSerializer(user).data, status=status.HTTP_201_CREATED)


class LoginView(StrangerView):
    """Sign in by password."""

    @extend_schema(
        summary="Sign in",
        tags=["auth"],
        request=serializers.LoginSerializer,
        responses={
            200: serializers.SignedInSerializer,
            **problem_responses(
                s401="Wrong password or no such account, never told apart.", s403="The account is suspended."
            ),
        },
        examples=[
            OpenApiExample(
                "by username",
                {"username": "alice", "password": "a long one, please", "device": "laptop"},
                request_only=True,
            ),
            OpenApiExample(
                "signed in",
                {**_TOKENS_EXAMPLE, **_OTP_EXAMPLE, "user": {**_USER_EXAMPLE, "email": "alice@example.org"}},
                response_only=True,
                status_codes=["200"],
            ),
        ],
    )
    def post(self, request: Request) -> Response:
        """Opens a session for this device. The `otp` opens one socket at `/v1/ws`."""
        fields = valid(serializers.LoginSerializer(data=request.data))
        signed_in = services.sign_in(
            identifier=fields.get("username") or fields["email"],
            password=fields["password"],
            device=fields["device"],
            user_agent=user_agent(request),
            address=client_address(request),
        )
        return private({
            **_tokens(signed_in.tokens),
            **_otp(signed_in.otp),
            "user": serializers.MeSerializer(signed_in.user).data,
        })  # fmt: skip


def user_agent(request: Request) -> str:
    """What the client calls itself, in printable ASCII, since headers may hold any byte."""
    return "".join(
        character for character in request.headers.get("User-Agent", "") if " " <= character <= "~"
    )


class TokenView(StrangerView):
    """Fresh tokens."""

    @extend_schema(
        summary="Refresh the tokens",
        tags=["auth"],
        request=serializers.RefreshSerializer,
        responses={
            200: serializers.TokensSerializer,
            **problem_responses(
                s401="The refresh token is bad, expired or spent, or its session has ended.",
                s403="The account is suspended.",
            ),
        },
        examples=[
            OpenApiExample("refresh", {"refresh_token": "eyJhbGciOi…"}, request_only=True),
            OpenApiExample("fresh", _TOKENS_EXAMPLE, response_only=True, status_codes=["200"]),
        ],
    )
    def post(self, request: Request) -> Response:
        """A refresh token is good once. Used again, also at the same moment, it ends its session."""
        fields = valid(serializers.RefreshSerializer(data=request.data))
        return private(_tokens(services.session_refresh(refresh_token=fields["refresh_token"])))


class OtpView(APIView):
    """One-time passwords for sockets."""

    @extend_schema(
        summary="Get a one-time password",
        tags=["auth"],
        request=None,
        responses={200: serializers.OtpSerializer},
        examples=[OpenApiExample("ticket", _OTP_EXAMPLE, response_only=True, status_codes=["200"])],
    )
    def post(self, request: Request) -> Response:
        """Opens another socket of this session, once, within a minute."""
        session = current_session(request)
        if session is None:
            raise Forbidden("Sockets belong to a session: use an access token.")
        return private(_otp(services.otp_issue(session_id=session.id)))


class LogoutView(APIView):
    """Sign out."""

    @extend_schema(summary="Sign out", tags=["auth"], request=None, responses={204: NO_CONTENT})
    def post(self, request: Request) -> Response:
        """Ends this session: its tokens are refused at once, its sockets closed (4001)."""
        session = current_session(request)
        if session is None:
            logout(request._request)  # noqa: SLF001 - Django's function wants Django's request
        else:
            services.sessions_end(user_id=session.user_id, session_ids=[session.id])
        return Response(status=status.HTTP_204_NO_CONTENT)


class SessionsView(generics.ListAPIView[Session]):
    """My devices."""

    serializer_class = serializers.SessionSerializer
    pagination_class = Pagination

    def get_queryset(self) -> QuerySet[Session]:
        """The live sessions of who asks."""
        return selectors.sessions_alive(user_id=current_user(self.request).id)

    @extend_schema(summary="List my devices", tags=["auth"])
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Where I am signed in, the latest sign-in first; `current` marks this one."""
        return super().get(request, *args, **kwargs)


class SessionView(APIView):
    """One of my devices."""

    @extend_schema(
        summary="Sign a device out",
        tags=["auth"],
        parameters=[OpenApiParameter("session_id", OpenApiTypes.UUID, OpenApiParameter.PATH)],
        responses={204: NO_CONTENT},
    )
    def delete(self, request: Request, session_id: UUID) -> Response:
        """Ends the session: its tokens are refused at once, its sockets closed (4001)."""
        services.session_end(user_id=current_user(request).id, session_id=session_id)
        return Response(status=status.HTTP_204_NO_CONTENT)


class PasswordView(APIView):
    """My password."""

    @extend_schema(
        summary="Change my password",
        tags=["auth"],
        request=serializers.PasswordSerializer,
        examples=[
            OpenApiExample(
                "change",
                {"current_password": "a long one, please", "new_password": "another long one"},
                request_only=True,
            )
        ],
        responses={204: NO_CONTENT, **problem_responses(s409="It was changed elsewhere at the same moment.")},
    )
    def post(self, request: Request) -> Response:
        """Ends all my other sessions."""
        fields = valid(serializers.PasswordSerializer(data=request.data))
        user, session = current_user(request), current_session(request)
        services.password_change(user=user, **fields, keep=None if session is None else session.id)
        if session is None:
            update_session_auth_hash(request._request, user)  # noqa: SLF001 - Django's function wants Django's request
        return Response(status=status.HTTP_204_NO_CONTENT)


# --- /v1/me ---------------------------------------------------------------------------------------


class MeView(APIView):
    """My account."""

    @extend_schema(summary="My profile", tags=["me"], responses={200: serializers.MeSerializer})
    def get(self, request: Request) -> Response:
        """The profile, with the email that others do not see."""
        return Response(serializers.MeSerializer(current_user(request)).data)

    @extend_schema(
        summary="Change my profile",
        tags=["me"],
        request=serializers.ProfileSerializer,
        examples=[OpenApiExample("rename", {"display_name": "Alice"}, request_only=True)],
        responses={200: serializers.MeSerializer, **problem_responses(s409="The email is taken.")},
    )
    def patch(self, request: Request) -> Response:
        """`display_name`, `email` and `read_receipts`; what is left out stays."""
        fields = valid(serializers.ProfileSerializer(data=request.data))
        user = services.profile_update(user=current_user(request), **fields)
        return Response(serializers.MeSerializer(user).data)

    @extend_schema(
        summary="Erase my account",
        tags=["me"],
        request=serializers.EraseSerializer,
        responses={204: NO_CONTENT},
    )
    def delete(self, request: Request) -> Response:
        """For good. My messages stay, without a sender; my username is never given to another."""
        fields = valid(serializers.EraseSerializer(data=request.data))
        services.account_erase(user=current_user(request), password=fields["password"])
        return Response(status=status.HTTP_204_NO_CONTENT)


class ExportView(APIView):
    """Everything held on me."""

    throttle_classes = (ExportThrottle,)

    @extend_schema(summary="Export everything held on me", tags=["me"], responses={200: OpenApiTypes.OBJECT})
    def get(self, request: Request) -> Response:
        """One JSON object with a member for each kind of data; for a person to keep, so it may grow."""
        user = current_user(request)
        response = private(services.account_export(user=user))
        response["Content-Disposition"] = f'attachment; filename="chatbe-{user.username}.json"'
        return response


# --- /v1/users, /v1/contacts, /v1/blocks ----------------------------------------------------------


class UsersView(generics.ListAPIView[User]):
    """People."""

    serializer_class = serializers.UserSerializer
    pagination_class = UsernamePagination
    throttle_classes = (SearchThrottle,)

    def get_queryset(self) -> QuerySet[User]:
        """Those whose username begins with `search`."""
        fields = valid(serializers.SearchSerializer(data=self.request.query_params))
        return selectors.users_search(viewer=current_user(self.request), prefix=fields["search"])

    @extend_schema(
        summary="Find people",
        tags=["people"],
        parameters=[serializers.SearchSerializer],
        examples=[OpenApiExample("alice", _USER_EXAMPLE, response_only=True)],
    )
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """By the beginning of their username, in any case."""
        return super().get(request, *args, **kwargs)


class ContactsView(generics.GenericAPIView[User]):
    """My contacts."""

    serializer_class = serializers.ContactSerializer
    pagination_class = UsernamePagination

    def get_queryset(self) -> QuerySet[User]:
        """Those whom I added."""
        return selectors.contacts_of(user_id=current_user(self.request).id)

    def get_throttles(self) -> list[BaseThrottle]:
        """Only changes are limited."""
        return [RelationThrottle()] if self.request.method == "POST" else []

    @extend_schema(
        summary="List my contacts", tags=["people"], responses=serializers.ContactSerializer(many=True)
    )
    def get(self, request: Request) -> Response:  # noqa: ARG002 - the paginator has it
        """By username. `online` and `last_seen` are null unless they added me too."""
        page = self.paginate_queryset(self.get_queryset()) or []
        objects = selectors.contact_objects(contacts=page)
        return self.get_paginated_response(self.get_serializer(objects, many=True).data)

    @extend_schema(
        summary="Add a contact",
        tags=["people"],
        request=serializers.ContactAddSerializer,
        examples=[OpenApiExample("bob", {"username": "bob"}, request_only=True)],
        responses={
            200: OpenApiResponse(serializers.ContactSerializer, description="They were there already."),
            201: OpenApiResponse(serializers.ContactSerializer, description="Added."),
            **problem_responses(s404="There is no user of this name."),
        },
    )
    def post(self, request: Request) -> Response:
        """They are told. Those who have added each other see each other's presence."""
        fields = valid(serializers.ContactAddSerializer(data=request.data))
        added = services.contact_add(owner=current_user(request), username=fields["username"])
        contact = generics.get_object_or_404(self.get_queryset(), id=added.user_id)
        return Response(
            self.get_serializer(selectors.contact_objects(contacts=[contact])[0]).data,
            status=status.HTTP_201_CREATED if added.created else status.HTTP_200_OK,
        )


class ContactView(APIView):
    """One of my contacts."""

    throttle_classes = (RelationThrottle,)

    @extend_schema(
        summary="Remove a contact", tags=["people"], parameters=[_USERNAME], responses={204: NO_CONTENT}
    )
    def delete(self, request: Request, username: str) -> Response:
        """They are told."""
        services.contact_remove(owner=current_user(request), username=username)
        return Response(status=status.HTTP_204_NO_CONTENT)


class ContactRequestsView(generics.ListAPIView[User]):
    """Who added me."""

    serializer_class = serializers.UserSerializer
    pagination_class = UsernamePagination

    def get_queryset(self) -> QuerySet[User]:
        """Those who added me and wait for me to add them."""
        return selectors.contact_requests_of(user_id=current_user(self.request).id)

    @extend_schema(
        summary="List who added me",
        tags=["people"],
        examples=[OpenApiExample("alice", _USER_EXAMPLE, response_only=True)],
    )
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Those whom I have neither added nor blocked, by username. Add them to accept."""
        return super().get(request, *args, **kwargs)


class BlocksView(generics.ListAPIView[User]):
    """Whom I blocked."""

    serializer_class = serializers.BlockedSerializer
    pagination_class = UsernamePagination

    def get_queryset(self) -> QuerySet[User]:
        """Those whom I blocked."""
        return selectors.blocks_of(user_id=current_user(self.request).id)

    @extend_schema(summary="List whom I blocked", tags=["people"])
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """By username."""
        return super().get(request, *args, **kwargs)


class BlockView(APIView):
    """Whether I block one user."""

    throttle_classes = (RelationThrottle,)
    serializer_class = EmptySerializer

    @extend_schema(
        summary="Block", tags=["people"], parameters=[_USERNAME], request=None, responses={204: NO_CONTENT}
    )
    def put(self, request: Request, username: str) -> Response:
        """They may not write to me directly, add me to groups, or see me. They are not told. Repeatable."""
        services.block_add(blocker=current_user(request), username=username)
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(summary="Unblock", tags=["people"], parameters=[_USERNAME], responses={204: NO_CONTENT})
    def delete(self, request: Request, username: str) -> Response:
        """Repeatable."""
        services.block_remove(blocker=current_user(request), username=username)
        return Response(status=status.HTTP_204_NO_CONTENT)
