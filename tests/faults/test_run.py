"""A short run of what `make faults` does at length: real servers, a handful of faults, every promise judged."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.faults import report
from tests.faults.run import run
from tests.faults.world import Size

SEED = 1512
FAULTS = (
    "kill-server",
    "kill-redis",
    "cut-postgres",
    "lost-publishes",
    "cut-clients",
    "rolling-restart",
    "frozen-reader",
)


@pytest.mark.faults
@pytest.mark.cluster
def test_nothing_is_lost_doubled_or_disordered_whatever_is_killed(tmp_path: Path) -> None:
    said: list[str] = []
    size = Size(clients=12, rate=4.0)
    result = asyncio.run(run(FAULTS, seed=SEED, folder=tmp_path, size=size, say=said.append))
    assert len(result.history.database.messages) > 100
    table = report.table(result.history, result.violations)
    assert not result.violations, "\n".join([*said, table, report.describe(result.violations)])
