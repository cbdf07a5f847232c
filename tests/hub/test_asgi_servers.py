"""The application on servers that are not its own: it chats, and closes what must be closed."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.people import Person, Socket, befriend, close_all
from tests.support.processes import ROOT, Deployment


@pytest.fixture(params=["daphne", "uvicorn"])
def server(request: pytest.FixtureRequest, deployment: Deployment) -> Iterator[str]:
    """A plain server's address. It is given a socket that listens already, so nothing waits for it."""
    pytest.importorskip(request.param)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        (deployment.folder / "stderr").open("wb") as said,
    ):
        number = listener.fileno()
        process = subprocess.Popen(
            [sys.executable, "-m", request.param, "--fd", str(number), "chatbe.asgi:application"],
            cwd=ROOT,
            env=deployment.environment,
            pass_fds=[number],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        with process:
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                close_all()
                process.kill()


def test_two_people_chat_on_a_plain_server(server: str) -> None:
    alice, bob = Person(server, "alice"), Person(server, "bob")
    befriend(alice, bob)
    on_bobs = bob.live()
    on_alices = alice.live()
    on_bobs.expect("presence", lambda frame: frame["username"] == "alice" and frame["online"])
    ack = on_alices.message("bob", "hello")
    message = on_bobs.expect("message")["message"]
    assert (message["body"], message["seq"]) == ("hello", ack["seq"])


def test_a_close_reaches_the_client_of_a_plain_server(server: str, request: pytest.FixtureRequest) -> None:
    alice = Person(server, "alice")
    offender, other = alice.live(), alice.live()
    offender.send_raw(b"binary")
    # Daphne can send no code of the RFC's own but 1000.
    assert offender.closed() == (1000 if "daphne" in request.node.name else 1003)
    assert alice.http.post("/v1/auth/logout").status_code == 204
    assert other.closed() == 4001


@pytest.mark.embedded
def test_a_plain_server_on_data_that_has_an_owner_says_so(server: str, deployment: Deployment) -> None:
    deployment.server()
    refused = Socket(f"{server.replace('http', 'ws', 1)}/v1/ws", query="?otp=unknown&username=nobody")
    # As above, Daphne's own code.
    assert refused.closed() in {1000, 1011}
    said = (deployment.folder / "stderr").read_text()
    assert f"already runs on {deployment.folder}" in said
    assert "Traceback" not in said
