"""One Channels consumer per socket: frames in and out, no queries.

It keeps a Channels consumer's place (routing, scope, tests) and replaces its dispatch, which
costs a task and a thread hop per frame, by a plain loop; on `manage.py serve` inbound frames
come by direct call and the loop only waits for the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import deque
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from channels.consumer import AsyncConsumer
from django.conf import settings

from chatbe.core import clock
from chatbe.core.errors import ChatError, RateLimited, Unavailable
from chatbe.core.ratelimit import TokenBucket
from chatbe.hub import fanout, registry
from chatbe.hub import node as nodes
from chatbe.hub.outbox import Outbox, State
from chatbe.hub.transport import EXTENSION, AsgiTransport
from chatbe.wire import codec, frames
from chatbe.wire.codes import CloseCode, ErrorCode

if TYPE_CHECKING:
    from chatbe.hub.hub import LocalUser
    from chatbe.hub.node import Node

logger = logging.getLogger("chatbe.hub.socket")

SUBPROTOCOL = "chatbe.v1"
DEVICES = 3
"""A user's sockets together may send so many times what one of them may."""
REFUSALS_IN_A_ROW = 500
"""So many frames over the limit, one after another, and the socket is closed with 4009."""


class SocketConsumer(Outbox, AsyncConsumer):
    """A socket from handshake to close."""

    identity: registry.Identity
    user: LocalUser
    node: Node

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one socket. Always returns; after it, nothing of the socket is left."""
        self.scope = scope
        self.connection = secrets.token_urlsafe(9)
        self.unanswered = 0
        self.heartbeats = False
        self.last_frame = time.monotonic()
        self.refused = 0
        self.paused = 0
        self.choked = False
        """Whether reading is paused for the answers that the client does not read."""
        self.arrived = False
        self.room = asyncio.Event()
        self.resolving: deque[frames.Send] | None = None
        """Sends that wait until it is known where an earlier one goes; so that none overtakes another."""
        native = scope.get("extensions", {}).get(EXTENSION)
        self.open_outbox(native or AsgiTransport(send), settings.CHATBE_OUTBOX_BYTES)
        if (await receive())["type"] != "websocket.connect":
            return
        self.transport.set_receiver(self.on_frame, self._on_binary, self._on_lost)
        # What the client sends before it is admitted waits.
        self.transport.pause_reading()
        try:
            if await self._admit(send):
                await self._serve(receive)
            else:
                await _until_closed(receive)
        except Unavailable:
            self.close(CloseCode.INTERNAL_ERROR)
            await _until_closed(receive)
        finally:
            self._gone()

    # --- coming and going --------------------------------------------------------------------------

    async def _admit(self, send: Any) -> bool:
        """Sign in, join the fan-out, and only then judge the session, so that no revocation slips between."""
        otp, username, subprotocol = _credentials(self.scope)
        accept: dict[str, Any] = {"type": "websocket.accept"}
        if subprotocol:
            accept["subprotocol"] = subprotocol
        # Accepted in any case: a browser cannot read a refused handshake.
        await send(accept)
        self.node = node = await nodes.running()
        if node.draining:
            self.close(CloseCode.RESTARTING)
            return False
        authenticate, admit = registry.signing_in()
        identity = await node.call(authenticate, otp, username) if otp else None
        if identity is None:
            self.close(CloseCode.NOT_SIGNED_IN)
            return False
        self.identity = identity
        self.user_key = str(identity.user_id)
        now = time.monotonic()
        self.bucket = TokenBucket(
            capacity=settings.CHATBE_FRAME_BURST, rate=settings.CHATBE_FRAME_RATE, now=now
        )
        node.hub.add(self)
        node.watch(self)
        await node.join([fanout.user_group(self.user_key)])
        self.arrived = True
        for part in node.parts:
            part.arriving(self)
        admission = await node.call(admit, identity)
        if admission.close_code is not None:
            self.close(admission.close_code)
            return False
        if self.node.draining:
            # Said goodbye to the others before this one had come.
            self.close(CloseCode.RESTARTING)
        if self.closed:
            return False
        self.answer(
            frames.Welcome(
                user=identity.username,
                session_id=str(identity.session_id),
                connection=self.connection,
                server=node.id,
                epoch=node.epoch,
                heartbeat_interval=settings.CHATBE_HEARTBEAT_INTERVAL,
                time=clock.timestamp(clock.now()),
                limits=frames.Limits(
                    max_frame_bytes=frames.MAX_UP_BYTES,
                    max_body_characters=frames.MAX_BODY_CHARACTERS,
                    max_unanswered=settings.CHATBE_MAX_UNANSWERED,
                ),
            )
        )
        for part in node.parts:
            await part.connected(self)
        return not self.closed

    async def _serve(self, receive: Any) -> None:
        """Take frames until the socket is gone."""
        transport = self.transport
        transport.set_drain(self._on_drain)
        transport.resume_reading()
        if not isinstance(transport, AsgiTransport):
            # Its frames come by direct call.
            await _until_closed(receive)
            return
        while (message := await receive())["type"] != "websocket.disconnect":
            transport.last_inbound = time.monotonic()
            self._take(message)
            if self.paused or self.choked:
                await transport.readable()

    def _take(self, message: dict[str, Any]) -> None:
        text = message.get("text")
        if text is None:
            self._on_binary()
        else:
            self.on_frame(text)

    def _gone(self) -> None:
        self.state = State.CLOSED
        if not hasattr(self, "user"):
            return
        node = self.node
        node.lagging.discard(self)
        last = node.hub.remove(self)
        if self.arrived:
            for part in node.parts:
                part.disconnected(self)
        if last:
            node.left(self.user_key)

    def _on_lost(self, _code: int) -> None:
        """The connection is gone; the disconnect message that follows ends the loop."""
        self.state = State.CLOSED

    def close(self, code: int, reason: str = "") -> None:
        """Send what is buffered, then close; nothing more is taken in."""
        if self.state is not State.CLOSED:
            self.state = State.CLOSED
            self.transport.close(int(code), reason)

    def stop_reading(self) -> None:
        """Take no more frames; answers still go out."""
        self.transport.pause_reading()

    async def judge_session(self) -> None:
        """Close if the session has ended or the user is suspended; the news of it may have been lost."""
        _, admit = registry.signing_in()
        admission = await self.node.call(admit, self.identity)
        if admission.close_code is not None:
            self.close(admission.close_code)

    def bucket_of_user(self) -> TokenBucket:
        """The limit of all of a user's sockets on this process: a few devices' worth."""
        return TokenBucket(
            capacity=DEVICES * settings.CHATBE_FRAME_BURST,
            rate=DEVICES * settings.CHATBE_FRAME_RATE,
            now=time.monotonic(),
        )

    # --- frames in ---------------------------------------------------------------------------------

    def on_frame(self, data: str | bytes) -> None:
        """Take one text frame; whatever is wrong with it is answered, and the socket stays open."""
        if self.state is State.CLOSED:
            return
        now = self.last_frame = time.monotonic()
        try:
            command = codec.decode(data)
        except codec.ProtocolError as error:
            self._limit(now)
            self.refuse(error.ref, error.code, error.detail)
            return
        wait = self._limit(now)
        ref = getattr(command, "ref", None)
        if wait and not isinstance(command, frames.Heartbeat):
            self.refuse(ref, ErrorCode.RATE_LIMITED, RateLimited.default_detail, wait)
            return
        if isinstance(command, frames.Heartbeat):
            self.heartbeats = True
            event = frames.HeartbeatEvent(time=clock.timestamp(clock.now()))
            if command.ref is not None:
                event.ref = command.ref
            self.answer(event)
            return
        handler = self.node.handlers.get(type(command))
        if handler is None:
            self.refuse(ref, ErrorCode.UNKNOWN_TYPE, "This server does not speak this frame.")
            return
        try:
            handler(self, command)
        except ChatError as error:
            self.refuse_with(ref, error)

    def _limit(self, now: float) -> float:
        """Seconds until the next frame is taken, or 0.0; a socket that does not heed it is closed with 4009."""
        if not self.node.rate_limits:
            return 0.0
        wait = self.bucket.take(now=now) or self.user.bucket.take(now=now)
        if not wait:
            self.refused = 0
            return 0.0
        self.refused += 1
        if self.refused > REFUSALS_IN_A_ROW:
            self.close(CloseCode.TOO_MANY_FRAMES)
        return wait

    def _on_binary(self) -> None:
        self.close(CloseCode.UNSUPPORTED_DATA, "text frames only")

    def refuse(self, ref: str | None, code: str, detail: str, retry_after: float | None = None) -> None:
        """Answer a frame with an `error`."""
        error = frames.Error(ref=ref, code=str(code), detail=detail)
        if retry_after is not None:
            error.retry_after = round(retry_after, 3)
        self.answer(error)

    def refuse_with(self, ref: str | None, error: ChatError) -> None:
        """Answer a frame with what a service raised."""
        self.refuse(ref, error.code, error.detail, error.retry_after)

    # --- waiting for answers -----------------------------------------------------------------------

    def begin_command(self) -> None:
        """A command's answer is under way; with too many of them the socket is not read."""
        self.unanswered += 1
        if self.unanswered == self.node.max_unanswered:
            self.paused += 1
            self.transport.pause_reading()

    def end_command(self) -> None:
        """The answer was sent, or will never be."""
        self.unanswered -= 1
        if self.paused and self.unanswered == self.node.max_unanswered // 2:
            self.paused -= 1
            self._resume_reading()

    def _resume_reading(self) -> None:
        if not (self.paused or self.choked or self.node.draining):
            self.transport.resume_reading()

    # --- slow readers ------------------------------------------------------------------------------

    def lags(self) -> None:
        """Have the node look at this socket's progress."""
        self.node.lagging.add(self)

    def crowded(self) -> None:
        """Stop reading from a client that does not read its answers, and have the node look at its progress."""
        if not self.choked and self.state is not State.CLOSED:
            self.choked = True
            self.transport.pause_reading()
            self.lagging_since = time.monotonic()
            self.lagging_bytes = self.transport.buffered
            self.node.lagging.add(self)

    def relieved(self) -> None:
        """Go on reading."""
        if self.choked and self.transport.buffered <= self.limit and self.state is not State.CLOSED:
            self.choked = False
            if self.state is not State.LAGGING:
                self.node.lagging.discard(self)
            self._resume_reading()

    def _on_drain(self) -> None:
        self.room.set()
        self.relieved()
        if self.state is State.LAGGING:
            self.drained()
        elif self.missed and self.state is not State.CATCHING_UP:
            self.tell_afresh()

    def tell_afresh(self) -> None:
        """Have told again what is not of the stream, and may have been left out."""
        self.missed = False
        for part in self.node.parts:
            part.caught_up(self)

    def drained(self) -> None:
        """Catch up from the database."""
        self.node.lagging.discard(self)
        self.node.spawn(registry.source().catch_up(self))

    async def writable(self) -> None:
        """Return once the transport has little left to send; for whoever serves page after page.

        Closes the socket when it takes nothing for too long.
        """
        progress, since = self.transport.buffered, time.monotonic()
        while self.transport.buffered > self.limit // 4 and not self.closed:
            self.room.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.room.wait(), 1.0)
            if self.transport.buffered != progress:
                progress, since = self.transport.buffered, time.monotonic()
            elif time.monotonic() - since > settings.CHATBE_SLOW_READER_TIMEOUT:
                self.close(CloseCode.TOO_SLOW)

    def judge_slowness(self, now: float) -> None:
        """Close a lagging socket that has taken nothing for too long; one that makes progress is not slow."""
        buffered = self.transport.buffered
        if buffered == 0:
            self._on_drain()
        elif buffered != self.lagging_bytes:
            self.lagging_bytes, self.lagging_since = buffered, now
        elif now - self.lagging_since > settings.CHATBE_SLOW_READER_TIMEOUT:
            self.close(CloseCode.TOO_SLOW)


def _credentials(scope: Any) -> tuple[str, str | None, str]:
    """The one-time password, the username (None by subprotocol), and the subprotocol to select."""
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    otp = query.get("otp", [""])[0]
    username = query.get("username", [""])[0]
    offered = scope.get("subprotocols", [])
    chosen = SUBPROTOCOL if SUBPROTOCOL in offered else ""
    if not otp:
        otp = next((entry[4:] for entry in offered if entry.startswith("otp.")), "")
        return otp[:128], username or None, chosen
    return otp[:128], username, chosen


async def _until_closed(receive: Any) -> None:
    """Wait for the close that was begun, so that the server may finish it."""
    while (await receive())["type"] != "websocket.disconnect":
        pass
