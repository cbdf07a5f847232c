"""CPU time and memory are those of a process with all its children, also of those that have ended."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks import measure, profiler

pytestmark = pytest.mark.pure

SPIN = "import time\nwhile time.process_time() < {seconds}: pass\n"


def test_what_a_child_used_is_counted_while_it_lives_and_after() -> None:
    program = (
        "import subprocess, sys\n"
        f"child = [sys.executable, '-c', {SPIN.format(seconds=0.3)!r}]\n"
        "subprocess.run(child)\n"
        "print('ended', flush=True)\n"
        "sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ended\n"
        assert measure.family(parent.pid) == [parent.pid]
        assert measure.cpu_seconds(parent.pid) >= 0.29
        assert measure.resident_kib(parent.pid) > 1000


def test_a_process_that_is_gone_has_used_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pid = process.pid
    assert measure.cpu_seconds(pid) == 0.0


def test_a_meter_tells_microseconds_per_thing() -> None:
    program = (
        "import sys\nsys.stdin.readline()\n"
        + SPIN.format(seconds=0.4)
        + "print('spun', flush=True)\nsys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        meter = measure.Meter({"app": process.pid})
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
        meter.end()
    micros = meter.micros_per(1000)
    assert 200 < micros["app"] < 600
    assert micros["total"] == micros["app"]
    assert meter.elapsed > 0


def test_percentiles_are_milliseconds() -> None:
    assert measure.percentiles([number / 1000 for number in range(1, 101)]) == {
        "p50": 51.0,
        "p95": 96.0,
        "p99": 100.0,
    }
    assert measure.percentiles([]) == {}


def test_a_profile_tells_own_time_and_that_of_what_is_called() -> None:
    table = profiler.table(
        "main (app.py:1);read (app.py:7) 30\nmain (app.py:2);read (app.py:9) 50\nmain (app.py:3) 20\n"
    )
    assert table.splitlines()[1:] == [
        " 80.0%         80.0%  read (app.py)",
        " 20.0%        100.0%  main (app.py)",
    ]
