"""Measure chatbe beside what it is measured against: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import uvloop

from benchmarks import machine, profiler, report
from benchmarks.errors import TargetError
from benchmarks.suite import QUICK, WORKLOADS, Sizes, Workload
from benchmarks.targets import ROOT, TARGETS, Stage, Target

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "django",
    "channels",
    "channels-redis",
    "daphne",
    "uvicorn",
    "uvloop",
    "psycopg",
    "redis",
    "msgspec",
)


def arguments() -> argparse.Namespace:
    """What was asked for."""
    names = ", ".join(workload.name for workload in WORKLOADS)
    servers = ", ".join(target.name for target in TARGETS)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default="", metavar="WORKLOAD,…", help=f"of {names}")
    parser.add_argument("--servers", default="", metavar="SERVER,…", help=f"of {servers}")
    parser.add_argument("--seconds", type=float, help="of each measurement of messages (6)")
    parser.add_argument("--rounds", type=int, help="how often every server is asked (3)")
    parser.add_argument(
        "--quick", action="store_true", help="small and short: tells that it works, not what it costs"
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="show where the app's time goes (py-spy); the figures then include it",
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder for the report (benchmarks/results)"
    )
    return parser.parse_args()


def sizes(options: argparse.Namespace) -> Sizes:
    """The sizes, with what was asked for."""
    chosen = QUICK if options.quick else Sizes()
    given = {"seconds": options.seconds, "rounds": options.rounds, "growth_rounds": options.rounds}
    return dataclasses.replace(chosen, **{name: value for name, value in given.items() if value is not None})


def about(stage: Stage, options: argparse.Namespace) -> dict[str, Any]:
    """What was measured, and where."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
        "commit": commit.stdout.strip() or "unknown",
        "machine": machine.describe(),
        "cores": f"servers on {machine.SERVER_CORE}, load on {machine.LOAD_CORE}",
        "postgresql": stage.describe(),
        "packages": {name: version(name) for name in PACKAGES},
        "profiled": options.profile,
    }


def run(
    workload: Workload, targets: list[Target], *, profile: bool
) -> tuple[dict[str, list[Any]], list[str]]:
    """Every server, round after round, so that what disturbs one disturbs all; figures and failures."""
    rounds: dict[str, list[Any]] = {target.name: [] for target in targets}
    failures: list[str] = []
    prepared: set[str] = set()
    for target in targets:
        if target.family not in prepared:
            prepared.add(target.family)
            target.reset()
            workload.prepare(target)
    for number in range(workload.rounds):
        for target in targets:
            print(f"{workload.name}, round {number + 1}, {target.name}: ", end="", flush=True)
            try:
                target.profile = profile
                target.start()
                figures = uvloop.run(workload.measure(target))
            except (TargetError, OSError, TimeoutError) as error:
                failures.append(f"{workload.name} on {target.name}: {error!r}")
                print(f"failed: {error!r}\n{target.log_end()}", flush=True)
            else:
                rounds[target.name].append(figures)
                print(", ".join(f"{key} {value}" for key, value in report.flat(figures).items()), flush=True)
            finally:
                target.stop()
    return rounds, failures


def main() -> int:
    """Returns 0 when everything could be measured; marks that are missed are told, and are no failure."""
    options = arguments()
    signal.signal(signal.SIGTERM, _end)
    chosen = [name for name in options.only.split(",") if name]
    servers = [name for name in options.servers.split(",") if name]
    unknown = {*chosen} - {workload.name for workload in WORKLOADS} | {*servers} - {
        target.name for target in TARGETS
    }
    if unknown:
        print(f"There is no {', '.join(sorted(unknown))}; see --help.", file=sys.stderr)
        return 2
    if options.profile:
        profiler.py_spy()
    os.sched_setaffinity(0, {machine.LOAD_CORE})
    workloads = [kind(sizes(options)) for kind in WORKLOADS if not chosen or kind.name in chosen]
    titles = {workload.name: workload.title for workload in workloads}
    results: dict[str, dict[str, list[Any]]] = {}
    failures: list[str] = []
    page: Path | None = None
    stage = Stage()
    try:
        head = about(stage, options)
        for workload in workloads:
            targets = [
                kind(stage)
                for kind in TARGETS
                if kind.name in workload.targets and (not servers or kind.name in servers)
            ]
            if targets:
                results[workload.name], failed = run(workload, targets, profile=options.profile)
                failures += failed
                # After each, so that what is interrupted has not measured for nothing.
                page = report.save(options.results, head, titles, results)
    finally:
        stage.close()
    if page is not None:
        print(page.read_text())
        print(f"Written to {page} and {page.with_suffix('.json').name}.")
    for failure in failures:
        print(f"Failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
