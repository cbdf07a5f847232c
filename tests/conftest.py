"""Sets the environment before Django's settings read it, and gives the tests their backend."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import django
import hypothesis
import pytest
from django.conf import settings

from tests.support import backends
from tests.support.backends import Servers

if settings.configured:
    raise pytest.UsageError(
        "Django's settings were loaded before the tests' environment was set. "
        "Unset DJANGO_SETTINGS_MODULE and leave out --ds: tests/conftest.py names the settings."
    )

_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
_BACKEND = backends.chosen()
_SERVERS = Servers()
_FOLDER = tempfile.TemporaryDirectory(prefix="chatbe-test-")

if _BACKEND == "cluster" and not _WORKER:
    # Workers of xdist inherit the URLs.
    _SERVERS.start()
backends.set_environment(_BACKEND, Path(_FOLDER.name), _WORKER or "main")
with pytest.MonkeyPatch.context() as _patch:
    # Not kept in the environment: pytest-django would load the settings in xdist's workers before this file.
    _patch.setenv("DJANGO_SETTINGS_MODULE", "chatbe.settings")
    django.setup()

from django.contrib.auth.hashers import Argon2PasswordHasher  # noqa: E402 - it needs the settings
from django.db import connection  # noqa: E402

from tests.support.processes import AppServer, Deployment  # noqa: E402

# Argon2 as cheap as it can be: what is tested is not how long it takes.
Argon2PasswordHasher.time_cost = 1
Argon2PasswordHasher.memory_cost = 8
Argon2PasswordHasher.parallelism = 1

# A loaded machine is no failure; and what was found must be found again.
hypothesis.settings.register_profile("chatbe", deadline=None, print_blob=True)
hypothesis.settings.load_profile("chatbe")

# What is in these folders needs no backend.
_PURE_FOLDERS = ("wire",)
# The page is tested on two servers, which it takes a cluster to have.
_CLUSTER_FOLDERS = ("web",)


def pytest_unconfigure() -> None:
    _SERVERS.close()
    _FOLDER.cleanup()


def pytest_report_header() -> str:
    return f"backend: {_BACKEND}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what another backend's run does."""
    other = {"embedded": {"cluster"}, "cluster": {"embedded", "pure"}}[_BACKEND]
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    here = Path(__file__).parent
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        if item.path.relative_to(here).parts[0] in _PURE_FOLDERS:
            marks.add("pure")
        if item.path.relative_to(here).parts[0] in _CLUSTER_FOLDERS:
            marks.add("cluster")
        (left_out if marks & other else kept).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


@pytest.fixture(scope="session")
def backend() -> backends.Backend:
    """`embedded` or `cluster`."""
    return _BACKEND


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings_parallel_suffix: None) -> None:
    """A file for SQLite, as in use: connections of several threads, WAL and busy timeouts are real then."""
    if connection.vendor == "sqlite":
        connection.settings_dict["TEST"]["NAME"] = str(Path(_FOLDER.name) / "test.sqlite3")


def _deployment(template: Deployment | None = None) -> Deployment:
    if _BACKEND == "embedded":
        return Deployment(template=template)
    return Deployment(
        database_url=os.environ["DATABASE_URL"], redis_url=os.environ["REDIS_URL"], template=template
    )


@pytest.fixture(scope="session")
def migrated_deployment() -> Iterator[Deployment]:
    """What each test's deployment is a copy of: migrations run once."""
    with _deployment() as template:
        template.manage("migrate", "--verbosity", "0")
        yield template


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


@pytest.fixture
def deployment(migrated_deployment: Deployment) -> Iterator[Deployment]:
    """An empty chatbe of the test's own, for tests of whole processes: `deployment.server()` starts one."""
    with _deployment(migrated_deployment) as own:
        yield own
