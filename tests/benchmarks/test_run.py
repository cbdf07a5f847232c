"""The benchmarks run, small, on real servers, and their report says what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.cluster
def test_chatbe_is_measured_beside_the_sketch_in_one_call(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "saturation", "--seconds", "0.5"]
    result = subprocess.run(
        [*command, "--servers", "chatbe,sketch", "--results", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = tmp_path.glob("*.json")
    report = json.loads(path.read_text())
    assert report["about"]["postgresql"]["fsync"] == "on"
    for server in ("chatbe", "sketch"):
        (figures,) = report["results"]["saturation"][server]
        assert figures["messages"] > 0
        assert figures["cpu_us_per_message"]["postgres"] > 0
    assert [mark["unit"] for mark in report["marks"]] == ["× the sketch", "× the sketch"]


@pytest.mark.pure
def test_an_unknown_workload_is_told_at_once() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--only", "everything"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr == "There is no everything; see --help.\n"
