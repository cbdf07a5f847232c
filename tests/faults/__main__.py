"""`python -m tests.faults`: run faults, print the table, keep the evidence; exit 1 when a promise was broken."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import signal
import sys
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.faults import report
from tests.faults.checker import PROMISES, check
from tests.faults.history import read
from tests.faults.nemesis import FAULTS
from tests.faults.run import Result, run
from tests.faults.world import Size
from tests.support.processes import ROOT


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 when every promise was kept, 1 when not."""
    options = _parse(arguments)
    if options.list:
        for each in FAULTS.values():
            print(f"{each.name:<20} {each.what}")
        return 0
    if options.check:
        history = read(options.check)
        violations = check(history)
        print(report.table(history, violations))
        print(report.describe(violations))
        return 1 if violations else 0
    seed = options.seed if options.seed is not None else secrets.randbelow(2**31)
    names = options.only or [name for name in FAULTS if name != "kill-worker" or options.workers > 1]
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    folder = options.out or ROOT / "var" / "faults" / f"{stamp}-{seed}"
    size = Size(
        clients=options.clients,
        people=options.people,
        servers=options.servers,
        workers=options.workers,
        rate=options.rate,
    )
    result = asyncio.run(_until_told(run(
        names,
        seed=seed,
        folder=folder,
        size=size,
        seconds=options.minutes * 60 if options.minutes else None,
        say=lambda line: print(line, flush=True),
    )))  # fmt: skip
    print("\n" + report.table(result.history, result.violations))
    print("\n" + "\n".join(f"{name:<9} {what}" for name, what in PROMISES.items()))
    messages = len(result.history.database.messages)
    print(
        f"\n{messages} messages stored, {len(result.history.connections)} connections; evidence: {result.verdict}"
    )
    only = f" --only {','.join(options.only)}" if options.only else ""
    again = f"make faults ARGS='--seed {seed}{only} {_sizes(options)}'"
    if result.violations:
        print(f"\nBROKEN:\n{report.describe(result.violations)}\n\nAgain: {again}")
        return 1
    print(f"Every promise was kept. Again: {again}")
    return 0


async def _until_told(work: Coroutine[Any, Any, Result]) -> Result:
    """Run, and end in order on SIGTERM and SIGINT."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        sys.exit(130)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, help="what chance decides; the same seed gives the same plan")
    parser.add_argument("--minutes", type=float, help="go on for so long, in an order that the seed gives")
    parser.add_argument("--only", type=_names, metavar="fault,…", help="these faults, in this order")
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument(
        "--people", type=int, default=0, help="whose devices these are (default two thirds as many)"
    )
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1, help="processes of each server")
    parser.add_argument("--rate", type=float, default=3.0, help="messages per second of each client")
    parser.add_argument("--out", type=Path, help="where the evidence goes (default var/faults/…)")
    parser.add_argument("--list", action="store_true", help="list the faults")
    parser.add_argument("--check", type=Path, metavar="history.jsonl.gz", help="judge a kept history again")
    return parser.parse_args(arguments)


def _sizes(options: argparse.Namespace) -> str:
    """The options that say how large the run was, as they are given."""
    names = ("minutes", "clients", "people", "servers", "workers", "rate")
    return " ".join(f"--{name} {value}" for name in names if (value := getattr(options, name)))


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in FAULTS:
            raise argparse.ArgumentTypeError(f"there is no fault {name}; --list names them")
    return names


if __name__ == "__main__":
    sys.exit(main())
