"""Profiles, contacts, messages."""

from __future__ import annotations

from typing import ClassVar

from django.contrib.auth.models import User
from django.db import models


class Profile(models.Model):
    """What the socket needs of a user: whether they are online."""

    objects: ClassVar[models.Manager[Profile]] = models.Manager()
    user = models.OneToOneField(User, on_delete=models.CASCADE)
    online = models.BooleanField(default=False)
    last_seen = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"profile of {self.user_id}"


class Ticket(models.Model):
    """A one-time password that opens one socket."""

    objects: ClassVar[models.Manager[Ticket]] = models.Manager()
    profile = models.ForeignKey(Profile, on_delete=models.CASCADE)
    value = models.CharField(max_length=64, unique=True)

    def __str__(self) -> str:
        return f"ticket of {self.profile_id}"


class Contact(models.Model):
    """`owner` has added `target`."""

    objects: ClassVar[models.Manager[Contact]] = models.Manager()
    owner = models.ForeignKey(User, on_delete=models.CASCADE, related_name="contacts")
    target = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")

    class Meta:
        unique_together = (("owner", "target"),)

    def __str__(self) -> str:
        return f"{self.owner_id} added {self.target_id}"


class Message(models.Model):
    """A message in a room of two, which is named after them."""

    objects: ClassVar[models.Manager[Message]] = models.Manager()
    room = models.CharField(max_length=100)
    sender = models.ForeignKey(User, on_delete=models.CASCADE)
    client_id = models.UUIDField()
    body = models.TextField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        indexes = (models.Index(fields=["room", "id"]),)

    def __str__(self) -> str:
        return f"{self.id} in {self.room}"
