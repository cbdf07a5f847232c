"""What people do: write to each other, repeat themselves, read, type, come and go."""

from __future__ import annotations

import asyncio
import random
import string
import uuid
from typing import Any

from chatbe_client import Ack, ChatError, Closed, MessageReceived, Refused

from tests.faults.history import Change, Send
from tests.faults.world import Device, World

OUTSTANDING = 100
"""A device with so many unanswered messages waits before it writes more."""
GROUPS = 2
EMOJI = ("👍", "🎉", "😂")
BODIES = string.ascii_letters + string.digits + "   äßéπ字🙂"


class Workload:
    """Everyone chats until they are told to stop."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.repeats = 0.06
        """The share of messages that are sent more than once."""
        self._random = random.Random(world.random.random())
        self.groups: dict[str, Device] = {}
        """Groups, and a device of each one's owner."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopped = asyncio.Event()
        self._extra: set[asyncio.Task[None]] = set()
        self._asking: dict[asyncio.Task[None], Device] = {}
        """Changes that wait for their answers; those of devices that are away, until they are back."""
        self._readers = [asyncio.create_task(self._read(device)) for device in world.devices]

    async def found_groups(self) -> None:
        """Make the groups, each with most of the people."""
        for owner in self.world.devices[:GROUPS]:
            others = [user for user in self.world.users if user != owner.user]
            made = await owner.client.api.call(
                "POST",
                "/v1/conversations",
                json={
                    "kind": "group",
                    "title": f"Group of {owner.user}",
                    "members": self._random.sample(others, max(2, len(others) * 2 // 3)),
                },
            )
            self.groups[made["id"]] = owner

    def start(self) -> None:
        """Begin to write."""
        self._stopped.clear()
        for work in (*map(self._write, self.world.devices), *map(self._come_and_go, self.groups)):
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Write nothing new from now on."""
        self._stopped.set()
        await asyncio.gather(*self._tasks)

    async def settle(self, patience: float) -> bool:
        """Wait until everything that was written by those who are awake has its answer; whether it has."""
        deadline = asyncio.get_running_loop().time() + patience
        while True:
            waiting = [
                send
                for device in self.world.awake()
                for send in device.sends.values()
                if send.outcome == "pending"
            ]
            asking = any(not device.asleep for device in self._asking.values())
            if not waiting and not self._extra and not asking:
                return True
            if asyncio.get_running_loop().time() > deadline:
                return False
            self.world.note_failures()
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        """End all of it."""
        await self.stop()
        tasks = [*self._readers, *self._extra, *self._asking]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- writing -----------------------------------------------------------------------------------

    async def _write(self, device: Device) -> None:
        """One device's messages, at random moments."""
        while True:
            try:
                async with asyncio.timeout(self._random.expovariate(self.world.size.rate)):
                    await self._stopped.wait()
            except TimeoutError:
                pass
            else:
                return
            if device.asleep or len(device.sends) >= OUTSTANDING:
                continue
            to = self._random.choice(
                [*(user for user in self.world.users if user != device.user), *self._groups_of(device)]
            )
            for _ in range(self._random.choice((1, 1, 1, 2, 5))):
                self.send(device, to, self.body())
            if self._random.random() < 0.05:
                self._type(device)
            if self._random.random() < 0.3:
                self._change_something(device)

    def _groups_of(self, device: Device) -> list[str]:
        """The groups that a device knows, as often as to make them a third of all targets."""
        known = [group for group in self.groups if device.client.state.conversations.get(group)]
        return known * (len(self.world.users) // 2 // max(1, len(known)))

    def _change_something(self, device: Device) -> None:
        """Edit or delete one of the latest messages of one's own, or react to anybody's."""
        state = device.client.state
        latest = [
            message
            for held in state.conversations.values()
            for message in sorted(held.messages.values(), key=lambda each: each.seq)[-5:]
            if message.kind == "text" and message.body is not None
        ]
        if not latest:
            return
        message = self._random.choice(latest)
        kind = "react"
        if message.sender == device.user:
            kind = self._random.choice(("edit", "edit", "react", "delete"))
        value = self.body() if kind == "edit" else self._random.choice(EMOJI) if kind == "react" else ""
        change = Change(
            device.name, device.user, kind, message.conversation, message.seq, value,
            self._random.random() < 0.7, self.world.now(),
        )  # fmt: skip
        self.world.history.changes.append(change)
        task = asyncio.create_task(self._ask_for(device, change))
        self._asking[task] = device
        task.add_done_callback(self._asking.pop)

    async def _ask_for(self, device: Device, change: Change) -> None:
        client, place = device.client, (change.conversation, change.seq)
        try:
            match change.kind:
                case "edit":
                    ack = await client.edit(*place, change.value)
                case "delete":
                    ack = await client.delete(*place)
                case _:
                    ack = await client.react(*place, change.value, on=change.on)
        except Refused as error:
            change.outcome = error.code
        except Closed:
            return
        else:
            change.outcome, change.rev = "acked", ack.rev

    async def _come_and_go(self, group: str) -> None:
        """People are added to a group and removed, through any server; and some leave."""
        owner = self.groups[group]
        while True:
            try:
                async with asyncio.timeout(self._random.expovariate(1.5)):
                    await self._stopped.wait()
            except TimeoutError:
                pass
            else:
                return
            user = self._random.choice([user for user in self.world.users if user != owner.user])
            url = f"http://127.0.0.1:{self._random.choice(self.world.servers).app.port}"
            path = f"/v1/conversations/{group}/members"
            try:
                if self._random.random() < 0.6:
                    await owner.client.api.call("POST", path, json={"usernames": [user]}, url=url)
                else:
                    await owner.client.api.call("DELETE", f"{path}/{user}", url=url)
            except ChatError:
                # No member, or a server that is away: what came of it the tables say.
                continue

    def body(self, length: int | None = None) -> str:
        """Something to say."""
        return "".join(self._random.choices(BODIES, k=length or self._random.choice((3, 20, 60, 200))))

    def send(self, device: Device, to: str, body: str) -> Send:
        """Send one message, perhaps more than once, and keep what becomes of it."""
        send = Send(device.name, device.user, str(uuid.uuid4()), to, body, self.world.now())
        self.world.history.sends.append(send)
        device.sends[send.client_id] = send
        self._submit(device, send)
        if self._random.random() < self.repeats:
            how = self._random.choice(("again", "later", "http", "http"))
            if how == "again":
                self._submit(device, send)
            else:
                self._run_extra(
                    self._repeat_later(device, send) if how == "later" else self._repeat_by_http(device, send)
                )
        return send

    def _submit(self, device: Device, send: Send) -> asyncio.Future[Ack]:
        if send.to in self.groups:
            answer = device.client.submit(send.body, conversation=send.to, client_id=send.client_id)
        else:
            answer = device.client.submit(send.body, to=send.to, client_id=send.client_id)
        answer.add_done_callback(lambda done: self._settled(device, send, done))
        return answer

    def _settled(self, device: Device, send: Send, answer: asyncio.Future[Ack]) -> None:
        if answer.cancelled():
            return
        error = answer.exception()
        if send.outcome == "pending":
            send.settled_at = self.world.now()
            if error is None:
                send.outcome = "acked"
            elif isinstance(error, Refused):
                send.outcome = error.code
            elif not isinstance(error, Closed):
                send.outcome = repr(error)
        if send.outcome != "pending":
            device.sends.pop(send.client_id, None)

    def _run_extra(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._extra.add(task)
        task.add_done_callback(self._extra.discard)

    async def _repeat_later(self, device: Device, send: Send) -> None:
        """Long after the ack, perhaps on another socket, the same again."""
        await asyncio.sleep(self._random.uniform(0.1, 2.0))
        if not device.asleep:
            self._submit(device, send)

    async def _repeat_by_http(self, device: Device, send: Send) -> None:
        """At the same moment, over HTTP, on whichever server."""
        conversation = (
            send.to
            if send.to in self.groups
            else next(
                (
                    identity
                    for identity, held in device.client.state.conversations.items()
                    if held.info is not None
                    and held.info["kind"] == "direct"
                    and {member["username"] for member in held.info["members"]} == {device.user, send.to}
                ),
                None,
            )
        )
        if conversation is None:
            return
        send.out_of_line = True
        url = f"http://127.0.0.1:{self._random.choice(self.world.servers).app.port}"
        try:
            message = await device.client.api.call(
                "POST",
                f"/v1/conversations/{conversation}/messages",
                json={"client_id": send.client_id, "body": send.body},
                url=url,
            )
        except ChatError:
            # Unreachable, or told to try again: the frame on the socket is still on its way.
            return
        send.answers.append(
            {name: message[name] for name in ("id", "conversation", "seq", "client_id", "created_at")}
        )

    # --- reading -----------------------------------------------------------------------------------

    async def _read(self, device: Device) -> None:
        """Mark some of what comes in as delivered or read."""
        while True:
            async for event in device.client:
                if not isinstance(event, MessageReceived) or event.message.sender == device.user:
                    continue
                chance = self._random.random()
                if chance < 0.25:
                    device.client.mark(event.message.conversation, read=event.message.seq)
                elif chance < 0.5:
                    device.client.mark(event.message.conversation, delivered=event.message.seq)
            # The client is away, or has given up.
            await asyncio.sleep(0.1)

    def _type(self, device: Device) -> None:
        conversations = list(device.client.state.conversations)
        if conversations:
            device.client.typing(self._random.choice(conversations), on=self._random.random() < 0.7)
