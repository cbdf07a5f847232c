"""Servers that the tests of this folder share, and an end to what each leaves behind."""

from collections.abc import Iterator

import pytest

from tests.support import people
from tests.support.processes import AppServer, Deployment


@pytest.fixture(scope="session")
def servers(migrated_deployment: Deployment, backend: str) -> Iterator[list[AppServer]]:
    """Two servers on one database and one Redis; embedded, the same one twice. Nothing is limited.

    Tests share them, each with people of its own; whoever kills or restarts takes `deployment`.
    """
    with migrated_deployment.copy() as shared:
        shared.environment["CHATBE_RATE_LIMITS"] = "off"
        first = shared.server()
        yield [first, shared.server() if backend == "cluster" else first]


@pytest.fixture(autouse=True)
def _close_connections() -> Iterator[None]:
    yield
    people.close_all()
