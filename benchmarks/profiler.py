"""Where a server's Python time goes, by py-spy: samples of the stacks that hold the interpreter's lock."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks import machine
from benchmarks.errors import TargetError

RATE = 250
SHOWN = 40


def py_spy() -> str:
    """The program's path. Raises `TargetError` where it is not installed."""
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise TargetError("Profiling needs py-spy: pip install py-spy")
    return found


@contextlib.contextmanager
def profiled(pid: int, title: str) -> Iterator[None]:
    """Sample a process while the block runs, then print where its time went."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "stacks"
        command = [py_spy(), "record", "--pid", str(pid), "--rate", str(RATE), "--gil", "--format", "raw"]
        with machine.on_core(machine.LOAD_CORE):
            sampler = subprocess.Popen(
                [*command, "--output", str(raw)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        try:
            yield
        finally:
            sampler.send_signal(2)
            sampler.wait(30)
        print(f"\n{title}: share of the samples\n{table(raw.read_text())}", flush=True)


def table(stacks: str) -> str:
    """Functions by their own time and by the time of all that they call."""
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    samples = 0
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        names = [re.sub(r":\d+\)$", ")", frame) for frame in stack.split(";")]
        samples += int(count)
        own[names[-1]] += int(count)
        for name in set(names):
            whole[name] += int(count)
    return "\n".join(
        [
            f"{'own':>6} {'with callees':>13}  function",
            *(
                f"{100 * count / samples:5.1f}% {100 * whole[name] / samples:12.1f}%  {name}"
                for name, count in own.most_common(SHOWN)
            ),
        ]
    )
