"""The bot of examples/bot.py answers everything once, also what came while it was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.people import PASSWORD, Person, close_all
from tests.support.processes import ROOT, Deployment

PATIENCE = 60.0


@contextmanager
def running(folder: Path, username: str, url: str) -> Iterator[subprocess.Popen[str]]:
    """The bot, killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-u", str(ROOT / "examples/bot.py"), username, PASSWORD, url],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "clients/python")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_every_message_has_one_answer(deployment: Deployment, tmp_path: Path) -> None:
    url = deployment.server().url
    bot, alice = Person(url, "echo"), Person(url, "alice")
    bot.add("alice")
    alice.add("echo")
    phone = alice.live()

    def answers(count: int) -> list[tuple[str, int]]:
        found = [
            phone.expect("message", lambda frame: frame["message"]["sender"] == "echo") for _ in range(count)
        ]
        return [(frame["message"]["body"], frame["message"]["reply_to"]) for frame in found]

    with running(tmp_path, "echo", url) as process:
        first = phone.message("echo", "hello")
        assert answers(1) == [("You said: hello", first["seq"])]
        assert process.stdout is not None
        assert "answered alice" in "".join(process.stdout.readline() for _ in range(2))
    again = [phone.message("echo", body)["seq"] for body in ("count one two three", "help")]
    with running(tmp_path, "echo", url):
        assert [seq for _, seq in answers(2)] == again
        last = phone.message("echo", "bye")
        assert answers(1) == [("You said: bye", last["seq"])]
        conversation = last["conversation"]
        bodies = [message["body"] for message in alice.history(conversation) if message["sender"] == "echo"]
        assert len(bodies) == 4
        assert bodies[1] == "3 words"
    close_all()


def test_whoever_adds_the_bot_is_added_by_it(deployment: Deployment, tmp_path: Path) -> None:
    url = deployment.server().url
    Person(url, "echo")
    alice = Person(url, "alice")
    phone = alice.live()
    with running(tmp_path, "echo", url) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "* echo listens; 0 contacts\n"
        alice.add("echo")
        phone.expect("contact", lambda frame: frame["added"])
        phone.message("echo", "hello")
        assert phone.expect("message")["message"]["body"] == "You said: hello"
    close_all()
