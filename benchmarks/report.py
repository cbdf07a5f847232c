"""From figures to medians, ratios, marks, JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import median

Rounds = Mapping[str, Sequence[Mapping[str, Any]]]
"""Server → the figures of each round."""


def merged(rounds: Sequence[Any]) -> Any:
    """The same figures with the median in the place of every number."""
    first = rounds[0]
    if isinstance(first, Mapping):
        return {key: merged([figures[key] for figures in rounds if key in figures]) for key in first}
    if isinstance(first, list):
        return merged([figures for one in rounds for figures in one])
    if isinstance(first, int | float) and not isinstance(first, bool):
        return round(median(rounds), 3)
    return first


def at(figures: Mapping[str, Any], path: str) -> float:
    """The number at a dotted path."""
    value: Any = figures
    for key in path.split("."):
        value = value[key]
    return float(value)


def ratio(rounds: Rounds, path: str, one: str, other: str) -> float:
    """The median, over the rounds, of one server's figure by the other's: what disturbs a round disturbs both."""
    pairs = zip(rounds[one], rounds[other], strict=False)
    return median(at(mine, path) / at(theirs, path) for mine, theirs in pairs)


@dataclass(frozen=True)
class Mark:
    """A promise about cost, the figure that it is judged by, and whether it holds in this run."""

    what: str
    unit: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether it holds."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


TOTAL = "cpu_us_per_message.total"


def marks(results: Mapping[str, Rounds]) -> list[Mark]:
    """Every mark for which this run has the figures."""
    found: list[Mark] = []

    def judge(workload: str, servers: Sequence[str], make: Callable[[Rounds], Sequence[Mark]]) -> None:
        rounds = results.get(workload, {})
        if all(rounds.get(server) for server in servers):
            found.extend(make(rounds))

    judge("saturation", ["chatbe", "sketch"], lambda rounds: [
        Mark("CPU per durable delivered message", "× the sketch", ratio(rounds, TOTAL, "chatbe", "sketch"), 1.2),
        Mark("throughput at saturation", "× the sketch", ratio(rounds, "messages_per_second", "chatbe", "sketch"), 0.8,
             at_least=True),
    ])  # fmt: skip
    judge("saturation", ["chatbe", "tutorial"], lambda rounds: [
        Mark("CPU per durable delivered message", "× the tutorial server",
             ratio(rounds, TOTAL, "chatbe", "tutorial"), 1 / 8),
    ])  # fmt: skip
    judge("steady", ["chatbe", "sketch"], lambda rounds: [
        Mark("CPU per message at 300/s", "× the sketch", ratio(rounds, TOTAL, "chatbe", "sketch"), 0.5),
        Mark("p99 at 300/s", "× the sketch", ratio(rounds, "latency_ms.p99", "chatbe", "sketch"), 1.0),
    ])  # fmt: skip
    rounds = results.get("fanout", {})
    for sockets in (300, 3000):
        crowd = f"to_{sockets}"
        if all(crowd in figures for server in ("chatbe", "bare") for figures in rounds.get(server) or [{}]):
            value = ratio(rounds, f"{crowd}.cpu_us_per_delivery.total", "chatbe", "bare")
            found.append(
                Mark(f"CPU per delivery to {sockets} sockets", "× bare ASGI send on Daphne", value, 0.4)
            )
        group = f"group_{sockets}"
        if rounds.get("chatbe") and all(group in figures for figures in rounds["chatbe"]):
            per_delivery = "cpu_us_per_delivery.total"
            value = median(
                at(figures, f"{group}.{per_delivery}") / at(figures, f"{crowd}.{per_delivery}")
                for figures in rounds["chatbe"]
            )
            found.append(
                Mark(
                    f"CPU per delivery to {sockets} members of a group", "× to one user's sockets", value, 1.3
                )
            )
    judge("visits", ["chatbe", "tutorial"], lambda rounds: [
        Mark("connect + disconnect with 20 online contacts", "× the tutorial server",
             ratio(rounds, "cpu_us_per_visit.total", "chatbe", "tutorial"), 1 / 8),
    ])  # fmt: skip
    judge("memory", ["chatbe", "sketch"], lambda rounds: [
        Mark("memory per idle connection", "× the sketch",
             ratio(rounds, "kib_per_connection", "chatbe", "sketch"), 1.1),
    ])  # fmt: skip
    judge("resync", ["chatbe"], lambda rounds: [
        Mark("resync, CPU per message", "µs", at(merged(rounds["chatbe"]), TOTAL), 20.0),
    ])  # fmt: skip
    judge("growth", ["chatbe"], lambda rounds: [
        Mark(f"CPU per message, {what}, largest database by smallest", "×", grown(rounds, what), 1.15)
        for what in ("send", "sync")
    ])  # fmt: skip
    judge("upkeep", ["chatbe"], lambda rounds: [
        Mark(f"{rounds['chatbe'][0]['connections']:,} idle users on one process", "% of a core",
             at(merged(rounds["chatbe"]), "percent_of_a_core.total"), 5.0),
    ])  # fmt: skip
    return found


def grown(rounds: Rounds, what: str) -> float:
    """Cost in the largest database by the cost in the smallest."""
    stages = list(merged(rounds["chatbe"]).values())
    return at(stages[-1], f"rounds.{what}.{TOTAL}") / at(stages[0], f"rounds.{what}.{TOTAL}")


def flat(figures: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The same figures under dotted names."""
    result: dict[str, Any] = {}
    for key, value in figures.items():
        if isinstance(value, Mapping):
            result.update(flat(value, f"{prefix}{key}."))
        else:
            result[f"{prefix}{key}"] = value
    return result


def markdown(about: Mapping[str, Any], titles: Mapping[str, str], results: Mapping[str, Rounds]) -> str:
    """The report as a page."""
    lines = [f"# Benchmarks of {about['started']}", ""]
    lines += [f"- {key}: {value}" for key, value in flat(about).items() if key != "started"]
    judged = marks(results)
    if judged:
        lines += ["", "## Marks", "", "| | measured | mark | |", "|---|---|---|---|"]
        lines += [
            f"| {mark.what} | {mark.value:.3g} {mark.unit} | {'≥' if mark.at_least else '≤'} {mark.limit:.3g} |"
            f" {'met' if mark.met else '**missed**'} |"
            for mark in judged
        ]
    for workload, rounds in results.items():
        servers = {server: flat(merged(figures)) for server, figures in rounds.items() if figures}
        names = list(dict.fromkeys(name for figures in servers.values() for name in figures))
        lines += ["", f"## {workload}: {titles[workload]}", ""]
        lines += ["| | " + " | ".join(servers) + " |", "|---|" + "---|" * len(servers)]
        lines += [
            f"| {name} | " + " | ".join(str(figures.get(name, "")) for figures in servers.values()) + " |"
            for name in names
        ]
    return "\n".join([*lines, ""])


def save(
    folder: Path, about: Mapping[str, Any], titles: Mapping[str, str], results: Mapping[str, Rounds]
) -> Path:
    """Write both forms, named after the start; returns the Markdown's path."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / str(about["started"]).replace(":", "").replace("-", "")[:15]
    everything = {
        "about": about,
        "marks": [{**asdict(mark), "met": mark.met} for mark in marks(results)],
        "results": results,
    }
    stem.with_suffix(".json").write_text(json.dumps(everything, indent=1) + "\n")
    page = stem.with_suffix(".md")
    page.write_text(markdown(about, titles, results))
    return page
