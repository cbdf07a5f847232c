"""The newcomer's first minutes: `manage.py quickstart`, which `make run` calls."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from django.conf import settings

pytestmark = pytest.mark.embedded

OURS = ("CHATBE_", "DATABASE_URL", "REDIS_URL", "SECRET_KEY", "DJANGO_SETTINGS_MODULE")


def quickstart(var: Path, *, port: int = 0) -> subprocess.Popen[str]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(OURS)},
        "CHATBE_ENV_FILE": "none",
        "CHATBE_VAR_DIR": str(var),
        "PYTHONUNBUFFERED": "1",
    }
    return subprocess.Popen(
        [sys.executable, "manage.py", "quickstart", "--port", str(port)],
        cwd=settings.BASE_DIR,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextmanager
def running(var: Path) -> Iterator[tuple[str, str]]:
    """One that serves: its address, and what it said until then."""
    said = ""
    with quickstart(var) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                said += line
                if found := re.search(r"listening on (http://\S+)", line):
                    yield found[1], said
                    break
            else:
                pytest.fail(f"it ended:\n{said}")
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()


def refused(var: Path, *, port: int = 0) -> str:
    """What one says that cannot start."""
    with quickstart(var, port=port) as process:
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    return said


def test_the_first_run_prepares_everything_and_the_second_finds_it(tmp_path: Path) -> None:
    var = tmp_path / "var"
    with running(var) as (server, said):
        people = dict(re.findall(r"^  (alice|bob|carol) +(\S+)$", said, re.MULTILINE))
        assert set(people) == {"alice", "bob", "carol"}
        with httpx.Client(base_url=server) as client:
            for username, password in people.items():
                login = client.post("/v1/auth/login", json={"username": username, "password": password})
                assert login.status_code == 200, login.text
                client.headers["Authorization"] = f"Bearer {login.json()['access_token']}"
                conversations = client.get("/v1/conversations").json()["results"]
                assert conversations
                assert all(conversation["last_seq"] > 0 for conversation in conversations)
                contacts = client.get("/v1/contacts").json()["results"]
                assert {contact["username"] for contact in contacts} == set(people) - {username}
                assert all(contact["mutual"] for contact in contacts)
    assert (var / "secret_key").stat().st_mode & 0o077 == 0
    with running(var) as (server, said):
        assert "alice" not in said
        assert "migrations" not in said
        password = people["alice"]
        again = httpx.post(f"{server}/v1/auth/login", json={"username": "alice", "password": password})
        assert again.status_code == 200


def test_a_port_in_use_is_told_in_one_line_and_nothing_is_made(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(tmp_path / "var", port=port)
    assert said == f"CommandError: Port {port} is in use. Try: make run PORT={port + 1}\n"
    assert not (tmp_path / "var" / "chatbe.sqlite3").exists()


def test_a_second_one_on_the_same_data_is_refused_in_one_line(tmp_path: Path) -> None:
    with running(tmp_path / "var") as (server, _):
        said = refused(tmp_path / "var")
        assert said.count("\n") == 1
        assert "already runs" in said
        port = int(server.rpartition(":")[2])
        assert f"Port {port} is in use: chatbe already runs" in refused(tmp_path / "var", port=port)


def test_a_port_that_does_not_exist_is_told_in_one_line(tmp_path: Path) -> None:
    assert refused(tmp_path / "var", port=70000).count("\n") == 1
