"""The chat in the terminal, as a person has it: keys in, a screen out, real servers behind."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chatbe_client import Client
from chatbe_client.terminal.text import fit, shown, wrap
from prompt_toolkit.utils import get_cwidth

from tests.clients.terminal import Terminal
from tests.clients.test_client import PATIENCE, Pair, client_of, own_deployment, pair, server
from tests.support.people import PASSWORD
from tests.support.processes import ROOT, AppServer

__all__ = ["own_deployment", "pair", "server"]

# It sees no difference between the backends.
pytestmark = pytest.mark.pure


class Other:
    """The other person: a client on an event loop of its own, so that the test can look at a screen meanwhile."""

    def __init__(self, username: str, server: AppServer) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.client = self.do(self._begin(username, server))

    async def _begin(self, username: str, server: AppServer) -> Client:
        return await client_of(username, server).__aenter__()

    def do(self, work: Awaitable[Any]) -> Any:
        async def run() -> Any:
            return await work

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(PATIENCE)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call something of the client that does not wait."""

        async def run() -> Any:
            return function(*args, **kwargs)

        return self.do(run())

    def until(self, reached: Callable[[], bool]) -> None:
        async def wait() -> None:
            while not reached():
                await asyncio.sleep(0.01)

        self.do(wait())

    def say(self, body: str, **to: Any) -> Any:
        return self.do(self.client.send(body, **to))

    def close(self) -> None:
        self.do(self.client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def bob(pair: Pair, server: AppServer) -> Iterator[Other]:
    other = Other(pair.bob, server)
    yield other
    other.close()


def signed_in(terminal: Terminal, password: str = PASSWORD) -> None:
    terminal.expect("Username", "Password")
    terminal.press(password, "Enter")
    terminal.expect("● connected")


def test_a_person_signs_in_and_chats(pair: Pair, server: AppServer, bob: Other) -> None:
    direct = bob.say("Is the kettle on?", to=pair.alice).conversation
    with Terminal(server.url) as terminal:
        terminal.expect("Server", "Username", "Password")
        terminal.press(pair.alice, "Enter", "not this one", "Enter")
        terminal.expect("do not belong together")
        terminal.press(PASSWORD, "Enter")
        terminal.expect("● connected", f"● {pair.bob}", "1 unread")
        terminal.press("Tab")
        terminal.expect("Is the kettle on?", "● online", gone="unread")
        bob.until(lambda: bob.client.state.conversation(direct).marks.get(pair.alice) == (1, 1))
        bob.call(bob.client.typing, direct)
        terminal.expect(f"{pair.bob} is typing")
        terminal.press("Yes! 水 and 🫖, naïvely", "Enter")
        terminal.expect("🫖, naïvely", f"{pair.alice} 2 ✓")
        bob.until(lambda: 2 in bob.client.state.conversation(direct).messages)
        assert bob.client.state.conversation(direct).messages[2].body == "Yes! 水 and 🫖, naïvely"
        bob.call(bob.client.mark, direct, delivered=2)
        terminal.expect(f"{pair.alice} 2 ✓✓")
        bob.do(bob.client.disconnect())
        terminal.expect("○ offline, last seen", f"○ {pair.bob}")
        terminal.press("Ctrl-Q")
        assert terminal.ended() == 0


def test_any_size_of_the_screen_will_do(pair: Pair, server: AppServer, bob: Other) -> None:
    for number in range(60):
        bob.call(bob.client.submit, f"{number}: {'水と🫖 ' * 12}end", to=pair.alice)
    bob.until(lambda: not bob.client.unsent)
    with Terminal(server.url, "--user", pair.alice) as terminal:
        signed_in(terminal)
        terminal.press("Tab")
        terminal.expect("59: ", "│")
        terminal.resize(44, 12)
        terminal.expect("59: ", "end", gone="│")
        assert all(len(line) <= 44 for line in terminal.text.splitlines())
        terminal.press("F2")
        terminal.expect(f"● {pair.bob}", gone="59: ")
        terminal.resize(140, 40)
        terminal.press("Tab")
        terminal.expect("59: ", "│")
        terminal.press("PageUp", "PageUp", "PageUp")
        terminal.expect(" 9: ", "more lines", gone="59: ")
        terminal.press("PageUp", "PageUp", "PageUp")
        terminal.expect(" 0: ")
        terminal.press(*["PageDown"] * 8)
        terminal.expect("59: ")
        terminal.resize(20, 5)
        terminal.resize(80, 24)
        terminal.expect("59: ", "● connected")


def test_what_is_written_offline_is_shown_as_waiting_until_it_is_stored(
    pair: Pair, server: AppServer, bob: Other
) -> None:
    bob.say("hello", to=pair.alice)
    with Terminal(server.url, "--user", pair.alice) as terminal:
        signed_in(terminal)
        terminal.press("Tab")
        terminal.expect("hello")
        server.kill()
        try:
            terminal.expect("offline, trying again")
            terminal.press("Still there?", "Enter")
            terminal.expect("Still there?", "waiting")
        finally:
            server.start()
        terminal.expect("● connected", f"{pair.alice} 2 ✓", gone="waiting")


def test_a_killed_terminal_sends_what_was_waiting_the_next_time(
    pair: Pair, server: AppServer, bob: Other, tmp_path: Path
) -> None:
    direct = bob.say("hello", to=pair.alice).conversation
    arguments = (server.url, "--user", pair.alice, "--storage", str(tmp_path / "kept.sqlite3"))
    with Terminal(*arguments) as terminal:
        signed_in(terminal)
        terminal.press("Tab")
        terminal.expect("hello")
        server.kill()
        try:
            terminal.expect("offline")
            terminal.press("not lost", "Enter")
            terminal.expect("waiting")
            terminal.process.kill()
        finally:
            server.start()
    with Terminal(*arguments) as terminal:
        # No password: the session goes on.
        signed_in(terminal, password="")
        bob.until(lambda: 2 in bob.client.state.conversation(direct).messages)
        terminal.press("Tab")
        terminal.expect("not lost", f"{pair.alice} 2 ✓")


def test_what_comes_while_nobody_looks_is_counted_once(pair: Pair, server: AppServer, bob: Other) -> None:
    with Terminal(server.url, "--user", pair.alice) as terminal:
        signed_in(terminal)
        terminal.expect(f"● {pair.bob}")
        for number in range(5):
            # The list of chats is asked for while these are on their way.
            bob.call(bob.client.submit, f"message {number}", to=pair.alice)
        terminal.expect("5 unread")
        bob.say("one more", to=pair.alice)
        terminal.expect("6 unread")
        terminal.press("Tab")
        terminal.expect("one more", gone="unread")


def test_groups_and_messages_live(pair: Pair, server: AppServer, bob: Other) -> None:
    with Terminal(server.url, "--user", pair.alice) as terminal:
        signed_in(terminal)
        terminal.press("F1")
        terminal.expect("/group TITLE")
        terminal.press(f"/group Tea time with {pair.bob}", "Enter")
        terminal.expect("# Tea time", f"Tea time  {pair.bob}", gone="/group")
        bob.until(lambda: bool(bob.client.state.conversations))
        (group,) = bob.client.state.conversations
        messages = bob.client.state.conversation(group).messages
        terminal.press("helo", "Enter")
        terminal.expect("helo", "✓")
        bob.until(lambda: any(message.body == "helo" for message in messages.values()))
        seq = max(messages)
        terminal.press("/edit hello", "Enter")
        terminal.expect("     hello", "edited")
        bob.do(bob.client.react(group, seq, "👋"))
        terminal.expect("👋", " 1 ")
        bob.say(f"and to you, @{pair.alice}", conversation=group, reply_to=seq)
        terminal.expect(f"┃ {pair.alice}: hello", f"and to you, @{pair.alice}")
        terminal.press(f"/reply {seq + 1} thanks", "Enter")
        terminal.expect(f"┃ {pair.bob}: and to you")
        terminal.press("/delete", "Enter")
        terminal.expect("     deleted", gone="thanks")
        terminal.press("/leave", "Enter")
        terminal.expect("Hand the group over")


def test_what_others_write_cannot_take_the_screen(pair: Pair, server: AppServer, bob: Other) -> None:
    bob.say("\x1b[2J\x1b[31mred\x07 \u202eabc\u202c\r\nnext\tline", to=pair.alice)
    with Terminal(server.url, "--user", pair.alice) as terminal:
        signed_in(terminal)
        terminal.press("Tab")
        terminal.expect("�[2J�[31mred� abc�", "next    line", "● connected")


@pytest.mark.pure
def test_without_a_terminal_it_says_so() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "chatbe_client"],
        cwd=ROOT / "clients/python",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "needs a terminal" in result.stderr


@pytest.mark.pure
@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("", 10, [""]),
        ("one two three", 8, ["one two", "three"]),
        ("one  two", 4, ["one ", "two"]),
        ("unbreakable", 4, ["unbr", "eaka", "ble"]),
        ("a\n\nb", 4, ["a", "", "b"]),
        ("水水水", 4, ["水水", "水"]),
        ("水水水", 5, ["水水", "水"]),
    ],
)
def test_lines_break_where_they_should(text: str, width: int, lines: list[str]) -> None:
    assert list(wrap(text, width)) == lines


@pytest.mark.pure
@pytest.mark.parametrize("text", ["", "abc", "水水水水", "a水水水", "👋🏽👋🏽👋🏽", "two\nlines"])
def test_a_fitted_text_has_its_width(text: str) -> None:
    for width in range(1, 9):
        assert get_cwidth(fit(text, width)) == width


@pytest.mark.pure
def test_joined_emoji_stay_whole_and_tricks_do_not() -> None:
    assert shown("👩\u200d🚒 a\u200bb\u202ec\ufeffd") == "👩\u200d🚒 abcd"
