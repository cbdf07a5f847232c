"""The socket's commands of messaging, and the part that each server process keeps for them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.conf import settings

from chatbe.core.errors import ChatError, Conflict, Invalid, NotFound, Unavailable
from chatbe.hub import fanout
from chatbe.hub.outbox import State
from chatbe.wire import codec, frames
from messaging import living, services, stream, sync, writer
from messaging.following import Following
from messaging.living import Outcome
from messaging.services import MarkKey, Route
from messaging.writer import Item, Verdict, Writer

if TYPE_CHECKING:
    from chatbe.hub.consumer import SocketConsumer
    from chatbe.hub.node import Node
    from chatbe.hub.registry import Handler

logger = logging.getLogger("messaging.handlers")

ROUTES = 100_000
"""Remembered routes; when there are more, the older half is forgotten."""
TYPING_SECONDS = 5.0
MARK_REFS = 16
"""So many frames of one socket about one mark are answered when they are refused together."""

Changing = tuple[str | None, "Callable[..., Outcome]", dict[str, Any]]
"""A change of a message on its way: the ref of its frame, and what carries it out, blocking, with what."""


class MessagingPart:
    """The writer, the marks on their way, and who is typing (`chatbe.hub.registry.Part`)."""

    def __init__(self) -> None:
        self.handlers: Mapping[type[frames.Command], Handler] = {
            frames.Send: self.on_send,
            frames.Read: self.on_read,
            frames.Delivered: self.on_delivered,
            frames.Typing: self.on_typing,
            frames.Sync: self.on_sync,
            frames.Edit: self.on_edit,
            frames.Delete: self.on_delete,
            frames.React: self.on_react,
        }
        self._routes: dict[str | tuple[str, str], Route] = {}
        self._marks: dict[MarkKey, tuple[int, int]] = {}
        self._markers: dict[MarkKey, dict[SocketConsumer, list[str | None]]] = {}
        """Who asked for them, with the refs of the frames: of each socket the first few."""
        self._marking: asyncio.Task[None] | None = None
        self._typing: dict[MarkKey, _Typist] = {}
        self._changing: dict[SocketConsumer, deque[Changing]] = {}
        """Changes of messages on their way, in the order in which each socket asked for them."""

    async def start(self, node: Node) -> None:
        """Begin."""
        self.node = node
        self.writer = Writer(writer.backend(), policy=settings.CHATBE_MESSAGE_POLICY)
        self.following = Following(node)
        node.answer("store_message", self.store_message)
        node.metrics.append(self.writer.samples)

    async def stop(self) -> None:
        """Finish what was taken."""
        await self.writer.stop()
        if self._marking is not None:
            await self._marking
        for typist in self._typing.values():
            typist.rest()

    def arriving(self, socket: SocketConsumer) -> None:
        """Nothing to ask for."""

    async def connected(self, socket: SocketConsumer) -> None:
        """Nothing is sent before the client's `sync`."""

    def disconnected(self, socket: SocketConsumer) -> None:
        """Nothing is kept per socket."""

    def caught_up(self, socket: SocketConsumer) -> None:
        """The marks were sent with the conversations."""

    def rights_changed(self, user: str) -> None:
        """The writer judges every message by the database; what the user may see is looked at again."""
        self.following.look_again(user)

    def bus_lost(self) -> None:
        """The hub itself asks the database."""

    def database_replaced(self) -> None:
        """Forget where messages go: a conversation may be gone, or have another id."""
        self._routes.clear()

    # --- send --------------------------------------------------------------------------------------

    def on_send(self, socket: SocketConsumer, frame: frames.Send) -> None:
        """Queue a message; answered by an ack after its commit."""
        if not (frame.body or frame.attachments):
            raise Invalid("A message has a text, or attachments.")
        socket.begin_command()
        if socket.resolving is not None:
            socket.resolving.append(frame)
            return
        route = self._routes.get(_target(socket, frame))
        if route is not None and not frame.attachments:
            self._submit(socket, frame, self._item(socket, frame, route), route)
        else:
            socket.resolving = deque([frame])
            self.node.spawn(self._resolve(socket))

    async def _resolve(self, socket: SocketConsumer) -> None:
        """Find where waiting sends go, one after another, so that none overtakes an earlier one."""
        waiting = socket.resolving
        assert waiting is not None  # noqa: S101 - set by the caller
        while waiting:
            frame = waiting[0]
            try:
                route = await self._route(socket, frame)
                item = self._item(socket, frame, route)
                if frame.attachments:
                    await self.node.call(services.attachments_claim, item=item, attachments=frame.attachments)
            except ChatError as error:
                await self._refuse_or_repeat(socket, frame, error)
                socket.end_command()
            except Exception:
                logger.exception("target cannot be found", extra={"connection": socket.connection})
                socket.refuse_with(frame.ref, Unavailable())
                socket.end_command()
            else:
                self._submit(socket, frame, item, route)
            waiting.popleft()
        socket.resolving = None

    async def _refuse_or_repeat(self, socket: SocketConsumer, frame: frames.Send, error: ChatError) -> None:
        """Answer a send that found no way to the writer, which would have known a repeat."""
        repeat = None
        if not isinstance(error, Unavailable):
            try:
                repeat = await self.node.call(
                    services.repeat_of, sender=socket.identity.user_id, client_id=frame.client_id
                )
            except Unavailable as away:
                error = away
        if repeat is None:
            socket.refuse_with(frame.ref, error)
        elif repeat.code == "repeat":
            socket.answer(_repeated(frame.ref, str(frame.client_id), repeat))
        else:
            socket.refuse_with(frame.ref, services.REFUSALS[repeat.code]())

    async def _route(self, socket: SocketConsumer, frame: frames.Send) -> Route:
        key = _target(socket, frame)
        route = self._routes.get(key)
        if route is None:
            if frame.to.conversation is not None:
                route = await self.node.call(services.route_of, conversation=frame.to.conversation)
            else:
                route = await self.node.call(
                    services.route_to_user, user=socket.identity.user_id, username=frame.to.username or ""
                )
            if len(self._routes) >= ROUTES:
                self._routes = dict(list(self._routes.items())[ROUTES // 2 :])
            self._routes[key] = self._routes[route.conversation] = route
        return route

    @staticmethod
    def _item(socket: SocketConsumer, frame: frames.Send, route: Route) -> Item:
        return services.new_item(
            route=route,
            sender=socket.user_key,
            client_id=str(frame.client_id),
            body=frame.body,
            reply_to=frame.reply_to,
        )

    def _submit(self, socket: SocketConsumer, frame: frames.Send, item: Item, route: Route) -> None:
        try:
            self.writer.submit(item, partial(self._stored, socket, frame.ref, item, route))
        except Unavailable as error:
            if item.attachments is not None:
                self.node.spawn(self._settle(item, Verdict(error.code)))
            socket.refuse_with(frame.ref, error)
            socket.end_command()

    async def _settle(self, item: Item, verdict: Verdict) -> None:
        await self.node.call(services.attachments_settle, item=item, verdict=verdict)

    def _stored(
        self, socket: SocketConsumer, ref: str | None, item: Item, route: Route, verdict: Verdict | None
    ) -> None:
        """The writer's verdict on a socket's message."""
        if item.attachments is not None and verdict is not None and verdict.code != "ok":
            self.node.spawn(self._settle(item, verdict))
        if verdict is None:
            socket.refuse_with(ref, Unavailable())
        elif verdict.code == "ok":
            message = services.announcement(item, verdict, socket.identity.username)
            ack = frames.Ack(
                ref,
                item.conversation,
                verdict.seq,
                verdict.rev,
                item.id,
                item.client_id,
                message.created_at,
            )
            if verdict.mentions:
                ack.mentions = message.mentions
            self.node.publish(*services.message_change(route, message, origin=socket.connection), ack)
            self._typing_ends((item.conversation, socket.user_key))
        elif verdict.code == "repeat":
            socket.answer(_repeated(ref, item.client_id, verdict))
        else:
            socket.refuse_with(ref, services.REFUSALS[verdict.code]())
        socket.end_command()

    def store_message(
        self, done: concurrent.futures.Future[Verdict | None], item: Item, route: Route, username: str
    ) -> None:
        """Store a message for a thread that waits on `done`, and tell everyone; on the loop."""

        def stored(verdict: Verdict | None) -> None:
            if verdict is not None and verdict.code == "ok":
                message = services.announcement(item, verdict, username)
                self.node.publish(*services.message_change(route, message))
                self._typing_ends((item.conversation, item.sender))
            done.set_result(verdict)

        self.writer.submit(item, stored)

    # --- changes of messages -----------------------------------------------------------------------

    def on_edit(self, socket: SocketConsumer, frame: frames.Edit) -> None:
        """Replace the body of one's own message."""
        self._change(socket, frame, living.message_edit, body=frame.body)

    def on_delete(self, socket: SocketConsumer, frame: frames.Delete) -> None:
        """Delete a message for everyone."""
        self._change(socket, frame, living.message_delete)

    def on_react(self, socket: SocketConsumer, frame: frames.React) -> None:
        """Put on, or take off, a reaction."""
        self._change(socket, frame, living.message_react, emoji=frame.emoji, on=frame.on)

    def _change(
        self,
        socket: SocketConsumer,
        frame: frames.Edit | frames.Delete | frames.React,
        change: Callable[..., Outcome],
        **fields: Any,
    ) -> None:
        socket.begin_command()
        entry: Changing = (
            frame.ref,
            change,
            {
                "user": socket.identity.user_id,
                "conversation": frame.conversation,
                "seq": frame.seq,
                **fields,
            },
        )
        waiting = self._changing.get(socket)
        if waiting is not None:
            waiting.append(entry)
        else:
            self._changing[socket] = deque([entry])
            self.node.spawn(self._change_in_order(socket))

    async def _change_in_order(self, socket: SocketConsumer) -> None:
        """Carry out a socket's changes one after another, so that none overtakes an earlier one."""
        waiting = self._changing[socket]
        try:
            while waiting:
                ref, change, fields = waiting[0]
                try:
                    self._changed(socket, ref, await self.node.call(change, **fields))
                except ChatError as error:
                    socket.refuse_with(ref, error)
                except Exception:
                    logger.exception("message cannot be changed", extra={"connection": socket.connection})
                    socket.refuse_with(ref, Unavailable())
                socket.end_command()
                waiting.popleft()
        finally:
            del self._changing[socket]

    def _changed(self, socket: SocketConsumer, ref: str | None, outcome: Outcome) -> None:
        """Tell everyone of a change that is committed, and its sender that it is, in that order."""
        message = outcome.message
        ack = frames.ChangeAck(
            ref, message.conversation, message.seq, message.rev, message.id, message.client_id,
            message.created_at, duplicate=not outcome.changed, mentions=message.mentions,
        )  # fmt: skip
        if not outcome.changed:
            socket.answer(ack)
            return
        groups, envelope = fanout.change_envelope(
            message.conversation,
            rev=message.rev,
            seq=message.seq,
            event=codec.encode(frames.Message(message)),
            users=outcome.held.users,
            origin=socket.connection,
        )
        self.node.publish(groups, envelope, ack)

    # --- marks -------------------------------------------------------------------------------------

    def on_read(self, socket: SocketConsumer, frame: frames.Read) -> None:
        """Move the read mark."""
        self._mark(socket, frame, (frame.seq, 0))

    def on_delivered(self, socket: SocketConsumer, frame: frames.Delivered) -> None:
        """Move the delivered mark."""
        self._mark(socket, frame, (0, frame.seq))

    def _mark(
        self, socket: SocketConsumer, frame: frames.Read | frames.Delivered, move: tuple[int, int]
    ) -> None:
        key = (str(frame.conversation), socket.user_key)
        before = self._marks.get(key, (0, 0))
        self._marks[key] = (max(before[0], move[0]), max(before[1], move[1]))
        refs = self._markers.setdefault(key, {}).setdefault(socket, [])
        if len(refs) < MARK_REFS:
            refs.append(frame.ref)
        if self._marking is None:
            self._marking = self.node.spawn(self._move_marks())

    async def _move_marks(self) -> None:
        """Write the marks that have gathered while the last ones were written."""
        try:
            while self._marks:
                moves, self._marks = self._marks, {}
                markers, self._markers = self._markers, {}
                try:
                    moved = await self.node.call(services.marks_move, moves=moves)
                except Exception as error:
                    refusal = error if isinstance(error, Unavailable) else Unavailable()
                    if refusal is not error:
                        logger.exception("marks cannot be moved")
                    for waiting in markers.values():
                        _refuse_marks(waiting, refusal)
                    continue
                for key, mark in moved.items():
                    if mark is not None:
                        origins = [socket.connection for socket in markers[key]]
                        # Of several devices, each is told what the others asked for.
                        services.publish_marks([mark], leave_out=origins[0] if len(origins) == 1 else "")
                    else:
                        _refuse_marks(markers[key], NotFound())
        finally:
            self._marking = None

    # --- typing ------------------------------------------------------------------------------------

    def on_typing(self, socket: SocketConsumer, frame: frames.Typing) -> None:
        """Tell the others; repeated signs only keep it alive, and a message of the typist's ends it.

        Of several devices the last one that stops ends it.
        """
        key = (str(frame.conversation), socket.user_key)
        typist = self._typing.get(key)
        if typist is None:
            if not frame.on:
                return
            typist = self._typing[key] = _Typist()
        if frame.on:
            typist.rest()
            typist.devices.add(socket)
            typist.socket, typist.ref, typist.types = socket, frame.ref, True
            typist.timer = self.node.loop.call_later(TYPING_SECONDS, self._typing_ends, key)
            self._see_to_typing(key, typist)
        else:
            typist.devices.discard(socket)
            if not typist.devices:
                self._typing_ends(key)

    def _typing_ends(self, key: MarkKey) -> None:
        typist = self._typing.get(key)
        if typist is not None:
            typist.rest()
            typist.devices.clear()
            typist.types = False
            self._see_to_typing(key, typist)

    def _see_to_typing(self, key: MarkKey, typist: _Typist) -> None:
        if not typist.telling and typist.types != typist.told:
            typist.telling = True
            self.node.spawn(self._tell_typing(key, typist))

    async def _tell_typing(self, key: MarkKey, typist: _Typist) -> None:
        """Tell the others what holds by now, one after another, so that no earlier sign overtakes a later one.

        The end is told to whom the beginning was told, whatever has become of the typist since.
        """
        try:
            while typist.types != typist.told and typist.socket is not None:
                identity = typist.socket.identity
                if typist.types:
                    typist.audience = await self.node.call(
                        stream.typing_audience, user=identity.user_id, conversation=UUID(key[0])
                    )
                    if typist.types == typist.told:
                        # It has ended before anybody was told.
                        break
                users, group = typist.audience
                typist.told = typist.types
                event = frames.TypingEvent(key[0], identity.username, typist.told)
                if group:
                    fanout.to_members(key[0], event, leave_out=[identity.user_id, *users])
                else:
                    fanout.to_users(users, event, in_stream=True)
        except ChatError as error:
            typist.rest()
            typist.devices.clear()
            typist.types = typist.told = False
            if typist.socket is not None:
                typist.socket.refuse_with(typist.ref, error)
        finally:
            typist.telling = False
            if not typist.types:
                self._typing.pop(key, None)

    # --- sync --------------------------------------------------------------------------------------

    def on_sync(self, socket: SocketConsumer, frame: frames.Sync) -> None:
        """Begin the stream; once per socket."""
        if socket.state is not State.WAITING:
            raise Conflict("A socket syncs once.")
        socket.begin_command()
        self.node.spawn(sync.start(socket, frame))


def _repeated(ref: str | None, client_id: str, verdict: Verdict) -> frames.Ack:
    """The ack of what was stored before."""
    return frames.Ack(
        ref, verdict.conversation, verdict.seq, verdict.rev, verdict.id, client_id, verdict.created_at,
        duplicate=True,
    )  # fmt: skip


class _Typist:
    """Someone who types in a conversation: what holds, and what the others have been told."""

    __slots__ = ("audience", "devices", "ref", "socket", "telling", "timer", "told", "types")

    def __init__(self) -> None:
        self.devices: set[SocketConsumer] = set()
        """Those on which something is being typed."""
        self.socket: SocketConsumer | None = None
        """The last of them, which is answered when it may not."""
        self.ref: str | None = None
        self.audience: tuple[list[UUID], bool] = ([], False)
        self.types = self.told = self.telling = False
        self.timer: asyncio.TimerHandle | None = None

    def rest(self) -> None:
        """Let it not end by itself any more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


def _refuse_marks(markers: Mapping[SocketConsumer, Iterable[str | None]], error: ChatError) -> None:
    for socket, refs in markers.items():
        for ref in refs:
            socket.refuse_with(ref, error)


def _target(socket: SocketConsumer, frame: frames.Send) -> str | tuple[str, str]:
    """What a send names, as the key of its route."""
    if frame.to.conversation is not None:
        return str(frame.to.conversation)
    return (socket.user_key, (frame.to.username or "").lower())
