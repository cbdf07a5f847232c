"""The screen: a sign-in form, then the list of chats beside the one that is open."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from datetime import datetime

from prompt_toolkit.application import Application, get_app
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import (
    ConditionalContainer,
    Dimension,
    DynamicContainer,
    HSplit,
    Layout,
    VSplit,
    Window,
    WindowAlign,
)
from prompt_toolkit.layout.controls import FormattedTextControl, UIContent, UIControl
from prompt_toolkit.styles import Style
from prompt_toolkit.widgets import Label, TextArea

from chatbe_client.client import Client, Options
from chatbe_client.errors import ChatError, SignedOut
from chatbe_client.state import Message
from chatbe_client.storage import FileStorage, Storage
from chatbe_client.terminal.model import Chat, Chats
from chatbe_client.terminal.text import fit, shown, wrap

NARROW = 60
"""Columns; with fewer, the list of chats is shown only while no chat is open."""
TYPING_AGAIN = 3.0
"""Seconds after which typing is told again."""

STYLE = Style.from_dict({
    "bar": "bg:#1f2430 #c8d0e0",
    "bar.name": "bold #ffffff",
    "name": "bold",
    "good": "#7fd88f",
    "bad": "#ff8f6b",
    "dim": "#7d879b",
    "list": "",
    "list.open": "bg:#2c3a55 #ffffff bold",
    "unread": "bg:#4c8dff #ffffff bold",
    "line": "#3a4356",
    "day": "#7d879b italic",
    "me": "#8fb8ff bold",
    "other": "#f0c674 bold",
    "gone": "#7d879b italic",
    "edited": "#7d879b",
    "read": "#4c8dff bold",
    "reaction": "#c8d0e0 bg:#2a3040",
    "mention": "#f0c674 bold",
    "prompt": "#4c8dff bold",
    "field": "bg:#1f2430 #ffffff",
    "form.title": "bold #8fb8ff",
})  # fmt: skip

HELP = """\
Enter, Alt-Enter         send, new line
Tab, Shift-Tab           next, previous chat
PageUp, PageDown         scroll
F2, Ctrl-Q               list of chats, leave
/new NAME                write to somebody
/add NAME                add to my contacts
/group TITLE with NAMES  make a group
/leave                   leave this group
/reply N TEXT            answer message N, or the last
/react N EMOJI           react to it, or take it back
/edit N TEXT, /delete N  my message N, or the last
/find WORDS              search"""


class Terminal:
    """One person's chat on one screen."""

    def __init__(self, url: str, username: str, storage: str | None) -> None:
        self._storage_path = storage
        self._chats: Chats | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._notice = ""
        self._scroll = 0
        self._typing_told = 0.0
        self._url = TextArea(url, multiline=False, style="class:field", height=1)
        self._username = TextArea(username, multiline=False, style="class:field", height=1)
        self._password = TextArea(password=True, multiline=False, style="class:field", height=1)
        self._input = TextArea(
            multiline=True, wrap_lines=True, height=Dimension(min=1, max=5), dont_extend_height=True
        )
        self._input.buffer.on_text_changed += lambda _: self._typed()
        self._form_view, self._chat_view = self._form(), self._chat()
        self._app: Application[None] = Application(
            layout=Layout(DynamicContainer(self._screen), focused_element=self._first_field(username)),
            key_bindings=self._keys(),
            style=STYLE,
            full_screen=True,
            mouse_support=False,
            refresh_interval=0.5,
        )

    def _first_field(self, username: str) -> TextArea:
        return self._password if username else self._username

    async def run(self) -> None:
        """Show it until the user leaves."""
        try:
            await self._app.run_async()
        finally:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if self._chats is not None:
                await self._chats.client.close()

    def _do(self, work: Awaitable[None]) -> None:
        """Run something beside the keys; what goes wrong is told on the screen."""

        async def run() -> None:
            try:
                await work
            except ChatError as error:
                self._notice = str(error)
            self._app.invalidate()

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- signing in --------------------------------------------------------------------------------

    async def _sign_in(self) -> None:
        url, username, password = (
            field.text.strip() for field in (self._url, self._username, self._password)
        )
        self._notice = f"Connecting to {url} …"
        try:
            storage: Storage | None = FileStorage(self._storage_path) if self._storage_path else None
            client = Client(
                url,
                username,
                password,
                options=Options(others="state", device="terminal"),
                storage=storage,
            )
            client.start()
        except (sqlite3.OperationalError, ValueError) as error:
            self._notice = f"{self._storage_path}: {error}"
            return
        chats = Chats(client)
        try:
            await client.wait_live()
            await chats.refresh()
        except SignedOut:
            await client.close()
            self._notice = "This username and password do not belong together."
            self._password.text = ""
            return
        except BaseException:
            await client.close()
            raise
        self._chats, self._notice = chats, ""
        self._password.text = ""
        self._app.layout.focus(self._input)
        await self._follow(chats)

    async def _follow(self, chats: Chats) -> None:
        """Show what happens, until the session ends."""
        chats.status = "connected"
        try:
            async for event in chats.client:
                await chats.hear(event)
                self._app.invalidate()
        except SignedOut as error:
            await chats.client.close()
            self._chats = None
            self._notice = str(error)
            self._app.layout.focus(self._password)

    # --- keys --------------------------------------------------------------------------------------

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()
        signing_in = Condition(lambda: self._chats is None)

        @keys.add("c-q")
        @keys.add("c-c")
        def leave(event: KeyPressEvent) -> None:
            event.app.exit()

        @keys.add("tab", filter=signing_in)
        @keys.add("down", filter=signing_in)
        def next_field(event: KeyPressEvent) -> None:
            event.app.layout.focus_next()

        @keys.add("s-tab", filter=signing_in)
        @keys.add("up", filter=signing_in)
        def previous_field(event: KeyPressEvent) -> None:
            event.app.layout.focus_previous()

        @keys.add("enter", filter=signing_in)
        def sign_in(event: KeyPressEvent) -> None:
            if event.app.layout.has_focus(self._password):
                self._do(self._sign_in())
            else:
                event.app.layout.focus_next()

        @keys.add("enter", filter=~signing_in)
        def send(_event: KeyPressEvent) -> None:
            self._entered(self._input.text)

        @keys.add("escape", "enter", filter=~signing_in)
        def new_line(_event: KeyPressEvent) -> None:
            self._input.buffer.insert_text("\n")

        @keys.add("tab", filter=~signing_in)
        def next_chat(_event: KeyPressEvent) -> None:
            self._turn(1)

        @keys.add("s-tab", filter=~signing_in)
        def previous_chat(_event: KeyPressEvent) -> None:
            self._turn(-1)

        @keys.add("pageup", filter=~signing_in)
        def older(event: KeyPressEvent) -> None:
            self._scroll += max(1, event.app.output.get_size().rows - 6)
            if self._chats is not None and self._chats.open is not None:
                self._do(self._chats.older(self._chats.open))

        @keys.add("pagedown", filter=~signing_in)
        def newer(event: KeyPressEvent) -> None:
            self._scroll = max(0, self._scroll - max(1, event.app.output.get_size().rows - 6))

        @keys.add("f1")
        def explain(_event: KeyPressEvent) -> None:
            self._notice = "" if self._notice == HELP else HELP

        @keys.add("f2", filter=~signing_in)
        def to_list(_event: KeyPressEvent) -> None:
            if self._chats is not None:
                self._chats.open = None

        return keys

    def _turn(self, step: int) -> None:
        """Open the next chat of the list, or the one before."""
        chats = self._chats
        if chats is None or not chats.all:
            return
        at = chats.all.index(chats.open) if chats.open in chats.all else (-1 if step > 0 else 0)
        self._open(chats.all[(at + step) % len(chats.all)])

    def _open(self, chat: Chat) -> None:
        if self._chats is not None:
            self._scroll = 0
            self._do(self._chats.show(chat))

    def _typed(self) -> None:
        """Tell the others that I am typing, now and then."""
        chats = self._chats
        if chats is None or chats.open is None or chats.open.id is None:
            return
        if self._input.text and not self._input.text.startswith("/"):
            if time.monotonic() - self._typing_told > TYPING_AGAIN:
                self._typing_told = time.monotonic()
                chats.client.typing(chats.open.id)
        elif self._typing_told:
            self._typing_told = 0.0
            chats.client.typing(chats.open.id, on=False)

    # --- what is entered ---------------------------------------------------------------------------

    def _entered(self, text: str) -> None:
        if not text.strip() or self._chats is None:
            return
        self._input.text = ""
        self._notice = ""
        self._scroll = 0
        if text.startswith("/") and not text.startswith("//"):
            self._do(self._command(self._chats, text[1:].strip()))
        elif self._chats.open is None:
            self._notice = "Open a chat first: Tab, or /new NAME."
            self._input.text = text
        else:
            self._do(
                self._send(
                    self._chats, self._chats.open, text.removeprefix("/") if text[:2] == "//" else text
                )
            )

    async def _send(self, chats: Chats, chat: Chat, body: str, reply_to: int | None = None) -> None:
        try:
            if chat.id is not None:
                await chats.client.send(body, conversation=chat.id, reply_to=reply_to)
            else:
                await chats.client.send(body, to=chat.username, reply_to=reply_to)
        except ChatError as error:
            chat.failures.append(f"Not sent: “{body}”. {error}")

    async def _command(self, chats: Chats, line: str) -> None:
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        client, chat = chats.client, chats.open
        match name:
            case "new" if rest:
                self._open(chats.of(rest.lower().removeprefix("@")))
            case "add" if rest:
                contact = await client.add_contact(rest.removeprefix("@"))
                await chats.refresh()
                self._notice = f"{contact.username} is among your contacts."
            case "group" if " with " in rest:
                title, _, names = rest.rpartition(" with ")
                group = await client.create_group(
                    title.strip(), [name.removeprefix("@") for name in names.split()]
                )
                await chats.refresh()
                self._open(next(found for found in chats if found.id == group.id))
            case "leave" if chat is not None and chat.id is not None:
                await client.remove_member(chat.id, chats.me)
                chats.open = None
                await chats.refresh()
            case "find" if rest:
                found = await client.search(rest, limit=5)
                lines = [
                    f"{result.message.sender}: {''.join(text for text, _ in result.snippet)}"
                    for result in found
                ]
                self._notice = shown("\n".join(lines)) or "Nothing was found."
            case "reply" | "react" | "edit" | "delete" if chat is not None and chat.id is not None:
                await self._change(chats, chat, chat.id, name, rest)
            case _:
                self._notice = HELP

    async def _change(self, chats: Chats, chat: Chat, conversation: str, name: str, rest: str) -> None:
        """`/reply`, `/react`, `/edit` and `/delete`, of the message with a number or of the last one that fits."""
        first, _, after = rest.partition(" ")
        mine = name in ("edit", "delete")
        if first.isdigit():
            seq, text = int(first), after.strip()
        else:
            fitting = [
                message
                for message in chats.messages(chat)
                if message.kind == "text"
                and message.body is not None
                and (message.sender == chats.me) == mine
            ]
            if not fitting:
                self._notice = "There is no such message here."
                return
            seq, text = fitting[-1].seq, rest
        match name:
            case "reply":
                await self._send(chats, chat, text, reply_to=seq)
            case "react":
                reactions = chats.client.state.conversation(conversation).messages[seq].reactions
                on = chats.me not in reactions.get(text, {}).get("usernames", [])
                await chats.client.react(conversation, seq, text, on=on)
            case "edit":
                await chats.client.edit(conversation, seq, text)
            case _:
                await chats.client.delete(conversation, seq)

    # --- the screen --------------------------------------------------------------------------------

    def _screen(self) -> HSplit:
        return self._form_view if self._chats is None else self._chat_view

    def _form(self) -> HSplit:
        def row(label: str, field: TextArea) -> VSplit:
            return VSplit([Label(label, width=10), field], width=Dimension(max=48, preferred=48))

        form = HSplit([
            Label("chatbe", style="class:form.title"),
            Window(height=1),
            row("Server", self._url),
            Window(height=1),
            row("Username", self._username),
            Window(height=1),
            row("Password", self._password),
            Window(height=1),
            Window(FormattedTextControl(self._notice_text), wrap_lines=True, height=Dimension(min=2, max=8)),
            Window(
                FormattedTextControl([("class:dim", "Enter  sign in     Ctrl-Q  leave")]), height=1
            ),
        ])  # fmt: skip
        return HSplit([Window(), VSplit([Window(), form, Window()]), Window()])

    def _chat(self) -> HSplit:
        wide = Condition(lambda: get_app().output.get_size().columns >= NARROW)
        is_open = Condition(lambda: self._chats is not None and self._chats.open is not None)
        has_notice = Condition(lambda: bool(self._notice))
        chats = ConditionalContainer(
            Window(_Lines(self._list_lines), width=self._list_width), wide | ~is_open
        )
        line = ConditionalContainer(Window(width=1, char="│", style="class:line"), wide)
        conversation = HSplit([
            Window(FormattedTextControl(self._title), height=1),
            Window(height=1, char="─", style="class:line"),
            Window(_Lines(self._message_lines)),
            Window(FormattedTextControl(self._activity), height=1),
        ])  # fmt: skip
        return HSplit([
            VSplit(
                [
                    Window(FormattedTextControl(self._who), height=1, style="class:bar"),
                    Window(FormattedTextControl(self._state), height=1, style="class:bar", align=WindowAlign.RIGHT),
                ]
            ),
            VSplit([chats, line, ConditionalContainer(conversation, wide | is_open)]),
            ConditionalContainer(
                Window(
                    FormattedTextControl(self._notice_text),
                    wrap_lines=True,
                    height=Dimension(max=12),
                    dont_extend_height=True,
                    style="class:bar",
                ),
                has_notice,
            ),
            Window(height=1, char="─", style="class:line"),
            VSplit([Window(FormattedTextControl([("class:prompt", " › ")]), width=3), self._input]),
        ])  # fmt: skip

    def _list_width(self) -> Dimension:
        columns = get_app().output.get_size().columns
        width = columns if columns < NARROW else min(30, columns // 3)
        return Dimension.exact(width)

    def _notice_text(self) -> StyleAndTextTuples:
        return [("", self._notice)]

    def _who(self) -> StyleAndTextTuples:
        if self._chats is None:
            return []
        unread = sum(chat.unread for chat in self._chats)
        return [
            ("class:bar.name", f" {self._chats.me} "),
            ("class:unread", f" {unread} unread ") if unread else ("", ""),
        ]

    def _state(self) -> StyleAndTextTuples:
        if self._chats is None:
            return []
        if self._chats.status == "connected":
            return [("class:good", "● "), ("", "connected   "), ("class:dim", "F1 help ")]
        seconds = max(0, round(self._chats.retry_at - time.monotonic()))
        return [("class:bad", "○ "), ("", f"offline, trying again in {seconds} s ")]

    def _list_lines(self, width: int, height: int) -> list[StyleAndTextTuples]:
        chats = self._chats
        if chats is None or not chats.all:
            return [
                [("class:dim", fit(line, width))] for line in ("", " No chats yet.", " /new NAME begins one.")
            ]
        at = chats.all.index(chats.open) if chats.open in chats.all else 0
        first = max(0, min(at - height // 2, len(chats.all) - height))
        return [self._list_line(chats, chat, width) for chat in chats.all[first : first + height]]

    def _list_line(self, chats: Chats, chat: Chat, width: int) -> StyleAndTextTuples:
        style = "class:list.open" if chat is chats.open else "class:list"
        mark, colour = {
            True: ("●", "class:good"),
            False: ("○", "class:dim"),
            None: ("#" if chat.username is None else " ", "class:dim"),
        }[chats.online(chat)]
        count = f" {min(chat.unread, 999)} " if chat.unread else ""
        name = fit(shown(chat.name), max(1, width - 4 - len(count)))
        return [
            (f"{style} {colour}", f" {mark} "),
            (style, name),
            ("class:unread", count) if count else ("", ""),
            (style, " "),
        ]

    def _title(self) -> StyleAndTextTuples:
        chats = self._chats
        if chats is None or chats.open is None:
            return [("class:dim", " Tab opens a chat, F1 explains the keys.")]
        chat = chats.open
        if chat.username is None:
            names = ", ".join(name for name in chat.members if name != chats.me)
            return [("class:name", f" {shown(chat.name)}  "), ("class:dim", shown(names))]
        friend = chats.client.state.friends.get(chat.username)
        if friend is None:
            return [("class:name", f" {shown(chat.name)}")]
        if friend.online:
            return [("class:name", f" {shown(chat.name)}  "), ("class:good", "● online")]
        seen = f", last seen {_moment(friend.last_seen)}" if friend.last_seen else ""
        return [("class:name", f" {shown(chat.name)}  "), ("class:dim", f"○ offline{seen}")]

    def _activity(self) -> StyleAndTextTuples:
        chats = self._chats
        names = chats.typists(chats.open) if chats is not None and chats.open is not None else []
        if not names:
            return [("class:dim", f" ↓ {self._scroll} more lines" if self._scroll else "")]
        return [("class:dim", f" {shown(', '.join(names))} {'is' if len(names) == 1 else 'are'} typing …")]

    def _message_lines(self, width: int, height: int) -> list[StyleAndTextTuples]:
        """What is seen of the open chat: its last lines, or those above as far as it was scrolled."""
        chats = self._chats
        if chats is None or chats.open is None:
            return []
        chat = chats.open
        lines: list[StyleAndTextTuples] = []
        day = ""
        for message in chats.messages(chat):
            if (date := _day(message.created_at)) != day:
                day = date
                lines.append([("class:day", f" {date}")])
            lines += self._of_message(chats, chat, message, width)
        for frame in chats.waiting(chat):
            text = _body(frame["body"], "class:gone", width)
            lines += [
                [("class:dim", "    …  "), ("class:me", f"{shown(chats.me)} "), ("class:dim", "waiting")],
                *text,
            ]
        for failure in chat.failures[-3:]:
            lines += [[("class:bad", f" {text}")] for text in wrap(shown(f"! {failure}"), width - 2)]
        self._scroll = max(0, min(self._scroll, len(lines) - height))
        end = len(lines) - self._scroll
        visible = lines[max(0, end - height) : end]
        # The newest at the bottom, where one writes.
        blank: StyleAndTextTuples = []
        return [*[blank] * (height - len(visible)), *visible]

    def _of_message(self, chats: Chats, chat: Chat, message: Message, width: int) -> list[StyleAndTextTuples]:
        if message.kind != "text":
            line: StyleAndTextTuples = [("class:day", fit(f"  · {shown(message.body or '')}", width))]
            return [line]
        mine = message.sender == chats.me
        head: StyleAndTextTuples = [
            ("class:dim", f" {_moment(message.created_at)} "),
            ("class:me" if mine else "class:other", f"{shown(message.sender or 'erased account')} "),
            ("class:dim", f"{message.seq}"),
        ]
        if mine and message.deleted_at is None:
            tick = chats.tick(chat, message)
            head.append(
                ("class:read" if tick == "read" else "class:dim", " ✓" if tick == "stored" else " ✓✓")
            )
        if message.edited_at is not None and message.deleted_at is None:
            head.append(("class:edited", " edited"))
        lines: list[StyleAndTextTuples] = [head]
        if message.reply_to is not None:
            quoted = chats.client.state.conversation(message.conversation).messages.get(message.reply_to)
            text = f"{quoted.sender}: {quoted.body or '…'}" if quoted is not None else "…"
            lines.append([("class:line", "     ┃ "), ("class:dim", fit(shown(text), width - 8))])
        if message.deleted_at is not None:
            lines.append([("class:gone", "     deleted")])
            return lines
        style = "class:mention" if chats.me in message.mentions else ""
        if message.body:
            lines += _body(message.body, style, width)
        lines += [
            [
                ("class:dim", "     📎 "),
                ("", fit(shown(f"{file['name']} ({file['size']:,} bytes)"), width - 9)),
            ]
            for file in message.attachments
        ]
        if message.reactions:
            row: StyleAndTextTuples = [("", "     ")]
            for emoji, reaction in message.reactions.items():
                row += [("class:reaction", f" {shown(emoji)} {reaction['count']} "), ("", " ")]
            lines.append(row)
        return lines


class _Lines(UIControl):
    """Lines that are made for the room that there is."""

    def __init__(self, lines: Callable[[int, int], list[StyleAndTextTuples]]) -> None:
        self._make = lines

    def create_content(self, width: int, height: int) -> UIContent:
        """The lines for so many cells."""
        lines = self._make(width, height)
        return UIContent(lambda number: lines[number], line_count=len(lines), show_cursor=False)


def _body(body: str, style: str, width: int) -> list[StyleAndTextTuples]:
    return [[("", "     "), (style, line)] for line in wrap(shown(body), width - 6)]


def _moment(time_of_wire: str) -> str:
    """The time of day here; with the date where it was not today."""
    moment = datetime.fromisoformat(time_of_wire).astimezone()
    today = moment.date() == datetime.now().astimezone().date()
    return moment.strftime("%H:%M" if today else "%H:%M, %d %b")


def _day(time_of_wire: str) -> str:
    return datetime.fromisoformat(time_of_wire).astimezone().strftime("%A, %d %B %Y")
