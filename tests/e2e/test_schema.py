"""What the OpenAPI document says is what a real server does, whatever is sent to it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.people import Person, befriend, new_name
from tests.support.processes import AppServer

# PostgreSQL refuses more than SQLite does.
pytestmark = pytest.mark.cluster

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "response_headers_conformance,unsupported_method"
)
EXAMPLES = 15
# They end the session that the run is signed in with, and everything after them would be a 401.
LEFT_OUT = ("/v1/auth/logout", "/v1/auth/sessions/{session_id}")


def test_schemathesis_finds_no_fault_and_nothing_undocumented(
    servers: list[AppServer], tmp_path: Path
) -> None:
    alice, bob = Person(servers[0].url, new_name("alice")), Person(servers[0].url, new_name("bob"))
    befriend(alice, bob)
    with alice.live() as socket:
        # Something to be found by lists.
        socket.message(bob.username, "hello")
    command = [
        str(Path(sys.executable).with_name("st")),
        "run",
        f"{servers[0].url}/v1/schema",
        "--header",
        f"Authorization: Bearer {alice.login['access_token']}",
        "--checks",
        CHECKS,
        "--max-examples",
        str(EXAMPLES),
        "--phases",
        "examples,coverage,fuzzing",
        "--generation-deterministic",
        "--no-color",
        *(argument for path in LEFT_OUT for argument in ("--exclude-path", path)),
    ]
    run = subprocess.run(command, capture_output=True, check=False, cwd=tmp_path, text=True)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    me = alice.http.get("/v1/me")
    assert me.status_code == 200, ("the run was signed in to its end", me.text)
