"""Whoever signs up finds the desk among their contacts, and the desk finds them among its own."""

from typing import Any

from django.db.models.signals import post_save

from accounts import services
from accounts.models import User

DESK = "desk"


def connect() -> None:
    """Have `introduce` called for every account that is saved."""
    post_save.connect(introduce, sender=User, dispatch_uid="desk.greetings")


def introduce(instance: User, created: bool, **_: Any) -> None:
    """Make a new account and the desk contacts of each other, so that either may write first."""
    desk = User.objects.filter(username=DESK).first()
    if created and desk is not None and desk != instance:
        services.contact_add(owner=desk, username=instance.username)
        services.contact_add(owner=instance, username=DESK)
