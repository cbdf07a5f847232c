"""An end to what each test of this folder leaves behind."""

from collections.abc import Iterator

import pytest

from tests.support import people


@pytest.fixture(autouse=True)
def _close_connections() -> Iterator[None]:
    yield
    people.close_all()
