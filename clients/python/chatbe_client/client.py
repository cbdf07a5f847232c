"""The client: one account's socket, which comes back by itself, and what is sent over it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import ClassVar, Self
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from chatbe_client import events
from chatbe_client.api import Api, Tokens
from chatbe_client.backoff import Backoff
from chatbe_client.calls import Attachment, Calls
from chatbe_client.errors import ChatError, Closed, Refused, SignedOut, Unreachable
from chatbe_client.recorder import NoRecorder, Recorder
from chatbe_client.state import Ack, ChatState, Frame, Message
from chatbe_client.storage import MemoryStorage, Storage

ENDED = frozenset({4001, 4003})
"""Close codes after which only the user can go on."""
NOT_SIGNED_IN = 4401
OUR_FAULT = frozenset({1003, 1007, 1009})
TRY_AGAIN = frozenset({"unavailable", "rate_limited"})
"""Codes of refusals that pass."""
PASSING_STATUSES = frozenset({401, 404, 408, 429, 500, 502, 503, 504})
"""HTTP answers on the way to a socket that may be better next time: a proxy's, or of a server that is going."""
RETRIED_AT_ONCE = 20
"""So many refused frames are sent again at a time."""
NO_CLOSE_FRAME = 1006
MAX_FRAME = 1024 * 1024
"""Bytes; four times what the contract allows the server."""
HEARTBEAT = '{"type":"heartbeat"}'
KEEPING_DELAY = 0.1
"""Seconds in which the cursors of many events are kept together."""
MARK = "mark"
"""The ref of `read` and `delivered`, which are answered only when they are refused."""


@dataclass(slots=True)
class Options:
    """What an application may set; times in seconds."""

    others: str = "all"
    """What the first sync asks for: `all` from the beginning, or the present `state` of each conversation."""
    http_timeout: float = 10.0
    open_timeout: float = 10.0
    first_backoff: float = 0.5
    longest_backoff: float = 20.0
    silence: float | None = None
    """Without a frame for so long, hang up and come back; None: three of the server's heartbeat intervals."""
    retry_after: float = 1.0
    """Wait so long before a refused frame is sent again if the server did not say."""
    events: int = 1000
    """So many events wait for the application; then the socket is not read until it takes some."""
    device: str = "chatbe-client"


@dataclass(slots=True)
class _Pending:
    """A frame whose ack somebody waits for."""

    frame: Frame
    answer: asyncio.Future[Ack]
    key: str
    """What its order is kept in: its target."""
    refused: bool = False
    """The server has said "try again"; it waits for its turn."""
    kept_as: str = ""
    """Its name in the storage; only messages are kept."""
    attachments: tuple[Frame, ...] = ()
    restored: bool = False
    """It is from an earlier run, so nobody here waits for it."""


