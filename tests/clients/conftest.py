"""What the tests of the clients share: a server, and Node.js."""

import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.processes import AppServer, Deployment


@pytest.fixture(scope="session")
def server(migrated_deployment: Deployment) -> Iterator[AppServer]:
    """A server without limits, for clients with people of their own."""
    with migrated_deployment.copy() as shared:
        shared.environment["CHATBE_RATE_LIMITS"] = "off"
        yield shared.server()


@pytest.fixture(scope="session")
def node() -> list[str]:
    """The command of a Node.js that has WebSocket."""
    path = shutil.which("node")
    if path is None:
        pytest.skip("Node.js is not installed: apt-get install nodejs, in release 20 or newer")
    version = int(subprocess.check_output([path, "--version"], text=True).lstrip("v").split(".")[0])
    if version < 20:
        pytest.skip(f"Node.js {version} is too old: the client needs 20 or newer")
    return [path, *(["--experimental-websocket"] if version < 22 else [])]
