"""What processes have used, from /proc; and figures from samples."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """A process and all its living descendants."""
    members = [pid]
    for task in _listed(Path(f"/proc/{pid}/task")):
        for child in _text(task / "children").split():
            members.extend(family(int(child)))
    return members


def _listed(folder: Path) -> list[Path]:
    """What is in a folder of /proc; nothing, once the process is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return list(folder.iterdir())
    return []


def _text(path: Path) -> str:
    """What a file of /proc says; nothing, once the process or thread is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return path.read_text()
    return ""


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its descendants, those included that have ended."""
    ticks = 0
    for member in family(pid):
        fields = _text(Path(f"/proc/{member}/stat")).rpartition(")")[2].split()
        # utime, stime, and the same of children that ended and were waited for.
        ticks += sum(map(int, fields[11:15]))
    return ticks / _TICK


def resident_kib(pid: int) -> int:
    """KiB of memory in a process and its descendants; what they share is counted once (PSS)."""
    total = 0
    for member in family(pid):
        for line in _text(Path(f"/proc/{member}/smaps_rollup")).splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total


class Meter:
    """CPU seconds of named processes, and of this one, between a start and an end."""

    def __init__(self, processes: Mapping[str, int]) -> None:
        self._processes = processes
        self.seconds: dict[str, float] = {}
        """What each of the processes has used; complete after `end`."""
        self.elapsed = 0.0
        self.own = 0.0
        self._start = self._read()
        self._own_start = own_cpu_seconds()
        self._clock_start = time.perf_counter()

    def end(self) -> None:
        """Read again; from here on the figures stand."""
        self.elapsed = time.perf_counter() - self._clock_start
        self.own = own_cpu_seconds() - self._own_start
        self.seconds = {name: now - self._start[name] for name, now in self._read().items()}

    def micros_per(self, count: int) -> dict[str, float]:
        """CPU microseconds of each process per one of `count` things, and their `total`."""
        micros = {name: seconds * 1e6 / max(count, 1) for name, seconds in self.seconds.items()}
        return {name: round(value, 2) for name, value in {**micros, "total": sum(micros.values())}.items()}

    def _read(self) -> dict[str, float]:
        return {name: cpu_seconds(pid) for name, pid in self._processes.items()}


def added(meters: Sequence[Meter]) -> Meter:
    """One meter with the sums of several that have ended."""
    first, *others = meters
    for meter in others:
        first.elapsed += meter.elapsed
        first.own += meter.own
        first.seconds = {name: value + meter.seconds[name] for name, value in first.seconds.items()}
    return first


def own_cpu_seconds() -> float:
    """CPU seconds of this process: the load's own cost."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def percentiles(samples: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99 of times in seconds, as milliseconds."""
    ordered = sorted(samples)
    if not ordered:
        return {}
    return {
        f"p{part}": round(ordered[min(len(ordered) * part // 100, len(ordered) - 1)] * 1e3, 3)
        for part in (50, 95, 99)
    }


def median(values: Iterable[float]) -> float:
    """The middle of the values, or the mean of the two in the middle."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
