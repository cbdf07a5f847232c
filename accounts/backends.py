"""Signing in to the pages (browsable API, admin), by the same rules as to the API."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

from accounts import services
from accounts.errors import InvalidCredentials
from accounts.models import User
from chatbe.api import client_address
from chatbe.core import clock
from chatbe.core.errors import RateLimited


class AccountBackend(ModelBackend):
    """Username or email in any case, limited failures, no suspended accounts."""

    def authenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        **kwargs: Any,  # noqa: ARG002 - the framework's signature
    ) -> User | None:
        """The user, or None. Raises `PermissionDenied`, which ends the attempt, when there were too many."""
        if username is None or password is None:
            return None
        address = client_address(request) if request is not None else None
        try:
            user = services.credentials_check(identifier=username, password=password, address=address)
        except InvalidCredentials:
            return None
        except RateLimited as error:
            raise PermissionDenied(str(error)) from error
        return user if self.user_can_authenticate(user) else None

    def user_can_authenticate(self, user: AbstractBaseUser | AnonymousUser | None) -> bool:
        """Asked on each request of a signed-in browser too, so a suspension holds at once."""
        return isinstance(user, User) and not user.suspended(now=clock.now())
