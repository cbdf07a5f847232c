"""The table (fault × promise) and the evidence of a run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from tests.faults.checker import PROMISES, Violation
from tests.faults.history import History, Round

DETAILS_SHOWN = 12


def round_of(history: History, violation: Violation) -> Round | None:
    """The round in which it happened; None for what has no moment."""
    for each in history.rounds:
        if each.started_at <= violation.at <= each.ended_at:
            return each
    return None


def table(history: History, violations: list[Violation]) -> str:
    """One line per round, one column per promise: how often it was broken, or that it was kept."""
    broken = Counter(
        (found.number if (found := round_of(history, violation)) is not None else -1, violation.promise)
        for violation in violations
    )
    width = max(12, *(len(each.fault) for each in history.rounds)) if history.rounds else 12
    lines = [
        f"{'fault':<{width}} {'sends':>6} {'s':>6}  {'settled':>7}  "
        + "  ".join(f"{promise:^8}" for promise in PROMISES)
    ]
    for each in history.rounds:
        sends = sum(each.started_at <= send.at <= each.ended_at for send in history.sends)
        settled = "never" if each.converged_after is None else f"{each.converged_after:.1f} s"
        cells = "  ".join(_cell(broken[each.number, promise]) for promise in PROMISES)
        seconds = each.ended_at - each.started_at
        lines.append(f"{each.fault:<{width}} {sends:>6} {seconds:>6.1f}  {settled:>7}  {cells}")
    at_the_end = {promise: broken[-1, promise] for promise in PROMISES}
    if any(at_the_end.values()):
        lines.append(
            f"{'(no moment)':<{width}} {'':>6} {'':>6}  {'':>7}  "
            + "  ".join(_cell(count) for count in at_the_end.values())
        )
    return "\n".join(lines)


def _cell(count: int) -> str:
    return f"{'kept' if not count else f'BROKEN {count}':^8}"


def describe(violations: list[Violation]) -> str:
    """The first of each kind, with its details."""
    kinds = Counter((violation.promise, violation.what) for violation in violations)
    lines = []
    for (promise, what), count in kinds.most_common(DETAILS_SHOWN):
        first = next(item for item in violations if (item.promise, item.what) == (promise, what))
        details = json.dumps(first.details, ensure_ascii=False, default=str)[:600]
        lines.append(f"  {promise}: {what} ({count} times, first at {first.at:.2f} s)\n    {details}")
    return "\n".join(lines)


def verdict(history: History, violations: list[Violation], about: dict[str, Any]) -> dict[str, Any]:
    """The evidence in one JSON object; the recorded history lies beside it."""
    return {
        "seed": history.seed,
        "about": about,
        "promises": PROMISES,
        "kept": not violations,
        "messages": len(history.database.messages),
        "sends": len(history.sends),
        "connections": len(history.connections),
        "frames": sum(len(connection.entries) for connection in history.connections),
        "rounds": [
            {
                "fault": each.fault,
                "started_at": each.started_at,
                "injected_at": each.injected_at,
                "healed_at": each.healed_at,
                "ended_at": each.ended_at,
                "converged_after": each.converged_after,
                "notes": each.notes,
                "broken": Counter(
                    violation.promise
                    for violation in violations
                    if (found := round_of(history, violation)) is not None and found.number == each.number
                ),
            }
            for each in history.rounds
        ],
        "violations": [
            {
                "promise": violation.promise,
                "at": violation.at,
                "what": violation.what,
                "details": violation.details,
            }
            for violation in violations
        ],
    }


def write(folder: Path, history: History, violations: list[Violation], about: dict[str, Any]) -> Path:
    """Keep verdict.json and history.jsonl.gz under `folder`; returns the verdict's path."""
    history.write(folder / "history.jsonl.gz")
    path = folder / "verdict.json"
    path.write_text(
        json.dumps(verdict(history, violations, about), indent=1, ensure_ascii=False, default=str)
    )
    return path
