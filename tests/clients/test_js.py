"""clients/js: its own tests, which run in Node.js, against a real server."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import ROOT, AppServer

TIMEOUT = 180.0
FOLDER = ROOT / "clients/js"


def run(node: list[str], server_url: str, *files: Path) -> None:
    """Run test files in Node.js; what they say is shown when one fails."""
    result = subprocess.run(
        [*node, "--test", "--test-reporter=tap", *map(str, files)],
        capture_output=True,
        check=False,
        cwd=FOLDER,
        env={**os.environ, "CHATBE_URL": server_url, "NODE_NO_WARNINGS": "1"},
        text=True,
        timeout=TIMEOUT,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "# fail 0" in result.stdout
    assert "# pass 0" not in result.stdout


@pytest.mark.pure
def test_it_keeps_the_rules_of_the_protocol(node: list[str]) -> None:
    run(node, "http://made-up.example", FOLDER / "test/rules.test.js")


def test_it_chats_with_a_real_server(node: list[str], server: AppServer) -> None:
    run(node, server.url, FOLDER / "test/server.test.js")
