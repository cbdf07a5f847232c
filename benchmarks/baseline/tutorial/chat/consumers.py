"""The stock JSON consumer, used the way the documentation shows."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.utils import timezone

from benchmarks.baseline.tutorial.chat.models import Contact, Message, Profile, Ticket


class ChatConsumer(AsyncJsonWebsocketConsumer):
    """One socket."""

    profile: Profile

    async def connect(self) -> None:
        """Sign in, tell the contacts, list them and what was said last."""
        ticket = parse_qs(self.scope["query_string"].decode())["ticket"][0]
        profile = await self.profile_of(ticket)
        if profile is None:
            await self.close()
            return
        self.profile = profile
        self.username = profile.user.username
        await self.channel_layer.group_add(f"user.{self.username}", self.channel_name)
        await self.accept()
        await self.come_or_go(online=True)
        contacts = await self.contacts()
        await self.send_json({"type": "friends", "friends": contacts})
        for contact in contacts:
            await self.tell(contact["username"], online=True)
        await self.send_json({"type": "synced", "messages": await self.newest()})

    async def disconnect(self, code: int) -> None:
        """Tell the contacts."""
        if not hasattr(self, "profile"):
            return
        await self.channel_layer.group_discard(f"user.{self.username}", self.channel_name)
        await self.come_or_go(online=False)
        for contact in await self.contacts():
            await self.tell(contact["username"], online=False)

    async def receive_json(self, content: dict[str, Any], **_: Any) -> None:
        """Store a message, deliver it, acknowledge it."""
        room = "|".join(sorted((self.username, content["to"])))
        message = await self.store(room, content)
        await self.channel_layer.group_send(
            f"user.{content['to']}",
            {
                "type": "chat.message",
                "message": {
                    "type": "message",
                    "id": message.pk,
                    "room": room,
                    "sender": self.username,
                    "client_id": content["client_id"],
                    "body": message.body,
                    "created_at": message.created_at.isoformat(),
                },
            },
        )
        await self.send_json({"type": "ack", "ref": content["ref"], "id": message.pk})

    async def chat_message(self, event: dict[str, Any]) -> None:
        """Someone wrote."""
        await self.send_json(event["message"])

    async def chat_presence(self, event: dict[str, Any]) -> None:
        """A contact came or went."""
        await self.send_json({"type": "presence", "username": event["username"], "online": event["online"]})

    async def tell(self, username: str, *, online: bool) -> None:
        """Tell a contact that this user came or went."""
        await self.channel_layer.group_send(
            f"user.{username}", {"type": "chat.presence", "username": self.username, "online": online}
        )

    @database_sync_to_async
    def profile_of(self, value: str) -> Profile | None:
        """Use up a ticket: its profile, with its user."""
        ticket = Ticket.objects.select_related("profile__user").filter(value=value).first()
        if ticket is None:
            return None
        ticket.delete()
        return ticket.profile

    @database_sync_to_async
    def contacts(self) -> list[dict[str, Any]]:
        """The user's contacts, and who of them is online."""
        return [
            {"username": username, "online": online}
            for username, online in Contact.objects.filter(owner=self.profile.user).values_list(
                "target__username", "target__profile__online"
            )
        ]

    @database_sync_to_async
    def come_or_go(self, *, online: bool) -> None:
        """Keep whether the user is online."""
        Profile.objects.filter(pk=self.profile.pk).update(online=online, last_seen=timezone.now())

    @database_sync_to_async
    def newest(self) -> list[dict[str, Any]]:
        """The newest messages of the user's own room."""
        rows = Message.objects.filter(room=self.username).order_by("-id")[:50]
        return [{"id": row.pk, "body": row.body, "created_at": row.created_at.isoformat()} for row in rows]

    @database_sync_to_async
    def store(self, room: str, content: dict[str, Any]) -> Message:
        """One insert, in a transaction of its own."""
        return Message.objects.create(
            room=room, sender=self.profile.user, client_id=content["client_id"], body=content["body"]
        )
