"""The lock on var/: one process at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings as configured
from pytest_django import Settings

from chatbe import embedded

HOLDER = """
import sys, django
from django.conf import settings
from pathlib import Path
settings.configure(CHATBE_VAR_DIR=Path(sys.argv[1]))
from chatbe.embedded import AlreadyRunning, exclusive_var_lock
try:
    exclusive_var_lock()
    exclusive_var_lock()
except AlreadyRunning as error:
    sys.exit(str(error))
print("held", flush=True)
sys.stdin.read()
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        cwd=configured.BASE_DIR,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.pure
def test_a_second_process_is_told_who_is_there(tmp_path: Path) -> None:
    with hold(tmp_path / "var") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with hold(tmp_path / "var") as second:
            _, said = second.communicate()
        assert second.returncode == 1
        assert said.count("\n") == 1
        assert f"(process {first.pid})" in said
        assert str(tmp_path / "var") in said
        # kill -9 leaves no lock behind.
        first.kill()
        first.wait()
    with hold(tmp_path / "var") as third:
        assert third.stdout is not None
        assert third.stdout.readline() == "held\n"
        third.communicate()
    assert third.returncode == 0


@pytest.mark.pure
def test_a_lock_file_of_no_process_is_taken(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.CHATBE_VAR_DIR = tmp_path
    monkeypatch.setattr(embedded, "_held", [])
    (tmp_path / "lock").write_text("1234567890123456789 left behind")
    embedded.exclusive_var_lock()
    assert (tmp_path / "lock").read_text().strip().isdigit()
