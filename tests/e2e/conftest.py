"""Servers that the tests of this folder share, and an end to what each leaves behind."""

from collections.abc import Iterator

import pytest

from tests.support import people
from tests.support.processes import AppServer, Deployment


@pytest.fixture(scope="session")
def shared(migrated_deployment: Deployment) -> Iterator[Deployment]:
    """What the `servers` run on. Nothing is limited."""
    with migrated_deployment.copy() as deployment:
        deployment.environment["CHATBE_RATE_LIMITS"] = "off"
        yield deployment


@pytest.fixture(scope="session")
def servers(shared: Deployment, backend: str) -> list[AppServer]:
    """Two servers on one database and one Redis; embedded, the same one twice.

    Tests share them, each with people of its own; whoever kills or restarts takes `deployment`.
    """
    first = shared.server()
    return [first, shared.server() if backend == "cluster" else first]


@pytest.fixture(autouse=True)
def _close_connections() -> Iterator[None]:
    yield
    people.close_all()
