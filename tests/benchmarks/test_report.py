"""Figures are merged by their medians, and marks are judged by ratios within a round."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report

pytestmark = pytest.mark.pure


def figures(total: float, rate: float = 1000.0) -> dict[str, Any]:
    return {"messages_per_second": rate, "cpu_us_per_message": {"app": total - 10, "total": total}}


def test_every_number_becomes_its_median() -> None:
    merged = report.merged([figures(10), figures(30), figures(20)])
    assert merged["cpu_us_per_message"] == {"app": 10, "total": 20}


def test_rounds_within_figures_are_merged_too() -> None:
    assert report.merged([{"rounds": [{"a": 1}, {"a": 3}, {"a": 100}]}]) == {"rounds": {"a": 3}}


def test_a_disturbed_round_does_not_decide_a_ratio() -> None:
    rounds = {
        "chatbe": [figures(50), figures(60), figures(500)],
        "sketch": [figures(100), figures(120), figures(1000)],
    }
    assert report.ratio(rounds, report.TOTAL, "chatbe", "sketch") == pytest.approx(0.5)


def test_marks_are_judged_in_their_direction() -> None:
    results = {
        "saturation": {
            "chatbe": [figures(130, rate=700)],
            "sketch": [figures(100)],
            "tutorial": [figures(2000, rate=100)],
        }
    }
    met = {(mark.what, mark.unit): mark.met for mark in report.marks(results)}
    assert met == {
        ("CPU per durable delivered message", "× the sketch"): False,
        ("throughput at saturation", "× the sketch"): False,
        ("CPU per durable delivered message", "× the tutorial server"): True,
    }


def test_what_was_not_measured_is_not_judged() -> None:
    assert report.marks({"saturation": {"chatbe": [figures(50)], "sketch": []}}) == []


def test_growth_is_the_largest_database_by_the_smallest() -> None:
    stage = {"rounds": [{"send": figures(100), "sync": figures(10)}]}
    larger = {"rounds": [{"send": figures(110), "sync": figures(12)}]}
    results = {"growth": {"chatbe": [{"10_messages": stage, "100_messages": larger}]}}
    send, sync = report.marks(results)
    assert send.value == pytest.approx(1.1)
    assert send.met
    assert sync.value == pytest.approx(1.2)
    assert not sync.met


def test_a_report_is_written_for_people_and_for_programs(tmp_path: Path) -> None:
    about = {"started": "2026-01-02T03:04:05+00:00", "machine": {"cores": 2}}
    results = {"saturation": {"chatbe": [figures(50)], "sketch": [figures(100)]}}
    page = report.save(tmp_path, about, {"saturation": "messages"}, results)
    assert "| CPU per durable delivered message | 0.5 × the sketch | ≤ 1.2 | met |" in page.read_text()
    assert "- machine.cores: 2" in page.read_text()
    kept = json.loads(page.with_suffix(".json").read_text())
    assert kept["results"] == results
    assert kept["marks"][0]["met"] is True
