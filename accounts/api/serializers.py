"""The shapes of accounts' requests and answers."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from accounts.models import Session, User
from chatbe.api import AddressField, LineField, TextField, UsernameField, YesNoField


def _password(**kwargs: Any) -> TextField:
    """Any text is a password, blanks at its ends included; bounded, since hashing it costs."""
    return TextField(
        min_length=1,
        max_length=256,
        trim_whitespace=False,
        write_only=True,
        style={"input_type": "password"},
        **kwargs,
    )


# --- answers --------------------------------------------------------------------------------------


class UserSerializer(serializers.ModelSerializer[User]):
    """A user as others see them."""

    class Meta:
        model = User
        fields = ("id", "username", "display_name", "created_at")
        read_only_fields = fields


class MeSerializer(serializers.ModelSerializer[User]):
    """A user as they see themselves."""

    class Meta:
        model = User
        fields = ("id", "username", "display_name", "created_at", "email", "read_receipts")
        read_only_fields = fields


class TokensSerializer(serializers.Serializer[Any]):
    """A pair of tokens. The refresh token is good once."""

    session_id = serializers.UUIDField()
    access_token = serializers.CharField()
    access_token_expires_at = serializers.DateTimeField()
    refresh_token = serializers.CharField()
    refresh_token_expires_at = serializers.DateTimeField()


class OtpSerializer(serializers.Serializer[Any]):
    """A ticket that opens one WebSocket."""

    otp = serializers.CharField()
    otp_expires_at = serializers.DateTimeField()


class SignedInSerializer(TokensSerializer):
    """What a sign-in gives."""

    otp = serializers.CharField()
    otp_expires_at = serializers.DateTimeField()
    user = MeSerializer()


class SessionSerializer(serializers.ModelSerializer[Session]):
    """A device that is signed in."""

    current = serializers.SerializerMethodField(help_text="Whether this request came from it.")

    class Meta:
        model = Session
        fields = (
            "id",
            "device",
            "user_agent",
            "address",
            "created_at",
            "last_used_at",
            "expires_at",
            "current",
        )
        read_only_fields = fields

    def get_current(self, session: Session) -> bool:
        """Whether the request's token is this session's."""
        auth: object = self.context["request"].auth
        return session == auth


class ContactSerializer(serializers.Serializer[Any]):
    """Someone I added. `online` and `last_seen` are null unless they added me too."""

    username = serializers.CharField()
    display_name = serializers.CharField(allow_blank=True)
    mutual = serializers.BooleanField()
    online = serializers.BooleanField(allow_null=True)
    last_seen = serializers.DateTimeField(allow_null=True)


class BlockedSerializer(serializers.Serializer[Any]):
    """Someone I blocked."""

    username = serializers.CharField()
    display_name = serializers.CharField(allow_blank=True)
    blocked_at = serializers.DateTimeField()


# --- requests -------------------------------------------------------------------------------------


class RegisterSerializer(serializers.Serializer[Any]):
    """A new account."""

    username = UsernameField()
    email = AddressField()
    password = _password()
    display_name = LineField(max_length=64, required=False, allow_blank=True, default="")


class LoginSerializer(serializers.Serializer[Any]):
    """`username` or `email`, and the password."""

    username = TextField(max_length=254, required=False)
    email = TextField(max_length=254, required=False)
    password = _password()
    device = LineField(
        max_length=100, required=False, allow_blank=True, default="", help_text="A name for this device."
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Exactly one of the two names the account."""
        if ("username" in attrs) == ("email" in attrs):
            raise serializers.ValidationError({"username": ["Give `username` or `email`."]}, code="required")
        return attrs


class RefreshSerializer(serializers.Serializer[Any]):
    """The refresh token, which this uses up."""

    refresh_token = TextField(max_length=2048)


class PasswordSerializer(serializers.Serializer[Any]):
    """A change of password."""

    current_password = _password()
    new_password = _password()


class ProfileSerializer(serializers.Serializer[Any]):
    """What I may change about myself; what is left out stays."""

    display_name = LineField(max_length=64, required=False, allow_blank=True)
    email = AddressField(required=False)
    read_receipts = YesNoField(
        required=False, help_text="Whether others see what I have read; if not, I see nobody's either."
    )


class EraseSerializer(serializers.Serializer[Any]):
    """Proof that it is me who erases the account."""

    password = _password()


class ContactAddSerializer(serializers.Serializer[Any]):
    """Whom to add."""

    username = UsernameField()


class SearchSerializer(serializers.Serializer[Any]):
    """The beginning of a username."""

    search = TextField(min_length=1, max_length=64, help_text="The beginning of a username.")
