"""What the tests of the page share: Chromium, and the devices in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("playwright", reason="playwright is not installed: make test installs it")

from playwright.sync_api import Browser

from tests.support import people
from tests.support.processes import AppServer
from tests.web.browser import MISSING, Device, chromium, executable


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium, shared by the tests of this folder. Not longer: while Playwright is there, its event loop runs."""
    if executable() is None:
        pytest.skip(MISSING)
    with chromium() as running:
        yield running


@pytest.fixture
def device(browser: Browser, servers: list[AppServer]) -> Iterator[Callable[..., Device]]:
    """Makes devices, at the first server unless another is named; none may have complained at the end."""
    made: list[Device] = []

    def make(server: AppServer | None = None, **options: Any) -> Device:
        made.append(Device(browser, (server or servers[0]).url, **options))
        return made[-1]

    yield make
    complaints = [complaint for one in made for complaint in one.complaints]
    for one in made:
        one.close()
    people.close_all()
    assert not complaints
