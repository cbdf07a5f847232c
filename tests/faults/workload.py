"""What people do: write to each other, repeat themselves, read, type, come and go."""

from __future__ import annotations

import asyncio
import random
import string
import uuid
from typing import Any

from chatbe_client import Ack, ChatError, Closed, MessageReceived, Refused

from tests.faults.history import Send
from tests.faults.world import Device, World

OUTSTANDING = 100
"""A device with so many unanswered messages waits before it writes more."""
BODIES = string.ascii_letters + string.digits + "   äßéπ字🙂"


class Workload:
    """Everyone chats until they are told to stop."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.repeats = 0.06
        """The share of messages that are sent more than once."""
        self._random = random.Random(world.random.random())
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopped = asyncio.Event()
        self._extra: set[asyncio.Task[None]] = set()
        self._readers = [asyncio.create_task(self._read(device)) for device in world.devices]

    def start(self) -> None:
        """Begin to write."""
        self._stopped.clear()
        for device in self.world.devices:
            task = asyncio.create_task(self._write(device))
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
            if not waiting and not self._extra:
                return True
            if asyncio.get_running_loop().time() > deadline:
                return False
            self.world.note_failures()
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        """End all of it."""
        await self.stop()
        for task in (*self._readers, *self._extra):
            task.cancel()
        await asyncio.gather(*self._readers, *self._extra, return_exceptions=True)

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
            to = self._random.choice([user for user in self.world.users if user != device.user])
            for _ in range(self._random.choice((1, 1, 1, 2, 5))):
                self.send(device, to, self.body())
            if self._random.random() < 0.05:
                self._type(device)

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
        conversation = next(
            (
                identity
                for identity, held in device.client.state.conversations.items()
                if held.info is not None
                and {member["username"] for member in held.info["members"]} == {device.user, send.to}
            ),
            None,
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
