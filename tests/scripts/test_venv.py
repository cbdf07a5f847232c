"""scripts/venv, with interpreters that only say what they are."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.pure

ROOT = Path(__file__).resolve().parents[2]

# Answers the script's questions as an interpreter of version $VERSION would; makes a venv with itself in it.
INTERPRETER = """#!/bin/sh
case "$*" in
    *"sys.version_info <"*) [ {minor} -ge 11 ] ;;
    *"print("*) echo 3.{minor} ;;
    *"import ensurepip"*) {has_venv} ;;
    *"import pip"*) true ;;
    "-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip install"*) echo "pip: $*" && {installs} ;;
    *) echo "unexpected: $*" >&2 && exit 99 ;;
esac
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def interpreter(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str, *, minor: int, has_venv: bool = True, installs: bool = True) -> Path:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        text = INTERPRETER.format(minor=minor, has_venv=str(has_venv).lower(), installs=str(installs).lower())
        path.write_text(text)
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the script where there are no other interpreters than the test's."""
    project = tmp_path / "project"
    (project / "scripts").mkdir(parents=True)
    shutil.copy2(ROOT / "scripts" / "venv", project / "scripts")
    (project / "requirements.txt").write_text("one==1\n")
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("sh", "dirname", "cmp", "mkdir", "cp"):
        (tools / tool).symlink_to(os.path.realpath(shutil.which(tool) or tool))

    def call(**environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [project / "scripts" / "venv", "requirements.txt"],
            capture_output=True,
            check=False,
            env={"PATH": f"{tmp_path / 'bin'}:{tools}", **environment},
            text=True,
        )

    return call


def test_the_venv_is_made_once_and_packages_are_installed_when_the_file_has_changed(
    run: Run, interpreter: Callable[..., Path], tmp_path: Path
) -> None:
    interpreter("python3", minor=11)
    first = run()
    assert first.returncode == 0, first.stderr
    assert "Making .venv with Python 3.11" in first.stdout
    assert "--require-hashes -r requirements.txt" in first.stdout

    assert run().stdout == ""

    (tmp_path / "project" / "requirements.txt").write_text("one==2\n")
    third = run()
    assert "Making" not in third.stdout
    assert "Installing requirements.txt" in third.stdout


def test_a_newer_interpreter_is_found_beside_one_that_is_too_old(
    run: Run, interpreter: Callable[..., Path]
) -> None:
    interpreter("python3", minor=9)
    interpreter("python3.12", minor=12)
    assert "Making .venv with Python 3.12" in run().stdout


def test_a_venv_whose_interpreter_is_gone_is_made_anew(
    run: Run, interpreter: Callable[..., Path], tmp_path: Path
) -> None:
    interpreter("python3", minor=11)
    run()
    (tmp_path / "project" / ".venv" / "bin" / "python").unlink()
    assert "Making .venv" in run().stdout


def test_a_python_that_is_too_old_is_said_in_one_line(run: Run, interpreter: Callable[..., Path]) -> None:
    interpreter("python3", minor=9)
    result = run()
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("chatbe needs Python 3.11 or newer; python3 is 3.9.")


def test_no_python_at_all_is_said_in_one_line(run: Run) -> None:
    result = run()
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "python3 is not there" in result.stderr


@pytest.mark.parametrize(("named", "said"), [("python3.9", "python3.9 is 3.9"), ("nopython", "no nopython")])
def test_a_named_python_that_does_not_do_is_refused(
    run: Run, interpreter: Callable[..., Path], named: str, said: str
) -> None:
    interpreter("python3", minor=12)
    interpreter("python3.9", minor=9)
    result = run(PYTHON=named)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert said in result.stderr


def test_a_missing_venv_module_is_said_in_one_line(run: Run, interpreter: Callable[..., Path]) -> None:
    interpreter("python3", minor=11, has_venv=False)
    result = run()
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "apt install python3.11-venv" in result.stderr


def test_an_installation_that_fails_is_tried_again(
    run: Run, interpreter: Callable[..., Path], tmp_path: Path
) -> None:
    interpreter("python3", minor=11, installs=False)
    failed = run()
    assert failed.returncode == 1
    assert "could not be installed" in failed.stderr

    shutil.copy2(interpreter("python3", minor=11), tmp_path / "project" / ".venv" / "bin" / "python")
    assert "Installing" in run().stdout