class Client(Calls):
    """One account's live connection to chatbe. An async context manager; see the package's README.

    `url` is a server's address, or several of the same chatbe: another is tried after each failure.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        username: str,
        password: str,
        *,
        tokens: Tokens | None = None,
        options: Options | None = None,
        recorder: Recorder | None = None,
        storage: Storage | None = None,
    ) -> None:
        """`tokens` are those of an earlier session, to go on with; the password then serves when it has ended.

        With a `storage` the next run goes on where this one ended: with its tokens, from the last event
        that the application was done with (it had come for the next one), and with what was not acked.
        """
        self.username = username.lower()
        self.options = options or Options()
        self.state = ChatState(self.username)
        self.api = Api(
            [url] if isinstance(url, str) else url,
            username,
            password,
            device=self.options.device,
            timeout=self.options.http_timeout,
            tokens=tokens,
            on_tokens=self._keep_tokens,
        )
        self.connections = 0
        """How many sockets were opened so far; the number of the present one."""
        self.live = asyncio.Event()
        """Set while a socket is open whose sync is complete."""
        self._recorder: Recorder = recorder or NoRecorder()
        self._backoff = Backoff(first=self.options.first_backoff, longest=self.options.longest_backoff)
        self._socket: ClientConnection | None = None
        self._pending: dict[str, _Pending] = {}
        """By ref, in the order of sending."""
        self._refs = itertools.count(1)
        self._marks: dict[str, tuple[int, int]] = {}
        """Conversation → (read, delivered) that were asked for, and that no `marks` has confirmed yet."""
        self._retry: asyncio.TimerHandle | None = None
        self._outgoing: asyncio.Queue[str] | None = None
        """Frames for the present socket; None while there is none whose stream has begun."""
        self._heartbeat_interval = 25.0
        self._queue: asyncio.Queue[events.Event | None] = asyncio.Queue(self.options.events)
        self._has_reader = False
        self._told = self._taken = self._done = 0
        """How many events were queued, left the queue, and are dealt with."""
        self._storage: Storage = storage or MemoryStorage()
        self._restored = False
        self._reaching: deque[tuple[int, str, int | None]] = deque()
        """After so many events are dealt with, the cursor of this conversation is there."""
        self._to_keep: dict[str, str | None] = {}
        self._kept_cursors: set[str] = set()
        self._keeping: asyncio.TimerHandle | None = None
        self._numbers = itertools.count(1)
        """Of messages in the storage."""
        self._task: asyncio.Task[None] | None = None

    # --- life --------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Sign in and begin the stream. Raises `SignedOut`."""
        self.start()
        try:
            await self.wait_live()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def start(self) -> None:
        """Begin to connect, in the background. Does nothing while it runs; after `disconnect` it goes on."""
        if not self._restored:
            self._restored = True
            self._restore()
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    @property
    def task(self) -> asyncio.Task[None] | None:
        """What connects and comes back; done when the client has given up. None while it is not started."""
        return self._task

    async def wait_live(self) -> None:
        """Wait until a socket is open and synced. Raises `SignedOut` or `ChatError` if that will never be."""
        if self._task is None:
            raise Closed("The client was not started.")
        live = asyncio.create_task(self.live.wait())
        try:
            await asyncio.wait([live, self._task], return_when=asyncio.FIRST_COMPLETED)
        finally:
            live.cancel()
        if self._task.done():
            self._task.result()
            raise Closed("The client was closed.")

    async def disconnect(self) -> None:
        """Leave, and stay away until `start`; what was sent and is not acked waits until then."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, ChatError):
                await task
        self._keep_cursors()

    async def close(self) -> None:
        """Leave for good; whoever waits for an ack gets `Closed`. A storage's next run sends it again."""
        await self.disconnect()
        self._fail_pending(Closed("The client was closed before the answer came."))
        self._pending.clear()
        if self._retry is not None:
            self._retry.cancel()
        self._put(None)
        await self.api.close()
        self._storage.close()

    async def __aiter__(self) -> AsyncIterator[events.Event]:
        """Events as they come, for one reader at a time; ends with the client, and raises what ended it.

        Before there is a reader, the latest `Options.events` of them are kept.
        """
        self._has_reader = True
        try:
            while True:
                # Whoever asks for an event has dealt with those before.
                self._done = self._taken
                self._confirm()
                event = await self._queue.get()
                self._taken += 1
                if event is None:
                    break
                yield event
        finally:
            self._has_reader = False
            if self._queue.full():
                # The socket's reader may be waiting for room.
                self._drop()
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()

    # --- what can be done --------------------------------------------------------------------------

    async def send(
        self,
        body: str,
        *,
        to: str | None = None,
        conversation: str | None = None,
        client_id: str | None = None,
        reply_to: int | None = None,
        attachments: Sequence[Attachment] = (),
    ) -> Ack:
        """Send a message to a username or into a conversation; returns when it is committed.

        It is sent again, with the same `client_id`, on as many sockets as it takes. Raises `Refused`
        when the server says no, `Closed` when the client is closed before, and what ended the client
        (`SignedOut`) when it gives up. Messages to one target
        are stored in the order of these calls, unless the server asks to try one again later.
        """
        return await self.submit(
            body,
            to=to,
            conversation=conversation,
            client_id=client_id,
            reply_to=reply_to,
            attachments=attachments,
        )

    def submit(
        self,
        body: str,
        *,
        to: str | None = None,
        conversation: str | None = None,
        client_id: str | None = None,
        reply_to: int | None = None,
        attachments: Sequence[Attachment] = (),
    ) -> asyncio.Future[Ack]:
        """`send` without waiting: the frame takes its place in the order now; the future has what `send` returns."""
        if (to is None) == (conversation is None):
            raise ValueError("A message goes to a username or to a conversation.")
        frame: Frame = {
            "type": "send",
            "to": {"username": to} if to is not None else {"conversation": conversation},
            "client_id": client_id or str(uuid.uuid4()),
            "body": body,
        }
        if reply_to is not None:
            frame["reply_to"] = reply_to
        if attachments:
            frame["attachments"] = [attachment.id for attachment in attachments]
        files = tuple(attachment.of_message() for attachment in attachments)
        return self._ask(frame, key=to or conversation or "", attachments=files)

    @property
    def unsent(self) -> list[Frame]:
        """The `send` frames that are not acked yet, in their order; those of earlier runs among them."""
        return [pending.frame for pending in self._pending.values() if pending.frame["type"] == "send"]

    async def edit(self, conversation: str, seq: int, body: str) -> Ack:
        """Replace the body of one's own message."""
        return await self._ask(
            {"type": "edit", "conversation": conversation, "seq": seq, "body": body}, conversation
        )

    async def delete(self, conversation: str, seq: int) -> Ack:
        """Delete a message for everyone."""
        return await self._ask({"type": "delete", "conversation": conversation, "seq": seq}, conversation)

    async def react(self, conversation: str, seq: int, emoji: str, *, on: bool = True) -> Ack:
        """Put on, or take off, a reaction."""
        return await self._ask(
            {"type": "react", "conversation": conversation, "seq": seq, "emoji": emoji, "on": on},
            conversation,
        )

    def mark(self, conversation: str, *, read: int = 0, delivered: int = 0) -> None:
        """Move one's read or delivered mark, now or as soon as there is a socket."""
        asked = self._marks.get(conversation, (0, 0))
        wanted = (max(asked[0], read), max(asked[1], delivered, read))
        if wanted != asked:
            self._marks[conversation] = wanted
            self._storage.write({f"mark/{conversation}": json.dumps(wanted)})
            self.state.conversation(conversation).move_marks(self.username, *wanted)
            if self.live.is_set():
                self._write_mark(conversation, *wanted)

    def typing(self, conversation: str, *, on: bool = True) -> None:
        """Say that one types, or stopped; nothing happens without a socket."""
        if self.live.is_set():
            self._write({"type": "typing", "conversation": conversation, "on": on})

    async def history(
        self, conversation: str, *, before: int | None = None, after: int | None = None, limit: int = 50
    ) -> list[Message]:
        """A page of messages in ascending seq, kept in the state as well. Raises `Refused`, `Unreachable`."""
        params = {"before": before, "after": after, "limit": limit}
        page = await self.api.call(
            "GET",
            f"/v1/conversations/{conversation}/messages",
            params={name: value for name, value in params.items() if value is not None},
        )
        messages = [Message.from_wire(value) for value in page["results"]]
        for message in messages:
            self.state.keep(message)
        return messages

    # --- sending -----------------------------------------------------------------------------------

    def _ask(self, frame: Frame, key: str, *, attachments: tuple[Frame, ...] = ()) -> asyncio.Future[Ack]:
        """Send a frame that is acked, again and again until it is. Raises what has ended the client."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()
        ref = str(next(self._refs))
        pending = _Pending(
            {**frame, "ref": ref},
            asyncio.get_running_loop().create_future(),
            key,
            attachments=attachments,
        )
        if frame["type"] == "send":
            # Before it leaves, so that a crash can lose the message nowhere.
            pending.kept_as = f"unsent/{next(self._numbers):012}"
            kept = {"frame": frame, "key": key, "attachments": attachments}
            self._storage.write({pending.kept_as: json.dumps(kept)})
        # Behind one that waits to be sent again, so that this one does not overtake it.
        pending.refused = any(other.refused and other.key == key for other in self._pending.values())
        self._pending[ref] = pending
        if not pending.refused:
            self._write(pending.frame)
        return pending.answer

    def _write(self, frame: Frame) -> None:
        """Hand a frame to the socket, if there is one."""
        if self._outgoing is not None:
            text = json.dumps(frame, separators=(",", ":"), ensure_ascii=False)
            self._recorder.sent(self.connections, text)
            self._outgoing.put_nowait(text)

    def _write_mark(self, conversation: str, read: int, delivered: int) -> None:
        kind, seq = ("read", read) if read >= delivered else ("delivered", delivered)
        self._write({"type": kind, "conversation": conversation, "seq": seq, "ref": MARK})
        if kind == "delivered" and read:
            self._write({"type": "read", "conversation": conversation, "seq": read, "ref": MARK})

    def _write_unconfirmed_marks(self) -> None:
        """Ask again for the marks that the server does not have."""
        for conversation, wanted in self._marks.items():
            self._write_mark(conversation, *wanted)

    def _try_again_after(self, delay: float | None) -> None:
        """Send what was refused for the time being, in its order, after a while."""
        if self._retry is None:
            seconds = self.options.retry_after if delay is None else delay
            spread = random.uniform(1.0, 1.5)  # noqa: S311 - jitter
            self._retry = asyncio.get_running_loop().call_later(seconds * spread, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        if not self.live.is_set():
            return
        refused = [pending for pending in self._pending.values() if pending.refused]
        for pending in refused[:RETRIED_AT_ONCE]:
            pending.refused = False
            self._write(pending.frame)
        if len(refused) > RETRIED_AT_ONCE:
            # The rest a little later, or it would be refused again.
            self._try_again_after(None)
        else:
            self._write_unconfirmed_marks()

    # --- what the next run goes on from ------------------------------------------------------------

    def _restore(self) -> None:
        """Take up what an earlier run has left in the storage. Raises ValueError for another account's."""
        kept = self._storage.load()
        if kept.setdefault("username", self.username) != self.username:
            raise ValueError(f"This storage is {kept['username']}'s.")
        self._storage.write({"username": self.username})
        self.state.epoch = kept.get("epoch", "")
        if self.api.tokens is None and "tokens" in kept:
            self.api.use_tokens(Tokens(**json.loads(kept["tokens"])))
        for name in sorted(kept):
            kind, _, rest = name.partition("/")
            match kind:
                case "cursor":
                    self.state.conversation(rest).rev = int(kept[name])
                    self._kept_cursors.add(rest)
                case "mark":
                    read, delivered = json.loads(kept[name])
                    self._marks[rest] = (read, delivered)
                case "unsent":
                    self._restore_unsent(name, json.loads(kept[name]))

    def _restore_unsent(self, name: str, kept: Frame) -> None:
        ref = str(next(self._refs))
        self._pending[ref] = _Pending(
            {**kept["frame"], "ref": ref},
            asyncio.get_running_loop().create_future(),
            kept["key"],
            kept_as=name,
            attachments=tuple(kept["attachments"]),
            restored=True,
        )
        self._numbers = itertools.count(int(name.partition("/")[2]) + 1)

    def _keep_tokens(self, tokens: Tokens) -> None:
        self._storage.write({"tokens": json.dumps(asdict(tokens))})

    def _reached(self, conversation: str) -> None:
        """The stream has gone on in a conversation; keep where it is when the events so far are dealt with."""
        held = self.state.conversations.get(conversation)
        self._reaching.append((self._told, conversation, None if held is None else held.rev))
        self._confirm()

    def _confirm(self) -> None:
        """Have the cursors kept that the application's progress allows."""
        while self._reaching and self._reaching[0][0] <= self._done:
            _, conversation, rev = self._reaching.popleft()
            self._to_keep[f"cursor/{conversation}"] = None if rev is None else str(rev)
            (self._kept_cursors.discard if rev is None else self._kept_cursors.add)(conversation)
        if self._to_keep and self._keeping is None:
            self._keeping = asyncio.get_running_loop().call_later(KEEPING_DELAY, self._keep_cursors)

    def _keep_cursors(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            self._keeping = None
        if self._to_keep:
            self._storage.write(self._to_keep)
            self._to_keep = {}

    def _keep_epoch(self, epoch: str) -> None:
        """Another history begins: the cursors of the old one mean nothing in it."""
        self._reaching.clear()
        self._to_keep.clear()
        gone: dict[str, str | None] = {f"cursor/{conversation}": None for conversation in self._kept_cursors}
        gone |= {f"mark/{conversation}": None for conversation in self._marks}
        self._kept_cursors.clear()
        self._storage.write({**gone, "epoch": epoch})

    # --- the socket --------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Come back until there is nothing to come back to, and tell whoever waits when that is so."""
        try:
            await self._keep_connecting()
        except Exception as error:
            # No ack will come; a storage's next run sends it again.
            self._fail_pending(error)
            raise
        finally:
            self._put(None)

    async def _keep_connecting(self) -> None:
        refused_otps = 0
        while True:
            code, delay = NO_CLOSE_FRAME, None
            otp = ""
            try:
                otp = await self.api.ticket()
                code, delay = await self._one_socket(otp)
            except ConnectionRefusedError:
                self.api.give_back(otp)
            except Refused as error:
                if error.status not in PASSING_STATUSES:
                    raise
                delay = error.retry_after
            except (Unreachable, OSError, TimeoutError, InvalidHandshake):
                # As after a cut: wait, and try the next server.
                delay = None
            if code in ENDED:
                raise SignedOut(f"The server has closed the socket with {code}.")
            if code in OUR_FAULT:
                raise ChatError(f"The server did not understand this client: {code}.")
            refused_otps = refused_otps + 1 if code == NOT_SIGNED_IN else 0
            if refused_otps > 1:
                raise SignedOut("The server does not take fresh one-time passwords.")
            if refused_otps:
                delay = 0.0
            else:
                self.api.next_url()
                delay = self._backoff.next() if delay is None else delay
            await self._tell(events.Disconnected(code, delay))
            await asyncio.sleep(delay)

    def _fail_pending(self, error: Exception) -> None:
        for pending in self._pending.values():
            if not pending.answer.done():
                pending.answer.set_exception(error)
                # Nobody may be waiting for it any more.
                pending.answer.exception()

    async def _one_socket(self, otp: str) -> tuple[int, float | None]:
        """Serve one socket until it is gone; its close code, and when to come back if the server said."""
        url = f"{self.api.url.replace('http', 'ws', 1)}/v1/ws"
        socket = await connect(
            f"{url}?{urlencode({'otp': otp, 'username': self.username})}",
            open_timeout=self.options.open_timeout,
            close_timeout=1.0,
            ping_interval=None,
            compression=None,
            max_size=MAX_FRAME,
            proxy=None,
        )
        self.connections += 1
        self._recorder.opened(self.connections, url)
        outgoing: asyncio.Queue[str] = asyncio.Queue()
        writer = asyncio.create_task(self._keep_writing(socket, outgoing))
        come_back: float | None = None
        code, reason = NO_CLOSE_FRAME, ""
        try:
            while True:
                async with asyncio.timeout(self.options.silence or 3 * self._heartbeat_interval):
                    text = await socket.recv(decode=True)
                self._recorder.received(self.connections, text)
                frame: Frame = json.loads(text)
                if frame["type"] == "welcome":
                    await self._on_welcome(frame, outgoing)
                elif frame["type"] == "bye":
                    come_back = frame["reconnect_after"]
                    if "otp" in frame:
                        self.api.keep_ticket(frame["otp"])
                else:
                    await self._on_frame(frame)
        except ConnectionClosed as closed:
            if closed.rcvd is not None:
                code, reason = closed.rcvd.code, closed.rcvd.reason
        except TimeoutError:
            reason = "the server is silent"
        finally:
            self._outgoing = None
            self.live.clear()
            self._recorder.closed(self.connections, code, reason)
            writer.cancel()
            await socket.close()
        return code, come_back

    async def _keep_writing(self, socket: ClientConnection, outgoing: asyncio.Queue[str]) -> None:
        """Write what is handed over, and a heartbeat where nothing was for a while."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                try:
                    async with asyncio.timeout(self._heartbeat_interval):
                        text = await outgoing.get()
                except TimeoutError:
                    text = HEARTBEAT
                await socket.send(text)

    # --- frames in ---------------------------------------------------------------------------------

    async def _on_welcome(self, frame: Frame, outgoing: asyncio.Queue[str]) -> None:
        """Begin the stream where the last one ended, and send again what has no answer."""
        self._heartbeat_interval = frame["heartbeat_interval"]
        known = self.state.epoch
        if self.state.begin_epoch(frame["epoch"]):
            self._keep_epoch(frame["epoch"])
            self._marks.clear()
            await self._tell(events.StartedAfresh(None))
        elif not known:
            self._storage.write({"epoch": frame["epoch"]})
        self._outgoing = outgoing
        self._write({
            "type": "sync", "ref": "sync", "conversations": self.state.cursors(), "others": self.options.others,
        })  # fmt: skip
        for pending in self._pending.values():
            pending.refused = False
            self._write(pending.frame)
        await self._tell(events.Connected(frame["connection"], frame["server"]))

    async def _on_frame(self, frame: Frame) -> None:
        """Let a frame change the state, and tell the application; unknown ones are ignored."""
        handler = self._HANDLERS.get(frame["type"])
        event = handler(self, frame) if handler is not None else None
        if event is not None:
            await self._tell(event)
        conversation = _moved(frame)
        if conversation is not None:
            self._reached(conversation)

    def _on_ack(self, frame: Frame) -> events.Event | None:
        ack = Ack.from_wire(frame)
        pending = self._pending.pop(frame["ref"] or "", None)
        if pending is None or pending.frame["type"] != "send":
            self.state.on_ack(ack, None)
        else:
            self.state.on_ack(ack, pending.frame, pending.attachments)
            self._storage.write({pending.kept_as: None})
        if pending is None:
            return None
        if not pending.answer.done():
            pending.answer.set_result(ack)
        return events.Sent(ack) if pending.frame["type"] == "send" else None

    def _on_error(self, frame: Frame) -> events.Event | None:
        pending = self._pending.get(frame["ref"] or "")
        if frame["code"] in TRY_AGAIN and (pending is not None or frame["ref"] == MARK):
            if pending is not None:
                pending.refused = True
            self._try_again_after(frame.get("retry_after"))
            return None
        if pending is None:
            return events.Refusal(frame)
        del self._pending[frame["ref"]]
        if pending.kept_as:
            self._storage.write({pending.kept_as: None})
        if pending.restored:
            return events.Refusal(frame, pending.frame)
        if not pending.answer.done():
            pending.answer.set_exception(
                Refused(frame["code"], frame["detail"], retry_after=frame.get("retry_after"))
            )
        return None

    def _on_message(self, frame: Frame) -> events.Event | None:
        value = frame["message"]
        held = self.state.conversation(value["conversation"]).messages.get(value["seq"])
        message, changed = self.state.on_message(value)
        return events.MessageReceived(message, new=held is None) if changed else None

    def _on_conversation(self, frame: Frame) -> events.Event | None:
        identity = frame["conversation"]["id"]
        conversation = self.state.on_conversation(frame)
        if conversation is None:
            self._confirm_mark(identity)
        if frame.get("reset"):
            return events.StartedAfresh(identity)
        return events.ConversationChanged(identity, conversation)

    def _on_marks(self, frame: Frame) -> events.Event | None:
        self.state.on_marks(frame)
        for identity, members in frame["marks"].items():
            read, delivered = members.get(self.username, (0, 0))
            wanted = self._marks.get(identity)
            if wanted is not None and wanted[0] <= read and wanted[1] <= delivered:
                self._confirm_mark(identity)
        return events.MarksTold(tuple(frame["marks"]))

    def _confirm_mark(self, conversation: str) -> None:
        """The server has this mark, or nobody needs it any more."""
        if self._marks.pop(conversation, None) is not None:
            self._storage.write({f"mark/{conversation}": None})

    def _on_muted(self, frame: Frame) -> events.Event | None:
        self.state.conversation(frame["conversation"]).muted_until = frame["until"]
        return events.Muted(frame["conversation"], frame["until"])

    def _on_synced(self, _: Frame) -> events.Event | None:
        self._backoff.succeeded()
        self.live.set()
        self._write_unconfirmed_marks()
        return events.Synced()

    def _on_receipt(self, frame: Frame) -> events.Event | None:
        conversation = self.state.conversation(frame["conversation"])
        conversation.move_marks(frame["username"], frame["read"], frame["delivered"])
        return events.ReceiptReceived(
            frame["conversation"], frame["username"], frame["read"], frame["delivered"]
        )

    def _on_friends(self, frame: Frame) -> events.Event | None:
        self.state.on_friends(frame)
        return events.FriendsTold(frame["total"], frame["online"])

    def _on_presence(self, frame: Frame) -> events.Event | None:
        self.state.on_presence(frame)
        return events.PresenceChanged(frame["username"], frame["online"], frame["last_seen"])

    def _on_contact(self, frame: Frame) -> events.Event | None:
        return events.ContactChanged(frame["username"], frame["added"], frame["mutual"])

    def _on_typing(self, frame: Frame) -> events.Event | None:
        return events.TypingChanged(frame["conversation"], frame["username"], frame["on"])

    _HANDLERS: ClassVar[dict[str, Callable[[Client, Frame], events.Event | None]]] = {
        "ack": _on_ack,
        "contact": _on_contact,
        "conversation": _on_conversation,
        "error": _on_error,
        "friends": _on_friends,
        "marks": _on_marks,
        "message": _on_message,
        "muted": _on_muted,
        "presence": _on_presence,
        "receipt": _on_receipt,
        "synced": _on_synced,
        "typing": _on_typing,
    }

    # --- events out --------------------------------------------------------------------------------

    async def _tell(self, event: events.Event) -> None:
        """Queue an event; with a reader that is behind, wait for it, and so let the server wait."""
        if self._has_reader:
            await self._queue.put(event)
            self._told += 1
        else:
            self._put(event)

    def _put(self, event: events.Event | None) -> None:
        if self._queue.full():
            self._drop()
        self._queue.put_nowait(event)
        self._told += 1

    def _drop(self) -> None:
        """The oldest event is nobody's any more."""
        self._queue.get_nowait()
        self._taken += 1
        self._done = self._taken
        self._confirm()


def _moved(frame: Frame) -> str | None:
    """The conversation whose stream this frame took further."""
    match frame["type"]:
        case "ack":
            return None if frame["duplicate"] else str(frame["conversation"])
        case "message":
            return str(frame["message"]["conversation"])
        case "conversation":
            return str(frame["conversation"]["id"])
    return None
